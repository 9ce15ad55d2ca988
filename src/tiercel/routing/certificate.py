"""The certificate: the claim, and every number that is needed to make it again.

It holds no request and no answer, only keyed hashes of them, losses and scores.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import CertificateError
from tiercel.routing.calibration import METHODS, Calibrated, TestPlan, calibrate

__all__ = [
    "FORMAT",
    "Certificate",
    "CertifiedRow",
    "arrays_of",
    "digest_of",
    "issue_certificate",
    "outcome_of",
    "sealed",
    "verify_certificate",
    "verify_plan",
    "verify_rows",
]

FORMAT = 2
"""The newest format; one without clusters is written as 1, which older programs read too."""
_LATER = {"clusters": None, "cluster": None, "cap": None}
"""Fields that the first format did not have, with the value that leaves them out of the digest."""


class CertifiedRow(Struct, frozen=True, array_like=True):
    """One calibration row."""

    key: str
    """Hash of the request, so that the owner of the traffic can find the row."""
    score: float
    """The gate's score."""
    student_loss: float
    """Loss of the student's answer against the reference, in [0, 1]."""
    frontier_loss: float
    """Loss of the frontier's own answer; 0 where its answer is the reference."""
    verified: bool
    """Whether the reference was verified, and is not the frontier's own answer."""


class Certificate(Struct, frozen=True, kw_only=True):
    """What was claimed of a policy before it was deployed."""

    format: int
    statement: str
    """The claim in words."""
    workload: str
    """Fingerprint of the workload that it holds for."""
    policy: str
    """SHA-256 of the bundle's policy without its threshold: gate, signals, powers."""
    weights: dict[str, str] = {}
    """SHA-256 of the files that hold the students and the neighbourhood, by path within the bundle."""
    plan: TestPlan
    """What was fixed before the calibration rows were looked at."""
    seed: int
    """Of the order of the rows."""
    rows: tuple[CertifiedRow, ...]
    """The calibration rows, in the order in which a bet sees them."""
    threshold: float | None
    """None when nothing could be certified."""
    offload: float
    """Share of the calibration rows that the student answers."""
    estimate: float
    """Mean excess loss on the calibration rows."""
    clusters: tuple[int, ...] | None = None
    """Number of each row's cluster; None where rows are taken as independent."""
    digest: str = ""
    """SHA-256 of all the rest, by `sealed`: a change that would leave the claim standing is seen too."""


def issue_certificate(
    plan: TestPlan,
    rows: tuple[CertifiedRow, ...],
    *,
    workload: str,
    policy: str,
    seed: int,
    clusters: Sequence[int] | None = None,
) -> tuple[Certificate, Calibrated]:
    """Test the plan on the rows and write down the outcome."""
    result = outcome_of(plan, rows, clusters)
    certificate = Certificate(
        format=1 if clusters is None else FORMAT,
        statement=_statement(plan, result.threshold),
        workload=workload,
        policy=policy,
        plan=plan,
        seed=seed,
        rows=rows,
        threshold=result.threshold,
        offload=result.offload,
        estimate=result.estimate,
        clusters=None if clusters is None else tuple(clusters),
    )
    return sealed(certificate), result


def outcome_of(plan: TestPlan, rows: Sequence[CertifiedRow], clusters: Sequence[int] | None) -> Calibrated:
    """Put the plan to the rows, and to their clusters where it has a cap."""
    return calibrate(plan, *arrays_of(rows), None if clusters is None else np.array(clusters, dtype=np.int64))


def arrays_of(rows: Sequence[CertifiedRow]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores and excess losses of n rows, each of shape (n,)."""
    scores = np.array([r.score for r in rows], dtype=np.float64)
    return scores, np.array([r.student_loss - r.frontier_loss for r in rows], dtype=np.float64)


def sealed(certificate: Certificate) -> Certificate:
    """The certificate with the digest of its content."""
    return msgspec.structs.replace(certificate, digest=digest_of(certificate))


def digest_of(record: Struct) -> str:
    """SHA-256 of a record without its own digest; the same whether or not its format had the later fields."""
    content = msgspec.to_builtins(msgspec.structs.replace(record, digest=""), order="deterministic")
    return hashlib.sha256(msgspec.json.encode(_without_later(content))).hexdigest()


def _without_later(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_later(v) for k, v in value.items() if not (k in _LATER and v is _LATER[k])}
    return value


def verify_certificate(certificate: Certificate) -> Calibrated:
    """Make the certificate again from its own record.

    Returns:
        The outcome of the tests, which equals what the certificate says.

    Raises:
        CertificateError: the record does not lead to the claim; the message says where it parts from it.
    """
    c, plan = certificate, certificate.plan
    if not 1 <= c.format <= FORMAT:
        raise CertificateError(f"its format is {c.format}, this program reads up to {FORMAT}; upgrade tiercel")
    verify_plan(plan)
    if math.fsum(plan.levels) > (1 - plan.confidence) * (1 + 1e-9):
        raise CertificateError("its tests spend more error than its confidence leaves")
    verify_rows(c.rows, c.clusters, plan)
    result = outcome_of(plan, c.rows, c.clusters)
    if result.threshold != c.threshold:
        raise CertificateError(f"its rows certify the threshold {result.threshold}, not {c.threshold}")
    if not math.isclose(result.offload, c.offload, abs_tol=1e-12):
        raise CertificateError(f"its rows give an offload of {result.offload:.4f}, not {c.offload:.4f}")
    if not math.isclose(result.estimate, c.estimate, abs_tol=1e-12):
        raise CertificateError(f"its rows give an excess loss of {result.estimate:.5f}, not {c.estimate:.5f}")
    if c.statement != _statement(plan, c.threshold):
        raise CertificateError("its statement is not what its numbers say")
    if c.digest != digest_of(c):
        raise CertificateError("it was changed after it was issued")
    return result


def verify_plan(plan: TestPlan) -> None:
    """Raise `CertificateError` for a plan that can't be tested."""
    if plan.method not in METHODS:
        raise CertificateError(f"its method {plan.method!r} is not known")
    if not (0 < plan.max_loss < 1 and 0 < plan.confidence < 1):
        raise CertificateError("its bound or its confidence is not between 0 and 1")
    falling = all(a > b for a, b in zip(plan.grid, plan.grid[1:], strict=False)) and all(map(math.isfinite, plan.grid))
    if not plan.grid or len(plan.grid) != len(plan.levels) or not falling:
        raise CertificateError("its grid of thresholds is not strictly falling")
    if not all(0 <= level <= 1 for level in plan.levels):
        raise CertificateError("its tests spend more error than its confidence leaves")
    if plan.cap is not None and (plan.cap < 1 or plan.method == "binomial"):
        raise CertificateError("its clusters are not weighted as its method needs")


def verify_rows(rows: Sequence[CertifiedRow], clusters: Sequence[int] | None, plan: TestPlan) -> None:
    """Raise `CertificateError` for rows, or numbers of their clusters, that can't be."""
    for number, row in enumerate(rows, start=1):
        values = (row.score, row.student_loss, row.frontier_loss)
        if not all(math.isfinite(v) and 0 <= v <= 1 for v in values):
            raise CertificateError(f"row {number} has a score or a loss outside [0, 1]")
        if not row.verified and row.frontier_loss != 0:
            raise CertificateError(f"row {number} has a frontier loss although its reference is the frontier's answer")
    if len({row.key for row in rows}) != len(rows):
        raise CertificateError("a calibration row stands in it twice")
    if (clusters is None) != (plan.cap is None) or (clusters is not None and len(clusters) != len(rows)):
        raise CertificateError("its rows do not say which clusters they belong to")
    if clusters is not None and min(clusters, default=0) < 0:
        raise CertificateError("a cluster has a number below 0")


def _statement(plan: TestPlan, threshold: float | None) -> str:
    if threshold is None:
        return f"No threshold could be certified to keep the excess loss at or below {plan.max_loss:.4g}."
    return (
        f"Over requests like the calibration rows, answering from the student wherever the gate's score is at least "
        f"{threshold:.6g} costs at most {plan.max_loss:.4g} in loss against the frontier on average over all requests"
        f"{_capped(plan)}; "
        f"the procedure that says so is wrong with probability at most {1 - plan.confidence:.4g}."
    )


def _capped(plan: TestPlan) -> str:
    if plan.cap is None:
        return ""
    counted = "request" if plan.cap == 1 else "requests"
    return f", where no {plan.cluster} counts for more than {plan.cap} {counted}"
