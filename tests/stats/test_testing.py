from __future__ import annotations

import numpy as np
import pytest

from tiercel.stats.testing import e_bh, fallback_test


def test_with_one_start_it_is_fixed_sequence_testing() -> None:
    assert fallback_test([0.01, 0.05, 0.06, 0.0], [0.05, 0, 0, 0]) == [True, True, False, False]


def test_a_chain_that_breaks_starts_again_at_the_next_start_with_its_own_level_only() -> None:
    pvalues = [0.03, 0.001, 0.024, 0.026, 0.0]
    assert fallback_test(pvalues, [0.025, 0, 0.025, 0, 0]) == [False, False, True, False, False]


def test_a_chain_that_reaches_the_next_start_brings_its_level_along() -> None:
    pvalues = [0.02, 0.02, 0.04, 0.05, 0.051]
    assert fallback_test(pvalues, [0.025, 0, 0.025, 0, 0]) == [True, True, True, True, False]


def test_nothing_is_rejected_without_a_level_even_at_a_pvalue_of_zero() -> None:
    assert fallback_test([0.0, 0.0], [0.0, 0.0]) == [False, False]
    assert fallback_test([], []) == []


def test_it_refuses_levels_that_do_not_match_the_hypotheses() -> None:
    with pytest.raises(ValueError, match="2 p-values but 1 levels"):
        fallback_test([0.1, 0.2], [0.05])


@pytest.mark.parametrize("starts", [(0,), (0, 6, 12, 18), (3, 4, 5)])
@pytest.mark.parametrize("shape", ["all true", "bumps", "true from the middle", "every other one"])
def test_family_wise_error_stays_at_the_sum_of_levels(starts: tuple[int, ...], shape: str) -> None:
    """True hypotheses have p-values that are uniform and strongly dependent, the false ones have tiny p-values."""
    rng = np.random.default_rng(31)
    m, level, draws = 24, 0.1, 3_000
    i = np.arange(m)
    true = {
        "all true": np.ones(m, bool),
        "bumps": (i % 8) >= 5,
        "true from the middle": i >= m // 2,
        "every other one": i % 2 == 0,
    }[shape]
    levels = np.zeros(m)
    levels[list(starts)] = level / len(starts)
    wrong = 0
    for _ in range(draws):
        pvalues = np.where(rng.random(m) < 0.5, rng.random(m), rng.random())
        pvalues[~true] = rng.random(m)[~true] ** 12
        wrong += bool((np.array(fallback_test(pvalues.tolist(), levels.tolist())) & true).any())
    assert wrong / draws <= level + 3.5 * np.sqrt(level * (1 - level) / draws)


def test_family_wise_error_is_not_wasted() -> None:
    rng = np.random.default_rng(32)
    levels = [0.1 if k == 0 else 0.0 for k in range(10)]
    wrong = sum(any(fallback_test(rng.random(10).tolist(), levels)) for _ in range(4_000)) / 4_000
    assert 0.08 < wrong < 0.12


def test_it_rejects_whatever_separate_chains_would() -> None:
    rng = np.random.default_rng(33)
    levels = [0.05, 0, 0, 0.05, 0, 0, 0.05, 0]
    for _ in range(500):
        pvalues = (rng.random(8) ** 3).tolist()
        together = fallback_test(pvalues, levels)
        for start in (0, 3, 6):
            alone = fallback_test(pvalues, [level if i == start else 0 for i, level in enumerate(levels)])
            assert all(t or not a for t, a in zip(together, alone, strict=True))


def test_e_bh_rejects_the_largest_set_whose_smallest_e_value_is_large_enough() -> None:
    logs = np.log([100.0, 30.0, 21.0, 3.0]).tolist()
    # 4 / (0.1 k): 40, 20, 13.3, 10.
    assert e_bh(logs, 0.1) == [True, True, True, False]
    assert e_bh(np.log([19.0, 19.0, 3.0, 30.0]).tolist(), 0.1) == [True, True, False, True]
    assert e_bh(np.log([39.0, 19.0, 13.0, 9.0]).tolist(), 0.1) == [False] * 4
    assert e_bh([], 0.1) == []


def test_e_bh_holds_its_false_discovery_rate_under_full_dependence() -> None:
    rng, alpha, rates = np.random.default_rng(0), 0.2, list[float]()
    for _ in range(3_000):
        # One uniform decides all false ones: e-values with mean 1.
        null = 10.0 if rng.random() < 0.1 else 0.0
        hits = e_bh([float(np.log(max(v, 1e-9))) for v in [null] * 4 + [40.0]], alpha)
        rates.append(sum(hits[:4]) / max(1, sum(hits)))
    assert np.mean(rates) <= alpha + 3.5 * np.std(rates) / np.sqrt(3_000)
