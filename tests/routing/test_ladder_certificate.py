"""The certificate of a ladder is made again from its record, and every change to it is seen."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from tiercel.errors import CertificateError
from tiercel.routing.ladder import ladder_losses, plan_ladder, tiers_chosen
from tiercel.routing.ladder_certificate import LadderCertificate, LadderRow, issue_ladder, verify_ladder

TIERS = ("tiny", "mid", "huge")
COSTS = (0.2, 4.0, 20.0)


def _world(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibrated scores of two gates, losses of three tiers, and how likely the last one is wrong."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    chance = np.column_stack([0.5 * hard**2, 0.2 * hard**3, 0.3 * (hard > 0.9)])
    return chance[:, :2], (rng.random((n, 3)) < chance).astype(float), chance[:, 2]


def _issued(*, abstains: bool = False, max_loss: float = 0.05) -> LadderCertificate:
    further: dict[str, Any] = {"abstain": 0.25, "abstention_loss": 0.25} if abstains else {}
    scores, losses, hopeless = _world(600, 1)
    plan = plan_ladder(
        scores, losses, COSTS, max_loss=max_loss, confidence=0.9, hopeless=hopeless if abstains else None, **further
    )
    scores, losses, hopeless = _world(900, 2)
    rows = tuple(
        LadderRow(str(i), tuple(s), tuple(d), float(h) if abstains else None)
        for i, (s, d, h) in enumerate(zip(scores.tolist(), losses.tolist(), hopeless, strict=True))
    )
    return issue_ladder(plan, rows, tiers=TIERS, policy="0" * 64, seed=0)


@pytest.mark.parametrize("abstains", [False, True])
def test_a_certificate_is_made_again_from_what_was_written(abstains: bool) -> None:
    issued = _issued(abstains=abstains)
    assert issued.step is not None and issued.estimate <= 0.05
    again = msgspec.json.decode(msgspec.json.encode(issued), type=LadderCertificate)
    verify_ladder(again)
    assert again == issued
    assert ("nobody answers" in issued.statement) == abstains


def test_the_certified_step_moves_requests_and_keeps_its_bound_on_others() -> None:
    issued = _issued()
    assert issued.step is not None
    scores, losses, _ = _world(50_000, 3)
    chosen = tiers_chosen(issued.step, scores)
    assert (chosen < 2).mean() > 0.4 and (chosen == 1).mean() > 0.02
    assert ladder_losses(chosen, losses).mean() <= 0.05


def test_a_bound_that_nothing_meets_gives_no_step() -> None:
    issued = _issued(max_loss=0.0005)
    assert issued.step is None and issued.statement.startswith("No step")
    verify_ladder(issued)


def _with(certificate: LadderCertificate, **changes: Any) -> LadderCertificate:
    return msgspec.structs.replace(certificate, **changes)


def _plan(certificate: LadderCertificate, **changes: Any) -> LadderCertificate:
    return _with(certificate, plan=msgspec.structs.replace(certificate.plan, **changes))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda c: _with(c, format=2), "upgrade"),
        (lambda c: _with(c, rows=c.rows[::-1][:700]), "certify other|excess loss"),
        (lambda c: _with(c, rows=(*c.rows, c.rows[0])), "stands in it twice"),
        (lambda c: _with(c, step=c.plan.path[-1]), "other thresholds"),
        (lambda c: _with(c, step=None), "other thresholds"),
        (lambda c: _with(c, estimate=0.0), "excess loss"),
        (lambda c: _with(c, statement="All is well."), "statement"),
        (lambda c: _with(c, policy="1" * 64), "changed after"),
        (lambda c: _with(c, tiers=("tiny", "huge")), "one threshold for each"),
        (lambda c: _plan(c, levels=(0.1,) * len(c.plan.path)), "more error"),
        (lambda c: _plan(c, levels=c.plan.levels[1:]), "one for each step"),
        (lambda c: _plan(c, path=c.plan.path[::-1]), "falls"),
        (lambda c: _plan(c, method="hope"), "not known"),
        (lambda c: _plan(c, max_loss=2.0), "between 0 and 1"),
        (lambda c: _with(c, rows=(LadderRow("x", (0.1,), (0.0, 0.0, 0.0)), *c.rows)), "one score for each tier"),
        (lambda c: _with(c, rows=(LadderRow("x", (0.1, 0.1), (0.0, 7.0, 0.0)), *c.rows)), "out of its range"),
        (lambda c: _with(c, rows=(LadderRow("x", (0.1, 0.1), (0.0, 0.0, 0.0), 0.5), *c.rows)), "row 2 does not hold"),
    ],
)
def test_a_certificate_that_was_changed_does_not_hold(spoil: Any, problem: str) -> None:
    with pytest.raises(CertificateError, match=problem):
        verify_ladder(spoil(_issued()))
