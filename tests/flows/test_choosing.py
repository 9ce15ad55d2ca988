from __future__ import annotations

import pytest

from tests.conftest import example
from tests.flows.conftest import rows
from tiercel.flows.choosing import Chooser, next_round, text_of
from tiercel.flows.progress import Silent

ROWS = rows(240)
TEXTS = [r["messages"][1]["content"] for r in ROWS]
LABELS = [r["messages"][2]["content"] for r in ROWS]


@pytest.fixture(scope="module")
def chooser() -> Chooser:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiercel.students.base_models.installed_encoder", lambda: None)
        return Chooser(TEXTS, 0, Silent())


def test_what_is_told_apart_leaves_the_system_prompt_out() -> None:
    assert text_of(example("a question", system="a prompt")) == "a question"


@pytest.mark.parametrize("total", [1, 5, 39, 40, 60, 500])
def test_rounds_add_up(total: int) -> None:
    done, counts = 0, list[int]()
    while done < total:
        counts.append(next_round(done, done, total))
        done += counts[-1]
    assert done == total
    assert counts[0] == (total if total < 40 else total / 2)
    assert len(counts) == {40: 3, 60: 4, 500: 6}.get(total, 1)


def test_with_labels_at_the_start_there_is_a_student_at_once() -> None:
    assert next_round(100, 0, 500) == 50


def test_hashed_rows_tell_the_kinds_apart(chooser: Chooser) -> None:
    similar = chooser.rows @ chooser.rows.T
    same = [similar[i, j] for i in range(60) for j in range(i) if LABELS[i] == LABELS[j]]
    other = [similar[i, j] for i in range(60) for j in range(i) if LABELS[i] != LABELS[j]]
    assert sum(same) / len(same) > sum(other) / len(other) + 0.03


def test_what_is_labelled_is_not_chosen_again(chooser: Chooser) -> None:
    first = chooser.choose(30, {}, classes=False)
    known: dict[int, str | None] = {i: LABELS[i] for i in first}
    known[first[0]] = None
    for classes in (True, False):
        second = chooser.choose(20, known, classes=classes)
        assert len(set(second) | set(first)) == 50


def test_a_student_is_unsure_of_the_kind_it_has_not_seen(chooser: Chooser) -> None:
    seen = [i for i, label in enumerate(LABELS) if label != "praise"][:60]
    chosen = chooser.choose(30, {i: LABELS[i] for i in seen}, classes=True)
    share = sum(LABELS[i] == "praise" for i in chosen) / 30
    everywhere = LABELS.count("praise") / (len(LABELS) - 60)
    assert share > everywhere + 0.1


def test_equal_labels_teach_nothing(chooser: Chooser) -> None:
    assert len(chooser.choose(5, dict.fromkeys(range(30), "praise"), classes=True)) == 5
