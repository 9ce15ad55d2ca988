from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest

from tiercel.errors import CertificateError
from tiercel.routing.calibration import calibrate, plan_tests
from tiercel.routing.certificate import FORMAT, Certificate, CertifiedRow, issue_certificate, verify_certificate

METHODS = ("binomial", "betting")

replace = msgspec.structs.replace


def _issue(method: str, *, n: int = 400, seed: int = 91) -> Certificate:
    rng = np.random.default_rng(seed)
    often = {"binomial": 0.3, "betting": 0.8}[method]

    def losses(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wrong = rng.random(len(scores)) < often * (1 - scores)
        student = wrong * (1.0 if method == "binomial" else rng.uniform(0.2, 1, len(scores)))
        frontier = (rng.random(len(scores)) < 0.05) * 1.0 if method == "betting" else 0 * student
        return student, np.where(wrong, 0, frontier)

    gate = rng.random(200)
    student, frontier = losses(gate)
    plan = plan_tests(gate, student - frontier, max_loss=0.08, confidence=0.9, method=method)
    scores = rng.random(n)
    student, frontier = losses(scores)
    rows = tuple(
        CertifiedRow(f"key-{i}", float(s), float(a), float(b), method == "betting")
        for i, (s, a, b) in enumerate(zip(scores, student, frontier, strict=True))
    )
    return issue_certificate(plan, rows, workload="0f" * 6, policy="ab" * 32, seed=5)[0]


CERTIFICATES = {method: _issue(method) for method in METHODS}


def _rows(c: Certificate, number: int, **changes: Any) -> Certificate:
    rows = list(c.rows)
    rows[number] = replace(rows[number], **changes)
    return replace(c, rows=tuple(rows))


def _used(c: Certificate) -> int:
    assert c.threshold is not None
    return next(i for i, r in enumerate(c.rows) if r.score >= c.threshold and r.student_loss == 0 == r.frontier_loss)


def _unused(c: Certificate) -> int:
    assert c.threshold is not None
    return next(i for i, r in enumerate(c.rows) if r.score < c.threshold and r.student_loss > 0)


def _plan(c: Certificate, **changes: Any) -> Certificate:
    return replace(c, plan=replace(c.plan, **changes))


def _bound_with_its_statement(c: Certificate, max_loss: float) -> Certificate:
    claim = c.statement.replace(f"at most {c.plan.max_loss:.4g} in loss", f"at most {max_loss:.4g} in loss")
    assert claim != c.statement
    return replace(_plan(c, max_loss=max_loss), statement=claim)


TAMPERINGS: dict[str, Callable[[Certificate], Certificate]] = {
    "a loss of an answer that is used": lambda c: _rows(c, _used(c), student_loss=1.0),
    "a loss beyond 1": lambda c: _rows(c, _unused(c), student_loss=1.5),
    "a loss below 0": lambda c: _rows(c, _unused(c), student_loss=-0.5),
    "a loss that is no number": lambda c: _rows(c, _unused(c), student_loss=float("nan")),
    "a frontier's loss without a verified reference": lambda c: _rows(c, _used(c), frontier_loss=0.5, verified=False),
    "a score that takes an answer out of use": lambda c: _rows(c, _used(c), score=0.0),
    "a score that takes an answer into use": lambda c: _rows(c, _unused(c), score=0.999),
    "a score beyond 1": lambda c: _rows(c, _used(c), score=1.01),
    "a score that is no number": lambda c: _rows(c, _unused(c), score=float("nan")),
    "a dropped row that was used": lambda c: replace(c, rows=c.rows[: _used(c)] + c.rows[_used(c) + 1 :]),
    "a dropped row that was not used": lambda c: replace(c, rows=c.rows[: _unused(c)] + c.rows[_unused(c) + 1 :]),
    "all rows dropped": lambda c: replace(c, rows=()),
    "a duplicated row": lambda c: replace(c, rows=(*c.rows, c.rows[_used(c)])),
    "every row duplicated": lambda c: replace(c, rows=c.rows * 2),
    "a duplicated row under another key": lambda c: replace(c, rows=(*c.rows, replace(c.rows[0], key="another"))),
    "a looser threshold": lambda c: replace(c, threshold=max(t for t in c.plan.grid if t < (c.threshold or 0))),
    "a stricter threshold": lambda c: replace(c, threshold=min(t for t in c.plan.grid if t > (c.threshold or 0))),
    "no threshold": lambda c: replace(c, threshold=None),
    "the offload": lambda c: replace(c, offload=c.offload + 0.01),
    "the estimate": lambda c: replace(c, estimate=c.estimate - 0.001),
    "the statement": lambda c: replace(c, statement=c.statement.replace("at most", "far less than")),
    "an empty statement": lambda c: replace(c, statement=""),
    "a lower bound": lambda c: _plan(c, max_loss=0.02),
    "a lower bound with its statement": lambda c: _bound_with_its_statement(c, 0.02),
    "a bound beyond 1": lambda c: _plan(c, max_loss=1.0),
    "a bound of 0": lambda c: _plan(c, max_loss=0.0),
    "a higher confidence": lambda c: _plan(c, confidence=0.99),
    "a higher confidence with its statement": lambda c: replace(
        _plan(c, confidence=0.99), statement=c.statement.replace("at most 0.1.", "at most 0.01.")
    ),
    "a confidence of 1": lambda c: _plan(c, confidence=1.0),
    "an unknown method": lambda c: _plan(c, method="hope"),
    "another known method": lambda c: _plan(c, method="betting" if c.plan.method == "binomial" else "binomial"),
    "levels that spend more": lambda c: _plan(c, levels=tuple(2 * v for v in c.plan.levels)),
    "a level at a threshold that has none": lambda c: _plan(c, levels=(*c.plan.levels[:-1], 0.5)),
    "a negative level": lambda c: _plan(c, levels=(*c.plan.levels[:-1], -0.01)),
    "no level at all": lambda c: _plan(c, levels=(0.0,) * len(c.plan.levels)),
    "fewer levels than thresholds": lambda c: _plan(c, levels=c.plan.levels[:-1]),
    "a grid that rises": lambda c: _plan(c, grid=c.plan.grid[::-1]),
    "a threshold that stands twice in the grid": lambda c: _plan(c, grid=(c.plan.grid[0], *c.plan.grid[:-1])),
    "a threshold that is no number": lambda c: _plan(c, grid=(*c.plan.grid[:-1], float("nan"))),
    "a grid without the threshold": lambda c: _plan(
        c,
        grid=tuple(t for t in c.plan.grid if t != c.threshold),
        levels=tuple(v for t, v in zip(c.plan.grid, c.plan.levels, strict=True) if t != c.threshold),
    ),
    "an empty grid": lambda c: _plan(c, grid=(), levels=()),
    "a format of the future": lambda c: replace(c, format=FORMAT + 1),
}

HARMLESS: dict[str, Callable[[Certificate], Certificate]] = {
    "a loss of an answer that is not used": lambda c: _rows(c, _unused(c), student_loss=0.0),
    "a score that changes nothing": lambda c: _rows(c, _used(c), score=c.rows[_used(c)].score * 0.999 + 0.001),
    "a key": lambda c: _rows(c, _used(c), key="another"),
    "the order of rows": lambda c: replace(c, rows=c.rows[::-1]),
    "the seed": lambda c: replace(c, seed=c.seed + 1),
    "the workload": lambda c: replace(c, workload="00" * 6),
    "the policy": lambda c: replace(c, policy="00" * 32),
    "the weights": lambda c: replace(c, weights={"students/linear": "00" * 32}),
}
"""Changes after which the rows still lead to the claim; only a digest of the whole record can show them."""


@pytest.mark.parametrize("method", METHODS)
def test_a_certificate_verifies_and_survives_being_written(method: str) -> None:
    issued = CERTIFICATES[method]
    assert issued.threshold is not None
    assert 0.05 < issued.offload < 0.95
    read = msgspec.json.decode(msgspec.json.encode(issued), type=Certificate)
    assert read == issued
    result = verify_certificate(read)
    assert (result.threshold, result.offload, result.estimate) == (issued.threshold, issued.offload, issued.estimate)


@pytest.mark.parametrize("method", METHODS)
def test_a_certificate_says_what_its_rows_say(method: str) -> None:
    c = CERTIFICATES[method]
    assert c.threshold is not None
    used = [r for r in c.rows if r.score >= c.threshold]
    assert c.offload == pytest.approx(len(used) / len(c.rows))
    assert c.estimate == pytest.approx(sum(r.student_loss - r.frontier_loss for r in used) / len(c.rows))
    scores = np.array([r.score for r in c.rows])
    excess = np.array([r.student_loss - r.frontier_loss for r in c.rows])
    assert calibrate(c.plan, scores, excess).threshold == c.threshold
    for number in (f"{c.threshold:.6g}", "at most 0.08 in loss", "probability at most 0.1."):
        assert number in c.statement


@pytest.mark.parametrize("how", TAMPERINGS)
@pytest.mark.parametrize("method", METHODS)
def test_a_certificate_that_was_tampered_with_is_refused(method: str, how: str) -> None:
    tampered = TAMPERINGS[how](CERTIFICATES[method])
    if how != "a loss that is no number":
        assert tampered != CERTIFICATES[method]
    with pytest.raises(CertificateError):
        verify_certificate(tampered)


@pytest.mark.parametrize("how", HARMLESS)
def test_a_change_that_leaves_the_claim_standing_is_refused_too(how: str) -> None:
    tampered = HARMLESS[how](CERTIFICATES["binomial"])
    assert tampered != CERTIFICATES["binomial"]
    with pytest.raises(CertificateError):
        verify_certificate(tampered)


def test_a_certificate_of_nothing_verifies_and_can_not_be_turned_into_one_of_something() -> None:
    few = _issue("binomial", n=10)
    assert verify_certificate(few).offload == 0
    assert few.threshold is None
    assert few.statement == "No threshold could be certified to keep the excess loss at or below 0.08."
    good = CERTIFICATES["binomial"]
    lie = replace(few, threshold=good.threshold, statement=good.statement, offload=good.offload, estimate=good.estimate)
    with pytest.raises(CertificateError):
        verify_certificate(lie)


@dataclass(frozen=True)
class _Change:
    row: int
    field: str
    value: float


def test_no_single_loss_or_score_can_be_changed_unseen_among_the_answers_that_are_used() -> None:
    c = CERTIFICATES["binomial"]
    assert c.threshold is not None
    used = [i for i, r in enumerate(c.rows) if r.score >= c.threshold]
    changes = [_Change(i, "student_loss", 1 - c.rows[i].student_loss) for i in used[:25]]
    changes += [_Change(i, "score", c.threshold / 2) for i in used[:25]]
    for change in changes:
        with pytest.raises(CertificateError):
            verify_certificate(_rows(c, change.row, **{change.field: change.value}))


def _clustered() -> Certificate:
    rng = np.random.default_rng(92)
    users = [i // 3 for i in range(600)]
    lost = (rng.random(200) < 0.02)[users]
    plan = plan_tests(rng.random(100), np.zeros(100), max_loss=0.1, confidence=0.9, rows=200, cluster="user", cap=3)
    rows = tuple(CertifiedRow(f"key-{i}", 0.7, float(v), 0.0, False) for i, v in enumerate(lost))
    return issue_certificate(plan, rows, workload="0f" * 6, policy="ab" * 32, seed=5, clusters=users)[0]


def test_a_certificate_of_users_says_so_and_verifies() -> None:
    issued = _clustered()
    read = msgspec.json.decode(msgspec.json.encode(issued), type=Certificate)
    assert verify_certificate(read).threshold == issued.threshold is not None
    assert "where no user counts for more than 3 requests" in issued.statement
    assert issued.format == FORMAT


CLUSTER_TAMPERINGS: dict[str, Callable[[Certificate], Certificate]] = {
    "rows taken as users": lambda c: replace(c, clusters=tuple(range(len(c.rows)))),
    "no users": lambda c: replace(c, clusters=None),
    "no users and no cap": lambda c: replace(_plan(c, cap=None), clusters=None),
    "fewer users than rows": lambda c: replace(c, clusters=(c.clusters or ())[1:]),
    "a user below 0": lambda c: replace(c, clusters=(-1, *(c.clusters or ())[1:])),
    "a smaller cap": lambda c: _plan(c, cap=1),
    "a cap of 0": lambda c: _plan(c, cap=0),
    "a method that users do not allow": lambda c: _plan(c, method="binomial"),
}


@pytest.mark.parametrize("how", CLUSTER_TAMPERINGS)
def test_users_that_were_tampered_with_are_refused(how: str) -> None:
    tampered = CLUSTER_TAMPERINGS[how](_clustered())
    assert tampered != _clustered()
    with pytest.raises(CertificateError):
        verify_certificate(tampered)


def test_a_certificate_of_rows_is_sealed_as_programs_without_users_seal_it() -> None:
    """The digest that an older program computed must stay; it knew neither users nor caps."""
    issued = CERTIFICATES["binomial"]
    assert issued.format == 1
    bare = msgspec.to_builtins(replace(issued, digest=""), order="deterministic")
    del bare["clusters"], bare["plan"]["cap"], bare["plan"]["cluster"]
    assert issued.digest == hashlib.sha256(msgspec.json.encode(bare)).hexdigest()
