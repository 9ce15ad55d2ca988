"""The outcome of a pilot in one sentence."""

from __future__ import annotations

from tiercel.report.result import PilotResult

__all__ = ["percent", "usd", "verdict_of"]


def percent(value: float, digits: int = 1) -> str:
    """A share as people write it: 81.3 %."""
    return f"{100 * value:.{digits}f} %"


def usd(value: float) -> str:
    """An amount with as many digits as tell something: $0.0031, $4.12, $12,340."""
    if value and abs(value) < 0.01:
        return f"${value:.2g}"
    return f"${value:,.2f}" if abs(value) < 100 else f"${value:,.0f}"


def verdict_of(result: PilotResult) -> str:
    """What a manager needs to know, true to the certificate."""
    certificate, cost = result.certificate, result.cost
    who = result.workload.frontier or "the frontier"
    if certificate.bound is None:
        return (
            f"No part of this traffic can be certified to move away from {who} at a loss of at most "
            f"{percent(certificate.max_loss)}: {certificate.advice}."
        )
    saving = ""
    if cost.saved_fraction is not None:
        saving = f", which saves {percent(cost.saved_fraction, 0)} of its cost"
        if cost.saved_usd_per_year is not None:
            saving += f" ({usd(cost.saved_usd_per_year)} a year)"
    return (
        f"{percent(certificate.offload, 0)} of this traffic can move from {who} to a small model on your own machines"
        f"{saving}; with {percent(certificate.confidence, 0)} confidence, quality falls by no more than "
        f"{percent(certificate.bound)} of all requests."
    )
