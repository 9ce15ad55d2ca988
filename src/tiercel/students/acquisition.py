"""Which unlabelled requests to have labelled next: those that a student is unsure of, that speak for many, that differ.

Rows are unit vectors; similarity is their cosine. Without a student the rows nearest the centres of as many clusters as
are wanted come first (typicality). With one, the least certain rows are clustered and each cluster sends one, so that
two that say the same are never bought together.

Sources: Hacohen et al., "Active Learning on a Budget" (TypiClust), 2022; Citovsky et al., "Batch Active Learning at
Scale" (Cluster-Margin), 2021; Sener and Savarese, "Active Learning for CNNs: A Core-Set Approach", 2018.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["choose", "cluster", "coverage", "density", "entropy", "k_center", "margin", "softmax", "unit_rows"]

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

CANDIDATES = 20
"""Uncertain rows that are clustered for each one that is chosen,"""
SHARE = 0.2
"""but no more than this share of a small pool, where certain rows would be among them."""
ALIKE = 0.95
"""Similarity from which two rows say the same."""
NEIGHBOURS = 20
"""Neighbours that make a row's density."""
REFERENCE = 4_096
"""Rows of a larger pool that densities and centres are found on; all of a smaller one."""
BLOCK = 2_048
"""Rows compared at a time, which bounds memory."""


def unit_rows(embeddings: NDArray[np.floating]) -> Floats:
    """Rows scaled to length 1, shape (n, d); a row of zeros stays one."""
    rows = np.asarray(embeddings, dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def softmax(logits: NDArray[np.floating]) -> Floats:
    """Probabilities of shape (n, k) from logits of the same shape."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def margin(probabilities: NDArray[np.floating]) -> Floats:
    """1 less the gap between the two likeliest labels, shape (n,), in [0, 1]; 1 is undecided.

    Args:
        probabilities: shape (n, k), rows sum to 1; with a single label nothing is uncertain.
    """
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities), dtype=np.float32)
    best = np.partition(probabilities, -2, axis=1)[:, -2:]
    return (1 - (best[:, 1] - best[:, 0])).astype(np.float32)


def entropy(probabilities: NDArray[np.floating]) -> Floats:
    """Entropy as a share of the largest possible, shape (n,), in [0, 1], from probabilities of shape (n, k)."""
    k = probabilities.shape[1]
    if k < 2:
        return np.zeros(len(probabilities), dtype=np.float32)
    p = np.clip(probabilities, 1e-12, 1.0)
    return (-(p * np.log(p)).sum(axis=1) / np.log(k)).astype(np.float32)


def density(rows: Floats, *, neighbours: int = NEIGHBOURS, seed: int = 0) -> Floats:
    """Mean similarity of each row to its nearest neighbours, shape (n,); high where requests are typical.

    Args:
        rows: unit vectors of shape (n, d).
        neighbours: that count in the whole pool; fewer, in proportion, in the sample of a large one.
        seed: of that sample.
    """
    n = len(rows)
    sample = np.sort(_sample(n, seed))
    wanted = max(1, min(len(sample) - 1, round(neighbours * len(sample) / n)))
    if n < 2:
        return np.ones(n, dtype=np.float32)
    found = np.empty(n, dtype=np.float32)
    place = np.full(n, -1)
    place[sample] = np.arange(len(sample))
    for start in range(0, n, BLOCK):
        similar = rows[start : start + BLOCK] @ rows[sample].T
        own = place[start : start + BLOCK]
        similar[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf
        found[start : start + BLOCK] = np.partition(similar, -wanted, axis=1)[:, -wanted:].mean(axis=1)
    return found


def _sample(n: int, seed: int, most: int = REFERENCE) -> Integers:
    return np.arange(n) if n <= most else np.random.default_rng(seed).choice(n, most, replace=False)


def cluster(rows: Floats, count: int, *, seed: int = 0, rounds: int = 10) -> tuple[Integers, Floats]:
    """Spherical k-means.

    Args:
        rows: unit vectors of shape (n, d).
        count: clusters wanted, at most n; fewer come back where rows are equal.
        seed: of the first centres.
        rounds: at the most.

    Returns:
        The cluster of each row, shape (n,), and the similarity of each row to its centre, shape (n,).
    """
    rng = np.random.default_rng(seed)
    part = rows[_sample(len(rows), seed, max(20_000, 20 * count))]
    first = part[rng.permutation(len(part))[: max(REFERENCE, 10 * count)]]
    centres = first[_spread(first, min(count, len(first)), rng)]
    last = np.full(len(part), -1)
    for _ in range(rounds):
        member, _ = _nearest(part, centres)
        if (member == last).all():
            break
        last = member
        order = np.argsort(member, kind="stable")
        filled, starts = np.unique(member[order], return_index=True)
        centres = unit_rows(np.add.reduceat(part[order], starts, axis=0))
        last = np.searchsorted(filled, member)
    return _nearest(rows, centres)


def _spread(rows: Floats, count: int, rng: np.random.Generator) -> Integers:
    """Greedy k-means++: of a few rows drawn in proportion to their distance from the centres, the best is the next."""
    chosen = [int(rng.integers(len(rows)))]
    distance = 1 - rows @ rows[chosen[0]]
    trials = 2 + int(np.log(count))
    while len(chosen) < count:
        weight = np.cumsum(np.maximum(distance, 0.0), dtype=np.float64)
        if weight[-1] <= 1e-6:
            break
        drawn = np.searchsorted(weight, rng.random(trials) * weight[-1], side="right").clip(0, len(rows) - 1)
        after = np.minimum(distance[:, None], 1 - rows @ rows[drawn].T)
        best = int(after.sum(axis=0).argmin())
        chosen.append(int(drawn[best]))
        distance = after[:, best]
    return np.array(chosen)


def _nearest(rows: Floats, centres: Floats) -> tuple[Integers, Floats]:
    """The most similar centre of each row and how similar it is."""
    member = np.empty(len(rows), dtype=np.int64)
    similar = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), BLOCK):
        scores = rows[start : start + BLOCK] @ centres.T
        best = scores.argmax(axis=1)
        member[start : start + BLOCK] = best
        similar[start : start + BLOCK] = scores[np.arange(len(best)), best]
    return member, similar


def coverage(rows: Floats, chosen: Integers) -> Floats:
    """Similarity of each row to the nearest of the chosen ones, shape (n,); -1 where none is chosen."""
    if not len(chosen):
        return np.full(len(rows), -1.0, dtype=np.float32)
    return _nearest(rows, rows[chosen])[1]


def k_center(rows: Floats, count: int, *, labelled: Integers | None = None, seed: int = 0) -> Integers:
    """The greedy core-set: each next row is the one farthest from all that are chosen or labelled; shape (count,).

    Args:
        rows: unit vectors of shape (n, d).
        count: rows wanted; fewer come back where fewer are open.
        labelled: numbers of rows that have an answer.
        seed: of the first row where nothing is labelled.
    """
    taken = np.asarray(labelled if labelled is not None else (), dtype=np.int64)
    near = coverage(rows, taken)
    near[taken] = np.inf
    chosen = list[int]()
    for _ in range(min(count, len(rows) - len(np.unique(taken)))):
        first = not len(taken) and not chosen
        i = int(np.random.default_rng(seed).integers(len(rows))) if first else int(near.argmin())
        chosen.append(i)
        np.maximum(near, rows @ rows[i], out=near)
        near[i] = np.inf
    return np.array(chosen, dtype=np.int64)


def choose(
    embeddings: NDArray[np.floating],
    count: int,
    *,
    labelled: Integers | None = None,
    uncertainty: NDArray[np.floating] | None = None,
    seed: int = 0,
) -> Integers:
    """The unlabelled rows that are expected to add most, in no particular order; shape (count,).

    With `uncertainty`, the least certain rows that differ are clustered, some `CANDIDATES` for each one wanted; each
    cluster sends the row with the largest uncertainty x similarity to its centre. Without, the pool and what is
    labelled are clustered together, and the largest clusters that nothing is labelled in send their most central row.

    Args:
        embeddings: of the pool, shape (n, d); scaled to length 1 here.
        count: rows wanted; fewer come back where fewer are open.
        labelled: numbers of the rows that have an answer.
        uncertainty: of a current student, shape (n,), in [0, 1], such as `margin`; None at the start.
        seed: the same seed gives the same rows.

    Raises:
        ValueError: `count` is negative, or the shapes do not agree.
    """
    n = len(embeddings)
    if count < 0 or (uncertainty is not None and uncertainty.shape != (n,)):
        raise ValueError("count must be 0 or more, and uncertainty must hold one number for each row")
    known = np.unique(np.asarray(labelled if labelled is not None else (), dtype=np.int64))
    is_open = np.ones(n, dtype=np.bool_)
    is_open[known] = False
    count = min(count, int(is_open.sum()))
    if not count:
        return np.empty(0, dtype=np.int64)
    rows = unit_rows(embeddings)
    if uncertainty is None:
        chosen = _typical(rows, count, is_open, seed)
    else:
        chosen = _uncertain(rows, count, is_open, np.asarray(uncertainty, dtype=np.float32), seed)
    if len(chosen) < count:
        # Equal rows leave clusters empty: the rest is what lies farthest from all that is there.
        more = k_center(rows, count - len(chosen), labelled=np.concatenate([known, chosen]), seed=seed)
        chosen = np.concatenate([chosen, more])
    return chosen


def _typical(rows: Floats, count: int, is_open: NDArray[np.bool_], seed: int) -> Integers:
    labelled = int((~is_open).sum())
    member, central = cluster(rows, min(count + labelled, len(rows)), seed=seed)
    covered = np.bincount(member, weights=~is_open) > 0
    sizes = np.where(covered, 0, np.bincount(member))
    largest = np.argsort(-sizes, kind="stable")[:count]
    return _senders(member, central, largest[sizes[largest] > 0])


def _uncertain(rows: Floats, count: int, is_open: NDArray[np.bool_], uncertainty: Floats, seed: int) -> Integers:
    order = np.argsort(np.where(is_open, -uncertainty, np.inf), kind="stable")
    order = order[: int(is_open.sum())]
    candidates = _apart(rows, order, min(count * CANDIDATES, max(count, int(SHARE * len(order)))))
    member, central = cluster(rows[candidates], min(count, len(candidates)), seed=seed)
    found = np.unique(member)
    # A student that is sure of everything still leaves the choice to the similarity.
    return candidates[_senders(member, central * (uncertainty[candidates] + np.float32(1e-6)), found)]


def _apart(rows: Floats, order: Integers, wanted: int) -> Integers:
    """The first `wanted` of `order` that are not alike; each row is compared with those that are kept before it."""
    kept, places = np.empty((wanted, rows.shape[1]), dtype=np.float32), list[int]()
    for i in order.tolist():
        if len(places) == wanted:
            break
        if not places or float((kept[: len(places)] @ rows[i]).max()) < ALIKE:
            kept[len(places)] = rows[i]
            places.append(i)
    return np.array(places, dtype=np.int64)


def _senders(member: Integers, worth: NDArray[np.floating], clusters: Integers) -> Integers:
    """The row of largest worth of each of `clusters`."""
    order = np.lexsort((-worth, member))
    filled, starts = np.unique(member[order], return_index=True)
    first = dict(zip(filled.tolist(), order[starts].tolist(), strict=True))
    return np.array([first[c] for c in clusters.tolist()], dtype=np.int64)
