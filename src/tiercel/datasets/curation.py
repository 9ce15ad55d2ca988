"""Which rows are worth training on: every doubt about a row, a quality from 0 to 1, and a report.

Only training rows belong here. To curate calibration or test rows would make the certificate speak of cleaner traffic
than the one that comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.datasets.agreement import answer_key, find_agreement
from tiercel.datasets.mislabels import find_mislabels
from tiercel.datasets.outliers import language_fit, length_scores
from tiercel.errors import DataError

__all__ = ["Curation", "CurationPlan", "CurationReport", "Finding", "Reason", "ReasonCount", "curate"]


class Reason(StrEnum):
    """Why a row is in doubt."""

    EMPTY = "empty"
    """Request or answer has no text."""
    EXACT_DUPLICATE = "exact duplicate"
    """An earlier row has the same request and answer to the letter."""
    NEAR_DUPLICATE = "near duplicate"
    """An earlier row asks nearly the same and has the same answer."""
    REQUEST_LENGTH = "request length"
    ANSWER_LENGTH = "answer length"
    SCRIPT = "script"
    """Written in letters that few rows have."""
    LANGUAGE = "language"
    """Sequences of letters unlike those of the other rows: another language, or noise."""
    CONTRADICTION = "contradiction"
    """Near-equal requests are answered otherwise."""
    MISLABEL = "mislabel"
    """A model that did not see the row holds another label likelier than this one."""


class CurationPlan(Struct, frozen=True, kw_only=True):
    """How far each reason counts against a row, from 0 (not at all) to 1 (the row is worth nothing)."""

    exact_duplicate: float = 1.0
    near_duplicate: float = 0.3
    """Low: another wording of a request is worth something."""
    length: float = 0.4
    """Of request and answer each: one alone does not drop a row at a least quality of one half, both together do."""
    script: float = 0.4
    language: float = 0.4
    """Low, like `script`: a rare language may be the traffic of a real customer."""
    contradiction: float = 1.0
    """Times the share of near-equal requests that are answered otherwise."""
    mislabel: float = 1.0
    """Times the suggested label's share of the probability of both labels."""
    outlier_z: float = 3.5
    """Robust z from which a length is an outlier (Iglewicz and Hoaglin, 1993)."""
    language_z: float = 4.5
    """Robust z below which a text is unlike the others. Natural texts have a long lower tail: names, numbers, slang."""
    rare_script: float = 0.02
    """Share of rows below which a script is rare."""


class Finding(Struct, frozen=True, kw_only=True):
    """One doubt about one row."""

    row: int
    reason: Reason
    doubt: float
    """In (0, 1]: the row's quality is the product of 1 minus each of its doubts."""
    other: int | None = None
    """The row that this one repeats or contradicts; None where the doubt is about the row alone."""
    suggested: int | None = None
    """For a mislabel, the number of the likelier label; None for other reasons."""


class ReasonCount(Struct, frozen=True, kw_only=True):
    """How many rows are in doubt for one reason."""

    reason: Reason
    rows: int
    examples: tuple[int, ...]
    """Numbers of up to five rows, the most doubtful first."""


class CurationReport(Struct, frozen=True, kw_only=True):
    """What curation found among n rows."""

    rows: int
    """All rows that were looked at."""
    doubted: int
    """Rows with at least one finding."""
    kept: int
    """Rows whose quality is at least `least_quality`."""
    least_quality: float
    mean_quality: float
    """NaN where there are no rows."""
    label_noise: float | None
    """Estimated share of wrong labels; None where no out-of-fold probabilities were given."""
    reasons: tuple[ReasonCount, ...]
    """The reasons that occur, the commonest first."""


@dataclass(frozen=True, kw_only=True)
class Curation:
    """The quality of each of n rows and why.

    Attributes:
        quality: float array of shape (n,), in [0, 1]; 1 for a row without a finding.
        findings: by row, then by doubt.
        label_noise: estimated share of wrong labels, or None without out-of-fold probabilities.
    """

    quality: NDArray[np.float64]
    findings: tuple[Finding, ...]
    label_noise: float | None

    def keep(self, least_quality: float = 0.5) -> NDArray[np.int64]:
        """Numbers of the rows whose quality is at least `least_quality`, ascending."""
        return np.flatnonzero(self.quality >= least_quality)

    def report(self, least_quality: float = 0.5, examples: int = 5) -> CurationReport:
        """Counts and example rows for each reason."""
        by_reason: dict[Reason, list[Finding]] = {}
        for finding in self.findings:
            by_reason.setdefault(finding.reason, []).append(finding)
        counts = [
            ReasonCount(
                reason=reason,
                rows=len(found),
                examples=tuple(f.row for f in sorted(found, key=lambda f: (-f.doubt, f.row))[:examples]),
            )
            for reason, found in by_reason.items()
        ]
        return CurationReport(
            rows=self.quality.size,
            doubted=len({f.row for f in self.findings}),
            kept=self.keep(least_quality).size,
            least_quality=least_quality,
            mean_quality=float(self.quality.mean()) if self.quality.size else float("nan"),
            label_noise=self.label_noise,
            reasons=tuple(sorted(counts, key=lambda c: (-c.rows, c.reason))),
        )


def curate(
    requests: Sequence[str],
    answers: Sequence[str],
    *,
    probabilities: NDArray[np.floating] | None = None,
    labels: NDArray[np.int64] | None = None,
    plan: CurationPlan | None = None,
    key: Callable[[str], str] = answer_key,
) -> Curation:
    """Look for doubts about each training row.

    Args:
        requests: n texts.
        answers: n texts.
        probabilities: shape (n, k), out of fold (see `find_mislabels`); None skips the search for mislabels.
        labels: int array of shape (n,), needed with `probabilities`; -1 for a row without a label.
        plan: how far each reason counts; None for the defaults.
        key: one value for answers that mean the same.

    Raises:
        DataError: the numbers of requests, answers, probabilities and labels differ, or only one of the last two is
            given.
    """
    plan = plan or CurationPlan()
    if len(requests) != len(answers):
        raise DataError(f"{len(requests)} requests and {len(answers)} answers: give each request its answer")
    if (probabilities is None) != (labels is None):
        raise DataError("give out-of-fold probabilities and labels together, or neither")
    findings = [
        *_empty(requests, answers),
        *_agreement(requests, answers, plan, key),
        *_lengths(requests, answers, plan),
        *_languages(requests, plan),
    ]
    noise = None
    if probabilities is not None and labels is not None:
        if len(labels) != len(requests):
            raise DataError(f"{len(requests)} requests and {len(labels)} labels: give each request its label")
        found, noise = _mislabels(probabilities, labels, plan)
        findings += found
    findings = sorted((f for f in findings if f.doubt > 0), key=lambda f: (f.row, -f.doubt, f.reason))
    quality = np.ones(len(requests))
    for finding in findings:
        quality[finding.row] *= 1 - finding.doubt
    return Curation(quality=quality, findings=tuple(findings), label_noise=noise)


def _empty(requests: Sequence[str], answers: Sequence[str]) -> list[Finding]:
    pairs = enumerate(zip(requests, answers, strict=True))
    return [Finding(row=i, reason=Reason.EMPTY, doubt=1.0) for i, (r, a) in pairs if not r.strip() or not a.strip()]


def _agreement(
    requests: Sequence[str], answers: Sequence[str], plan: CurationPlan, key: Callable[[str], str]
) -> list[Finding]:
    found = list[Finding]()
    agreement = find_agreement(requests, answers, key=key)
    for row, first in enumerate(agreement.repeats.tolist()):
        if agreement.exact[row]:
            found.append(Finding(row=row, reason=Reason.EXACT_DUPLICATE, doubt=plan.exact_duplicate, other=first))
        elif first != row:
            found.append(Finding(row=row, reason=Reason.NEAR_DUPLICATE, doubt=plan.near_duplicate, other=first))
        if agreement.opponent[row] >= 0:
            doubt = plan.contradiction * float(agreement.disputed[row])
            other = int(agreement.opponent[row])
            found.append(Finding(row=row, reason=Reason.CONTRADICTION, doubt=doubt, other=other))
    return found


def _lengths(requests: Sequence[str], answers: Sequence[str], plan: CurationPlan) -> list[Finding]:
    sides = (
        (Reason.REQUEST_LENGTH, length_scores(requests)),
        (Reason.ANSWER_LENGTH, length_scores(answers, recurring=3)),
    )
    return [
        Finding(row=int(row), reason=reason, doubt=plan.length)
        for reason, z in sides
        for row in np.flatnonzero(np.abs(z) >= plan.outlier_z)
    ]


def _languages(requests: Sequence[str], plan: CurationPlan) -> list[Finding]:
    fit = language_fit(requests)
    rare = fit.script_share < plan.rare_script
    strange = (fit.likelihood <= -plan.language_z) & ~rare
    return [
        *(Finding(row=int(i), reason=Reason.SCRIPT, doubt=plan.script) for i in np.flatnonzero(rare)),
        *(Finding(row=int(i), reason=Reason.LANGUAGE, doubt=plan.language) for i in np.flatnonzero(strange)),
    ]


def _mislabels(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], plan: CurationPlan
) -> tuple[list[Finding], float]:
    found = find_mislabels(probabilities, labels)
    findings = list[Finding]()
    for row, suggested in zip(found.rows.tolist(), found.suggested.tolist(), strict=True):
        likelier, given = float(probabilities[row, suggested]), float(probabilities[row, labels[row]])
        doubt = plan.mislabel * likelier / (likelier + given)
        findings.append(Finding(row=row, reason=Reason.MISLABEL, doubt=doubt, suggested=suggested))
    return findings, found.noise
