"""Regression trees as plain arrays: grown by scikit-learn, stored without code, read by numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Forest"]

Floats = NDArray[np.float64]
_LEAF = -1


class Forest:
    """Many trees whose outputs are summed.

    Args:
        children: left and right child of each of m nodes, shape (m, 2), counted over all trees; -1 at a leaf.
        feature: that a node asks for, shape (m,).
        threshold: a row goes left at or below it, shape (m,).
        value: what a leaf adds, shape (m,).
        roots: first node of each tree, shape (trees,).
        base: added once.
    """

    def __init__(
        self,
        children: NDArray[np.int32],
        feature: NDArray[np.int32],
        threshold: Floats,
        value: Floats,
        roots: NDArray[np.int32],
        base: float,
    ) -> None:
        self.children, self.feature, self.threshold = children, feature, threshold
        self.value, self.roots, self.base = value, roots, base
        own = np.arange(len(children), dtype=children.dtype)[:, None]
        # Left and right child of node i at 2 i and 2 i + 1. Flat, since one look at a time is what a request waits for.
        self._next = np.where(children == _LEAF, own, children).reshape(-1).astype(np.intp)
        self._feature, self._roots = feature.astype(np.intp), roots.astype(np.intp)
        self._depth = self._deepest()

    @classmethod
    def of_trees(cls, trees: list[Any], scale: float, base: float) -> Forest:
        """From scikit-learn's trees.

        Args:
            trees: fitted `DecisionTreeRegressor`s; of several outputs, the first is taken.
            scale: of each tree's output: 1 / trees for a mean, the learning rate for boosting.
            base: added once.
        """
        children, feature, threshold, value = [], [], [], []
        roots = list[int]()
        start = 0
        for estimator in trees:
            tree = estimator.tree_
            left, right = tree.children_left, tree.children_right
            leaf = left == _LEAF
            children.append(
                np.column_stack([np.where(leaf, _LEAF, left + start), np.where(leaf, _LEAF, right + start)])
            )
            feature.append(np.where(leaf, 0, tree.feature))
            threshold.append(np.where(leaf, 0.0, tree.threshold))
            value.append(np.where(leaf, tree.value[:, 0, 0] * scale, 0.0))
            roots.append(start)
            start += tree.node_count
        return cls(
            np.concatenate(children).astype(np.int32),
            np.concatenate(feature).astype(np.int32),
            np.concatenate(threshold).astype(np.float64),
            np.concatenate(value).astype(np.float64),
            np.array(roots, dtype=np.int32),
            base,
        )

    def predict(self, features: Floats) -> Floats:
        """Sum over all trees for features of shape (n, f): shape (n,)."""
        # scikit-learn splits on single precision; a double just beside a threshold would fall on the other side.
        rows = np.ascontiguousarray(features, dtype=np.float32)
        found = np.empty(len(rows))
        for start in range(0, len(rows), 1_000):
            part = rows[start : start + 1_000]
            found[start : start + 1_000] = self._sum(part)
        return found + self.base

    def _sum(self, rows: NDArray[np.float32]) -> Floats:
        flat, starts = rows.reshape(-1), np.arange(len(rows))[:, None] * rows.shape[1]
        at = np.broadcast_to(self._roots, (len(rows), self._roots.size))
        # A leaf is its own child here: all walks take as many steps as the deepest one, and none has to be looked at.
        for _ in range(self._depth):
            right = flat.take(starts + self._feature.take(at)) > self.threshold.take(at)
            at = self._next.take(2 * at + right)
        return self.value.take(at).sum(axis=1)

    def _deepest(self) -> int:
        """Steps from a root to the farthest leaf."""
        at, steps = self.roots, 0
        while True:
            inner = at[self.children[at, 0] != _LEAF]
            if not inner.size:
                return steps
            at, steps = self.children[inner].reshape(-1), steps + 1

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that the forest is, by name."""
        return {
            "children": self.children,
            "feature": self.feature,
            "threshold": self.threshold,
            "value": self.value,
            "roots": self.roots,
            "base": np.array([self.base]),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Forest:
        """The forest of `arrays`.

        Raises:
            ValueError: the arrays are no forest; one that would run in circles is refused.
        """
        children, roots = arrays["children"], arrays["roots"]
        nodes = np.arange(len(children))
        inner = children[:, 0] != _LEAF
        # A child stands after its parent, so every walk ends.
        if not (children[inner] > nodes[inner, None]).all() or (children >= len(children)).any():
            raise ValueError("the trees run in circles")
        if roots.size and not (roots.min() >= 0 and roots.max() < len(children)):
            raise ValueError("a tree has no root")
        base = float(arrays["base"][0])
        return cls(children, arrays["feature"], arrays["threshold"], arrays["value"], roots, base)
