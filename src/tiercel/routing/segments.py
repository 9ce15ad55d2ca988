"""Which segment a request belongs to, and one certificate a segment with control over all of them together.

`bonferroni`: with the confidence asked for, *every* certified segment keeps the bound (family-wise error). `e-bh`: of
the certified segments, at most the share 1 - confidence breaks it on average (false discovery rate): it says less of
any one of them, and can certify more where segments are many.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from tiercel.datasets.languages import language_of
from tiercel.errors import CertificateError
from tiercel.routing.calibration import Calibrated, TestPlan, decide
from tiercel.routing.certificate import CertifiedRow, arrays_of, digest_of, outcome_of, verify_plan, verify_rows
from tiercel.stats.planning import rows_needed
from tiercel.types import Answer

__all__ = [
    "CONTROLS",
    "SegmentPlan",
    "SegmentRecord",
    "SegmentedCertificate",
    "SegmentedOutcome",
    "issue_segments",
    "segment_of",
    "verify_segments",
    "worth_testing",
]

CONTROLS = ("bonferroni", "e-bh")
FORMAT = 1
_LONGEST = 200


def segment_of(field: str, *, text: str, metadata: Mapping[str, Any] | None, answer: Answer | None) -> str:
    """The segment of a request, computable before the frontier is asked.

    Args:
        field: `language` (of the text), `label` (the student's own answer), or a key of the metadata, which
            `metadata.KEY` names too where it is called language or label.
        text: of the request, as the student reads it.
        metadata: of the request.
        answer: of the student; needed for `label`.

    Returns:
        A name; empty where the metadata has no such key or holds no text, number or truth value there.
    """
    if field == "language":
        return language_of(text)
    if field == "label":
        return (answer.text if answer else "")[:_LONGEST]
    value = (metadata or {}).get(field.removeprefix("metadata."))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)[:_LONGEST] if isinstance(value, (str, int, float)) else ""


class SegmentPlan(Struct, frozen=True, kw_only=True):
    """All that must be fixed of a family of segments before a calibration row is looked at."""

    field: str
    """What parts requests into segments, as `segment_of` reads it."""
    method: str
    """How error is shared: one of `CONTROLS`."""
    max_loss: float
    """The bound on each segment's mean excess loss."""
    confidence: float
    """Of the family as a whole."""
    plans: dict[str, TestPlan]
    """Plan of each tested segment; with Bonferroni at its share of the error, else at all of it."""


class SegmentRecord(Struct, frozen=True, kw_only=True):
    """One tested segment with the rows that decide on it."""

    name: str
    rows: tuple[CertifiedRow, ...]
    """Its calibration rows, in the order in which a bet sees them."""
    clusters: tuple[int, ...] | None = None
    threshold: float | None
    """None where nothing could be certified: the segment stays with the frontier."""
    offload: float
    """Share of the segment's calibration rows that the student answers."""
    estimate: float
    """Mean excess loss on the segment's calibration rows."""


class SegmentedCertificate(Struct, frozen=True, kw_only=True):
    """What was claimed of a policy segment by segment, before it was deployed."""

    format: int
    statement: str
    workload: str
    """Fingerprint of the workload."""
    policy: str
    """SHA-256 of the bundle's policy without its thresholds."""
    weights: dict[str, str] = {}
    """SHA-256 of the files that hold the students and the neighbourhood, by path within the bundle."""
    plan: SegmentPlan
    seed: int
    """Of the order of the rows."""
    segments: tuple[SegmentRecord, ...]
    """Tested segments, in the order of the plan."""
    others: dict[str, int]
    """Calibration rows of segments that were not tested, because too few rows were expected."""
    share: float
    """Share of the plans' error that the tests were held to: 1, or what the e-BH procedure settled on."""
    digest: str = ""

    @property
    def rows(self) -> tuple[CertifiedRow, ...]:
        """The calibration rows of all tested segments."""
        return tuple(row for segment in self.segments for row in segment.rows)

    @property
    def thresholds(self) -> dict[str, float | None]:
        """Of each tested segment."""
        return {s.name: s.threshold for s in self.segments}


class SegmentedOutcome(Struct, frozen=True, kw_only=True):
    """The outcome of testing a family."""

    thresholds: dict[str, float | None]
    offload: float
    """Share of all calibration rows that the student answers, those of untested segments included."""
    estimate: float
    """Mean excess loss over all of them."""
    threshold: None = None
    """There is not one for all."""


def worth_testing(
    counts: Mapping[str, int], rows: int, *, max_loss: float, confidence: float, method: str
) -> list[str]:
    """The segments worth testing, largest first, chosen without the calibration rows.

    A segment that can't be certified even without an error would only take from the others' share of the error. So the
    smallest one tested is expected to have the rows that a certificate without an error needs.

    Args:
        counts: rows of each segment among training and gate.
        rows: calibration rows of all segments together.
        max_loss: the bound.
        confidence: of the family.
        method: one of `CONTROLS`.
    """
    total = sum(counts.values())
    order = sorted(counts, key=lambda name: (-counts[name], name))
    for number in range(len(order), 0, -1):
        delta = (1 - confidence) / (number if method == "bonferroni" else 1)
        needed = rows_needed(0.0, max_loss, delta)
        if needed is not None and counts[order[number - 1]] / total * rows >= needed:
            return order[:number]
    return []


def issue_segments(
    plan: SegmentPlan,
    rows: Sequence[CertifiedRow],
    names: Sequence[str],
    *,
    workload: str,
    policy: str,
    seed: int,
    clusters: Sequence[int] | None = None,
) -> tuple[SegmentedCertificate, SegmentedOutcome]:
    """Test every segment of the plan on its rows and write down the outcome.

    Args:
        plan: fixed without these rows.
        rows: n calibration rows, in the order in which a bet sees them.
        names: segment of each row.
        workload: fingerprint.
        policy: digest.
        seed: of the order.
        clusters: number of each row's cluster, where the plans have a cap.
    """
    parts = {
        name: (
            tuple(r for r, n in zip(rows, names, strict=True) if n == name),
            None if clusters is None else tuple(c for c, n in zip(clusters, names, strict=True) if n == name),
        )
        for name in plan.plans
    }
    share, found = _test(plan, parts)
    segments = tuple(
        SegmentRecord(
            name=name,
            rows=parts[name][0],
            clusters=parts[name][1],
            threshold=result.threshold,
            offload=result.offload,
            estimate=result.estimate,
        )
        for name, result in found.items()
    )
    others = Counter(name for name in names if name not in plan.plans)
    certificate = SegmentedCertificate(
        format=FORMAT,
        statement=_statement(plan, {s.name: s.threshold for s in segments}),
        workload=workload,
        policy=policy,
        plan=plan,
        seed=seed,
        segments=segments,
        others=dict(sorted(others.items())),
        share=share,
    )
    return msgspec.structs.replace(certificate, digest=digest_of(certificate)), _outcome(certificate)


def verify_segments(certificate: SegmentedCertificate) -> SegmentedOutcome:
    """Make the certificate again from its own record.

    Raises:
        CertificateError: the record does not lead to the claim; the message says where it parts from it.
    """
    c, plan = certificate, certificate.plan
    if c.format != FORMAT:
        raise CertificateError(f"its format is {c.format}, this program reads {FORMAT}; upgrade tiercel")
    _verify_family(plan)
    if [s.name for s in c.segments] != list(plan.plans):
        raise CertificateError("its segments are not those that were planned")
    if len({row.key for row in c.rows}) != len(c.rows):
        raise CertificateError("a calibration row stands in it twice")
    if set(c.others) & set(plan.plans) or min(c.others.values(), default=1) < 1:
        raise CertificateError("the rows of its untested segments can't be")
    for segment in c.segments:
        try:
            verify_rows(segment.rows, segment.clusters, plan.plans[segment.name])
        except CertificateError as error:
            raise CertificateError(f"segment {segment.name!r}: {error}") from None
    share, found = _test(plan, {s.name: (s.rows, s.clusters) for s in c.segments})
    if not math.isclose(share, c.share):
        raise CertificateError(f"its tests were held to {c.share:.4g} of their error, not to {share:.4g}")
    for segment in c.segments:
        result = found[segment.name]
        said = (segment.threshold, segment.offload, segment.estimate)
        if (result.threshold, result.offload, result.estimate) != said:
            raise CertificateError(
                f"segment {segment.name!r}: its rows certify the threshold {result.threshold} with an offload of "
                f"{result.offload:.4f}, not {segment.threshold} with {segment.offload:.4f}"
            )
    if c.statement != _statement(plan, c.thresholds):
        raise CertificateError("its statement is not what its numbers say")
    if c.digest != digest_of(c):
        raise CertificateError("it was changed after it was issued")
    return _outcome(c)


def _verify_family(plan: SegmentPlan) -> None:
    if plan.method not in CONTROLS:
        raise CertificateError(f"its way to share error among segments, {plan.method!r}, is not known")
    if not (0 < plan.max_loss < 1 and 0 < plan.confidence < 1):
        raise CertificateError("its bound or its confidence is not between 0 and 1")
    delta = 1 - plan.confidence
    for name, one in plan.plans.items():
        verify_plan(one)
        if one.max_loss != plan.max_loss:
            raise CertificateError(f"segment {name!r} was tested for another bound")
        if plan.method == "e-bh" and (one.method != "wealth" or sum(one.levels) > delta * (1 + 1e-9)):
            raise CertificateError(f"segment {name!r} was not tested by an e-value at the family's level")
        if plan.method == "e-bh" and any(one.levels[1:]):
            raise CertificateError(f"segment {name!r} has a second start, which an e-value does not pay for")
    spent = math.fsum(level for one in plan.plans.values() for level in one.levels)
    if plan.method == "bonferroni" and spent > delta * (1 + 1e-9):
        raise CertificateError("its tests spend more error than its confidence leaves")


Parts = Mapping[str, tuple[tuple[CertifiedRow, ...], tuple[int, ...] | None]]


def _test(plan: SegmentPlan, parts: Parts) -> tuple[float, dict[str, Calibrated]]:
    """Share of the plans' error that was used, and the outcome of each segment.

    e-BH: with s segments, the largest k such that k segments are certified at k / s of the error. A segment is wrong
    only if the first threshold on its way that breaks the bound has an e-value of at least s / (k delta); so the
    expected share of wrong ones among at least k is at most the sum of their e-values times delta / s, and each e-value
    is at most 1 on average. It holds however the segments depend on one another.

    Source: Wang and Ramdas, "False discovery rate control with e-values", 2022, here with chains of thresholds.
    """
    whole = {name: outcome_of(one, *parts[name]) for name, one in plan.plans.items()}
    if plan.method == "bonferroni":
        return 1.0, whole
    arrays = {name: arrays_of(parts[name][0]) for name in plan.plans}

    def at(share: float) -> dict[str, Calibrated]:
        return {n: decide(_scaled(one, share), whole[n].pvalues, *arrays[n]) for n, one in plan.plans.items()}

    total = len(plan.plans)
    for number in range(total, 0, -1):
        found = at(number / total)
        if sum(result.threshold is not None for result in found.values()) >= number:
            return number / total, found
    return 0.0, at(0.0)


def _scaled(plan: TestPlan, share: float) -> TestPlan:
    return msgspec.structs.replace(plan, levels=tuple(level * share for level in plan.levels))


def _outcome(c: SegmentedCertificate) -> SegmentedOutcome:
    total = sum(len(s.rows) for s in c.segments) + sum(c.others.values())
    return SegmentedOutcome(
        thresholds=c.thresholds,
        offload=sum(s.offload * len(s.rows) for s in c.segments) / max(1, total),
        estimate=sum(s.estimate * len(s.rows) for s in c.segments) / max(1, total),
    )


def _statement(plan: SegmentPlan, thresholds: Mapping[str, float | None]) -> str:
    certified = [name for name, threshold in thresholds.items() if threshold is not None]
    if not certified:
        return f"No segment by {plan.field} could be certified to keep its excess loss at or below {plan.max_loss:.4g}."
    listed = ", ".join(f"{name or '(none)'} from {thresholds[name]:.6g}" for name in certified)
    capped = next((one for one in plan.plans.values() if one.cap is not None), None)
    counting = f", where no {capped.cluster} counts for more than {capped.cap} requests" if capped else ""
    claim = (
        f"Over requests like the calibration rows of each of {len(certified)} segments by {plan.field}, answering from "
        f"the student wherever the gate's score reaches the segment's threshold ({listed}) costs at most "
        f"{plan.max_loss:.4g} in loss against the frontier on average over the segment's requests{counting}; "
    )
    delta = 1 - plan.confidence
    if plan.method == "bonferroni":
        return (
            claim + f"the procedure that says so of all of them is wrong of any with probability at most {delta:.4g}."
        )
    return (
        claim + f"the procedure that says so is wrong of a share of them that is at most {delta:.4g} on average, "
        "which is less than a claim about each."
    )
