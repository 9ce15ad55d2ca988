"""Curation in a pilot: what is dropped, where it is judged, what it never touches."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.flows.conftest import WORDS, rows, write_rows
from tests.flows.test_doubts import prepared_from
from tiercel.flows import curating
from tiercel.flows.bundle import verify_bundle
from tiercel.flows.curating import CurationOutcome, curated
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.flows.preparation import Prepared
from tiercel.flows.progress import Silent


def mislabelled(path: Path, n: int = 1_500, share: float = 0.45) -> Path:
    """Traffic of which so many training rows carry a wrong label, and no other row does."""
    lines = rows(n, seed=4)
    trained = set(prepared_from(write_rows(path, lines)).train.ids)
    rng = random.Random(2)
    for line in lines:
        if line["id"] in trained and rng.random() < share:
            line["messages"][2]["content"] = rng.choice([x for x in WORDS if x != line["messages"][2]["content"]])
    return write_rows(path, lines)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mislabelled(tmp_path_factory.mktemp("noisy") / "traffic.jsonl")


@pytest.fixture(scope="module")
def curation(noisy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Prepared, CurationOutcome, Path]:
    """Rows before and after, what was decided, and where it is kept."""
    prepared, work = prepared_from(noisy), tmp_path_factory.mktemp("work")
    return prepared, *outcome(prepared, work), work


def outcome(prepared: Prepared, work: Path, **more: Any) -> tuple[Prepared, CurationOutcome]:
    work.mkdir(exist_ok=True)
    return curated(prepared, work, Silent(), **{"seed": 0, "threads": 1, "examples": 3, **more})


def test_planted_mistakes_are_dropped_where_that_helps(
    curation: tuple[Prepared, Prepared, CurationOutcome, Path],
) -> None:
    prepared, found, told, _ = curation
    assert told.gain is not None
    assert told.gain.low > 0
    assert (told.helps, told.judge, told.judged_on) == (True, "a linear student", len(prepared.gate))
    assert told.dropped == told.would_drop == len(prepared.train) - len(found.train)
    wrong, left = _wrong(prepared), _wrong(found)
    assert left.mean() < 0.5 * wrong.mean()
    assert told.reasons["mislabel"] > 0.6 * wrong.sum()
    assert set(told.examples["mislabel"]) <= set(prepared.train.ids)
    for part in ("gate", "calibration", "test"):
        assert getattr(found, part) is getattr(prepared, part), "what is measured on stays as it came"


def _wrong(prepared: Prepared) -> NDArray[np.bool_]:
    """Whether a training row's label is none that its words speak of, shape (n,)."""
    train = prepared.train
    pairs = zip(train.texts, train.reference, strict=True)
    return np.array([not set(text.split()) & set(WORDS[answer.text]) for text, answer in pairs])


def test_clean_rows_are_left_alone_and_that_is_said(tmp_path: Path, traffic: Callable[..., Path]) -> None:
    prepared = prepared_from(traffic(rows(600, noise=0.02)))
    found, told = outcome(prepared, tmp_path / "work")
    assert found is prepared
    assert (told.helps, told.dropped) == (False, 0)
    assert told.would_drop > 0
    assert told.gain is not None


def test_the_decision_is_kept_for_a_pilot_that_is_taken_up(
    curation: tuple[Prepared, Prepared, CurationOutcome, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, first, told, work = curation
    monkeypatch.setattr(curating, "_found", None)
    again, same = outcome(prepared, work)
    assert same == told
    assert again.train.ids == first.train.ids


def test_verified_answers_and_whole_labels_are_kept(
    tmp_path: Path, curation: tuple[Prepared, Prepared, CurationOutcome, Path]
) -> None:
    prepared, _, told, _ = curation
    some = prepared.train.take(np.arange(300))
    sure = replace(prepared, train=replace(some, verified=np.ones(300, np.bool_)))
    _, found = outcome(sure, tmp_path)
    assert found.would_drop < 0.02 * 300 < 0.2 * told.would_drop
    assert not {"mislabel", "contradiction"} & set(found.reasons)
    rare = some.targets.argmax(axis=1) == 0
    poor = curating.Curation(quality=np.where(rare, 0.0, 1.0), findings=(), label_noise=None)
    assert len(curating._kept(some, poor)) == 300


def test_a_pilot_says_what_curation_did(tmp_path: Path, noisy: Path) -> None:
    settings = PilotSettings(students=("linear",), max_loss=0.05, curate=True)
    plain = pilot([noisy], tmp_path / "plain", replace(settings, curate=False))
    found = pilot([noisy], tmp_path / "out", settings)
    told = found.details["curation"]
    assert told["helps"] is True
    assert found.rows.train == plain.rows.train - told["dropped"]
    assert "kept" not in told
    assert "curation" not in plain.details
    before, after = verify_bundle(tmp_path / "plain")[0], verify_bundle(tmp_path / "out")[0]
    assert {r.key for r in before.rows} == {r.key for r in after.rows}
    assert (found.rows.gate, found.rows.test) == (plain.rows.gate, plain.rows.test)
    assert found.test.excess_loss.value < plain.test.excess_loss.value or found.test.offload > plain.test.offload
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Curation of the training rows" in page
    assert "were left out" in page
    assert "Curation of the training rows" not in (tmp_path / "plain" / "report.html").read_text()


def test_where_answers_are_no_labels_a_small_decoder_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentencepiece")
    from tests.flows.test_structure import as_json, order

    monkeypatch.setattr(curating, "PROBE_SIZE", 120_000)
    monkeypatch.setattr(curating, "PROBE_MINUTES", 0.02)
    rng = random.Random(0)
    made = [order(rng) for _ in range(300)]
    # The same requests, twice answered otherwise: two against one.
    other = [(text, {**answer, "urgent": not answer["urgent"]}) for text, answer in made[:60]]
    twins = [(text + mark, answer) for text, answer in other for mark in ".!"]
    prepared = prepared_from(write_rows(tmp_path / "traffic.jsonl", [as_json(*row) for row in [*made, *twins]]))
    found, told = outcome(prepared, tmp_path / "work")
    assert told.judge == "a decoder of 120,000 parameters"
    assert told.gain is not None
    assert -1 <= told.gain.low <= told.gain.value <= told.gain.high <= 1
    assert told.reasons["contradiction"] > 10
    assert (len(found.train) < len(prepared.train)) == told.helps
    assert not list((tmp_path / "work").glob("curation.?"))
