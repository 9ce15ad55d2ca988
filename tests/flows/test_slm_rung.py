"""Pilots with a pretrained model that the user names: prompted, tuned, merged and served."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_lines
from tests.engines.tiny_llama import make_llama
from tests.flows.conftest import rows as labelled
from tests.flows.conftest import write_rows
from tests.flows.test_generating import as_text
from tests.flows.test_structure import as_json, order, write
from tests.gateway.test_calls import ARGUMENTS, TOOLS
from tests.gateway.test_calls import row as call_row
from tiercel import load, verify_bundle
from tiercel.errors import BrokenAnswerError, BundleError, ConfigurationError, DataError, ParityError
from tiercel.flows import slm_rung
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.report.result import PilotResult, StudentSummary
from tiercel.students import slm_base, slm_training

pytest.importorskip("xllamacpp")
pytest.importorskip("peft")


PLAN = {"learning_rate": 1e-2, "batch": 16, "at_once": 32, "epochs": 12, "dropout": 0.0, "looks": 1, "context": 256}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)
    monkeypatch.setattr(slm_rung, "PLAN", PLAN | {"epochs": 1})


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slm_rung, "PLAN", PLAN)
    monkeypatch.setattr(slm_rung, "SHOTS", 2)
    monkeypatch.setattr(slm_rung, "CHECKED", 3)
    monkeypatch.setattr(slm_rung, "CHECKED_TOKENS", 6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("model") / "Tiny-Llama")


def labels(tmp_path: Path, model: Path | str, n: int = 240, **more: Any) -> PilotResult:
    traffic = write_rows(tmp_path / "traffic.jsonl", labelled(n))
    settings = {"max_loss": 0.3, "threads": 1, "model": str(model)} | more
    return pilot([traffic], tmp_path / "out", PilotSettings(**settings))


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Path, PilotResult]:
    """Folder and result of a pilot in which the model is tuned for long enough."""
    folder = tmp_path_factory.mktemp("learnt")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        return folder / "out", labels(folder, model, n=420, students=("slm",))


def by_name(result: PilotResult) -> dict[str, StudentSummary]:
    return {student.name: student for student in result.students}


def test_labels_are_learnt_by_the_model_that_is_named(learnt: tuple[Path, PilotResult]) -> None:
    out, result = learnt
    found = by_name(result)
    assert list(found) == ["slm-prompted", "slm-tuned"]
    assert {s.rung for s in found.values()} == {"slm"}
    prompted, tuned = found["slm-prompted"], found["slm-tuned"]
    assert tuned.loss is not None and prompted.loss is not None
    assert tuned.loss < 0.3 < prompted.loss
    assert "LoRA of rank 16 on Tiny-Llama" in tuned.note
    assert tuned.train_seconds > 0 == prompted.train_seconds
    verify_bundle(out)
    bundle = load(out)
    record = bundle.student.record
    assert (record.rung, record.prompt.shots, record.prompt.pool) == ("slm", 0, ())
    assert record.prompt.system.startswith("Answer with one word")
    responses = bundle.student.respond([r["messages"][1]["content"] for r in labelled(20, seed=9)])
    assert {a.text for a in responses.answers} <= {"refund", "delivery", "account", "praise"}
    assert responses.signals[:, bundle.student.signals.index("tokens")].max() < 3
    assert not (out / ".work").exists()


def test_what_does_not_fit_is_never_sent_and_never_accepted(learnt: tuple[Path, PilotResult]) -> None:
    bundle = load(learnt[0])
    sent = list[int]()
    engine = bundle.student.engine
    complete = engine._complete
    engine._complete = lambda body: (sent.append(1), complete(body))[1]
    system = {"role": "system", "content": "Answer with one word: refund, delivery, account or praise."}
    answered = bundle.answer([system, {"role": "user", "content": "money back " * 2_000}])
    assert (answered.tier, answered.answer, sent) == ("frontier", None, [])
    bundle.answer([system, {"role": "user", "content": "money back"}])
    assert sent == [1]


def test_a_prompted_model_is_shown_examples_and_a_cut_pilot_goes_on(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(slm_training, "train_slm", cut)
        with pytest.raises(KeyboardInterrupt):
            labels(tmp_path, model, students=("slm",))
    [finished] = (tmp_path / "out" / ".work").glob("*/slm-prompted")
    record = json.loads((finished / "generator" / "generator.json").read_text())
    assert record["prompt"]["shots"] == 2
    assert 0 < len(record["prompt"]["pool"]) <= slm_rung.POOL
    before = (finished / "generator" / "model.gguf").stat().st_mtime_ns
    seen = list[int]()
    real = slm_rung._prompted

    def again(*args: Any) -> Any:
        found = real(*args)
        seen.append((finished / "generator" / "model.gguf").stat().st_mtime_ns)
        asked = found[0].request("the parcel is late")
        assert [m.role for m in asked.messages] == ["system", "user", "assistant", "user", "assistant", "user"]
        return found

    monkeypatch.setattr(slm_rung, "_prompted", again)
    labels(tmp_path, model, students=("slm",))
    assert seen == [before]


def test_free_text_is_learnt_beside_what_auto_trains(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiercel.flows import ladder, micro_rung

    monkeypatch.setattr(ladder, "ENOUGH_OFFLOAD", 2.0)
    monkeypatch.setattr(slm_rung, "ENOUGH_OFFLOAD", 2.0)
    monkeypatch.setattr(micro_rung, "PLAN", {"size": 150_000, "epochs": 10})
    traffic = write(tmp_path / "traffic.jsonl", 240, as_text)
    monkeypatch.setattr(slm_rung, "PLAN", PLAN | {"epochs": 6})
    settings = PilotSettings(max_loss=0.5, threads=1, model=str(model), task="generation")
    result = pilot([traffic], tmp_path / "out", settings)
    found = by_name(result)
    assert list(found) == ["micro", "slm-prompted", "slm-tuned"]
    assert all(student.loss is not None for student in found.values())
    text, _ = order(random.Random(5))
    assert load(tmp_path / "out").answer([{"role": "user", "content": text}]).reason != "another workload"


def test_auto_looks_at_no_model_where_a_cheaper_rung_is_enough(tmp_path: Path, model: Path) -> None:
    found = by_name(labels(tmp_path, model))
    assert found["slm"].note == "the cheaper rungs leave too little to win; ask for it with --students slm"


def test_answers_with_a_schema_are_valid_or_never_accepted(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slm_rung, "PLAN", PLAN | {"epochs": 6})
    monkeypatch.setattr(slm_rung, "_prompted", _refuse)
    traffic = write(tmp_path / "traffic.jsonl", 200, as_json)
    pilot([traffic], tmp_path / "out", PilotSettings(max_loss=0.5, threads=1, model=str(model), students=("slm",)))
    student = load(tmp_path / "out").student
    assert student.record.schema is not None
    asked = [order(random.Random(i))[0] for i in range(12)] + ["lamp " * 3_000]
    responses = student.respond(asked)
    whole = responses.signals[:, student.signals.index("finished")] > 0
    assert not whole[-1]
    for answer, finished in zip(responses.answers, whole, strict=True):
        if finished:
            assert set(json.loads(answer.text)) <= {"item", "count", "to", "urgent"}


def test_a_prompted_model_is_told_the_functions_and_calls_them_alone(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slm_rung, "_tuned", _refuse)
    rng = random.Random(0)
    traffic = write_lines(tmp_path / "traffic.jsonl", *(call_row(rng) for _ in range(70)))
    settings = PilotSettings(max_loss=0.5, threads=1, model=str(model), students=("slm",))
    found = by_name(pilot([traffic], tmp_path / "out", settings))
    assert found["slm-prompted"].loss is not None
    student = load(tmp_path / "out").student
    system = student.request("play Bach").messages[0].text
    assert all(json.dumps(tool["function"]["parameters"]) in system for tool in TOOLS)
    # Of a model that knows nothing, what ended is still a call of a function with its own arguments.
    responses = student.respond([f"play {name}" for name in ("Bach", "Eno", "Coltrane", "Björk")])
    for answer in responses.answers:
        for call in answer.tool_calls:
            assert set(json.loads(call.function.arguments)) == ARGUMENTS[call.function.name]


def test_an_answer_that_broke_its_form_is_never_accepted(
    learnt: tuple[Path, PilotResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    student = load(learnt[0]).student
    good = student.respond(["money back", "late parcel"])
    real = student.engine.generate

    def generate(request: Any) -> Any:
        if "late" in request.messages[-1].text:
            raise BrokenAnswerError("bytes that are no text")
        return real(request)

    monkeypatch.setattr(student.engine, "generate", generate)
    found = student.respond(["money back", "late parcel"])
    assert found.answers[0] == good.answers[0]
    assert found.answers[1].text == ""
    assert found.signals[1, student.signals.index("finished")] == 0 < good.signals[1, student.signals.index("finished")]


def _no_tokenizer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tokenizer.json", "tokenizer.model"):
        (folder / name).unlink()


def _no_template(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "chat_template.jinja").unlink()


def _unknown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace("llama", "nobody").replace("Llama", "Nobody"))


def _no_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slm_base, "free_memory", lambda *, main=False: 200_000)


BAD = [
    (_no_tokenizer, "has no tokenizer"),
    (_no_template, "no chat template"),
    (_unknown, "no causal language model that transformers knows"),
    (_no_memory, "to convert and check, 0.0002 GB are free; a model of about"),
]


@pytest.mark.parametrize(("spoil", "says"), BAD)
def test_a_model_that_can_not_be_used_leaves_auto_the_other_rungs(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, says: str
) -> None:
    from tiercel.flows import ladder

    folder = Path(shutil.copytree(model, tmp_path / "model"))
    spoil(folder, monkeypatch)
    # The linear rung alone would do for this workload, and auto would not look at the model.
    monkeypatch.setattr(ladder, "ENOUGH_OFFLOAD", 2.0)
    result = labels(tmp_path, folder)
    found = by_name(result)
    assert "linear" in found
    assert says in found["slm"].note
    assert found["slm"].accuracy is None
    assert any(says in warning and "was left out" in warning for warning in result.warnings)
    with pytest.raises(ConfigurationError, match=says):
        labels(tmp_path, folder, students=("slm",))


def test_what_is_served_otherwise_than_tuned_is_never_bundled(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiercel.compress.serving_parity as serving

    def differs(*_: Any) -> None:
        raise ParityError("what would be served is not what was trained: bos differs in row 0")

    monkeypatch.setattr(serving, "require_parity", differs)
    with pytest.raises(ParityError, match="bos differs"):
        labels(tmp_path, model, students=("slm",))
    assert not (tmp_path / "out" / "bundle").exists()


def test_a_prompted_model_that_can_not_be_served_does_not_stop_the_tuned_one(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise BundleError("llama.cpp can't load it")

    monkeypatch.setattr(slm_rung, "_prompted", fails)
    monkeypatch.setattr(slm_rung, "PLAN", PLAN | {"epochs": 6})
    found = by_name(labels(tmp_path, model, students=("slm",)))
    assert found["slm-tuned"].loss is not None
    assert (found["slm-prompted"].loss, found["slm-prompted"].note) == (None, "llama.cpp can't load it")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"students": ("slm",)}, "--students slm needs a pretrained model; give --model"),
        ({"students": ("linear",), "model": "x"}, "--model is for the rung slm, which --students leaves out; add"),
    ],
)
def test_a_model_and_its_rung_go_together(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        PilotSettings(**settings).check()


def test_too_few_rows_to_tune_are_said(tmp_path: Path, model: Path) -> None:
    with pytest.raises(DataError, match="training rows are too few to tune"):
        traffic = write_rows(tmp_path / "traffic.jsonl", labelled(70))
        settings = PilotSettings(students=("slm",), model=str(model), max_loss=0.3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(slm_rung, "_prompted", _refuse)
            pilot([traffic], tmp_path / "out", settings)


def _refuse(*_: Any) -> None:
    raise BundleError("not here")
