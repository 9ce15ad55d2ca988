from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engines.tiny_llama import make_llama, sentences
from tests.students.slm_models import make_model
from tiercel.errors import ConfigurationError, DataError
from tiercel.students import slm_training
from tiercel.students.slm_adapter import merge_adapter
from tiercel.students.slm_base import SlmBase, open_base
from tiercel.students.slm_rows import ChatRow
from tiercel.students.slm_targets import lora_targets
from tiercel.students.slm_training import SlmPlan, SlmTraining, train_slm
from tiercel.types import Message

pytest.importorskip("peft")

PLAN = SlmPlan(learning_rate=1e-2, batch=16, at_once=8, epochs=2, looks=2, context=96)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> SlmBase:
    return open_base(str(make_llama(tmp_path_factory.mktemp("base") / "Tiny-Llama")))


def chat(n: int, start: int = 0) -> list[ChatRow]:
    every = sentences()[start::3][:n]
    return [ChatRow((Message(role="user", content=asked),), answer) for asked, answer in every]


ROWS, HELD = chat(96), chat(32, 1)


def tune(base: SlmBase, folder: Path, plan: SlmPlan = PLAN, **more: Any) -> SlmTraining:
    return train_slm(base, more.pop("rows", ROWS), HELD, folder, plan, threads=1, **more)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(next(folder.glob("*.safetensors")))


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)


def test_a_run_that_was_cut_off_ends_as_a_whole_one(base: SlmBase, tmp_path: Path) -> None:
    whole = tune(base, tmp_path / "whole")
    assert whole.losses[-1] < 0.8 * whole.losses[0]
    assert (whole.steps, len(whole.losses)) == (12, 5)

    def cut(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        tune(base, tmp_path / "resumed", checkpoint=checkpoint, progress=cut)
    assert checkpoint.is_file()
    seen = list[int]()
    resumed = tune(base, tmp_path / "resumed", checkpoint=checkpoint, progress=lambda done, _: seen.append(done))
    assert seen[0] == 7
    assert resumed.losses == whole.losses
    assert same(tmp_path / "whole", tmp_path / "resumed")
    assert not checkpoint.exists()


def test_a_checkpoint_of_another_run_is_not_taken_up(base: SlmBase, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b"cut off")
    first = tune(base, tmp_path / "a", checkpoint=tmp_path / "checkpoint")
    again = tune(base, tmp_path / "b")
    other = tune(base, tmp_path / "c", seed=1)
    assert first.losses == again.losses != other.losses
    assert same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", tmp_path / "c")


def test_how_rows_are_accumulated_and_activations_made_changes_nothing(base: SlmBase, tmp_path: Path) -> None:
    plan = replace(PLAN, epochs=1, dropout=0.0)
    found = [
        tune(base, tmp_path / str(i), p).losses
        for i, p in enumerate((plan, replace(plan, at_once=3), replace(plan, checkpointing=True)))
    ]
    for losses in found[1:]:
        assert losses == pytest.approx(found[0], rel=1e-3)


def test_rationales_are_learnt_beside_answers_however_rows_are_accumulated(base: SlmBase, tmp_path: Path) -> None:
    plan = replace(PLAN, epochs=1, dropout=0.0)
    why = [f"since it says {row.messages[0].text.split()[0]}" if i % 3 else "" for i, row in enumerate(ROWS)]
    found = [
        tune(base, tmp_path / str(i), p, rationales=why).losses for i, p in enumerate((plan, replace(plan, at_once=3)))
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    without = tune(base, tmp_path / "without", plan).losses
    unweighed = tune(base, tmp_path / "unweighed", replace(plan, rationale=0.0), rationales=why).losses
    assert unweighed == pytest.approx(without, rel=1e-3)
    assert found[0][-1] != pytest.approx(without[-1], rel=1e-3)


def test_training_ends_when_held_out_rows_get_no_better(base: SlmBase, tmp_path: Path) -> None:
    told = tune(base, tmp_path / "a", replace(PLAN, learning_rate=1e-12, epochs=50, patience=2))
    # A rate of next to nothing changes the loss in its last digits alone, in either direction.
    assert told.steps < 50 * 6
    assert len(told.losses) - 1 - told.losses.index(min(told.losses)) == 2


def test_the_schedule_ends_with_the_time(base: SlmBase, tmp_path: Path) -> None:
    totals = list[int]()
    plan = replace(PLAN, epochs=10_000, minutes=0.02, patience=10_000)
    told = tune(base, tmp_path / "a", plan, progress=lambda _, total: totals.append(total))
    assert told.steps == totals[-1] < totals[0] == 60_000


def test_the_best_weights_are_merged_and_everything_else_is_the_bases(base: SlmBase, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    told = tune(base, tmp_path / "adapter", replace(PLAN, dropout=0.0))
    merged = merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"):
        assert (merged / name).read_bytes() == (base.folder / name).read_bytes()
    assert json.loads((merged / "generation_config.json").read_text()) == json.loads(
        (base.folder / "generation_config.json").read_text()
    )
    model = AutoModelForCausalLM.from_pretrained(str(merged), dtype=torch.float32)
    assert not any("lora" in name for name, _ in model.named_parameters())
    total, tokens = 0.0, 0
    for row in HELD:
        prompt = f"<s><|user|>{row.messages[0].text}<|over|><|assistant|>"
        ids = base.tokenizer(prompt + row.answer + "</s>", add_special_tokens=False)["input_ids"]
        start = len(base.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, start - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[start:]), reduction="sum"))
        tokens += len(ids) - start
    assert total / tokens == pytest.approx(min(told.losses), rel=1e-3)


def test_a_further_end_is_added_to_the_bases_own(base: SlmBase, tmp_path: Path) -> None:
    tune(base, tmp_path / "adapter", replace(PLAN, epochs=1))
    merged = merge_adapter(base, tmp_path / "adapter", tmp_path / "merged", ends=(2, 7))
    assert json.loads((merged / "generation_config.json").read_text())["eos_token_id"] == [2, 7]
    assert open_base(str(merged)).ends == (2, 7)


def test_an_adapter_of_another_base_is_refused(base: SlmBase, tmp_path: Path) -> None:
    tune(base, tmp_path / "adapter", replace(PLAN, epochs=1))
    twin = open_base(str(make_llama(tmp_path / "twin", seed=5)))
    with pytest.raises(ConfigurationError, match=r"trained on another base \(Tiny-Llama\) than .*twin; give the base"):
        merge_adapter(twin, tmp_path / "adapter", tmp_path / "merged")
    # Adapters that others trained don't say what they are of: their shapes do.
    (tmp_path / "adapter" / "base.json").unlink()
    for number, changes in enumerate(({"width": 32}, {"layers": 1})):
        other = open_base(str(make_llama(tmp_path / str(number), **changes)))
        with pytest.raises(ConfigurationError, match="trained on another base than"):
            merge_adapter(other, tmp_path / "adapter", tmp_path / "merged")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ConfigurationError, match=r"adapter can't be read.*train it again"):
        merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    shutil.rmtree(tmp_path / "adapter")
    with pytest.raises(ConfigurationError, match="is no adapter"):
        merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    base: SlmBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(slm_training, "load_model", loaded)
    large = replace(base, name="Large", parameters=70_000_000_000)
    monkeypatch.setattr(slm_training, "free_memory", lambda: 16_000_000_000)
    with pytest.raises(ConfigurationError) as caught:
        tune(large, tmp_path / "a")
    said = str(caught.value)
    assert said.startswith("Large has 70 billion parameters and takes about ")
    assert said.endswith("16 GB are free; a model of about 4 billion would fit")


def test_activations_are_made_again_where_memory_asks_for_it(
    base: SlmBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    deep = replace(base, layers=200)
    ways = list[bool]()
    for free in (1_000_000_000, 80_000_000 // 4):
        monkeypatch.setattr(slm_training, "free_memory", lambda free=free: free)
        way, _ = slm_training._affordable(deep, PLAN, 90, torch.float32)
        ways.append(way.checkpointing)
        assert not way.four_bits
    assert ways == [False, True]


def test_four_bits_without_a_gpu_are_a_warning_and_lora(
    base: SlmBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slm_training, "four_bits_work", lambda: False)
    told = tune(base, tmp_path / "a", replace(PLAN, epochs=1, four_bits=True))
    assert told.method == "LoRA"
    assert told.warnings == ("4 bits (QLoRA) need a GPU and bitsandbytes, which are not here: LoRA is used",)


def test_rows_that_do_not_fit_are_said(base: SlmBase, tmp_path: Path) -> None:
    long = [ChatRow((Message(role="user", content="x"),), "an answer " * 60)]
    told = tune(base, tmp_path / "a", replace(PLAN, epochs=1), rows=ROWS + long)
    assert told.warnings == ("1 rows are longer than the context of 96 tokens and are not trained on",)
    with pytest.raises(
        DataError,
        match=r"context of 96 tokens is too small for every training row: the shortest .* takes \d{3}; choose",
    ):
        tune(base, tmp_path / "b", rows=long)
    with pytest.raises(DataError, match="no held-out row"):
        train_slm(base, ROWS, long, tmp_path / "c", PLAN)


def test_experts_are_adapted_and_what_is_not_is_said(tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    base = open_base(str(make_model("Mixtral", tmp_path / "Mixtral")))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(base.folder)))
    targets = lora_targets(model)
    assert len(targets.modules) == 2 * 4
    assert {name.rpartition(".")[2] for name in targets.parameters} == {"gate_up_proj", "down_proj"}
    assert targets.left_out == ("gate.weight",)
    assert sum(targets.sizes) == base.adapter_unit
    told = tune(base, tmp_path / "adapter", replace(PLAN, epochs=1))
    assert told.adapted == PLAN.rank * base.adapter_unit
    assert told.warnings == ("LoRA leaves out gate.weight of Mixtral",)
