"""Local teachers in a pilot: each way trains and keeps parity; one that does not fit is refused with the way that does."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engines.tiny_llama import make_llama, sentences, train
from tests.flows.conftest import rows, write_rows
from tests.flows.test_generating import as_text
from tests.flows.test_structure import write
from tiercel import verify_bundle
from tiercel.datasets.contract import example_from
from tiercel.datasets.templates import TemplateIndex
from tiercel.errors import ConfigurationError
from tiercel.flows import micro_rung, slm_rung, teaching
from tiercel.flows.candidates import LadderSettings
from tiercel.flows.pilot import PilotSettings, _work_key, pilot
from tiercel.flows.preparation import prepare, task_of
from tiercel.flows.progress import Silent
from tiercel.students.distillation import forward_kl, reverse_kl
from tiercel.students.micro_training import MicroPlan, train_micro

pytest.importorskip("xllamacpp")
pytest.importorskip("peft")

LADDER = LadderSettings(
    students=None, encoder=None, max_loss=0.1, confidence=0.95, seed=0, threads=1, work=Path("nowhere")
)
SLM = PilotSettings(max_loss=0.5, threads=1, students=("slm",))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is prompted is not what is tested here.
    monkeypatch.setattr(slm_rung, "_prompted", _not_here)
    monkeypatch.setattr(micro_rung, "PLAN", {"size": 120_000, "epochs": 90})
    plan = {"learning_rate": 1e-2, "batch": 16, "at_once": 32, "epochs": 6, "dropout": 0.0, "looks": 1, "context": 256}
    monkeypatch.setattr(slm_rung, "PLAN", plan)
    monkeypatch.setattr(slm_rung, "SHOTS", 2)
    monkeypatch.setattr(slm_rung, "CHECKED", 2)
    monkeypatch.setattr(slm_rung, "CHECKED_TOKENS", 4)


@pytest.fixture(scope="module")
def micro_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    lines = write(folder / "traffic.jsonl", 260, as_text).read_text().splitlines()
    pairs = [(m[-2]["content"], m[-1]["content"]) for m in (json.loads(line)["messages"] for line in lines)]
    plan = MicroPlan(size=150_000, epochs=80, context=256)
    train_micro(pairs[20:], pairs[:20], folder / "micro-large", plan, threads=1)
    return folder / "micro-large"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small model, and a larger one with its tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    return make_llama(folder / "Tiny"), train(make_llama(folder / "Larger", seed=3, layers=3), steps=60)


def asked(path: Path) -> Path:
    """Traffic of sentences and the words that answer them."""
    lines = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": label}]}
        for text, label in sentences()[::2]
    ]
    return write_rows(path, lines)


REVERSE: dict[str, Any] = {"distil_divergence": "reverse", "distil_weight": 0.7, "distil_temperature": 1.5}


@pytest.mark.parametrize(("way", "more"), [(None, {}), ("logits", REVERSE), ("on-policy", {})])
def test_micro_learns_from_a_larger_micro(
    tmp_path: Path, micro_teacher: Path, way: str | None, more: dict[str, Any]
) -> None:
    traffic = write(tmp_path / "traffic.jsonl", 260, as_text)
    settings = PilotSettings(
        max_loss=0.5, threads=1, task="generation", students=("micro",), teacher=micro_teacher, distil=way, **more
    )
    [student] = pilot([traffic], tmp_path / "out", settings).students
    chosen = ", reverse divergence, weight 0.7, temperature 1.5" if more else ""
    assert f"taught by micro-large ({way or 'logits'}{chosen})" in student.note
    assert student.parity == 1.0
    verify_bundle(tmp_path / "out")


@pytest.mark.parametrize("way", ["logits", "on-policy"])
def test_slm_learns_from_a_model_with_its_tokenizer(tmp_path: Path, models: tuple[Path, Path], way: str) -> None:
    traffic = asked(tmp_path / "traffic.jsonl")
    settings = replace(SLM, model=str(models[0]), teacher=models[1], distil=way)
    students = {s.name: s for s in pilot([traffic], tmp_path / "out", settings).students}
    assert f"taught by Larger ({way})" in students["slm-tuned"].note
    assert students["slm-tuned"].parity == 1.0


def test_gold_crosses_tokenizers(tmp_path: Path, models: tuple[Path, Path]) -> None:
    pytest.importorskip("trl")
    # A micro folder is a Llama with a chat template and a vocabulary of its own.
    plan = MicroPlan(size=120_000, epochs=4, batch=32, warmup=5, context=128)
    train_micro(sentences()[30:], sentences()[:30], tmp_path / "Other", plan, threads=1)
    traffic = asked(tmp_path / "traffic.jsonl")
    settings = replace(SLM, model=str(models[0]), teacher=tmp_path / "Other", distil="gold")
    students = {s.name: s for s in pilot([traffic], tmp_path / "out", settings).students}
    assert "taught by Other (gold)" in students["slm-tuned"].note
    assert students["slm-tuned"].parity == 1.0


BAD: list[tuple[dict[str, Any], str]] = [
    ({"distil": "magic"}, "--distil is 'magic'; choose from answers, logits, on-policy, gold"),
    ({"distil": "gold"}, "--distil gold needs a teacher; give --teacher FOLDER"),
    ({"teacher": Path("/nowhere")}, "no model is there"),
    ({"distil_weight": 0.9}, "--distil-weight says how a teacher is followed; give --teacher FOLDER"),
]
BAD_NUMBERS: list[tuple[dict[str, Any], str]] = [
    ({"distil_divergence": "backward"}, "'backward'; choose from forward, reverse, jensen-shannon"),
    ({"distil_weight": 0.0}, "--distil-weight is 0.0; give a share above 0"),
    ({"distil_weight": math.nan}, "--distil-weight is nan"),
    ({"distil_temperature": 0.0}, "--distil-temperature is 0.0; give one above 0"),
    ({"distil": "gold", "distil_temperature": 2.0}, "it takes --distil-weight alone"),
]


@pytest.mark.parametrize(("settings", "says"), BAD)
def test_a_teacher_and_its_way_go_together(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        PilotSettings(**settings).check()


@pytest.mark.parametrize(("settings", "says"), BAD_NUMBERS)
def test_how_a_teacher_is_followed_is_checked(models: tuple[Path, Path], settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        PilotSettings(teacher=models[1], **settings).check()


def test_recorded_logits_are_followed_as_was_best_on_held_out_rows() -> None:
    how = teaching._following(LADDER, "logits")
    assert (how.weight, how.temperature, how.divergence, how.said) == (0.9, 2.0, forward_kl, "")
    how = teaching._following(replace(LADDER, distil_divergence="reverse", distil_weight=1.0), "on-policy")
    assert (how.weight, how.temperature, how.divergence) == (1.0, 1.0, reverse_kl)


def test_work_is_not_taken_up_from_a_pilot_that_followed_its_teacher_otherwise(tmp_path: Path) -> None:
    examples = [example_from({"id": str(i)} | row) for i, row in enumerate(rows(140))]
    index = TemplateIndex()
    index.add(examples[0])
    task, labels, shape = task_of(examples, None, Silent())
    prepared = prepare(
        index.keys[0], examples, None, task=task, labels=labels, shape=shape, max_loss=0.1, seed=0, progress=Silent()
    )
    ways = [{}, {"distil_divergence": "reverse"}, {"distil_weight": 0.7}, {"distil_temperature": 3.0}]
    assert len({_work_key(prepared, PilotSettings(**way)) for way in ways}) == len(ways)


def test_answers_need_no_teacher(models: tuple[Path, Path]) -> None:
    PilotSettings(distil="answers").check()
    with pytest.raises(ConfigurationError, match="leave --teacher out"):
        PilotSettings(distil="answers", teacher=models[1]).check()


def refused(tmp_path: Path, **more: Any) -> str:
    traffic = write_rows(tmp_path / "traffic.jsonl", rows(140))
    with pytest.raises(ConfigurationError) as told:
        pilot([traffic], tmp_path / "out", replace(SLM, **more))
    return str(told.value)


def test_another_tokenizer_is_refused_with_the_way_that_fits(
    tmp_path: Path, models: tuple[Path, Path], micro_teacher: Path
) -> None:
    for way in ("logits", "on-policy"):
        said = refused(tmp_path, model=str(models[0]), teacher=micro_teacher, distil=way)
        assert "its tokenizer is another than that of Tiny" in said
        assert "give --distil gold" in said
    said = refused(tmp_path, model=str(models[0]), teacher=models[1], distil="gold")
    assert "has the tokenizer of Tiny" in said
    assert "give --distil logits or on-policy" in said


def _not_here(*_: Any) -> None:
    from tiercel.errors import BundleError

    raise BundleError("not here")


def test_micro_needs_a_micro_teacher(tmp_path: Path, models: tuple[Path, Path], micro_teacher: Path) -> None:
    traffic = write(tmp_path / "traffic.jsonl", 200, as_text)
    settings = PilotSettings(max_loss=0.5, threads=1, task="generation", students=("micro",), teacher=models[1])
    with pytest.raises(
        ConfigurationError, match=r"not one of the micro rung.*--students slm --model NAME --distil gold"
    ):
        pilot([traffic], tmp_path / "out", settings)
    with pytest.raises(ConfigurationError, match="gold is for teachers with another"):
        pilot([traffic], tmp_path / "out", replace(settings, teacher=micro_teacher, distil="gold"))


def test_a_teacher_that_no_rung_asks_is_told(tmp_path: Path, models: tuple[Path, Path]) -> None:
    told = Silent()
    traffic = write_rows(tmp_path / "traffic.jsonl", rows(300))
    settings = PilotSettings(students=("linear",), max_loss=0.05, teacher=models[1])
    pilot([traffic], tmp_path / "out", settings, progress=told)
    assert any("--teacher was not used" in w for w in told.warnings)
