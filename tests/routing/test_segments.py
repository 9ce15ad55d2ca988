"""Segments: which one a request is in, and that the certificates of all of them hold as often as is said."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest

from tiercel.errors import CertificateError
from tiercel.routing.calibration import TestPlan
from tiercel.routing.certificate import CertifiedRow, digest_of
from tiercel.routing.segments import (
    CONTROLS,
    SegmentedCertificate,
    SegmentPlan,
    issue_segments,
    segment_of,
    verify_segments,
    worth_testing,
)
from tiercel.types import Answer

replace = msgspec.structs.replace
DELTA, BOUND = 0.1, 0.1


def _plan(method: str, names: list[str], *, cap: int | None = None) -> SegmentPlan:
    family = method == "bonferroni"
    delta = DELTA / len(names) if family else DELTA
    one = TestPlan(
        max_loss=BOUND,
        confidence=1 - delta,
        method="wealth" if not family else "betting" if cap else "binomial",
        grid=(1.0, 0.5, 1e-6),
        levels=(delta, 0.0, 0.0),
        cluster="user" if cap else None,
        cap=cap,
    )
    return SegmentPlan(
        field="team", method=method, max_loss=BOUND, confidence=1 - DELTA, plans=dict.fromkeys(names, one)
    )


def _rows(risks: dict[str, float], each: int, rng: np.random.Generator) -> tuple[list[CertifiedRow], list[str]]:
    """Rows that all pass the gate, of segments with these risks."""
    names = [name for name in risks for _ in range(each)]
    losses = rng.random(len(names)) < np.repeat(list(risks.values()), each)
    return [CertifiedRow(f"k{i}", 0.7, float(v), 0.0, False) for i, v in enumerate(losses)], names


def _issue(plan: SegmentPlan, rows: list[CertifiedRow], names: list[str], **more: Any) -> SegmentedCertificate:
    return issue_segments(plan, rows, names, workload="0f" * 6, policy="ab" * 32, seed=5, **more)[0]


def _certified(certificate: SegmentedCertificate) -> set[str]:
    return {name for name, threshold in certificate.thresholds.items() if threshold is not None}


def test_the_chance_that_any_certified_segment_breaks_the_bound_is_held() -> None:
    rng = np.random.default_rng(41)
    draws, risks = 300, {f"s{i}": BOUND + 0.001 for i in range(8)}
    plan, naive = _plan("bonferroni", list(risks)), 0
    broken = 0
    alone = replace(plan, plans={k: replace(p, levels=(DELTA, 0.0, 0.0)) for k, p in plan.plans.items()})
    for _ in range(draws):
        rows, names = _rows(risks, 120, rng)
        broken += bool(_certified(_issue(plan, rows, names)))
        naive += bool(_certified(_issue(alone, rows, names)))
    assert broken / draws <= DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / draws)
    assert naive / draws > 2 * DELTA, "one level for each segment would pass too: the test tells nothing"


def test_e_bh_holds_the_share_of_certified_segments_that_break_the_bound() -> None:
    rng = np.random.default_rng(42)
    draws = 120
    risks = {f"bad{i}": BOUND + 0.001 for i in range(6)} | {f"good{i}": 0.01 for i in range(6)}
    plan, shares, found = _plan("e-bh", list(risks)), [], 0
    for _ in range(draws):
        certified = _certified(_issue(plan, *_rows(risks, 150, rng)))
        bad = sum(name.startswith("bad") for name in certified)
        shares.append(bad / max(1, len(certified)))
        found += len(certified) - bad
    assert np.mean(shares) <= DELTA + 3 * np.std(shares) / np.sqrt(draws)
    assert found / draws > 5, "the good ones are found"


def test_e_bh_certifies_the_more_the_more_segments_are_good() -> None:
    """At the level that one of twelve segments has by itself, e-values this large would not do."""
    rows, names = _rows({f"s{i}": 0.02 for i in range(12)}, 130, np.random.default_rng(43))
    certificate = _issue(_plan("e-bh", [f"s{i}" for i in range(12)]), rows, names)
    assert len(_certified(certificate)) == round(certificate.share * 12) > 6
    assert verify_segments(certificate).thresholds == certificate.thresholds


@pytest.mark.parametrize(
    ("field", "metadata", "answer", "expected"),
    [
        ("language", None, None, "de"),
        ("label", None, Answer(content="refund"), "refund"),
        ("team", {"team": "a"}, None, "a"),
        ("team", {"team": 7}, None, "7"),
        ("team", {"team": True}, None, "true"),
        ("team", {"team": ["a"]}, None, ""),
        ("team", {"other": "a"}, None, ""),
        ("team", None, None, ""),
        ("metadata.language", {"language": "x"}, None, "x"),
    ],
)
def test_the_segment_of_a_request(field: str, metadata: Any, answer: Any, expected: str) -> None:
    assert segment_of(field, text="Wo ist mein Paket?", metadata=metadata, answer=answer) == expected


def test_segments_with_too_few_rows_are_not_tested_and_take_no_level() -> None:
    counts = {"a": 500, "b": 400, "rare": 3, "one": 1}
    common = {"max_loss": 0.05, "confidence": 0.95}
    # 73 rows are the fewest for two segments, 59 for one.
    assert worth_testing(counts, 200, method="bonferroni", **common) == ["a", "b"]
    assert worth_testing(counts, 160, method="bonferroni", **common) == ["a"]
    assert worth_testing(counts, 160, method="e-bh", **common) == ["a", "b"]
    assert worth_testing(counts, 50, method="bonferroni", **common) == []
    assert worth_testing({}, 50, method="bonferroni", **common) == []


@cache
def _certificate(method: str, **more: Any) -> SegmentedCertificate:
    rows, names = _rows({"a": 0.01, "b": 0.6, "": 0.0}, 200, np.random.default_rng(44))
    return _issue(
        _plan(method, ["a", "b", ""], **more), [*rows, CertifiedRow("x", 0.7, 0.0, 0.0, False)], [*names, "z"]
    )


@pytest.mark.parametrize("method", CONTROLS)
def test_a_segment_without_a_certificate_has_no_threshold_and_the_record_verifies(method: str) -> None:
    certificate = _certificate(method)
    assert _certified(certificate) == {"a", ""}
    assert certificate.others == {"z": 1}
    read = msgspec.json.decode(msgspec.json.encode(certificate), type=SegmentedCertificate)
    outcome = verify_segments(read)
    assert outcome.thresholds == {"a": 1e-6, "b": None, "": 1e-6}
    assert outcome.offload == pytest.approx(400 / 601)
    assert "a from 1e-06, (none) from 1e-06" in certificate.statement
    assert ("share of them" in certificate.statement) == (method == "e-bh")


def test_a_segment_of_one_row_or_none_is_not_certified() -> None:
    rows, names = _rows({"a": 0.0}, 200, np.random.default_rng(45))
    certificate = _issue(
        _plan("bonferroni", ["a", "b", "c"]), [*rows, CertifiedRow("x", 0.7, 0.0, 0.0, False)], [*names, "b"]
    )
    assert _certified(certificate) == {"a"}
    assert verify_segments(certificate).thresholds == {"a": 1e-6, "b": None, "c": None}
    nothing = _issue(replace(_plan("bonferroni", ["a"]), plans={}), rows, names)
    assert nothing.statement.startswith("No segment by team")
    assert verify_segments(nothing).offload == 0


def _segment(c: SegmentedCertificate, number: int, **changes: Any) -> SegmentedCertificate:
    segments = list(c.segments)
    segments[number] = replace(segments[number], **changes)
    return replace(c, segments=tuple(segments))


def _family(c: SegmentedCertificate, **changes: Any) -> SegmentedCertificate:
    return replace(c, plan=replace(c.plan, **changes))


def _level(c: SegmentedCertificate, level: float) -> SegmentedCertificate:
    plans = {k: replace(p, levels=(level, *p.levels[1:])) for k, p in c.plan.plans.items()}
    return _family(c, plans=plans)


TAMPERINGS: dict[str, Callable[[SegmentedCertificate], SegmentedCertificate]] = {
    "a threshold for a segment that has none": lambda c: _segment(c, 1, threshold=0.5),
    "a looser threshold": lambda c: _segment(c, 0, threshold=0.5),
    "a dropped row": lambda c: _segment(c, 0, rows=c.segments[0].rows[1:]),
    "rows of another segment": lambda c: _segment(c, 1, rows=c.segments[0].rows),
    "a dropped segment": lambda c: replace(c, segments=c.segments[:1]),
    "a segment that was not planned": lambda c: _segment(c, 0, name="q"),
    "a row twice": lambda c: _segment(c, 0, rows=c.segments[0].rows + c.segments[0].rows[:1]),
    "a loss beyond 1": lambda c: _segment(
        c, 0, rows=(replace(c.segments[0].rows[0], student_loss=2.0), *c.segments[0].rows[1:])
    ),
    "more error than is left": lambda c: _level(c, 0.5),
    "another way to share error": lambda c: _family(c, method="bonferroni" if c.plan.method == "e-bh" else "e-bh"),
    "an unknown way to share error": lambda c: _family(c, method="hope"),
    "a higher confidence": lambda c: _family(c, confidence=0.999),
    "a lower bound": lambda c: _family(c, max_loss=0.01),
    "a bound of 0": lambda c: _family(c, max_loss=0.0),
    "the share of error": lambda c: replace(c, share=c.share / 2),
    "the statement": lambda c: replace(c, statement="all is well"),
    "the rows that were not tested": lambda c: replace(c, others={}),
    "the field": lambda c: _family(c, field="language"),
    "clusters that are not planned": lambda c: _segment(c, 0, clusters=(0,) * len(c.segments[0].rows)),
    "a format of the future": lambda c: replace(c, format=9),
    "no digest": lambda c: replace(c, digest=""),
}


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("how", TAMPERINGS)
@pytest.mark.parametrize("method", CONTROLS)
def test_a_record_that_was_tampered_with_is_refused(method: str, how: str, sealed: bool) -> None:
    """Sealed anew too, unless nothing but the seal could show it."""
    tampered = TAMPERINGS[how](_certificate(method))
    if sealed:
        if how in ("no digest", "the rows that were not tested", "a dropped row"):
            return
        tampered = replace(tampered, digest=digest_of(tampered))
    with pytest.raises(CertificateError):
        verify_segments(tampered)


@pytest.mark.parametrize("method", CONTROLS)
def test_clusters_are_counted_within_each_segment(method: str) -> None:
    rows, names = _rows({"a": 0.0, "b": 0.0}, 400, np.random.default_rng(46))
    users = [i // 2 for i in range(400)] + [i // 100 for i in range(400)]
    certificate = _issue(_plan(method, ["a", "b"], cap=2), rows, names, clusters=users)
    assert _certified(certificate) == {"a"}, "four users are too few, however many rows they have"
    assert verify_segments(certificate).thresholds["b"] is None
    assert "no user counts for more than 2 requests" in certificate.statement
