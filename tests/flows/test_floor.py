"""The frontier's disagreement with itself, from requests that it answered more than once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.flows.conftest import LINEAR, rows
from tiercel.flows.floor import floor_of
from tiercel.flows.pilot import pilot
from tiercel.flows.preparation import prepare, task_of
from tiercel.flows.progress import Silent
from tiercel.flows.traffic import read_workload
from tiercel.report.result import FloorSummary

TRAFFIC = Callable[..., Path]


def _floor(path: Path, measure: str = "exact") -> FloorSummary | None:
    read = read_workload([path], Silent())
    task, labels, shape = task_of(read.examples, None, Silent())
    found = prepare(
        read.key,
        read.examples,
        None,
        task=task,
        labels=labels,
        shape=shape,
        max_loss=0.1,
        seed=0,
        progress=Silent(),
        measure=measure,
    )
    return floor_of(read, found, frontier=None, confidence=0.95)


def _again(line: dict[str, Any], answer: str, number: int) -> dict[str, Any]:
    return {**line, "id": f"{line['id']}-{number}", "messages": [*line["messages"][:2], _said(answer)]}


def _said(answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer}


def test_requests_asked_once_tell_nothing(traffic: TRAFFIC) -> None:
    assert _floor(traffic(rows(200))) is None


def test_repeats_with_equal_answers_count_though_training_drops_them(traffic: TRAFFIC) -> None:
    lines = rows(200)
    lines += [_again(line, line["messages"][2]["content"], 1) for line in lines[:60]]
    lines += [
        _again(line, "praise" if line["messages"][2]["content"] != "praise" else "refund", 1) for line in lines[60:80]
    ]
    found = _floor(traffic(lines))
    assert found is not None
    assert (found.requests, found.answers) == (80, 160)
    assert found.disagreement.value == pytest.approx(0.25)
    assert found.disagreement.low < 0.25 < found.disagreement.high


def test_a_row_that_the_log_holds_twice_under_one_id_is_no_second_answer(traffic: TRAFFIC) -> None:
    lines = rows(200)
    assert _floor(traffic([*lines, *lines[:50]])) is None


def test_the_estimate_is_the_share_of_pairs_that_differ(traffic: TRAFFIC) -> None:
    """Each answer is drawn anew: another label in a tenth of the draws."""
    rng, lines = np.random.default_rng(3), rows(150)
    repeated, shares = [], []
    for line in lines:
        right = line["messages"][2]["content"]
        others = [x for x in ("refund", "delivery", "account", "praise") if x != right]
        drawn = [str(rng.choice(others)) if rng.random() < 0.1 else right for _ in range(4)]
        repeated += [_again(line, answer, k) for k, answer in enumerate(drawn)]
        shares.append(np.mean([a != b for i, a in enumerate(drawn) for b in drawn[:i]]))
    found = _floor(traffic(repeated))
    assert found is not None
    assert found.disagreement.value == pytest.approx(np.mean(shares))
    assert found.disagreement.low < 1 - (0.9**2 + 3 * (0.1 / 3) ** 2) < found.disagreement.high


def test_further_answers_of_the_frontiers_model_count_and_those_of_others_do_not(traffic: TRAFFIC) -> None:
    lines = rows(200)
    for line in lines[:40]:
        other = "praise" if line["messages"][2]["content"] != "praise" else "refund"
        line["responses"] = [{"model": "gpt-4o", "content": other}, {"model": "small", "content": "nonsense"}]
    found = _floor(traffic(lines))
    assert found is not None
    assert (found.requests, found.disagreement.value) == (40, 1.0)


def test_the_frontiers_own_answer_written_down_twice_is_no_second_one(traffic: TRAFFIC) -> None:
    lines = rows(200)
    for line in lines:
        line["responses"] = [{"model": "gpt-4o", "content": line["messages"][2]["content"]}]
    assert _floor(traffic(lines)) is None


def test_several_recorded_samples_stand_for_themselves(traffic: TRAFFIC) -> None:
    lines = rows(200)
    for line in lines[:30]:
        line["responses"] = [{"model": "gpt-4o", "content": c} for c in ("refund", "refund", "praise")]
    found = _floor(traffic(lines))
    assert found is not None
    assert (found.requests, found.answers) == (30, 90)
    assert found.disagreement.value == pytest.approx(2 / 3)


def test_the_floor_is_in_report_card_and_page(tmp_path: Path, traffic: TRAFFIC) -> None:
    lines = rows(500)
    lines += [
        _again(line, "praise" if line["messages"][2]["content"] != "praise" else "refund", 1) for line in lines[:60]
    ]
    result = pilot([traffic(lines)], tmp_path / "out", LINEAR)
    assert result.floor is not None
    page = (tmp_path / "out" / "report.html").read_text()
    assert "against itself" in page
    assert "disagrees with itself on" in page, "the floor lies above the bound, so the page cautions"
    assert "the frontier against itself" in (tmp_path / "out" / "bundle" / "card.md").read_text()
