"""The certificate of a ladder of several tiers: the claim, and every number that is needed to make it again."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import CertificateError
from tiercel.routing.certificate import digest_of
from tiercel.routing.ladder import LadderPlan, LadderStep, certify_ladder, ladder_losses, tiers_chosen

__all__ = ["FORMAT", "LadderCertificate", "LadderRow", "issue_ladder", "verify_ladder"]

FORMAT = 1
_METHODS = ("binomial", "betting")
Floats = NDArray[np.float64]


class LadderRow(Struct, frozen=True, array_like=True):
    """One row that the certificate rests on."""

    key: str
    """Hash of the request, so that the owner of the traffic can find the row."""
    scores: tuple[float, ...]
    """Probability that climbing pays, of each tier but the last; -1 where the request must stay with the first."""
    losses: tuple[float, ...]
    """Loss of each tier's answer, in [0, 1]."""
    hopeless: float | None = None
    """Probability that the last tier is wrong; None where the ladder always answers."""


class LadderCertificate(Struct, frozen=True, kw_only=True):
    """What was claimed of a ladder before it was deployed."""

    format: int
    statement: str
    """The claim in words."""
    tiers: tuple[str, ...]
    """Names of the models, cheapest first."""
    policy: str
    """SHA-256 of the policy without its certified step."""
    plan: LadderPlan
    """What was fixed before the rows were looked at."""
    seed: int
    """Of the order of the rows."""
    rows: tuple[LadderRow, ...]
    """In the order in which a bet sees them."""
    step: LadderStep | None
    """None when nothing could be certified."""
    estimate: float
    """Mean excess loss on the rows; 0 without a step."""
    digest: str = ""
    """SHA-256 of all the rest."""


def issue_ladder(
    plan: LadderPlan, rows: tuple[LadderRow, ...], *, tiers: tuple[str, ...], policy: str, seed: int
) -> LadderCertificate:
    """Test the plan on the rows and write down the outcome."""
    step, estimate = _outcome(plan, rows)
    certificate = LadderCertificate(
        format=FORMAT,
        statement=_statement(plan, step, tiers),
        tiers=tiers,
        policy=policy,
        plan=plan,
        seed=seed,
        rows=rows,
        step=step,
        estimate=estimate,
    )
    return msgspec.structs.replace(certificate, digest=digest_of(certificate))


def verify_ladder(certificate: LadderCertificate) -> None:
    """Make the certificate again from its own record.

    Raises:
        CertificateError: the record does not lead to the claim; the message says where it parts from it.
    """
    c = certificate
    if c.format != FORMAT:
        raise CertificateError(f"its format is {c.format}, this program reads {FORMAT}; upgrade tiercel")
    _verify_plan(c.plan, len(c.tiers))
    _verify_rows(c.rows, len(c.tiers))
    if c.plan.may_abstain != (bool(c.rows) and c.rows[0].hopeless is not None):
        raise CertificateError("its rows do not say whether the last tier is wrong, as a ladder that abstains needs")
    step, estimate = _outcome(c.plan, c.rows)
    if step != c.step:
        raise CertificateError("its rows certify other thresholds than it says")
    if not math.isclose(estimate, c.estimate, abs_tol=1e-12):
        raise CertificateError(f"its rows give an excess loss of {estimate:.5f}, not {c.estimate:.5f}")
    if c.statement != _statement(c.plan, c.step, c.tiers):
        raise CertificateError("its statement is not what its numbers say")
    if c.digest != digest_of(c):
        raise CertificateError("it was changed after it was issued")


def _outcome(plan: LadderPlan, rows: tuple[LadderRow, ...]) -> tuple[LadderStep | None, float]:
    if not rows:
        return None, 0.0
    scores, losses = np.array([r.scores for r in rows]), np.array([r.losses for r in rows])
    hopeless = None if rows[0].hopeless is None else np.array([r.hopeless for r in rows], dtype=np.float64)
    step = certify_ladder(plan, scores, losses, hopeless=hopeless)
    if step is None:
        return None, 0.0
    return step, float(ladder_losses(tiers_chosen(step, scores, hopeless), losses, plan.abstention_loss).mean())


def _verify_plan(plan: LadderPlan, tiers: int) -> None:
    if plan.method not in _METHODS:
        raise CertificateError(f"its method {plan.method!r} is not known")
    if not (0 < plan.max_loss < 1 and 0 < plan.confidence < 1 and 0 <= plan.abstention_loss <= 1):
        raise CertificateError("its bound, its confidence or its loss of abstention is not between 0 and 1")
    if len(plan.levels) != len(plan.path) or not all(0 <= level <= 1 for level in plan.levels):
        raise CertificateError("its levels are not one for each step of its path")
    if math.fsum(plan.levels) > (1 - plan.confidence) * (1 + 1e-9):
        raise CertificateError("its tests spend more error than its confidence leaves")
    settings = [(*s.thresholds, s.abstain) for s in plan.path]
    if tiers < 2 or not settings or any(len(s) != tiers or not all(map(math.isfinite, s)) for s in settings):
        raise CertificateError("its steps do not hold one threshold for each tier but the last")
    if any(b < a for one, two in pairwise(settings) for a, b in zip(one, two, strict=True)):
        raise CertificateError("a threshold of its path falls")


def _verify_rows(rows: tuple[LadderRow, ...], tiers: int) -> None:
    for number, row in enumerate(rows, start=1):
        hopeless = () if row.hopeless is None else (row.hopeless,)
        if (
            len(row.scores) != tiers - 1
            or len(row.losses) != tiers
            or (row.hopeless is None) != (rows[0].hopeless is None)
        ):
            raise CertificateError(f"row {number} does not hold one score for each tier but the last, and each loss")
        if not all(-1 <= v <= 1 for v in row.scores) or not all(0 <= v <= 1 for v in (*row.losses, *hopeless)):
            raise CertificateError(f"row {number} has a score or a loss out of its range")
    if len({row.key for row in rows}) != len(rows):
        raise CertificateError("a row stands in it twice")


def _statement(plan: LadderPlan, step: LadderStep | None, tiers: tuple[str, ...]) -> str:
    if step is None:
        return f"No step of the ladder could be certified to keep the excess loss at or below {plan.max_loss:.4g}."
    thresholds = ", ".join(f"{t:.6g} for {name}" for name, t in zip(tiers, step.thresholds, strict=False))
    silent = ""
    if plan.may_abstain:
        silent = (
            f"; where {tiers[-1]} is expected to be wrong with a probability of {step.abstain:.4g} or more nobody "
            f"answers, which counts as a loss of {plan.abstention_loss:.4g}"
        )
    return (
        f"Over requests like the rows of this certificate, using the answer of the cheapest tier whose gate is at or "
        f"below its threshold ({thresholds}), and that of {tiers[-1]} where none is{silent}, costs at most "
        f"{plan.max_loss:.4g} in loss against {tiers[-1]} on average over all requests; the procedure that says so is "
        f"wrong with probability at most {1 - plan.confidence:.4g}."
    )
