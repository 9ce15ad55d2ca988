"""Linear-chain conditional random fields over BIO tags: the likeliest tags of a request, and how likely they are.

Tags of f fields are numbered O = 0, B of field i = 1 + 2 i, I of field i = 2 + 2 i; l = 1 + 2 f.
Source: Lafferty, McCallum, Pereira, "Conditional random fields", 2001.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tiercel.students.answer_form import Span

__all__ = ["IMPOSSIBLE", "best_tags", "forbidden", "spans_of", "tags_of"]

Floats = NDArray[np.float32]

IMPOSSIBLE = -1e4
"""Score of what BIO forbids; not minus infinity, which has no gradient."""


def forbidden(fields: int) -> tuple[Floats, Floats]:
    """Scores that let I follow only its own field: of each step, shape (l, l), and of the start, shape (l,)."""
    size = 1 + 2 * fields
    steps = np.zeros((size, size), dtype=np.float32)
    start = np.zeros(size, dtype=np.float32)
    for field in range(fields):
        inside = 2 + 2 * field
        steps[:, inside] = IMPOSSIBLE
        steps[inside - 1, inside] = steps[inside, inside] = 0.0
        start[inside] = IMPOSSIBLE
    return steps, start


def tags_of(spans: Sequence[Span], words: int) -> NDArray[np.int64]:
    """Tags of each word, shape (w,)."""
    tags = np.zeros(words, dtype=np.int64)
    for span in spans:
        tags[span.first] = 1 + 2 * span.field
        tags[span.first + 1 : span.last + 1] = 2 + 2 * span.field
    return tags


def spans_of(tags: NDArray[np.int64]) -> tuple[Span, ...]:
    """Spans that tags of shape (w,) mark."""
    spans = list[Span]()
    for i, tag in enumerate(tags.tolist()):
        if tag == 0:
            continue
        field, inside = divmod(tag - 1, 2)
        if inside and spans and spans[-1].last == i - 1 and spans[-1].field == field:
            spans[-1] = Span(field, spans[-1].first, i)
        else:
            spans.append(Span(field, i, i))
    return tuple(spans)


def best_tags(
    emissions: Sequence[Floats], steps: Floats, start: Floats
) -> list[tuple[NDArray[np.int64], float, float]]:
    """The likeliest tags of each request (Viterbi).

    Args:
        emissions: of each of n requests, shape (w, l).
        steps: score of each tag after each, shape (l, l).
        start: score of each tag at the start, shape (l,).

    Returns:
        For each request its tags, shape (w,), their log probability, and how much more likely the best sequence is than
        the best one that ends otherwise at the word of most doubt (the smallest gap of max-marginals), in nats.
    """
    return [_best(e, steps, start) for e in emissions]


def _best(emission: Floats, steps: Floats, start: Floats) -> tuple[NDArray[np.int64], float, float]:
    words = len(emission)
    if not words:
        return np.zeros(0, dtype=np.int64), 0.0, 30.0
    from_left, from_right = np.empty_like(emission), np.zeros_like(emission)
    behind = np.zeros(emission.shape, dtype=np.int64)
    from_left[0] = start + emission[0]
    total = from_left[0].astype(np.float64)
    for i in range(1, words):
        reach = from_left[i - 1][:, None] + steps
        behind[i] = reach.argmax(axis=0)
        from_left[i] = reach.max(axis=0) + emission[i]
        shifted = total[:, None] + steps
        most = shifted.max(axis=0)
        total = most + np.log(np.exp(shifted - most).sum(axis=0)) + emission[i]
    for i in range(words - 2, -1, -1):
        from_right[i] = (steps + emission[i + 1] + from_right[i + 1]).max(axis=1)
    tags = np.empty(words, dtype=np.int64)
    tags[-1] = from_left[-1].argmax()
    for i in range(words - 1, 0, -1):
        tags[i - 1] = behind[i, tags[i]]
    best = float(from_left[-1].max())
    everything = float(total.max() + np.log(np.exp(total - total.max()).sum()))
    through = from_left + from_right
    through[np.arange(words), tags] = -np.inf
    gap = best - float(through.max()) if emission.shape[1] > 1 else 30.0
    return tags, min(0.0, best - everything), min(30.0, max(0.0, gap))
