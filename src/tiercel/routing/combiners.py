"""Ways to combine the columns of all signals into one number that orders requests; a gate chooses among them.

Each is fitted on columns that are standardised and cut at eight standard deviations, against a target that is the
higher the more there is to gain from delegating.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tiercel.errors import MissingExtraError
from tiercel.routing.forest import Forest
from tiercel.routing.logistic import fit_logistic
from tiercel.routing.ridge import fit_ridge

__all__ = ["COMBINERS", "Combiner", "FirstColumn", "Linear", "Logistic", "Trees", "combiner_from"]

Floats = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]


class Combiner(Protocol):
    """A regression that can be stored as arrays."""

    kind: str
    """Says how its arrays are to be read."""

    def fit(self, columns: Floats, target: Floats, aids: Floats, seed: int) -> Combiner:
        """Learn from columns of shape (n, s) and a target of shape (n,).

        `aids`, shape (n, c), are further outcomes that go with the target: splits that tell them apart too are less
        often chance.
        """
        ...

    def predict(self, columns: Floats) -> Floats:
        """The combined number of each row, shape (n,); only its order counts."""
        ...

    def arrays(self) -> Arrays:
        """What was learned."""
        ...


class Linear:
    """Ridge regression on the target itself, losses and gains alike."""

    kind = "linear"

    def fit(self, columns: Floats, target: Floats, aids: Floats, seed: int) -> Linear:
        """Choose the penalty by leaving each row out."""
        found = fit_ridge(columns, target[:, None], seed=seed)
        self.weights_, self.bias_ = found.weights[:, 0], float(found.bias[0])
        return self

    def predict(self, columns: Floats) -> Floats:
        """Expected target."""
        return columns @ self.weights_ + self.bias_

    def arrays(self) -> Arrays:
        """Weights and bias."""
        return {"weights": self.weights_, "bias": np.array([self.bias_])}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Linear:
        """What `arrays` gave."""
        found = cls()
        found.weights_, found.bias_ = arrays["weights"], float(arrays["bias"][0])
        return found


class Logistic(Linear):
    """Regularised logistic regression on whether there is anything to gain.

    Args:
        penalty: of the squared weights, for each row.
    """

    def __init__(self, penalty: float = 0.3) -> None:
        self.penalty = penalty

    def fit(self, columns: Floats, target: Floats, aids: Floats, seed: int) -> Logistic:
        """Fit with the penalty that was given."""
        self.weights_, self.bias_ = fit_logistic(columns, target > 0, self.penalty)
        return self


class FirstColumn(Linear):
    """A regression on the first column alone, for rows too few or signals too weak for more."""

    def fit(self, columns: Floats, target: Floats, aids: Floats, seed: int) -> FirstColumn:
        """Learn direction and slope."""
        first = columns[:, 0] - columns[:, 0].mean()
        self.weights_ = np.zeros(columns.shape[1])
        self.weights_[0] = float(first @ target) / max(float(first @ first), 1e-12)
        self.bias_ = float(target.mean() - columns[:, 0].mean() * self.weights_[0])
        return self


class Trees:
    """Regression trees on the target.

    Args:
        boosted: grown one upon the other's residuals, shallow; else independently, on random splits.
        leaf: fewest training rows of a leaf, as a share. Outcomes of single requests are mostly chance, so leaves are
            large.
    """

    kind = "trees"

    def __init__(self, *, boosted: bool = False, leaf: float = 1 / 40) -> None:
        self.boosted = boosted
        self.leaf = leaf

    def fit(self, columns: Floats, target: Floats, aids: Floats, seed: int) -> Trees:
        """Grow the trees.

        Raises:
            MissingExtraError: scikit-learn is not installed.
        """
        try:
            from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
        except ImportError as error:
            raise MissingExtraError(error.name or "scikit-learn", "train") from None
        leaf = max(5, round(len(target) * self.leaf))
        if self.boosted:
            model: Any = GradientBoostingRegressor(
                n_estimators=100,
                learning_rate=0.04,
                max_depth=3,
                subsample=0.5,
                max_features=0.2,
                min_samples_leaf=leaf,
                random_state=seed,
            ).fit(columns, target)
            base = float(model.init_.constant_.reshape(-1)[0])
            self.forest_ = Forest.of_trees([t[0] for t in model.estimators_], model.learning_rate, base)
            return self
        model = ExtraTreesRegressor(150, min_samples_leaf=leaf, max_features=0.2, random_state=seed)
        model.fit(columns, np.column_stack([target, aids]))
        self.forest_ = Forest.of_trees(model.estimators_, 1 / len(model.estimators_), 0.0)
        return self

    def predict(self, columns: Floats) -> Floats:
        """Expected target."""
        return self.forest_.predict(columns)

    def arrays(self) -> Arrays:
        """The trees."""
        return self.forest_.arrays()

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Trees:
        """What `arrays` gave."""
        found = cls()
        found.forest_ = Forest.from_arrays(arrays)
        return found


COMBINERS: dict[str, Callable[[], Combiner]] = {
    "first": FirstColumn,
    "linear": Linear,
    "logistic": lambda: Logistic(0.1),
    "logistic-strict": lambda: Logistic(1.0),
    "trees": Trees,
    "trees-coarse": lambda: Trees(leaf=1 / 15),
    "boosting": lambda: Trees(boosted=True),
}
"""What a gate chooses from, by name."""

_KINDS: dict[str, Callable[[Arrays], Combiner]] = {"linear": Linear.from_arrays, "trees": Trees.from_arrays}


def combiner_from(kind: str, arrays: Arrays) -> Combiner:
    """The fitted combiner of a kind and its arrays.

    Raises:
        ValueError: there is no such kind, or the arrays are none of it.
    """
    if kind not in _KINDS:
        raise ValueError(f"combiners of the kind {kind!r} are not known")
    return _KINDS[kind](arrays)
