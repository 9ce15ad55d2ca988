"""The certificate: the claim, and every number that is needed to make it again.

It holds no request and no answer, only keyed hashes of them, losses and scores.
"""

from __future__ import annotations

import hashlib
import math

import msgspec
import numpy as np
from msgspec import Struct

from tiercel.errors import CertificateError
from tiercel.routing.calibration import METHODS, Calibrated, TestPlan, calibrate

__all__ = ["FORMAT", "Certificate", "CertifiedRow", "issue_certificate", "sealed", "verify_certificate"]

FORMAT = 1


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
    digest: str = ""
    """SHA-256 of all the rest, by `sealed`: a change that would leave the claim standing is seen too."""


def issue_certificate(
    plan: TestPlan, rows: tuple[CertifiedRow, ...], *, workload: str, policy: str, seed: int
) -> tuple[Certificate, Calibrated]:
    """Test the plan on the rows and write down the outcome."""
    result = calibrate(plan, *_arrays(rows))
    certificate = Certificate(
        format=FORMAT,
        statement=_statement(plan, result.threshold),
        workload=workload,
        policy=policy,
        plan=plan,
        seed=seed,
        rows=rows,
        threshold=result.threshold,
        offload=result.offload,
        estimate=result.estimate,
    )
    return sealed(certificate), result


def sealed(certificate: Certificate) -> Certificate:
    """The certificate with the digest of its content."""
    return msgspec.structs.replace(certificate, digest=_digest(certificate))


def _digest(certificate: Certificate) -> str:
    content = msgspec.json.encode(msgspec.structs.replace(certificate, digest=""), order="deterministic")
    return hashlib.sha256(content).hexdigest()


def verify_certificate(certificate: Certificate) -> Calibrated:
    """Make the certificate again from its own record.

    Returns:
        The outcome of the tests, which equals what the certificate says.

    Raises:
        CertificateError: the record does not lead to the claim; the message says where it parts from it.
    """
    c, plan = certificate, certificate.plan
    if c.format != FORMAT:
        raise CertificateError(f"its format is {c.format}, this program reads {FORMAT}; upgrade tiercel")
    if plan.method not in METHODS:
        raise CertificateError(f"its method {plan.method!r} is not known")
    if not (0 < plan.max_loss < 1 and 0 < plan.confidence < 1):
        raise CertificateError("its bound or its confidence is not between 0 and 1")
    falling = all(a > b for a, b in zip(plan.grid, plan.grid[1:], strict=False)) and all(map(math.isfinite, plan.grid))
    if not plan.grid or len(plan.grid) != len(plan.levels) or not falling:
        raise CertificateError("its grid of thresholds is not strictly falling")
    if min(plan.levels) < 0 or math.fsum(plan.levels) > (1 - plan.confidence) * (1 + 1e-9):
        raise CertificateError("its tests spend more error than its confidence leaves")
    for number, row in enumerate(c.rows, start=1):
        values = (row.score, row.student_loss, row.frontier_loss)
        if not all(math.isfinite(v) and 0 <= v <= 1 for v in values):
            raise CertificateError(f"row {number} has a score or a loss outside [0, 1]")
        if not row.verified and row.frontier_loss != 0:
            raise CertificateError(f"row {number} has a frontier loss although its reference is the frontier's answer")
    if len({row.key for row in c.rows}) != len(c.rows):
        raise CertificateError("a calibration row stands in it twice")
    result = calibrate(plan, *_arrays(c.rows))
    if result.threshold != c.threshold:
        raise CertificateError(f"its rows certify the threshold {result.threshold}, not {c.threshold}")
    if not math.isclose(result.offload, c.offload, abs_tol=1e-12):
        raise CertificateError(f"its rows give an offload of {result.offload:.4f}, not {c.offload:.4f}")
    if not math.isclose(result.estimate, c.estimate, abs_tol=1e-12):
        raise CertificateError(f"its rows give an excess loss of {result.estimate:.5f}, not {c.estimate:.5f}")
    if c.statement != _statement(plan, c.threshold):
        raise CertificateError("its statement is not what its numbers say")
    if c.digest != _digest(c):
        raise CertificateError("it was changed after it was issued")
    return result


def _arrays(rows: tuple[CertifiedRow, ...]) -> tuple[np.ndarray, np.ndarray]:
    scores = np.array([r.score for r in rows], dtype=np.float64)
    excess = np.array([r.student_loss - r.frontier_loss for r in rows], dtype=np.float64)
    return scores, excess


def _statement(plan: TestPlan, threshold: float | None) -> str:
    if threshold is None:
        return f"No threshold could be certified to keep the excess loss at or below {plan.max_loss:.4g}."
    return (
        f"Over requests like the calibration rows, answering from the student wherever the gate's score is at least "
        f"{threshold:.6g} costs at most {plan.max_loss:.4g} in loss against the frontier on average over all requests; "
        f"the procedure that says so is wrong with probability at most {1 - plan.confidence:.4g}."
    )
