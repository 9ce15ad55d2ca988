"""Requests that a student does not read to their end are the frontier's: when it is certified, and when it serves."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import SYSTEM, rows, write_rows
from tests.flows.test_structure import as_json, encoder, order, settings  # noqa: F401
from tiercel import load, verify_bundle
from tiercel.flows.encoders import token_limit
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.report.result import PilotResult
from tiercel.students.ngrams import LONGEST

LONG = " and so on" * 40
"""Forty times three tokens: more than the tests' encoder has positions for."""


def is_long(number: int) -> bool:
    return number % 8 == 0


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> tuple[Path, PilotResult]:  # noqa: F811
    folder, rng = tmp_path_factory.mktemp("tagged"), random.Random(0)
    asked = [order(rng) for _ in range(320)]
    lines = [as_json(text + LONG * is_long(i), answer) for i, (text, answer) in enumerate(asked)]
    return folder / "out", pilot([write_rows(folder / "traffic.jsonl", lines)], folder / "out", settings(encoder))


def test_a_tagger_never_answers_what_it_read_in_part(tagged: tuple[Path, PilotResult]) -> None:
    out, result = tagged
    bundle = load(out)
    texts = [order(random.Random(i))[0] for i in range(20)]
    system = as_json("", {})["messages"][0]

    def answered(texts: list[str]) -> list[str]:
        return [a.tier for a in bundle.answer_many([[system, {"role": "user", "content": t}] for t in texts])]

    assert "student" in answered(texts)
    assert set(answered([t + LONG for t in texts])) == {"frontier"}
    [told] = [w for w in result.warnings if "longer than tagger reads" in w]
    assert "they stay with the frontier; a decoder reads longer ones: add --students micro" in told


def test_the_certificate_is_over_the_policy_that_passes_them_on(tagged: tuple[Path, PilotResult]) -> None:
    out, result = tagged
    certificate, outcome = verify_bundle(out)
    passed_on = sum(row.score == 0 for row in certificate.rows)
    assert passed_on >= 0.5 * len(certificate.rows) / 8
    assert outcome.offload <= 1 - passed_on / len(certificate.rows)
    tagger = next(s for s in result.students if s.name == "tagger")
    assert tagger.expected_offload is not None
    assert tagger.expected_offload < 0.97


def test_a_linear_model_passes_on_what_it_read_in_part(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = rows(240)
    traffic = write_rows(tmp_path / "traffic.jsonl", lines)
    result = pilot([traffic], tmp_path / "out", PilotSettings(students=("linear",), max_loss=0.1))
    assert not any("longer than" in w for w in result.warnings)
    bundle = load(tmp_path / "out")
    said = "my parcel is late " * (LONGEST // 18)
    pairs = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": t}] for t in (said, said + " " * 99)]
    whole, cut = bundle.student.respond([p[1]["content"] for p in pairs]).signals[:, _familiarity(bundle)]
    assert cut < 0 < whole
    assert [a.tier for a in bundle.answer_many(pairs)] == ["student", "frontier"]
    assert [a.answer for a in bundle.answer_many(pairs)] == ["delivery", None]


def test_a_bundle_of_before_is_read_and_held_to_the_same(linear_pilot: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(linear_pilot / "bundle", tmp_path / "bundle")
    path = tmp_path / "bundle" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}))
    bundle = load(tmp_path / "bundle")
    long = "my parcel is late " * 400
    asked = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": long}]
    assert bundle.answer(asked).tier == "frontier"
    assert bundle.answer([asked[0], {"role": "user", "content": "my parcel is late"}]).tier == "student"


def test_an_encoder_is_given_no_more_tokens_than_it_has_positions(encoder: Path) -> None:  # noqa: F811
    assert token_limit(encoder, ["short one"] * 50) == 32
    assert token_limit(encoder, ["and so on" * 90] * 50) == 64 - 2


def _familiarity(bundle: Any) -> int:
    return bundle.student.signals.index("familiarity")
