"""Testing several hypotheses at once: an ordered family by p-values, and any family by e-values."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["e_bh", "fallback_test"]


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


def e_bh(log_evalues: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses are rejected with a false discovery rate of at most `alpha`, however the e-values depend.

    Args:
        log_evalues: natural logarithms of m e-values.
        alpha: expected share of false ones among the rejected, in (0, 1).

    Source: Wang and Ramdas, "False discovery rate control with e-values", 2022.
    """
    m = len(log_evalues)
    falling = sorted(log_evalues, reverse=True)
    passed = [k for k, value in enumerate(falling, start=1) if value >= math.log(m / (alpha * k))]
    return [bool(passed) and value >= math.log(m / (alpha * passed[-1])) for value in log_evalues]
