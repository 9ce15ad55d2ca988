"""The linear rung: served without scikit-learn, it says what scikit-learn's model says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from tests.flows.conftest import rows
from tiercel.students.linear import LinearStudent
from tiercel.students.linear_training import fit_head, fit_linear
from tiercel.students.ngrams import ngrams


def workload(n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    found = rows(n, noise=0.05, seed=seed)
    labels = sorted({r["messages"][2]["content"] for r in found})
    targets = np.zeros((n, len(labels)), np.float32)
    for row, target in zip(found, targets, strict=True):
        target[labels.index(row["messages"][2]["content"])] = 1
    return [r["messages"][1]["content"] for r in found], targets


def test_it_predicts_as_scikit_learn_does_on_the_same_ngrams() -> None:
    texts, targets = workload(700)
    fresh, _ = workload(100, seed=1)
    student = fit_linear(texts, targets, strength=20.0)
    vectors = TfidfVectorizer(analyzer=ngrams, sublinear_tf=True, min_df=2, smooth_idf=True)
    model = LogisticRegression(C=20.0, max_iter=100, tol=1e-3).fit(vectors.fit_transform(texts), targets.argmax(1))
    expected = model.predict_proba(vectors.transform(fresh))
    np.testing.assert_allclose(student.predict(fresh).probabilities, expected, atol=0.02)


def test_saving_and_loading_change_nothing(tmp_path: Path) -> None:
    texts, targets = workload(300)
    student = fit_linear(texts, targets)
    student.save(tmp_path)
    before, after = student.predict(texts[:50]), LinearStudent.load(tmp_path).predict(texts[:50])
    np.testing.assert_array_equal(before.probabilities, after.probabilities)
    np.testing.assert_array_equal(before.familiarity, after.familiarity)


def test_a_request_of_unknown_words_is_unfamiliar_and_gets_the_bias() -> None:
    texts, targets = workload(300)
    student = fit_linear(texts, targets)
    told = student.predict(["ωωω ψψψ", ""])
    assert told.familiarity.max() < 0.5
    assert np.isfinite(told.probabilities).all()
    np.testing.assert_allclose(told.probabilities.sum(1), 1, atol=1e-5)


def test_labels_that_no_row_has_never_win() -> None:
    texts, targets = workload(200)
    wider = np.concatenate([np.zeros((200, 1), np.float32), targets], axis=1)
    student = fit_linear(texts, wider)
    assert student.predict(texts).probabilities[:, 0].max() < 1e-6


@pytest.mark.parametrize("k", [2, 3])
def test_a_head_of_two_or_three_labels_is_scikit_learns(k: int) -> None:
    rng = np.random.default_rng(k)
    x = rng.standard_normal((400, 5))
    y = (x @ rng.standard_normal((5, k)) + rng.gumbel(size=(400, k))).argmax(1)
    weights, bias = fit_head(x, np.eye(k, dtype=np.float32)[y], multi=False, strength=1.0, iterations=1000)
    scores = x @ weights + bias
    told = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    expected = LogisticRegression(C=1.0, max_iter=1000).fit(x, y).predict_proba(x)
    np.testing.assert_allclose(told, expected, atol=0.01)


def test_several_labels_are_separate_regressions() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 4))
    targets = (x @ rng.standard_normal((4, 3)) + rng.logistic(size=(400, 3)) > 0).astype(np.float32)
    weights, bias = fit_head(x, targets, multi=True, strength=1.0, iterations=1000)
    for label in range(3):
        expected = LogisticRegression(C=1.0, max_iter=1000).fit(x, targets[:, label])
        np.testing.assert_allclose(weights[:, label], expected.coef_[0], atol=0.02)
        assert bias[label] == pytest.approx(expected.intercept_[0], abs=0.02)


def test_ngrams_of_a_long_text_are_bounded_and_keep_both_ends() -> None:
    found = ngrams("first " + "filler " * 40_000 + "last")
    assert len(found) < 20_000
    assert {"=first", "=last"} <= set(found)
