"""Each architecture is tuned, merged, converted and served, and what is served is what was tuned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engines.tiny_llama import sentences
from tests.students.slm_families import FAMILIES
from tests.students.slm_models import ARCHITECTURES, make_model
from tiercel.compress.gguf import convert_to_gguf
from tiercel.compress.serving_parity import LIMITS, ParityRow, compare_serving, require_parity
from tiercel.engines.llamacpp import LlamaCppEngine
from tiercel.engines.protocol import GenerationRequest
from tiercel.students.slm_adapter import merge_adapter
from tiercel.students.slm_base import open_base
from tiercel.students.slm_rows import ChatRow
from tiercel.students.slm_training import SlmPlan, train_slm
from tiercel.types import Message

pytest.importorskip("peft")
pytest.importorskip("xllamacpp")

PLAN = SlmPlan(learning_rate=2e-2, batch=32, at_once=32, epochs=5, dropout=0.0, looks=1, context=128)


def messages(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_an_architecture_is_tuned_and_served_as_tuned(name: str, tmp_path: Path) -> None:
    base, family = open_base(str(make_model(name, tmp_path / name))), FAMILIES[name]
    end = base.tokenizer.convert_tokens_to_ids(family.end)
    assert end in base.ends
    rows = [ChatRow(messages(asked), answer) for asked, answer in sentences()]
    told = train_slm(base, rows[::2], rows[1:80:2], tmp_path / "adapter", PLAN, threads=1)
    assert min(told.losses) < 0.5 * told.losses[0]
    assert told.ends == (end,)
    merged = merge_adapter(base, tmp_path / "adapter", tmp_path / "merged" / name, ends=told.ends)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert json_or_text(merged / file) == json_or_text(base.folder / file)
    served = convert_to_gguf(merged, tmp_path / f"{name}.gguf", context=128)
    with LlamaCppEngine(served, context=128, slots=1, threads=1) as engine:
        found = compare_serving(merged, engine, [ParityRow(messages=r.messages) for r in rows[3:80:13]], max_tokens=8)
        require_parity(found)
        # What a family's own tokens are, in training and in serving: each of them one number.
        signs = [
            base.tokenizer.convert_tokens_to_ids(s) for s in (*family.signs, *filter(None, [family.bos_in_prompt]))
        ]
        assert set(signs) <= set(engine.tokenize(engine.render(rows[5].messages)))
        assert len(set(signs)) == len(signs)
        answered = engine.generate(GenerationRequest(messages=rows[5].messages, max_tokens=8))
    assert answered.finish_reason == "stop"


def test_experts_that_are_chosen_by_groups_are_served_as_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, special = ARCHITECTURES["DeepSeek-V3-MoE"]
    grouped = {**special, "n_routed_experts": 8, "n_group": 2}
    monkeypatch.setitem(ARCHITECTURES, "DeepSeek-V3-MoE", (kind, grouped))
    folder = make_model("DeepSeek-V3-MoE", tmp_path / "DeepSeek-V3", seed=1)
    served = convert_to_gguf(folder, tmp_path / "grouped.gguf")
    rows = [ParityRow(messages=messages(asked)) for asked, _ in sentences()[:40]]
    with LlamaCppEngine(served, context=128, slots=1, threads=1) as engine:
        found = compare_serving(folder, engine, rows, max_tokens=8, same_answers=False, **LIMITS["f16"])
    require_parity(found)
    assert (found.rows, found.first_difference) == (40, None)


def json_or_text(path: Path) -> object:
    return json.loads(path.read_text()) if path.suffix == ".json" else path.read_text()
