from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.datasets.splitting import joined_groups, split_groups
from tiercel.errors import ConfigurationError

FRACTIONS = [(1.0,), (0.5, 0.5), (0.6, 0.2, 0.1, 0.1), (0.7, 0.3, 0.0), (0.25, 0.25, 0.25, 0.25)]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-3, 12), max_size=60),
    st.sampled_from(FRACTIONS),
    st.integers(0, 2**32),
)
def test_it_is_a_partition_that_keeps_groups_whole_near_the_sizes_asked_for(
    groups: list[int], fractions: tuple[float, ...], seed: int
) -> None:
    array = np.array(groups, dtype=np.int64)
    parts = split_groups(array, fractions, seed)
    assert len(parts) == len(fractions)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
    assert all(p.tolist() == sorted(p.tolist()) for p in parts)
    homes = [set(array[p].tolist()) for p in parts]
    assert sum(map(len, homes)) == len(set(groups))
    largest = max((groups.count(g) for g in set(groups)), default=0)
    for part, share in zip(parts, fractions, strict=True):
        assert len(part) < share * len(groups) + largest or len(part) == 0
        if share == 0:
            assert len(part) == 0


@pytest.mark.parametrize("fractions", FRACTIONS)
def test_single_rows_are_parted_in_exact_sizes(fractions: tuple[float, ...]) -> None:
    parts = split_groups(np.arange(200), fractions, 3)
    assert [len(p) for p in parts] == [round(200 * f) for f in fractions]


def test_the_seed_alone_decides() -> None:
    groups = np.random.default_rng(61).integers(0, 50, 200)
    one, same, other = (split_groups(groups, (0.5, 0.5), seed) for seed in (1, 1, 2))
    assert [p.tolist() for p in one] == [p.tolist() for p in same]
    assert one[0].tolist() != other[0].tolist()


def test_every_row_is_as_likely_in_each_part_and_rows_are_not_tied_to_each_other() -> None:
    fractions, draws, n = (0.6, 0.2, 0.2), 1_500, 10
    part_of = np.zeros((draws, n), dtype=int)
    for seed in range(draws):
        for number, part in enumerate(split_groups(np.arange(n), fractions, seed)):
            part_of[seed, part] = number
    shares = np.stack([(part_of == number).mean(axis=0) for number in range(3)])
    assert np.abs(shares - np.array(fractions)[:, None]).max() < 4 * np.sqrt(0.25 / draws)
    # Of all pairs, 15 + 1 + 1 of 45 lie in one part when parts are drawn without regard to the order of rows.
    for other in range(1, n):
        together = (part_of[:, 0] == part_of[:, other]).mean()
        assert abs(together - 17 / 45) < 4 * np.sqrt(0.25 / draws)


@pytest.mark.parametrize("fractions", [(0.5, 0.6), (0.5,), (1.2, -0.2)])
def test_fractions_that_are_no_partition_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="sum to 1"):
        split_groups(np.arange(5), fractions, 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=40))
def test_joined_groups_are_the_finest_that_part_neither(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array([p[side] for p in pairs], dtype=np.int64) for side in (0, 1))
    joined = joined_groups(a, b)
    reach = list(range(len(pairs)))
    for _ in pairs:
        for i, (x, y) in enumerate(pairs):
            reach[i] = min(reach[j] for j, (u, v) in enumerate(pairs) if u == x or v == y)
    same = [[joined[i] == joined[j] for j in range(len(pairs))] for i in range(len(pairs))]
    assert same == [[reach[i] == reach[j] for j in range(len(pairs))] for i in range(len(pairs))]
