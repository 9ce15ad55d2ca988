"""The record of a pilot, as it stands in report.json."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from tiercel.stats.intervals import Interval

__all__ = [
    "CertificateSummary",
    "ClusterSummary",
    "CostSummary",
    "FloorSummary",
    "Latency",
    "PilotResult",
    "PolicySummary",
    "RowCounts",
    "ScopeSummary",
    "SegmentSummary",
    "SegmentsSummary",
    "StudentSummary",
    "TestSummary",
    "WorkloadSummary",
]


class WorkloadSummary(Struct, frozen=True, kw_only=True):
    """The workload that was piloted."""

    fingerprint: str
    template: str
    """System prompt with its variables as {…}."""
    tools: tuple[str, ...]
    rows: int
    answer_shape: str
    frontier: str | None
    """Model that gave the answers; None where the log does not say."""


class RowCounts(Struct, frozen=True, kw_only=True):
    """What became of the rows."""

    train: int
    gate: int
    """Rows on which gate and powers were fitted and the tests were planned."""
    calibration: int
    """Rows on which the certificate rests; nothing else has seen them."""
    test: int
    rejected: int
    """Rows of all files that can't be read; whose workload they were can't be told."""
    duplicates: int
    """Rows of this workload that repeat another request and answer exactly, and were dropped."""
    leaked: int = 0
    """Rows left out because they nearly repeat a row of the separate test file."""
    unparsed: int = 0
    """Answers that are not of the task's form; they count as lost where they fall among calibration or test."""
    unanswered: int = 0
    """Rows without any answer, which can't be used."""
    augmented: int = 0
    """Rows among `train` whose requests a teacher wrote."""


class Latency(Struct, frozen=True, kw_only=True):
    """Of one request at a time on one thread, in milliseconds."""

    p50: float
    p99: float


class StudentSummary(Struct, frozen=True, kw_only=True):
    """One rung that was tried."""

    name: str
    rung: str
    accuracy: Interval | None
    """Share of test rows on which it agrees with the reference; None when it was not trained."""
    loss: float | None
    macro_f1: float | None
    """Mean F1 of the labels, or of the fields where answers have fields."""
    micro_f1: float | None
    """F1 over all labels, or fields, of all rows together."""
    macro_precision: float | None = None
    """Mean precision of the labels, or of the fields; None where there are none, or the report is older."""
    macro_recall: float | None = None
    latency_ms: Latency | None
    train_seconds: float
    size_bytes: int
    cost_per_1k_usd: float | None
    """Of computing on this machine; None when it was not trained."""
    expected_offload: float | None
    """Share of traffic that the gate's rows promise within the bound, before certification."""
    precision: str = "fp32"
    parity: float | None = None
    """Share of rows on which the served model decides as the trained one; None where both are the same."""
    note: str = ""
    """Why it was not trained, or what is worth knowing."""


class PolicySummary(Struct, frozen=True, kw_only=True):
    """What the bundle does."""

    student: str | None
    thresholds: dict[str, float | None]
    offload: float
    signals: dict[str, float]
    """Weight of each standardised signal in the gate."""
    gate: str
    """Which form of gate the folds chose."""


class CertificateSummary(Struct, frozen=True, kw_only=True):
    """The certificate in short."""

    max_loss: float
    confidence: float
    bound: float | None
    """What is certified: `max_loss`, or None when nothing is."""
    offload: float
    n: int
    method: str
    estimate: float
    """Mean excess loss on the calibration rows."""
    verified_rows: int
    """Calibration rows whose reference is not the frontier's own answer."""
    rows_for_tighter: dict[str, int | None]
    """Bound to the calibration rows that certify it at the same threshold; None where no number would."""
    advice: str


class TestSummary(Struct, frozen=True, kw_only=True):
    """What the policy does on rows that it never saw."""

    __test__ = False

    offload: float
    excess_loss: Interval
    accuracy: Interval
    """Of the policy as a whole, student and frontier together, against the reference."""
    escalated: int
    frontier_accuracy: Interval | None
    """On rows with a verified reference; None where there are none."""
    gate_auroc: float | None
    """How well the gate's score parts safe answers from unsafe ones; None where all are safe."""
    shift_pvalue: float
    """Chance of such different gate scores in test and calibration if both were drawn alike; small means drift."""


class CostSummary(Struct, frozen=True, kw_only=True):
    """Money, in USD; None where no price or no time span is known."""

    frontier_usd_per_1k: float | None
    policy_usd_per_1k: float | None
    saved_fraction: float | None
    saved_usd_per_year: float | None
    break_even_days: float | None
    requests_per_year: float | None
    training_usd: float
    tokens_estimated: bool
    """Whether token counts are estimates because the log has none."""
    price_note: str


class SegmentSummary(Struct, frozen=True, kw_only=True):
    """One segment of the traffic."""

    name: str
    """Empty for requests that do not say."""
    rows: int
    """Calibration rows."""
    threshold: float | None
    """None where nothing is certified: the segment stays with the frontier."""
    offload: float
    """Share of its calibration rows that the student answers."""
    estimate: float
    """Mean excess loss on its calibration rows."""
    tested: bool
    """False where too few rows were expected for a certificate even without an error."""
    test_rows: int
    test_offload: float | None
    """Share of its test rows that the student answers; None where it has none."""
    test_excess_loss: Interval | None


class SegmentsSummary(Struct, frozen=True, kw_only=True):
    """The certificates of a pilot segment by segment."""

    field: str
    """What parts requests: language, label or a key of the metadata."""
    method: str
    """`bonferroni`: each certified segment holds; `e-bh`: at most a share of them fails on average."""
    segments: tuple[SegmentSummary, ...]


class ClusterSummary(Struct, frozen=True, kw_only=True):
    """Rows that come many from one user."""

    field: str
    clusters: int
    """Among the calibration rows."""
    rows: int
    largest: int
    correlation: float | None
    """Of the losses of one cluster, on the gate's rows; None where these can't tell."""
    design_effect: float
    """How many times more rows are needed than if all were independent; at the high end of what the gate's rows say."""
    cap: int | None
    """Rows that a cluster counts as at most in the certificate; None where rows were taken as independent."""


class FloorSummary(Struct, frozen=True, kw_only=True):
    """The frontier's disagreement with itself."""

    disagreement: Interval
    """Mean loss of one of its answers against another to the same request."""
    requests: int
    """Requests with two answers or more."""
    answers: int
    """To these requests."""


class ScopeSummary(Struct, frozen=True, kw_only=True):
    """How well the student tells requests that no label fits from the others, on the test rows."""

    label: str
    """That stands for them, told by its name."""
    auroc: float
    """Chance that a request that is in scope scores above one that is not; the score is the log ratio of the best other
    label's probability to this one's."""
    outside: int
    """Test rows that are out of scope."""
    rows: int
    """Test rows whose label is known."""


class PilotResult(Struct, frozen=True, kw_only=True):
    """Everything that report.json holds."""

    format: int
    version: str
    verdict: str
    workload: WorkloadSummary
    task: str
    rows: RowCounts
    students: tuple[StudentSummary, ...]
    policy: PolicySummary
    certificate: CertificateSummary
    test: TestSummary
    cost: CostSummary
    warnings: tuple[str, ...]
    segments: SegmentsSummary | None = None
    """None where one certificate speaks of all requests."""
    clusters: ClusterSummary | None = None
    """None where rows do not say whom they come from."""
    floor: FloorSummary | None = None
    """None where no request has two answers of the frontier."""
    scope: ScopeSummary | None = None
    """None where no label stands for what is out of scope, or no test row, or every one, carries it."""
    details: dict[str, Any] = msgspec.field(default_factory=dict)
    """Curves, label metrics, confusions, reliability and examples, for the page."""
