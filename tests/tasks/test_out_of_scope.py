from __future__ import annotations

import numpy as np
import pytest

from tiercel.tasks.labels import LabelSet
from tiercel.tasks.out_of_scope import in_scope_scores, out_of_scope_label


@pytest.mark.parametrize(
    "name", ["oos", "Out of scope", "out_of_scope", "NONE", "none-of-the-above", "Other", "unknown"]
)
def test_the_label_is_told_by_its_name(name: str) -> None:
    assert out_of_scope_label(LabelSet(labels=("refund", name, "delivery"))) == 1


@pytest.mark.parametrize("name", ["mother", "other_charges", "scope", "cosmos"])
def test_a_name_that_only_holds_such_a_word_is_an_ordinary_label(name: str) -> None:
    assert out_of_scope_label(LabelSet(labels=("refund", name))) is None


def test_of_two_such_labels_the_plainer_is_taken() -> None:
    assert out_of_scope_label(LabelSet(labels=("other", "refund", "oos"))) == 2


def test_where_answers_carry_several_labels_there_is_none() -> None:
    assert out_of_scope_label(LabelSet(labels=("refund", "other"), multi=True)) is None


def test_the_score_is_the_log_ratio_of_the_best_other_label_to_it() -> None:
    probabilities = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.45, 0.05, 0.5]], dtype=np.float32)
    assert in_scope_scores(probabilities, 2) == pytest.approx(np.log([0.6 / 0.1, 0.2 / 0.7, 0.45 / 0.5]), abs=1e-5)
    assert in_scope_scores(probabilities, 0) == pytest.approx(np.log([0.3 / 0.6, 0.7 / 0.1, 0.5 / 0.45]), abs=1e-5)
    certain = in_scope_scores(np.array([[1.0, 0.0]], dtype=np.float32), 1)
    assert np.isfinite(certain).all(), "a label that can't be is no infinity"
