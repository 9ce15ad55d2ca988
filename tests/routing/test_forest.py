from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor

from tiercel.routing.forest import Forest
from tiercel.routing.ridge import fit_ridge


def _rows(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 6))
    return x, np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + rng.normal(size=n) * 0.1


def test_a_forest_says_what_the_model_that_grew_it_says() -> None:
    x, y = _rows()
    bagged: Any = ExtraTreesRegressor(20, min_samples_leaf=3, random_state=0).fit(x, np.column_stack([y, x[:, 0]]))
    forest = Forest.of_trees(bagged.estimators_, 1 / 20, 0.0)
    assert forest.predict(x) == pytest.approx(bagged.predict(x)[:, 0])
    boosted: Any = GradientBoostingRegressor(n_estimators=30, random_state=0).fit(x, y)
    trees = [t[0] for t in boosted.estimators_]
    forest = Forest.of_trees(trees, boosted.learning_rate, float(boosted.init_.constant_[0, 0]))
    assert forest.predict(x) == pytest.approx(boosted.predict(x))
    assert forest.predict(x[:1])[0] == pytest.approx(forest.predict(x)[0])
    assert Forest.from_arrays(forest.arrays()).predict(x) == pytest.approx(forest.predict(x))


def test_a_forest_that_would_run_in_circles_is_refused() -> None:
    x, y = _rows(60)
    model: Any = ExtraTreesRegressor(2, random_state=0).fit(x, y)
    arrays = Forest.of_trees(model.estimators_, 0.5, 0.0).arrays()
    circular = arrays["children"].copy()
    circular[1] = 0
    with pytest.raises(ValueError, match="circles"):
        Forest.from_arrays({**arrays, "children": circular})
    with pytest.raises(ValueError, match="root"):
        Forest.from_arrays({**arrays, "roots": arrays["roots"] + 10_000})


@pytest.mark.parametrize("shape", [(40, 6), (40, 120)])
def test_left_out_errors_of_the_ridge_are_those_of_fitting_again_without_the_row(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=shape)
    y = np.column_stack([x[:, 0] + rng.normal(size=shape[0]), rng.normal(size=shape[0])])
    penalties = (0.1, 3.0, 1_000.0)
    errors = {}
    for penalty in penalties:
        scale = ((x - x.mean(0)) ** 2).sum() / len(x)
        strength = penalty * scale * len(x) / 100
        left = []
        # Leaving a row out of a regression whose centre stays, as the closed form does.
        z, t = x - x.mean(0), y - y.mean(0)
        for i in range(len(x)):
            keep = np.arange(len(x)) != i
            w = np.linalg.solve(z[keep].T @ z[keep] + strength * np.eye(x.shape[1]), z[keep].T @ t[keep])
            left.append(t[i] - z[i] @ w)
        errors[penalty] = float((np.array(left) ** 2).mean())
    assert fit_ridge(x, y, penalties).penalty == min(errors, key=lambda p: errors[p])


def test_the_ridge_is_the_same_on_sparse_features_and_by_conjugate_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy import sparse

    rng = np.random.default_rng(3)
    x = rng.random((90, 30)) * (rng.random((90, 30)) < 0.3)
    y = np.column_stack([x @ rng.normal(size=30) + rng.normal(size=90) * 0.1])
    dense = fit_ridge(x, y, (0.3,))
    assert np.allclose(fit_ridge(sparse.csr_matrix(x), y, (0.3,)).weights, dense.weights)
    monkeypatch.setattr("tiercel.routing.ridge.MOST_ROWS", 50)
    large = fit_ridge(sparse.csr_matrix(x), y, (0.3,))
    assert np.allclose(large.predict(x), dense.predict(x), atol=1e-3)
