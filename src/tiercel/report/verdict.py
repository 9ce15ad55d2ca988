"""The outcome of a pilot in one sentence."""

from __future__ import annotations

import math

from tiercel.report.result import PilotResult

__all__ = ["exact_percent", "percent", "usd", "verdict_of"]


def exact_percent(value: float, fewest: int = 0) -> str:
    """A share that was set, such as a bound or a confidence, with as many digits as it takes not to round it."""
    digits = next((d for d in range(fewest, 6) if math.isclose(round(100 * value, d), 100 * value)), 6)
    return percent(value, digits)


def percent(value: float, digits: int = 1) -> str:
    """A share as people write it: 81.3 %."""
    return f"{100 * value:.{digits}f} %"


def usd(value: float) -> str:
    """An amount with as many digits as tell something: $0.0031, $4.12, $12,340."""
    if value < 0:
        return f"\N{MINUS SIGN}{usd(-value)}"
    if 0 < value < 0.0001:
        return "< $0.0001"
    if 0 < value < 0.01:
        return f"${value:.2g}"
    return f"${value:,.2f}" if abs(value) < 100 else f"${value:,.0f}"


def verdict_of(result: PilotResult) -> str:
    """What a manager needs to know, true to the certificate."""
    certificate, cost = result.certificate, result.cost
    who = result.workload.frontier or "the frontier"
    if certificate.bound is None:
        return (
            f"No part of this traffic can be certified to move away from {who} at a loss of at most "
            f"{exact_percent(certificate.max_loss)}: {certificate.advice}."
        )
    saving = ""
    if cost.saved_fraction is not None:
        saving = f", which saves {percent(cost.saved_fraction, 0)} of its cost"
        if cost.saved_usd_per_year is not None:
            saving += f" ({usd(cost.saved_usd_per_year)} a year)"
    price = f"quality falls by no more than {exact_percent(certificate.bound)} of all requests"
    if result.segments is not None:
        price = _by_segment(result, certificate.bound)
    elif result.task == "generation":
        price = (
            f"answers share on average all but at most {exact_percent(certificate.bound)} of their words with those of "
            f"{who}; that is a measure of words, not of meaning"
        )
    sure = f"with {exact_percent(certificate.confidence)} confidence, "
    if result.segments is not None and result.segments.method == "e-bh":
        sure = ""  # a rate among many, not a confidence in each
    return (
        f"{percent(certificate.offload, 0)} of this traffic can move from {who} to a small model on your own machines"
        f"{saving}; {sure}{price}."
    )


def _by_segment(result: PilotResult, bound: float) -> str:
    """The claim of a certificate by segment, as strong as its method of sharing error allows."""
    assert result.segments is not None
    segments = result.segments.segments
    held = sum(s.threshold is not None for s in segments)
    of = f"{held} of {len(segments)} segments by {result.segments.field}"
    if result.segments.method == "e-bh":
        return (
            f"that is {of}, of which on average at most {exact_percent(1 - result.certificate.confidence)} lose more "
            f"than {exact_percent(bound)} of their requests in quality"
        )
    return f"quality falls by no more than {exact_percent(bound)} in each of {of}; the others stay where they are"
