"""How many rows a certificate needs: for calibration before a pilot, and audited answers after it."""

from __future__ import annotations

import math

from msgspec import Struct

from tiercel.errors import ConfigurationError
from tiercel.flows.preparation import CALIBRATION_FACTOR, CALIBRATION_SHARE
from tiercel.stats.planning import rows_for_chance, rows_needed

__all__ = ["CHANCES", "CertificatePlan", "PlannedRows", "plan_rows"]

CHANCES = (0.5, 0.8, 0.95)


class PlannedRows(Struct, frozen=True, kw_only=True):
    """Rows with which the certificate is had with some probability; None where no number is enough."""

    chance: float
    calibration: int | None
    """Calibration rows, of each segment where there are several."""
    calibration_in_all: int | None
    """Of all segments together, if they are equally large."""
    traffic: int | None
    """Rows of traffic of which a pilot sets so many aside for calibration; None also where it never sets aside so
    many."""
    audits: int | None
    """Answers of the student to check against the frontier, drawn evenly from those it gives, for the same bound after
    deployment, looked at once; of each segment. 0 where it answers too little to break the bound."""


class CertificatePlan(Struct, frozen=True, kw_only=True):
    """What was asked and what it takes."""

    max_loss: float
    confidence: float
    expected_loss: float
    """Over all requests, escalated ones included."""
    offload: float
    segments: int
    fewest: int
    """Calibration rows (of each segment) without which even a student without an error is not certified."""
    rows: tuple[PlannedRows, ...]


def plan_rows(
    *, max_loss: float, confidence: float, expected_loss: float, offload: float | None = None, segments: int = 1
) -> CertificatePlan:
    """Rows that a certificate takes, exact for losses of 0 and 1.

    Args:
        max_loss: the bound on the mean excess loss over all requests (of a segment).
        confidence: of all segments together; each gets its share of the error (Bonferroni).
        expected_loss: of the student's answers that are used; over all requests where `offload` is None.
        offload: share of the requests that the student answers; None for 1.
        segments: that are to be certified, each by itself.

    Raises:
        ConfigurationError: a value can't be.
    """
    _check(max_loss, confidence, expected_loss, offload, segments)
    used = 1.0 if offload is None else offload
    marginal, delta = expected_loss * used, (1 - confidence) / segments
    return CertificatePlan(
        max_loss=max_loss,
        confidence=confidence,
        expected_loss=marginal,
        offload=used,
        segments=segments,
        fewest=rows_needed(0.0, max_loss, delta) or 0,
        rows=tuple(_row(chance, max_loss, delta, expected_loss, used, segments) for chance in CHANCES),
    )


def _row(
    chance: float, max_loss: float, delta: float, expected_loss: float, offload: float, segments: int
) -> PlannedRows:
    # Each of s segments succeeds by itself, so that all do with the chance asked for.
    each = chance ** (1 / segments)
    rows = rows_for_chance(each, expected_loss * offload, max_loss, delta)
    total = None if rows is None else rows * segments
    # Of requests that are not answered no audit is needed: they lose nothing, and their share is known from traffic.
    within = max_loss / offload
    return PlannedRows(
        chance=chance,
        calibration=rows,
        calibration_in_all=total,
        traffic=None if total is None else _traffic(total, max_loss),
        audits=0 if within >= 1 else rows_for_chance(each, expected_loss, within, delta),
    )


def _traffic(calibration: int, max_loss: float) -> int | None:
    if calibration > CALIBRATION_FACTOR / max_loss:
        return None
    return math.ceil(calibration / CALIBRATION_SHARE)


def _check(max_loss: float, confidence: float, expected_loss: float, offload: float | None, segments: int) -> None:
    if not 0 < max_loss < 1:
        raise ConfigurationError(f"--max-loss is {max_loss}; give a share between 0 and 1, such as 0.02")
    if not 0.5 <= confidence < 1:
        raise ConfigurationError(f"--confidence is {confidence}; give one from 0.5 to below 1, such as 0.95")
    if not 0 <= expected_loss <= 1:
        raise ConfigurationError(f"--expected-loss is {expected_loss}; give a share from 0 to 1, such as 0.01")
    if offload is not None and not 0 < offload <= 1:
        raise ConfigurationError(f"--offload is {offload}; give a share above 0 and up to 1, such as 0.8")
    if segments < 1:
        raise ConfigurationError(f"--segments is {segments}; give 1 or more")
