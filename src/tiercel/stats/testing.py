"""Testing an ordered family of hypotheses with a bound on the chance of even one false rejection."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["fallback_test"]


def fallback_test(pvalues: Sequence[float], levels: Sequence[float]) -> list[bool]:
    """Which hypotheses are rejected, in the given order, with family-wise error at most `sum(levels)`.

    Each hypothesis owns a level, most of them 0. A rejected hypothesis hands its whole level on to the next; one that
    stands keeps it. With all of the level on the first hypothesis this is fixed-sequence testing; with levels at
    several *starts* it is fixed-sequence testing with several starts, only that a chain which reaches the next start
    brings its level along, so it rejects whatever separate chains would and more.

    Args:
        pvalues: of m hypotheses, in the order of testing.
        levels: level that each of the m hypotheses owns; their sum is the family-wise error rate.

    Source: Wiens, "A fixed sequence Bonferroni procedure for testing multiple endpoints", 2003; with several starts as
    in Angelopoulos et al., "Learn then test", 2021, section 2.3.
    """
    if len(pvalues) != len(levels):
        raise ValueError(f"{len(pvalues)} p-values but {len(levels)} levels")
    carried, rejected = 0.0, list[bool]()
    for pvalue, own in zip(pvalues, levels, strict=True):
        level = carried + own
        hit = level > 0 and pvalue <= level
        carried = level if hit else 0.0
        rejected.append(hit)
    return rejected
