"""A rung that fails is left out with its reason, and the pilot goes on with the others."""

from __future__ import annotations

import re
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines.tiny_llama import make_llama
from tests.flows.conftest import rows, write_rows
from tests.flows.tiny import make_encoder
from tiercel.errors import (
    BundleError,
    ConfigurationError,
    DataError,
    EngineError,
    RunError,
    StorageError,
    TiercelError,
)
from tiercel.flows import classification_ladder, rungs
from tiercel.flows.candidates import LadderSettings, Skipped
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.flows.progress import Silent
from tiercel.flows.rungs import attempt
from tiercel.report.result import PilotResult
from tiercel.students import micro_training, slm_base, slm_training

torch = pytest.importorskip("torch")
pytest.importorskip("xllamacpp")

TOO_MUCH = 1 << 55


class Listening(Silent):
    """Keeps the stages too."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[str] = []

    def stage(self, title: str) -> None:
        self.stages.append(title)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("model") / "Tiny-Llama")


def run(tmp_path: Path, progress: Silent | None = None, **settings: Any) -> PilotResult:
    traffic = write_rows(tmp_path / "traffic.jsonl", rows(240))
    wanted = PilotSettings(**({"max_loss": 0.2, "threads": 1} | settings))
    return pilot([traffic], tmp_path / "out", wanted, progress=progress)


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def needs_too_much(*_: Any, **__: Any) -> None:
    """What training that memory does not suffice for does: torch's own error."""
    torch.ones(TOO_MUCH)


def test_memory_that_runs_out_in_one_rung_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_training, "train_micro", needs_too_much)
    result = run(tmp_path, students=("linear", "micro"))
    linear, micro = result.students
    assert (linear.name, micro.name, micro.loss) == ("linear", "micro", None)
    assert linear.loss is not None
    assert micro.note.startswith("memory ran out while micro was tried: ")
    assert "asked for 1.44e+08 GB more; free some memory" in micro.note
    assert f"the rung micro was left out: {micro.note}" in result.warnings
    with pytest.raises(RunError, match="memory ran out while micro was tried"):
        run(tmp_path, students=("micro",))


@pytest.mark.parametrize(
    "error", [EngineError("llama.cpp ended"), BundleError("it can't be read"), RunError("diverged")]
)
def test_whatever_goes_wrong_in_one_rung_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: TiercelError
) -> None:
    monkeypatch.setattr(micro_training, "train_micro", failing(error))
    result = run(tmp_path, students=("linear", "micro"))
    assert [(s.name, s.note) for s in result.students[1:]] == [("micro", str(error))]


def test_a_full_disk_or_a_defect_stops_the_pilot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (StorageError("the disk is full"), KeyError("a defect")):
        monkeypatch.setattr(micro_training, "train_micro", failing(error))
        with pytest.raises(type(error)):
            run(tmp_path, students=("linear", "micro"))


def test_an_encoder_that_fails_leaves_what_was_trained_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder(tmp_path / "encoder", [r["messages"][1]["content"] for r in rows(60)])
    monkeypatch.setattr(classification_ladder, "train_encoder", needs_too_much)
    result = run(tmp_path, students=("linear", "encoder"), encoder=str(encoder))
    assert [(s.name, s.rung) for s in result.students] == [("linear", "linear"), ("encoder-frozen", "encoder")]
    assert "memory ran out while encoder-frozen was tried" in result.students[1].note


def test_a_last_training_that_fails_leaves_the_student_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classification_ladder, "_refitted", needs_too_much)
    result = run(tmp_path, students=("linear",))
    assert result.policy.student == "linear"
    [told] = [w for w in result.warnings if "was not trained once more with the gate's rows" in w]
    assert "memory ran out while linear was tried" in told


def test_a_context_that_is_too_small_for_every_row_is_told_with_what_it_would_need(tmp_path: Path, model: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 1024', '"max_position_embeddings": 24'))
    told = Silent()
    says = (
        r"the context of 24 tokens is too small for every training row: the shortest with its answer takes \d+; choose"
    )
    with pytest.raises(DataError, match=says):
        run(tmp_path, told, students=("slm",), model=str(folder))
    [prompted] = [w for w in told.warnings if "slm-prompted" in w]
    assert re.search(
        r"the context of 24 tokens is too small for every request: the shortest takes \d+, 12 of", prompted
    )


def _no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def _unknown_to_llama_cpp(folder: Path) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=488, hidden_size=32, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=32
    )
    OPTForCausalLM(config).save_pretrained(folder)


def _many_ends(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 3, 4, 5]}')


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_no_template, "has no chat template"),
        (_unknown_to_llama_cpp, "llama.cpp does not know the architecture OPTForCausalLM"),
        (_many_ends, "the model stops at 4 tokens, a GGUF names three"),
    ],
)
def test_a_model_that_can_never_be_served_is_told_before_anything_is_trained(
    tmp_path: Path, model: Path, spoil: Callable[[Path], None], says: str
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    spoil(folder)
    told = Listening()
    with pytest.raises(ConfigurationError, match=says):
        run(tmp_path, told, students=("linear", "slm"), model=str(folder))
    assert not any("training" in stage for stage in told.stages)


def test_an_encoder_that_is_not_there_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    told = Listening()
    with pytest.raises(ConfigurationError, match="the encoder can't be trained here"):
        run(tmp_path, told, students=("linear", "encoder"), encoder=str(tmp_path / "nothing"))
    assert not any("training" in stage for stage in told.stages)


def test_memory_that_runs_out_while_a_model_is_tuned_says_what_would_fit(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiercel.flows import slm_rung

    monkeypatch.setattr(slm_rung, "_prompted", failing(BundleError("not here")))
    monkeypatch.setattr(slm_training, "attach_adapter", needs_too_much)
    result = run(tmp_path, students=("linear", "slm"), model=str(model))
    assert [s.name for s in result.students] == ["linear", "slm-prompted", "slm-tuned"]
    note = result.students[2].note
    assert "memory ran out while slm-tuned was tried" in note
    assert "a model of less than about" in note
    assert "billion parameters would fit" in note


def test_weights_that_memory_does_not_hold_are_not_called_unreadable(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    from tiercel.students.slm_adapter import load_model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", needs_too_much)
    with pytest.raises(RuntimeError, match="allocate"):
        load_model(slm_base.open_base(str(model)), torch.float32)


def test_a_model_that_would_fit_is_in_proportion_to_what_was_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rungs, "_free", iter([8_000_000_000, 2_000_000_000]).__next__)
    settings = LadderSettings(
        students=("linear", "slm"), encoder=None, max_loss=0.1, confidence=0.9, seed=0, threads=1, work=tmp_path
    )
    skipped, told = list[Skipped](), Silent()
    with attempt("slm-tuned", [], skipped, settings, told) as going:
        going.parameters = 7_000_000_000
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.31 GiB. GPU 0 has 2 GiB free")
    assert skipped[0].why == (
        "memory ran out while slm-tuned was tried: 8 GB were free, it took 6 GB and asked for 10 GB more; a model of "
        "less than about 3.5 billion parameters would fit; free some memory, or leave it out with --students"
    )
    assert (skipped[0].name, skipped[0].rung) == ("slm-tuned", "slm")


def test_what_a_failed_rung_held_is_given_back(tmp_path: Path) -> None:
    settings = LadderSettings(
        students=None, encoder=None, max_loss=0.1, confidence=0.9, seed=0, threads=1, work=tmp_path
    )
    skipped, held = list[Skipped](), list[weakref.ref[Any]]()

    def train() -> None:
        weights = torch.ones(10)
        held.append(weakref.ref(weights))
        try:
            raise ValueError("a library's error")
        except ValueError as error:
            raise EngineError("it ended") from error

    with attempt("micro", [], skipped, settings, Silent()):
        train()
    assert isinstance(skipped[0].error, EngineError)
    assert held[0]() is None
