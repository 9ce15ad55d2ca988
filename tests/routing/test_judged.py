"""Judged answers: no judge gets a bad student certified, and the record is made again from its rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest

from tiercel.errors import CertificateError
from tiercel.routing.certificate import digest_of
from tiercel.routing.judged import (
    JudgedCertificate,
    JudgedRow,
    asymptotic_interval,
    certify_judged,
    judge_error,
    verify_judged,
)

replace = msgspec.structs.replace
DELTA = 0.2

Judge = Callable[[np.ndarray, np.random.Generator], np.ndarray]
JUDGES: dict[str, Judge] = {
    "lets all pass": lambda y, rng: np.zeros(y.size),
    "lets most wrong ones pass": lambda y, rng: np.where(rng.random(y.size) < 0.8, 0.0, y),
    "grades on a curve": lambda y, rng: np.clip(0.3 * y + rng.normal(0, 0.02, y.size), 0, 1),
    "errs both ways": lambda y, rng: np.where(rng.random(y.size) < 0.1, 1 - y, y),
    "is right": lambda y, rng: y,
}


def _rows(rate: float, judge: Judge, rng: np.random.Generator, *, n: int = 800, verified: int = 100) -> list[JudgedRow]:
    truth = (rng.random(n) < rate).astype(float)
    seen = np.zeros(n, dtype=bool)
    seen[rng.permutation(n)[:verified]] = True
    triples = zip(judge(truth, rng), truth, seen, strict=True)
    return [JudgedRow(f"k{i}", float(j), float(y) if s else None) for i, (j, y, s) in enumerate(triples)]


@pytest.mark.parametrize("judge", JUDGES)
def test_a_student_just_above_the_bound_is_certified_no_more_often_than_allowed(judge: str) -> None:
    rng = np.random.default_rng(51)
    draws, bound = 40, 0.15
    certified = alone = 0
    for _ in range(draws):
        rows = _rows(bound + 0.002, JUDGES[judge], rng)
        certified += certify_judged(rows, max_loss=bound, confidence=1 - DELTA).certified
        alone += float(np.mean([r.judged for r in rows])) <= bound
    assert certified / draws <= DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / draws)
    if judge in ("lets all pass", "lets most wrong ones pass", "grades on a curve"):
        assert alone == draws, "the judge alone would have certified each time"


@pytest.mark.parametrize("judge", JUDGES)
def test_a_bad_student_is_never_certified_whatever_the_judge_says(judge: str) -> None:
    rng = np.random.default_rng(52)
    assert not any(
        certify_judged(_rows(0.4, JUDGES[judge], rng), max_loss=0.15, confidence=0.8).certified for _ in range(12)
    )


@pytest.mark.parametrize("judge", JUDGES)
def test_a_good_student_is_certified_also_with_a_judge_of_no_use(judge: str) -> None:
    rng = np.random.default_rng(53)
    draws = [certify_judged(_rows(0.03, JUDGES[judge], rng), max_loss=0.15, confidence=0.8) for _ in range(12)]
    assert sum(d.certified for d in draws) >= 10


def test_a_judge_that_is_right_tightens_the_bound_and_one_of_no_use_is_left_out() -> None:
    rng = np.random.default_rng(54)

    def drawn(judge: str) -> list[JudgedCertificate]:
        draws = [_rows(0.3, JUDGES[judge], rng, n=10_000, verified=400) for _ in range(10)]
        return [certify_judged(rows, max_loss=0.4, confidence=0.9) for rows in draws]

    right, useless = drawn("is right"), drawn("lets all pass")
    assert np.mean([c.weight for c in right]) > 0.9
    assert {c.weight for c in useless} == {0.0}
    assert np.mean([c.upper for c in right]) < np.mean([c.upper for c in useless]) - 0.01


def test_partial_losses_are_certified_by_betting() -> None:
    rng = np.random.default_rng(55)
    truth = rng.beta(1, 30, 3_000)
    rows = [
        JudgedRow(str(i), float(np.clip(y + e, 0, 1)), float(y) if i % 8 == 0 else None)
        for i, (y, e) in enumerate(zip(truth, rng.normal(0, 0.02, 3_000), strict=True))
    ]
    found = certify_judged(rows, max_loss=0.06, confidence=0.9)
    assert found.method == "betting"
    assert found.certified
    assert truth.mean() < found.upper < 0.06


def test_verified_rows_that_were_picked_certify_nothing() -> None:
    """Only what the judge holds right was looked at: the rest is unlike it, and the claim would be of those alone."""
    rng = np.random.default_rng(56)
    rows = _rows(0.3, JUDGES["is right"], rng, n=2_000, verified=2_000)
    picked = [r if r.judged == 0 and i % 2 else replace(r, verified=None) for i, r in enumerate(rows)]
    found = certify_judged(picked, max_loss=0.2, confidence=0.9)
    assert not found.certified
    assert "not drawn like the others" in found.statement
    assert verify_judged(found) == found


def test_the_judges_own_error_is_measured_in_both_directions() -> None:
    judged = np.array([0.0] * 80 + [1.0] * 10 + [0.0] * 10)
    verified = np.array([0.0] * 75 + [1.0] * 5 + [1.0] * 10 + [0.0] * 10)
    found = judge_error(judged, verified)
    assert found.distance.value == pytest.approx(0.05)
    assert found.bias.value == pytest.approx(-0.05)
    assert found.missed is not None
    assert found.missed.value == pytest.approx(5 / 15)
    assert found.unjust is not None
    assert found.unjust.value == 0.0
    assert found.distance.low < 0.05 < found.distance.high
    clean = judge_error(np.zeros(10), np.zeros(10))
    assert clean.missed is None
    assert judge_error(np.ones(10), np.ones(10)).unjust is None


def test_the_asymptotic_interval_covers_in_its_limit_and_says_what_it_is() -> None:
    rng = np.random.default_rng(57)
    covered = narrower = 0
    for _ in range(300):
        truth = (rng.random(6_000) < 0.3).astype(float)
        judged = np.where(rng.random(6_000) < 0.05, 1 - truth, truth)
        found = asymptotic_interval(judged[:600], truth[:600], judged[600:], 0.9)
        covered += found.low <= 0.3 <= found.high
        narrower += found.high - found.low < 2 * 1.645 * truth[:600].std() / np.sqrt(600)
    assert 0.85 <= covered / 300 <= 0.95
    assert narrower == 300
    assert "asymptotic" in found.guarantee
    assert "certifies nothing" in found.guarantee


def test_the_asymptotic_interval_never_certifies() -> None:
    """With two verified rows it has no width at all, and the certificate is not fooled."""
    rows = [JudgedRow(str(i), 0.0, 0.0 if i < 2 else None) for i in range(500)]
    found = certify_judged(rows, max_loss=0.05, confidence=0.9)
    assert found.asymptotic is not None
    assert found.asymptotic.high == 0.0
    assert not found.certified
    assert found.upper > 0.5


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no row is verified"),
        ([JudgedRow("a", 0.5, None)], "no row is verified"),
        ([JudgedRow("a", 0.5, 0.0), JudgedRow("a", 0.5, None)], "stands in it twice"),
        ([JudgedRow("a", 1.5, 0.0)], "outside"),
        ([JudgedRow("a", 0.5, -0.1)], "outside"),
        ([JudgedRow("a", float("nan"), 0.0)], "outside"),
    ],
)
def test_rows_that_can_not_be_are_refused(rows: list[JudgedRow], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        certify_judged(rows, max_loss=0.1, confidence=0.9)


def test_one_verified_row_and_all_verified_rows_have_a_defined_outcome() -> None:
    one = certify_judged([JudgedRow("a", 0.0, 0.0)], max_loss=0.1, confidence=0.9)
    assert (one.certified, one.asymptotic) == (False, None)
    every = certify_judged([JudgedRow(str(i), 1.0, 0.0) for i in range(300)], max_loss=0.05, confidence=0.9)
    assert every.certified
    assert (every.weight, every.asymptotic, every.method) == (0.0, None, "binomial")
    assert verify_judged(every) == every


@cache
def _issued() -> JudgedCertificate:
    rng = np.random.default_rng(58)
    return certify_judged(_rows(0.02, JUDGES["errs both ways"], rng), max_loss=0.15, confidence=0.8, seed=4)


def _row(c: JudgedCertificate, **changes: Any) -> JudgedCertificate:
    number = next(i for i, r in enumerate(c.rows) if r.verified is not None)
    return replace(c, rows=(*c.rows[:number], replace(c.rows[number], **changes), *c.rows[number + 1 :]))


def test_a_record_survives_being_written_and_is_made_again() -> None:
    issued = _issued()
    assert issued.certified
    read = msgspec.json.decode(msgspec.json.encode(issued), type=JudgedCertificate)
    assert verify_judged(read) == issued
    assert "at most 0.15" in issued.statement
    assert "probability at most 0.2" in issued.statement


TAMPERINGS: dict[str, Callable[[JudgedCertificate], JudgedCertificate]] = {
    "a verified loss": lambda c: _row(c, verified=1.0),
    "a loss beyond 1": lambda c: _row(c, judged=2.0),
    "a dropped row": lambda c: replace(c, rows=c.rows[1:]),
    "a row twice": lambda c: replace(c, rows=(*c.rows, c.rows[0])),
    "no verified row": lambda c: replace(c, rows=tuple(replace(r, verified=None) for r in c.rows)),
    "a lower bound": lambda c: replace(c, max_loss=0.01),
    "a bound of 1": lambda c: replace(c, max_loss=1.0),
    "the weight": lambda c: replace(c, weight=1.0 - c.weight),
    "the limit": lambda c: replace(c, upper=c.upper / 2),
    "the slice": lambda c: replace(c, slice=0),
    "the statement": lambda c: replace(c, statement="all is well"),
    "another kind": lambda c: replace(c, kind="bundle"),
    "a format of the future": lambda c: replace(c, format=2),
}


@pytest.mark.parametrize("how", TAMPERINGS)
def test_a_record_that_was_tampered_with_is_refused_even_if_sealed_anew(how: str) -> None:
    tampered = TAMPERINGS[how](_issued())
    with pytest.raises(CertificateError):
        verify_judged(replace(tampered, digest=digest_of(tampered)))


def test_a_change_that_leaves_the_claim_standing_breaks_the_seal() -> None:
    with pytest.raises(CertificateError, match="changed after"):
        verify_judged(_row(_issued(), key="another"))
