"""Whether one of two systems that answered the same rows is worse, by tests whose level holds for any number of rows.

Both rest on one hypothesis: which of the two gave which result of a row is a toss of a coin. Then results may be
exchanged row by row, and what was seen is compared with what such exchanges give.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tiercel.stats.bounds import binomial_cdf
from tiercel.stats.ranking import auroc

__all__ = ["auroc_fall_pvalue", "loss_rise_pvalue"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_LOSS_DRAWS = 9_999
_AUROC_DRAWS = 1_999
_ROUNDING = 1e-12


def loss_rise_pvalue(first: Floats, second: Floats, *, seed: int = 0) -> float:
    """P-value for "the first system does not lose more than the second", one-sided.

    Signs of the rows' differences are flipped. Where all differences are of one size, as with losses of 0 and 1, that
    is the exact test of McNemar, a binomial one on the rows that differ; otherwise flips are drawn, and what was seen
    counts as one of the draws, which keeps the level exact.

    Args:
        first: losses, shape (n,).
        second: losses of the same rows, shape (n,).
        seed: of the draws.

    Source: Pitman, "Significance tests which may be applied to samples from any populations", 1937; Phipson and Smyth,
    "Permutation p-values should never be zero", 2010.
    """
    apart = first - second
    apart = apart[np.abs(apart) > _ROUNDING]
    if not apart.size:
        return 1.0
    sizes = np.abs(apart)
    if np.ptp(sizes) < _ROUNDING:
        return binomial_cdf(int((apart < 0).sum()), apart.size, 0.5)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(_LOSS_DRAWS, apart.size))
    as_large = int((signs @ sizes >= apart.sum() - _ROUNDING).sum())
    return (1 + as_large) / (1 + _LOSS_DRAWS)


def auroc_fall_pvalue(
    first: tuple[Floats, Bools], second: tuple[Floats, Bools], *, seed: int = 0, draws: int = _AUROC_DRAWS
) -> float:
    """P-value for "the first system's scores tell its right answers from its wrong ones as well as the second's do".

    One-sided. DeLong's test needs one set of right answers for both and many wrong ones; systems of which each may err
    on rows of its own are compared by exchanging a row's score and outcome together. 1 where the first ranks no worse,
    or where one of the two has no wrong answer or no right one.

    Args:
        first: scores, shape (n,), and which answers are right, shape (n,).
        second: the same of the other system, on the same rows and one scale of scores.
        seed: of the draws.
        draws: exchanges that are drawn.

    Source: Venkatraman and Begg, "A distribution-free procedure for comparing receiver operating characteristic curves
    from a paired experiment", 1996; with scores as they are, since both systems measure the same.
    """
    fall = auroc(*second) - auroc(*first)
    if not fall > _ROUNDING:
        return 1.0
    rng = np.random.default_rng(seed)
    as_large = 1
    for _ in range(draws):
        other = rng.random(first[0].size) < 0.5
        one = [np.where(other, b, a) for a, b in zip(first, second, strict=True)]
        two = [np.where(other, a, b) for a, b in zip(first, second, strict=True)]
        # An exchange that leaves one side without an error has no area: it counts against the fall.
        as_large += (
            not auroc(two[0], two[1].astype(np.bool_)) - auroc(one[0], one[1].astype(np.bool_)) < fall - _ROUNDING
        )
    return as_large / (1 + draws)
