"""Pilots of structured answers: JSON and function calls, tagged by a tiny encoder that the test makes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flows.tiny import make_encoder
from tiercel import load, verify_bundle
from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.answering import answer_file
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.flows.progress import Silent

SYSTEM = "Turn the order into JSON."
ITEMS = ["lamp", "desk", "chair", "mug", "cable", "shelf", "carpet", "clock"]
NAMES = ["Ann", "Bob", "Cyd", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivo", "Jil"]
COUNTS = {"one": 1, "two": 2, "three": 3, "ten": 10, "4": 4, "12": 12, "30": 30}


def order(rng: random.Random) -> tuple[str, dict[str, Any]]:
    name, item, count, soon = rng.choice(NAMES), rng.choice(ITEMS), rng.choice(list(COUNTS)), rng.random() < 0.5
    start = rng.choice(["please send", "ship", "we need", "order"])
    text = (
        f"{start} {count} {item} to {name}{rng.choice([' today', ' at once']) if soon else ''} {rng.randrange(10**6)}"
    )
    return text, {"item": item, "count": COUNTS[count], "to": {"name": name}, "urgent": soon}


def write(path: Path, n: int, make: Callable[[str, dict[str, Any]], dict[str, Any]], seed: int = 0) -> Path:
    rng = random.Random(seed)
    rows = [make(*order(rng)) for _ in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_json(text: str, answer: dict[str, Any]) -> dict[str, Any]:
    told = {"role": "assistant", "content": json.dumps(answer)}
    return {"messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}, told]}


def as_call(text: str, answer: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {k: {} for k in answer}}
    tool = {"type": "function", "function": {"name": "place_order", "parameters": parameters}}
    call = {"id": "1", "type": "function", "function": {"name": "place_order", "arguments": json.dumps(answer)}}
    told = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"tools": [tool], "messages": [{"role": "user", "content": text}, told]}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(1)
    return make_encoder(tmp_path_factory.mktemp("encoder"), [order(rng)[0] for _ in range(300)])


def settings(encoder: Path, **more: Any) -> PilotSettings:
    return PilotSettings(**({"max_loss": 0.2, "encoder": str(encoder), "threads": 2, "students": ("tagger",)} | more))


@pytest.fixture(scope="module")
def json_pilot(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("structure")
    pilot([write(folder / "traffic.jsonl", 900, as_json)], folder / "out", settings(encoder))
    return folder / "out"


def test_a_pilot_of_json_certifies_a_tagger(json_pilot: Path) -> None:
    report = json.loads((json_pilot / "report.json").read_text())
    [student] = report["students"]
    assert report["task"] == "extraction"
    assert student["rung"] == student["name"] == "tagger"
    assert student["note"].startswith("100.0% of the answers are extractive")
    assert student["accuracy"]["value"] > 0.5
    assert student["micro_f1"] > 0.8
    assert report["certificate"]["bound"] == 0.2
    assert report["certificate"]["offload"] > 0.3
    assert {m["label"] for m in report["details"]["labels"]} == {"item", "count", "to.name", "urgent"}
    verify_bundle(json_pilot)
    page = (json_pilot / "report.html").read_text()
    assert "Fields by F1" in page
    assert "urgent" in page


def test_the_bundle_answers_with_json_and_alone_as_in_a_batch(json_pilot: Path) -> None:
    bundle = load(json_pilot)
    rng = random.Random(99)
    orders = [order(rng) for _ in range(60)]
    asked = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}] for text, _ in orders]
    together = bundle.answer_many(asked)
    right = [
        json.loads(a.answer or "{}") == wanted for a, (_, wanted) in zip(together, orders, strict=True) if a.answer
    ]
    assert len(right) > 15
    assert sum(right) / len(right) > 0.6
    for messages, answered in list(zip(asked, together, strict=True))[:10]:
        alone = bundle.answer(messages)
        assert (alone.answer, alone.tier) == (answered.answer, answered.tier)
        assert alone.confidence == pytest.approx(answered.confidence, abs=1e-3)
    stranger = bundle.answer([{"role": "system", "content": "Translate."}, {"role": "user", "content": "two lamps"}])
    assert stranger.reason == "another workload"


def test_function_calls_come_back_as_calls(tmp_path: Path, encoder: Path) -> None:
    traffic = write(tmp_path / "calls.jsonl", 700, as_call)
    result = pilot([traffic], tmp_path / "out", settings(encoder, max_loss=0.4))
    assert result.task == "function_calling"
    assert result.certificate.bound == 0.4
    output = tmp_path / "answers.jsonl"
    counts = answer_file(load(tmp_path / "out"), write(tmp_path / "more.jsonl", 50, as_call, seed=5), output, Silent())
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    told = [r for r in rows if r["tier"] == "student"]
    assert counts.student == len(told) > 10
    assert all(r["answer"] is None and r["tool_calls"][0]["function"]["name"] == "place_order" for r in told)
    arguments = json.loads(told[0]["tool_calls"][0]["function"]["arguments"])
    assert set(arguments) <= {"item", "count", "to", "urgent"}


def test_a_pilot_that_was_cut_off_takes_the_tagger_up(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiercel.flows.certifying as flow

    traffic = write(tmp_path / "traffic.jsonl", 300, as_json)
    whole = pilot([traffic], tmp_path / "whole", settings(encoder))

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(flow, "issue_certificate", stop)
        with pytest.raises(KeyboardInterrupt):
            pilot([traffic], tmp_path / "cut", settings(encoder))
        assert list((tmp_path / "cut" / ".work").rglob("stage.json"))
    told = list[str]()

    class Listening(Silent):
        def stage(self, title: str) -> None:
            told.append(title)

    again = pilot([traffic], tmp_path / "cut", settings(encoder), progress=Listening())
    assert not any("tuning the tagger" in t for t in told)
    assert again.certificate == whole.certificate


def test_answers_that_are_not_made_of_their_requests_are_refused(tmp_path: Path, encoder: Path) -> None:
    def made_up(text: str, answer: dict[str, Any]) -> dict[str, Any]:
        return as_json(text, {"poem": f"{hash(text)} roses are {hash(text[::-1])}"})

    traffic = write(tmp_path / "traffic.jsonl", 200, made_up)
    with pytest.raises(DataError, match="of the answers are made of the request's words"):
        pilot([traffic], tmp_path / "out", settings(encoder))


def test_a_rung_of_another_task_is_refused(tmp_path: Path, encoder: Path) -> None:
    traffic = write(tmp_path / "traffic.jsonl", 200, as_json)
    with pytest.raises(ConfigurationError, match="no student is called 'linear'"):
        pilot([traffic], tmp_path / "out", settings(encoder, students=("linear",)))
