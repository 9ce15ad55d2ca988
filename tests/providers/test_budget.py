from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tiercel.providers.budget import Budget, nano_usd, usd


def test_costs_round_up_and_the_limit_down() -> None:
    assert nano_usd(1.0000000001) == 1_000_000_001
    assert nano_usd(0.1 + 0.2) == 300_000_000, "the error of a float is no cost"
    assert Budget(0.9999999999).limit == 999_999_999
    assert usd(1_500_000_000) == 1.5


def test_ten_tenths_fit_exactly_and_no_more() -> None:
    budget = Budget(1.0)
    assert [budget.reserve(nano_usd(0.1)) for _ in range(11)] == [True] * 10 + [False]


def test_what_earlier_runs_spent_counts() -> None:
    assert not Budget(1.0, spent=nano_usd(0.95)).reserve(nano_usd(0.1))


def test_without_a_limit_everything_fits() -> None:
    assert Budget(None).reserve(10**30)


@given(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.integers(0, 3_000), st.floats(0, 1), st.integers(0, 5)), max_size=60),
)
def test_spent_never_passes_the_limit(limit: int, calls: list[tuple[int, float, int]]) -> None:
    budget = Budget(usd(limit))
    under_way = list[tuple[int, int]]()
    for amount, share, settled in calls:
        if budget.reserve(amount):
            under_way.append((amount, round(share * amount)))
        else:
            assert budget.spent + budget.reserved + amount > limit
        for _ in range(min(settled, len(under_way))):
            budget.settle(*under_way.pop(0))
        assert budget.spent + budget.reserved <= limit
        assert budget.under_way == len(under_way)
    assert budget.reserved == sum(a for a, _ in under_way)
