from __future__ import annotations

import numpy as np
import pytest

from tests.datasets.test_outliers import ENGLISH, FOREIGN
from tiercel.datasets.curation import Curation, CurationPlan, Finding, Reason, curate
from tiercel.errors import DataError


def dirty() -> tuple[list[str], list[str], dict[Reason, list[int]]]:
    """A workload of labels with one or more rows of each kind of trouble, and which rows they are."""
    requests, answers = list(ENGLISH), [f"label {len(t) % 3}" for t in ENGLISH]
    planted: dict[Reason, list[int]] = {}

    def add(reason: Reason, request: str, answer: str) -> None:
        planted.setdefault(reason, []).append(len(requests))
        requests.append(request)
        answers.append(answer)

    add(Reason.EXACT_DUPLICATE, requests[3], answers[3])
    add(Reason.NEAR_DUPLICATE, requests[8] + "!!", answers[8])
    add(Reason.CONTRADICTION, requests[20], "something else")
    add(Reason.REQUEST_LENGTH, " ".join(ENGLISH[:60]), "label 1")
    add(Reason.LANGUAGE, FOREIGN[0], "label 1")
    add(Reason.SCRIPT, "где моя посылка, я жду её уже третий день", "label 1")
    add(Reason.EMPTY, "", "label 1")
    add(Reason.EMPTY, "where is my other order please", " ")
    return requests, answers, planted


def rows_of(curation: Curation, reason: Reason) -> list[int]:
    return [f.row for f in curation.findings if f.reason == reason]


def test_each_trouble_is_found_where_it_is() -> None:
    requests, answers, planted = dirty()
    found = curate(requests, answers)
    for reason, rows in planted.items():
        assert set(rows) <= set(rows_of(found, reason)), reason
    others = {f.row for f in found.findings if f.reason != Reason.CONTRADICTION} - {
        r for rs in planted.values() for r in rs
    }
    assert len(others) <= 3
    exact = next(f for f in found.findings if f.reason == Reason.EXACT_DUPLICATE)
    assert exact.other == 3
    disputed = [f for f in found.findings if f.reason == Reason.CONTRADICTION]
    assert {(f.row, f.other) for f in disputed} == {
        (20, planted[Reason.CONTRADICTION][0]),
        (planted[Reason.CONTRADICTION][0], 20),
    }


def test_quality_is_the_product_of_what_is_left_and_rows_are_kept_by_it() -> None:
    requests, answers, planted = dirty()
    plan = CurationPlan(near_duplicate=0.2, script=0.6)
    found = curate(requests, answers, plan=plan)
    expected = np.ones(len(requests))
    for finding in found.findings:
        assert 0 < finding.doubt <= 1
        expected[finding.row] *= 1 - finding.doubt
    np.testing.assert_allclose(found.quality, expected)
    assert found.quality[planted[Reason.NEAR_DUPLICATE][0]] == pytest.approx(0.8)
    assert found.quality[planted[Reason.SCRIPT][0]] <= 0.4
    kept = found.keep(0.5)
    assert set(kept) == {i for i, q in enumerate(expected) if q >= 0.5}
    assert planted[Reason.EMPTY][0] not in kept
    assert found.keep(0.0).size == len(requests)


def test_mislabels_come_from_out_of_fold_probabilities() -> None:
    requests = list(ENGLISH)
    labels = np.array([len(t) % 3 for t in requests])
    p = np.full((len(requests), 3), 0.05)
    p[np.arange(len(requests)), labels] = 0.9
    wrong = [5, 17, 40]
    given = labels.copy()
    given[wrong] = (labels[wrong] + 1) % 3
    found = curate(requests, [f"l{i}" for i in given], probabilities=p, labels=given)
    doubts = {f.row: f for f in found.findings if f.reason == Reason.MISLABEL}
    assert set(doubts) == set(wrong)
    assert all(doubts[i].suggested == labels[i] for i in wrong)
    assert doubts[5].doubt == pytest.approx(0.9 / 0.95)
    assert found.label_noise == pytest.approx(3 / len(requests), abs=0.01)
    assert not set(wrong) & set(found.keep())


def test_the_report_counts_and_names_rows() -> None:
    requests, answers, planted = dirty()
    found = curate(requests, answers)
    report = found.report(examples=2)
    assert report.rows == len(requests)
    assert report.doubted == len({f.row for f in found.findings})
    assert report.kept == found.keep().size
    assert report.label_noise is None
    assert report.mean_quality == pytest.approx(found.quality.mean())
    assert [c.rows for c in report.reasons] == sorted((c.rows for c in report.reasons), reverse=True)
    for count in report.reasons:
        assert count.rows == len(rows_of(found, count.reason)) > 0
        assert len(count.examples) == min(2, count.rows)
        assert set(count.examples) <= set(rows_of(found, count.reason))
    empty = next(c for c in report.reasons if c.reason == Reason.EMPTY)
    assert list(empty.examples) == planted[Reason.EMPTY]


def test_a_clean_workload_stays_whole_and_none_is_none() -> None:
    clean = curate(ENGLISH, ["yes"] * len(ENGLISH))
    assert clean.keep().size == len(ENGLISH)
    nothing = curate([], [])
    assert (nothing.quality.size, nothing.findings, nothing.report().reasons) == (0, (), ())


def test_a_reason_of_no_weight_is_no_finding() -> None:
    requests, answers, _ = dirty()
    found = curate(requests, answers, plan=CurationPlan(near_duplicate=0.0, contradiction=0.0))
    assert not rows_of(found, Reason.NEAR_DUPLICATE)
    assert not rows_of(found, Reason.CONTRADICTION)
    assert all(isinstance(f, Finding) for f in found.findings)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="2 requests and 1 answers"):
        curate(["a", "b"], ["x"])
    with pytest.raises(DataError, match="together"):
        curate(["a"], ["x"], labels=np.array([0]))
    with pytest.raises(DataError, match="1 requests and 2 labels"):
        curate(["a"], ["x"], labels=np.array([0, 1]), probabilities=np.full((2, 2), 0.5))
