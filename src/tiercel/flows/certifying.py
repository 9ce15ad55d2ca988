"""From a chosen student to its gate, what is to be tested, and the certificate: of all requests, or segment by segment.

The gate's rows decide on everything: gate, thresholds to try, method, segments, and how rows of one user are counted.
Then the calibration rows are looked at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiercel.errors import ConfigurationError
from tiercel.flows.candidates import PARTS, Candidate
from tiercel.flows.preparation import Prepared, Rows
from tiercel.flows.progress import Progress
from tiercel.report.result import ClusterSummary
from tiercel.routing.calibration import TestPlan, plan_tests
from tiercel.routing.certificate import Certificate, CertifiedRow, issue_certificate
from tiercel.routing.gate import LogisticGate
from tiercel.routing.policy import Policy, PolicyRecord, limits_of
from tiercel.routing.segments import (
    CONTROLS,
    SegmentedCertificate,
    SegmentPlan,
    issue_segments,
    segment_of,
    worth_testing,
)
from tiercel.stats.clusters import Clustering, cluster_numbers, clustering_of, weighted_size
from tiercel.stats.planning import rows_needed

__all__ = ["USUAL_CLUSTER", "Certified", "CertifySettings", "certify", "check_segment", "cluster_field"]

USUAL_CLUSTER = "user"
"""Field of the metadata that says whom a request comes from, looked for unasked."""
OFTEN = 0.9
"""Share of rows that must say whom they come from, before it is looked at unasked."""
NOTICEABLE = 1.25
"""Design effect from which clusters are counted instead of rows, unasked."""
ENOUGH_GATE_ROWS = 30
"""Rows of a segment among the gate's from which its thresholds and method are planned on its own."""
MUCH = 0.05
"""Share of requests that are too long for a student from which another is worth a trial."""
_LONGER = ("--students micro", "--students slm --model NAME")
TYPICAL_SIZE = 0.9
"""Quantile of the clusters' sizes that a cluster counts as at most."""


@dataclass(frozen=True, kw_only=True)
class CertifySettings:
    """What is to be certified.

    Attributes:
        max_loss: the bound.
        confidence: of the certificate, all its segments together.
        seed: of the gate's folds and the order of rows.
        segment: what parts requests, as `segment_of` reads it; None for one certificate.
        control: how segments share the error, one of `routing.segments.CONTROLS`.
        cluster: field of the metadata that names clusters; None to look at `USUAL_CLUSTER`.
    """

    max_loss: float
    confidence: float
    seed: int
    segment: str | None = None
    control: str = CONTROLS[0]
    cluster: str | None = None


@dataclass(frozen=True, kw_only=True)
class Certified:
    """A student with its gate and certificate.

    Attributes:
        candidate: the student.
        gate: as fitted.
        record: of the policy, thresholds included.
        certificate: of all requests, or by segment.
        clusters: how calibration rows cluster; None where they do not say.
        segments: of each part's rows; empty where there are none.
    """

    candidate: Candidate
    gate: LogisticGate
    record: PolicyRecord
    certificate: Certificate | SegmentedCertificate
    offload: float
    estimate: float
    clusters: ClusterSummary | None
    segments: dict[str, list[str]]

    def scores(self, part: str) -> NDArray[np.float64]:
        """The gate's scores of a part's rows, shape (n,)."""
        return Policy(self.record).score(self.candidate.responses[part].signals)

    def accepted(self, part: str) -> NDArray[np.bool_]:
        """Which of a part's rows the student answers, shape (n,)."""
        return Policy(self.record).accepts(self.scores(part), self.segments.get(part, []))


def check_segment(field: str, task: str, metadata: Sequence[Mapping[str, object] | None]) -> None:
    """Raise `ConfigurationError` for a field that can't part requests.

    Args:
        field: as given.
        task: of the workload.
        metadata: of the traffic's rows; the field must be in it somewhere, unless it is `language` or `label`.
    """
    if field == "label" and task != "classification":
        raise ConfigurationError(
            f"--segment label needs answers that are labels, and these are {task}; give language or a key of metadata"
        )
    if field in ("label", "language"):
        return
    key = field.removeprefix("metadata.")
    if not any(key in (m or {}) for m in metadata):
        known = sorted({k for m in metadata for k in m or {}})
        there = f"its metadata has {', '.join(known[:8])}" if known else "no row has metadata"
        raise ConfigurationError(f"--segment is {field!r}, which no row's metadata has ({there})")


def cluster_field(metadata: Sequence[Mapping[str, object] | None], asked: str | None) -> str | None:
    """The field that names clusters: the one asked for, or `user` where most rows have it and some share it.

    Raises:
        ConfigurationError: no row has the field that was asked for.
    """
    name = asked or USUAL_CLUSTER
    values = [str(m[name]) for m in metadata if m and m.get(name) not in (None, "")]
    if asked is not None and not values:
        raise ConfigurationError(f"--cluster is {asked!r}, which no row's metadata has")
    if asked is not None:
        return asked
    return name if len(values) >= OFTEN * len(metadata) and len(set(values)) < len(values) else None


def certify(
    best: Candidate, prepared: Prepared, settings: CertifySettings, *, workload: str, progress: Progress
) -> Certified:
    """Fit the gate, fix all that is to be tested, and test it on the calibration rows.

    Args:
        best: the student.
        prepared: its rows.
        settings: what is to be certified.
        workload: fingerprint.
        progress: is warned of clusters.
    """
    excess = best.losses["gate"] - prepared.gate.frontier_loss
    signals = best.responses["gate"].signals
    names = best.responder.signals
    gate = LogisticGate(settings.seed).fit(signals, excess <= 0)
    record = PolicyRecord(
        signals=names, gate=gate.to_record(), limits=limits_of(signals, names), segment=settings.segment
    )
    segments: dict[str, list[str]] = {}
    if settings.segment is not None:
        segments = {part: _names(settings.segment, getattr(prepared, part), best, part) for part in PARTS}
    _warn_of_unread(best, progress)
    clusters = _clusters(prepared, excess, settings, progress)
    rows, order = _rows(best, prepared, Policy(record), settings.seed)
    numbers = _ordered_clusters(prepared, clusters, order)
    policy, seed = record.digest, settings.seed
    scores = Policy(record).score(signals)
    if settings.segment is not None:
        plan = _segment_plan(prepared, segments["gate"], scores, excess, settings, clusters)
        part = segments["calibration"]
        certificate, outcome = issue_segments(
            plan, rows, [part[i] for i in order], workload=workload, policy=policy, seed=seed, clusters=numbers
        )
        record = msgspec.structs.replace(record, thresholds=outcome.thresholds)
    else:
        plan = _plan(scores, excess, settings, clusters, rows=_independent(prepared, clusters))
        certificate, outcome = issue_certificate(
            plan, rows, workload=workload, policy=policy, seed=seed, clusters=numbers
        )
        record = msgspec.structs.replace(record, threshold=outcome.threshold)
    return Certified(
        candidate=best,
        gate=gate,
        record=record,
        certificate=certificate,
        offload=outcome.offload,
        estimate=outcome.estimate,
        clusters=clusters,
        segments=segments,
    )


def _warn_of_unread(best: Candidate, progress: Progress) -> None:
    """Say what share of the requests is too long for the student, and what to do where that is a lot."""
    if "familiarity" not in best.responder.signals:
        return
    column = best.responder.signals.index("familiarity")
    unread = float(np.mean(best.responses["calibration"].signals[:, column] < 0))
    if unread:
        advice = "" if unread < MUCH else f"; a decoder reads longer ones: add {' or '.join(_LONGER)}"
        progress.warn(
            f"{unread:.1%} of the requests are longer than {best.name} reads: they stay with the frontier{advice}"
        )


def _names(field: str, rows: Rows, best: Candidate, part: str) -> list[str]:
    triples = zip(rows.texts, rows.metadata, best.responses[part].answers, strict=True)
    return [segment_of(field, text=t, metadata=m, answer=a) for t, m, a in triples]


def _rows(
    best: Candidate, prepared: Prepared, policy: Policy, seed: int
) -> tuple[tuple[CertifiedRow, ...], NDArray[np.int64]]:
    """The calibration rows in the order of the bets, and that order."""
    rows = prepared.calibration
    loss, scores = best.losses["calibration"], policy.score(best.responses["calibration"].signals)
    order = np.random.default_rng(seed).permutation(len(rows))
    certified = tuple(
        CertifiedRow(
            rows.keys[i], float(scores[i]), float(loss[i]), float(rows.frontier_loss[i]), bool(rows.verified[i])
        )
        for i in order
    )
    return certified, order


def _ordered_clusters(
    prepared: Prepared, clusters: ClusterSummary | None, order: NDArray[np.int64]
) -> list[int] | None:
    if clusters is None or clusters.cap is None:
        return None
    return cluster_numbers(prepared.calibration.clusters(clusters.field)[order].tolist()).tolist()


def _independent(prepared: Prepared, clusters: ClusterSummary | None) -> int:
    return clusters.clusters if clusters is not None and clusters.cap is not None else len(prepared.calibration)


def _plan(
    scores: NDArray[np.float64],
    excess: NDArray[np.float64],
    settings: CertifySettings,
    clusters: ClusterSummary | None,
    *,
    rows: int,
    confidence: float | None = None,
    method: str | None = None,
) -> TestPlan:
    counted = clusters is not None and clusters.cap is not None
    return plan_tests(
        scores,
        excess,
        max_loss=settings.max_loss,
        confidence=settings.confidence if confidence is None else confidence,
        method=method,
        rows=rows,
        cluster=clusters.field if clusters is not None and counted else None,
        cap=clusters.cap if clusters is not None else None,
    )


def _segment_plan(
    prepared: Prepared,
    names: list[str],
    scores: NDArray[np.float64],
    excess: NDArray[np.float64],
    settings: CertifySettings,
    clusters: ClusterSummary | None,
) -> SegmentPlan:
    """What is tested of each segment, from the gate's rows of it where they are enough, else from all of them."""
    assert settings.segment is not None
    counts = Counter(names)
    if settings.segment != "label":  # the student's own answers to training rows would flatter it
        train = prepared.train
        for text, metadata in zip(train.texts, train.metadata, strict=True):
            counts[segment_of(settings.segment, text=text, metadata=metadata, answer=None)] += 1
    independent, delta = _independent(prepared, clusters), 1 - settings.confidence
    chosen = worth_testing(
        counts, independent, max_loss=settings.max_loss, confidence=settings.confidence, method=settings.control
    )
    plans: dict[str, TestPlan] = {}
    for name in chosen:
        own = np.array([n == name for n in names], dtype=np.bool_)
        if own.sum() < ENOUGH_GATE_ROWS:
            own[:] = True
        family = settings.control == CONTROLS[0]
        plans[name] = _plan(
            scores[own],
            excess[own],
            settings,
            clusters,
            rows=max(1, round(counts[name] / counts.total() * independent)),
            confidence=1 - delta / len(chosen) if family else settings.confidence,
            method=None if family else "wealth",
        )
    return SegmentPlan(
        field=settings.segment,
        method=settings.control,
        max_loss=settings.max_loss,
        confidence=settings.confidence,
        plans=plans,
    )


def _clusters(
    prepared: Prepared, excess: NDArray[np.float64], settings: CertifySettings, progress: Progress
) -> ClusterSummary | None:
    """How rows cluster and what is done about it, decided without a loss of the calibration rows."""
    field = cluster_field(prepared.calibration.metadata, settings.cluster)
    if field is None:
        return None
    numbers = prepared.calibration.clusters(field)
    sizes = np.bincount(numbers)
    found = clustering_of(excess, prepared.gate.clusters(field))
    effect = 1 + (weighted_size(numbers) - 1) * _at_most(found)
    cap = None
    if int(sizes.max()) > 1 and (settings.cluster is not None or effect >= NOTICEABLE):
        fewest = rows_needed(0.0, settings.max_loss, 1 - settings.confidence) or 0
        if settings.cluster is None and (sizes.size < fewest or prepared.cluster is None):
            progress.warn(
                f"the calibration rows come from {sizes.size} of {field!r} and go wrong together (design effect "
                f"{effect:.1f}): the certificate takes rows as independent, so it speaks of requests from these alone; "
                f"a certificate for others needs rows of at least {fewest} of them, and --cluster {field}"
            )
        else:
            cap = _typical_size(prepared, field)
            progress.warn(
                f"the calibration rows come from {sizes.size} of {field!r} (design effect {effect:.1f}): the "
                f"certificate counts these, with at most {cap} rows each, not rows"
            )
    return ClusterSummary(
        field=field,
        clusters=sizes.size,
        rows=len(prepared.calibration),
        largest=int(sizes.max()),
        correlation=found.correlation,
        design_effect=effect,
        cap=cap,
    )


def _at_most(found: Clustering) -> float:
    """The correlation that the gate's rows can't rule out; 1 where no cluster of theirs has two rows."""
    if found.correlation_high is not None:
        return max(0.0, found.correlation_high)
    return 1.0 if found.rows == found.clusters else 0.0


def _typical_size(prepared: Prepared, field: str) -> int:
    """The size of a large cluster in training rows, brought to the size of the calibration part if they are cut."""
    sizes = np.bincount(prepared.train.clusters(field))
    cut = 1.0 if prepared.cluster is not None else len(prepared.calibration) / max(1, len(prepared.train))
    return max(1, round(float(np.quantile(sizes[sizes > 0], TYPICAL_SIZE)) * cut))
