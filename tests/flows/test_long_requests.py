"""Requests that a student does not read to their end are the frontier's: when it is certified, and when it serves."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.flows.conftest import SYSTEM, rows, write_rows
from tests.flows.test_structure import as_json, encoder, order, settings  # noqa: F401
from tiercel import load, verify_bundle
from tiercel.flows import structure_ladder
from tiercel.flows.bundle import Bundle
from tiercel.flows.candidates import LadderSettings, _expected_offload
from tiercel.flows.encoders import token_limit
from tiercel.flows.pilot import pilot
from tiercel.report.result import PilotResult
from tiercel.students.encoder_training import TrainingPlan
from tiercel.students.ngrams import LONGEST

LONG = " and so on" * 40
"""Forty times three tokens: more than the tests' encoder has positions for."""


def is_long(number: int) -> bool:
    return number % 8 == 0


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> tuple[Path, PilotResult]:  # noqa: F811
    folder, rng = tmp_path_factory.mktemp("tagged"), random.Random(0)
    lines = [
        as_json(text + LONG * is_long(i), answer) for i, (text, answer) in enumerate(order(rng) for _ in range(200))
    ]
    traffic = write_rows(folder / "traffic.jsonl", lines)
    with pytest.MonkeyPatch.context() as patch:
        # How well it tags does not matter here.
        patch.setattr(structure_ladder, "_plan", lambda _: TrainingPlan(epochs=1, learning_rate=1e-3, batch=32))
        return folder / "out", pilot([traffic], folder / "out", settings(encoder))


def test_a_tagger_never_answers_what_it_read_in_part(tagged: tuple[Path, PilotResult]) -> None:
    out, result = tagged
    bundle = load(out)
    assert bundle.policy.record.limits["familiarity"][0] >= 0
    texts = [order(random.Random(i))[0] for i in range(20)]
    responses = bundle.student.respond([*texts, *(t + LONG for t in texts)])
    scores = bundle.policy.score(responses.signals)
    assert (scores[:20] > 0).any()
    assert not scores[20:].any()
    [told] = [w for w in result.warnings if "longer than tagger reads" in w]
    assert "they stay with the frontier; a decoder reads longer ones: add --students micro" in told


def test_the_certificate_is_over_the_policy_that_passes_them_on(tagged: tuple[Path, PilotResult]) -> None:
    certificate, outcome = verify_bundle(tagged[0])
    passed_on = sum(row.score == 0 for row in certificate.rows)
    assert passed_on >= 0.5 * len(certificate.rows) / 8
    assert outcome.offload <= 1 - passed_on / len(certificate.rows)


def test_a_student_is_expected_to_take_over_only_what_it_reads(tmp_path: Path) -> None:
    n = 400
    rng = np.random.default_rng(0)
    signals = np.column_stack([rng.normal(size=n), np.where(np.arange(n) % 4 == 0, -0.5, 1.0)])
    settings = LadderSettings(
        students=None, encoder=None, max_loss=0.1, confidence=0.95, seed=0, threads=1, work=tmp_path
    )
    expected = _expected_offload(signals, ("confidence", "familiarity"), np.zeros(n), n, settings)
    assert expected == 0.75


def asked(bundle: Bundle, texts: list[str]) -> list[str]:
    """Who answers each of these."""
    system = {"role": "system", "content": SYSTEM}
    return [a.tier for a in bundle.answer_many([[system, {"role": "user", "content": t}] for t in texts])]


def padded(texts: list[str], length: int) -> list[str]:
    """The same words, with so many blanks behind the first that this many characters are reached."""
    pairs = [text.split(" ", 1) for text in texts]
    return [first + " " * (length - len(first) - len(rest)) + rest for first, rest in pairs]


def test_a_linear_model_passes_on_what_it_read_in_part(linear_pilot: Path) -> None:
    bundle = load(linear_pilot)
    texts = [row["messages"][1]["content"] for row in rows(30, seed=9)]
    told = asked(bundle, texts)
    assert told.count("student") > 15
    assert asked(bundle, padded(texts, LONGEST)) == told
    assert set(asked(bundle, padded(texts, LONGEST + 1))) == {"frontier"}
    warnings = json.loads((linear_pilot / "report.json").read_text())["warnings"]
    assert not any("longer than" in w for w in warnings)


def test_a_bundle_of_before_is_read_and_held_to_the_same(linear_pilot: Path, tmp_path: Path) -> None:
    shutil.copytree(linear_pilot / "bundle", tmp_path / "bundle")
    path = tmp_path / "bundle" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}))
    bundle = load(tmp_path / "bundle")
    texts = [row["messages"][1]["content"] for row in rows(30, seed=9)]
    assert "student" in asked(bundle, texts)
    assert set(asked(bundle, padded(texts, LONGEST + 1))) == {"frontier"}


def test_an_encoder_is_given_no_more_tokens_than_it_has_positions(encoder: Path) -> None:  # noqa: F811
    assert token_limit(encoder, ["short one"] * 50) == 32
    assert token_limit(encoder, ["and so on" * 90] * 50) == 64 - 2
