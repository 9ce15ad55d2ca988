"""What a student fails on, in groups that a teacher may be asked to write more of.

A list of two hundred failed requests helps nobody; "14 % of the loss is on requests about exchange rates, such as ..."
says what to ask for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import ConfigurationError, DataError, MissingExtraError

__all__ = ["FailureCluster", "FailureReport", "distinguishing_words", "failure_clusters"]

Floats = NDArray[np.float64]

MOST_COMPARED = 2_000
"""Failures that are compared pair by pair (32 MB); with more, those of largest loss make the clusters and the others
join the nearest one."""
_WORD = re.compile(r"\w+")
MOST_DISTANCE_EMBEDDINGS = 0.5
MOST_DISTANCE_WORDS = 0.8
"""Mean cosine distance up to which two clusters are one: texts of one purpose share few of their words."""

Similarity = Callable[[slice, slice], Floats]
"""Cosine similarities of two ranges of the failures; shape (rows of the first, rows of the second)."""


class FailureCluster(Struct, frozen=True, kw_only=True):
    """Requests that the student fails on and that resemble each other."""

    rows: tuple[int, ...]
    """Row numbers, ascending."""
    share_of_loss: float
    """Loss of these rows over the loss of all rows, failed or not."""
    mean_loss: float
    representatives: tuple[int, ...]
    """Up to three rows nearest to the middle of the cluster, the nearest first."""
    words: tuple[str, ...]
    """Words that are commoner here than in all other rows, the most telling first; empty where none is."""

    @property
    def size(self) -> int:
        """Rows of the cluster."""
        return len(self.rows)


class FailureReport(Struct, frozen=True, kw_only=True):
    """The failures of a student on n rows."""

    rows: int
    failures: int
    """Rows with a loss of at least the threshold."""
    total_loss: float
    clusters: tuple[FailureCluster, ...]
    """The one with the largest share of the loss first."""
    scattered: tuple[int, ...]
    """Failed rows that resemble too few others to make a cluster, ascending."""


def failure_clusters(
    texts: Sequence[str],
    losses: Floats,
    embeddings: NDArray[np.floating] | None = None,
    *,
    least_loss: float = 0.5,
    least_size: int = 3,
    most_distance: float | None = None,
) -> FailureReport:
    """Cluster the failed requests by what they say; the same input always gives the same report.

    Clusters grow by average linkage on cosine distance, of embeddings where they are given, else of tf-idf of words and
    parts of words.

    Args:
        texts: n requests.
        losses: float array of shape (n,), in [0, 1], each from a student that did not train on the row.
        embeddings: shape (n, d), or None.
        least_loss: from which a row counts as failed, above 0.
        least_size: rows below which a cluster is not worth naming.
        most_distance: mean cosine distance up to which clusters are joined, in (0, 1); None for 0.5 with embeddings
            and 0.8 with words.

    Raises:
        ConfigurationError: `least_loss` is not above 0.
        DataError: the numbers of texts, losses and embeddings differ, or a number is not finite.
        MissingExtraError: scikit-learn or scipy is not installed.
    """
    _check(texts, losses, embeddings)
    if not least_loss > 0:
        raise ConfigurationError(f"a row fails from a loss above 0, not from {least_loss}; choose 0.5, say")
    failed = np.flatnonzero(losses >= least_loss)
    total = float(losses.sum())
    # The largest losses first: they make the clusters where there are too many failures to compare all.
    order = failed[np.argsort(-losses[failed], kind="stable")]
    similar = _word_similarity(texts, order) if embeddings is None else _embedding_similarity(embeddings[order])
    if most_distance is None:
        most_distance = MOST_DISTANCE_WORDS if embeddings is None else MOST_DISTANCE_EMBEDDINGS
    names, centrality = _cluster(similar, order.size, most_distance)
    everywhere = _texts_with_word(texts, range(len(texts)))
    clusters = list[FailureCluster]()
    for name in np.unique(names[names >= 0]):
        inside = np.flatnonzero(names == name)
        if inside.size < least_size:
            continue
        rows = np.sort(order[inside])
        nearest = sorted(inside.tolist(), key=lambda i: (-round(float(centrality[i]), 9), int(order[i])))[:3]
        clusters.append(
            FailureCluster(
                rows=tuple(rows.tolist()),
                share_of_loss=float(losses[rows].sum()) / total,
                mean_loss=float(losses[rows].mean()),
                representatives=tuple(int(order[i]) for i in nearest),
                words=tuple(_telling(everywhere, _texts_with_word(texts, rows.tolist()), 6)),
            )
        )
    grouped = {row for c in clusters for row in c.rows}
    return FailureReport(
        rows=len(texts),
        failures=failed.size,
        total_loss=total,
        clusters=tuple(sorted(clusters, key=lambda c: (-c.share_of_loss, c.rows))),
        scattered=tuple(i for i in failed.tolist() if i not in grouped),
    )


def _check(texts: Sequence[str], losses: Floats, embeddings: NDArray[np.floating] | None) -> None:
    if losses.shape != (len(texts),) or (embeddings is not None and len(embeddings) != len(texts)):
        raise DataError(
            f"{len(texts)} texts, {losses.shape} losses"
            + (f" and {embeddings.shape} embeddings" if embeddings is not None else "")
            + " do not belong together: give one of each for every row"
        )
    if not np.isfinite(losses).all() or (embeddings is not None and not np.isfinite(embeddings).all()):
        raise DataError("losses and embeddings must be finite numbers; leave out the rows that have none")


def _embedding_similarity(embeddings: NDArray[np.floating]) -> Similarity:
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = np.asarray(embeddings / np.maximum(length, 1e-12), dtype=np.float64)
    return lambda a, b: unit[a] @ unit[b].T


def _word_similarity(texts: Sequence[str], rows: NDArray[np.int64]) -> Similarity:
    """Cosine of tf-idf of words and of runs of four characters in them; what is common in all texts weighs little."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError:
        raise MissingExtraError("scikit-learn", "train") from None

    def pieces(text: str) -> list[str]:
        words = _words(text)
        return [*words, *(f" {w} "[i : i + 4] for w in words for i in range(max(1, len(w) - 1)))] or ["\0"]

    vectorizer: Any = TfidfVectorizer(analyzer=cast("Any", pieces), sublinear_tf=True)
    vectors = vectorizer.fit(texts or [""]).transform([texts[i] for i in rows] or [""])
    return lambda a, b: (vectors[a] @ vectors[b].T).toarray()


def _cluster(similar: Similarity, count: int, most_distance: float) -> tuple[NDArray[np.int64], Floats]:
    """Clusters of failures 0 to `count`, of which the first `MOST_COMPARED` are compared with each other.

    Returns:
        The cluster of each failure, -1 for none, and its mean similarity to the compared ones of its cluster; both of
        shape (count,).
    """
    names, centrality = np.full(count, -1), np.zeros(count)
    compared = min(count, MOST_COMPARED)
    if compared:
        first = slice(0, compared)
        names[first], centrality[first] = _linked(similar(first, first), most_distance)
    if compared == count:
        return names, centrality
    member = np.eye(names.max() + 1)[names[:compared]]
    member /= member.sum(axis=0)
    for start in range(compared, count, MOST_COMPARED):
        block = slice(start, min(count, start + MOST_COMPARED))
        to_cluster = similar(block, slice(0, compared)) @ member
        best = to_cluster.argmax(axis=1)
        centrality[block] = to_cluster[np.arange(len(best)), best]
        names[block] = np.where(1 - centrality[block] <= most_distance, best, -1)
    return names, centrality


def _linked(similarity: Floats, most_distance: float) -> tuple[NDArray[np.int64], Floats]:
    """Average linkage; the cluster of each, and its mean similarity to its cluster, both of shape (f,)."""
    try:
        from scipy.cluster.hierarchy import fcluster, linkage
        from scipy.spatial.distance import squareform
    except ImportError:
        raise MissingExtraError("scipy", "train") from None
    if len(similarity) == 1:
        return np.zeros(1, dtype=np.int64), np.ones(1)
    # Rounded, so that sums in another order (other threads, another processor) do not decide between equals.
    distance = np.round(np.clip(1 - (similarity + similarity.T) / 2, 0.0, None), 9)
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), method="average")
    names = np.asarray(fcluster(tree, most_distance, criterion="distance"), dtype=np.int64) - 1
    member = np.eye(names.max() + 1)[names]
    return names, (similarity * (member @ member.T)).sum(axis=1) / member.sum(axis=0)[names]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def distinguishing_words(texts: Sequence[str], rows: NDArray[np.int64], most: int = 6) -> list[str]:
    """Words that are commoner in the texts `rows` than in the others, the most telling first.

    The measure is the log odds ratio of a word over its standard error, with all texts as the prior: it names words
    that are both frequent and peculiar. A word counts once a text, has to stand in two of them, and must be 1.96
    standard errors above the others.

    Args:
        texts: n texts.
        rows: int array of shape (m,), the texts that are to be told apart.
        most: words at the most.

    Source: Monroe, Colaresi and Quinn, "Fightin' words", 2008, section 3.5.1.
    """
    return _telling(_texts_with_word(texts, range(len(texts))), _texts_with_word(texts, rows.tolist()), most)


def _texts_with_word(texts: Sequence[str], rows: Sequence[int]) -> Counter[str]:
    return Counter(word for i in rows for word in set(_words(texts[i])))


def _telling(everywhere: Counter[str], inside: Counter[str], most: int) -> list[str]:
    """Words by log odds over standard error, from the texts in which each stands, everywhere and inside."""
    if len(everywhere) < 2:
        return []
    total, total_inside = everywhere.total(), inside.total()
    scored = list[tuple[float, str]]()
    for word, count in inside.items():
        # The prior is worth as many words as the cluster has, and is added to both sides.
        prior = total_inside * everywhere[word] / total
        here, outside = count + prior, everywhere[word] - count + prior
        odds = np.log(here / (2 * total_inside - here)) - np.log(outside / (total - outside))
        z = float(odds / np.sqrt(1 / here + 1 / outside))
        if count >= 2 and z >= 1.96:
            scored.append((-z, word))
    return [word for _, word in sorted(scored)[:most]]
