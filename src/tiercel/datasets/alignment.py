"""Which tokens two texts share, in time that grows with their length and with the square of their difference."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["aligned"]


def aligned(mine: Sequence[str | None], theirs: Sequence[str], edits: int) -> list[tuple[int, int]]:
    """Places in both of the tokens that two texts share, in order; none where they differ by more than `edits` words.

    Words are searched for between what both begin and end with; blanks follow the words beside them.

    Args:
        mine: words, signs and blanks of a text; None, which equals nothing, for a variable.
        theirs: those of the other.
        edits: words that may be left out of both together.
    """
    start, end = _common_ends(mine, theirs)
    ours = [i for i in range(start, len(mine) - end) if (token := mine[i]) and not token.isspace()]
    others = [j for j in range(start, len(theirs) - end) if not theirs[j].isspace()]
    found = _common_words([mine[i] for i in ours], [theirs[j] for j in others], edits)
    if found is None:
        return []
    words = [(ours[i], others[j], 1) for i, j in found]
    pairs, a, b = list[tuple[int, int]](), 0, 0
    for next_a, next_b, size in ((0, 0, start), *words, (len(mine) - end, len(theirs) - end, end)):
        head, tail = _common_ends(mine[a:next_a], theirs[b:next_b])
        pairs += zip(range(a, a + head), range(b, b + head), strict=True)
        pairs += zip(range(next_a - tail, next_a + size), range(next_b - tail, next_b + size), strict=True)
        a, b = next_a + size, next_b + size
    return pairs


def _common_ends(mine: Sequence[str | None], theirs: Sequence[str]) -> tuple[int, int]:
    """How many tokens both begin with, and how many of the others both end with."""
    least = min(len(mine), len(theirs))
    start = next((i for i in range(least) if mine[i] != theirs[i]), least)
    end = next((i for i in range(least - start) if mine[-1 - i] != theirs[-1 - i]), least - start)
    return start, end


def _common_words(ours: Sequence[str | None], others: Sequence[str], edits: int) -> list[tuple[int, int]] | None:
    """Places of the longest common subsequence of n and m words; None where it leaves out more than `edits` of both.

    Time grows as n + m plus the square of the words left out, however often a word repeats.

    Source: Myers, "An O(ND) difference algorithm and its variations", Algorithmica 1, 1986, figure 2.
    """
    n, m = len(ours), len(others)
    reached, trail = [-1, -1, 0], list[list[int]]()
    for d in range(min(edits, n + m) + 1):
        # How far each diagonal i - j came with d - 1 edits, from diagonal -d - 1 to d + 1.
        before, reached = reached, [-1] * (2 * d + 5)
        trail.append(before)
        for k in range(-d, d + 1, 2):
            i = max(before[d + k + 2], before[d + k] + 1)
            j = i - k
            while i < n and j < m and ours[i] == others[j]:
                i, j = i + 1, j + 1
            reached[d + k + 2] = i
            if i >= n and j >= m:
                return _traced(trail, n, m)
    return None


def _traced(trail: Sequence[list[int]], i: int, j: int) -> list[tuple[int, int]]:
    """The pairs on the way back from (i, j); `trail` is what `_common_words` knew before each edit."""
    pairs = list[tuple[int, int]]()
    for d in range(len(trail) - 1, -1, -1):
        above, left = trail[d][d + i - j + 2], trail[d][d + i - j]
        while i > max(above, left + 1):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        i, j = (i, j - 1) if left < above else (i - 1, j)
    return pairs[::-1]
