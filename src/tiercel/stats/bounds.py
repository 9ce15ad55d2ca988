"""P-values for the hypothesis "the mean loss is above the bound", each valid in finite samples.

A small p-value speaks for a mean loss at or below the bound. `binomial_pvalue` is exact for losses that are 0 or 1,
`hoeffding_bentkus_pvalue` and `betting_pvalue` hold for any bounded loss; betting adapts to a small variance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["betting_log_wealth", "betting_pvalue", "binomial_cdf", "binomial_pvalue", "hoeffding_bentkus_pvalue"]

Floats = NDArray[np.float64]

_BETS = 48


_table: list[Floats] = [np.zeros(1)]
"""Logarithms of factorials from 0 up, in one array that grows."""


def _log_factorials(n: int) -> Floats:
    if _table[0].size <= n:
        longest = max(n, 2 * _table[0].size)
        _table[0] = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, longest + 1, dtype=np.float64)))])
    return _table[0]


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Probability of at most `k` successes in `n` draws of probability `p`.

    Args:
        k: successes; below 0 gives 0, `n` and above gives 1.
        n: draws, at least 0.
        p: probability of a success, in [0, 1].
    """
    if k < 0:
        return 0.0
    if k >= n or p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 0.0
    log_f = _log_factorials(n)
    i = np.arange(0, k + 1)
    terms = log_f[n] - log_f[i] - log_f[n - i] + i * np.log(p) + (n - i) * np.log1p(-p)
    top = float(terms.max())
    return min(1.0, float(np.exp(top) * np.exp(terms - top).sum()))


def binomial_pvalue(errors: int, n: int, bound: float) -> float:
    """Exact p-value for "the error rate is above `bound`" after `errors` of `n` independent rows went wrong.

    Source: Clopper and Pearson, 1934; used for risk control by Bates et al., 2021 (RCPS).
    """
    return binomial_cdf(errors, n, bound) if n else 1.0


def hoeffding_bentkus_pvalue(mean: float, n: int, bound: float) -> float:
    """P-value for "the mean of losses in [0, 1] is above `bound`", the smaller of Hoeffding's and Bentkus'.

    Args:
        mean: mean of the `n` losses, in [0, 1].
        n: independent rows.
        bound: the loss that is allowed, in (0, 1).

    Source: Bates et al., "Distribution-free, risk-controlling prediction sets", 2021, section 3.1.
    """
    if n == 0:
        return 1.0
    low = min(mean, bound)
    divergence = 0.0
    if low > 0:
        divergence += low * np.log(low / bound)
    if low < 1:
        divergence += (1 - low) * np.log((1 - low) / (1 - bound))
    hoeffding = float(np.exp(-n * divergence))
    bentkus = float(np.e) * binomial_cdf(int(np.ceil(n * mean - 1e-9)), n, bound)
    return min(1.0, hoeffding, bentkus)


def betting_pvalue(losses: Floats, bound: float, low: float = 0.0, high: float = 1.0) -> float:
    """P-value for "the mean loss is above `bound`", from the capital of a gambler who bets that it is below.

    The gambler splits his stake evenly over fixed bets between 0 and the largest that can't ruin him. His capital is a
    martingale when the mean is `bound` and falls when it is above, so Ville's inequality bounds its maximum. The value
    depends on the order of rows: shuffle them once, with a seed that is kept.

    Args:
        losses: float array of shape (n,), each in [low, high], in the order of the bets.
        bound: the mean that is tested, in (low, high).
        low: smallest loss that can occur.
        high: largest loss that can occur.

    Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024, section 4.
    """
    if losses.size == 0 or bound >= high:
        return 1.0 if losses.size == 0 else 0.0
    log_capital = np.cumsum(_log_gains(losses, bound, low, high), axis=1)
    top = log_capital.max(axis=0)
    log_mixture = top + np.log(np.exp(log_capital - top).mean(axis=0))
    return min(1.0, float(np.exp(-max(0.0, float(log_mixture.max())))))


def betting_log_wealth(losses: Floats, bound: float, low: float = 0.0, high: float = 1.0) -> float:
    """Logarithm of what the gambler of `betting_pvalue` holds at the end: an e-value for "the mean is above `bound`".

    Its expectation is at most 1 where the mean is at or above the bound. Unlike the maximum that a p-value may use, it
    may be averaged with other e-values and does not depend on the order of rows.

    Args:
        losses: float array of shape (n,), each in [low, high].
        bound: the mean that is tested, in (low, high).
        low: smallest loss that can occur.
        high: largest loss that can occur.
    """
    if losses.size == 0 or bound >= high:
        return 0.0
    log_capital = _log_gains(losses, bound, low, high).sum(axis=1)
    top = float(log_capital.max())
    return top + float(np.log(np.exp(log_capital - top).mean()))


def _log_gains(losses: Floats, bound: float, low: float, high: float) -> Floats:
    """What each bet gains from each loss, as logarithms of shape (bets, n)."""
    if float(losses.min()) < low or float(losses.max()) > high:
        raise ValueError(f"losses outside [{low}, {high}]")
    bets = np.geomspace(1e-3, 0.98, _BETS) / (high - bound)
    return np.log1p(bets[:, None] * (bound - losses[None, :]))
