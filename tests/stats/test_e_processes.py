"""Capital is what exact arithmetic gives, holds its level over all looks, and is the same to the last bit every time."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import msgspec
import numpy as np
import pytest

from tiercel.errors import DataError
from tiercel.stats.e_processes import LANES, Capital, EProcess, EValue, MeanTest, bets_of, start_weight

ABOVE = MeanTest(bound=0.02, alternative="above", low=0.0, high=10.0, restarts=3)
BELOW = MeanTest(bound=0.02, alternative="below", low=-10.0, high=10.0)


def _exact(test: MeanTest, values: list[float]) -> Fraction:
    """The definition, in fractions: a mixture over bets and over the starts of blocks."""
    total, seen, starts = Fraction(0), 0, [(0, start_weight(0) if test.restarts else 1.0)]
    for i, value in enumerate(values):
        if value:
            seen += 1
            if test.restarts and seen % test.restarts == 0:
                starts.append((i + 1, start_weight(seen // test.restarts)))
    for start, weight in starts:
        for bet in bets_of(test).tolist():
            capital = Fraction(weight) / LANES
            for value in values[start:]:
                capital *= 1 + Fraction(bet) * (Fraction(value) - Fraction(test.bound))
            total += capital
    return total + 1 - sum(Fraction(weight) for _, weight in starts)


@pytest.mark.parametrize("test", [ABOVE, BELOW])
def test_the_capital_is_the_mixture_that_it_is_defined_to_be(test: MeanTest) -> None:
    rng = np.random.default_rng(1)
    values = [float(v) for v in rng.choice([0.0, 0.0, 0.0, 1.5, 10.0], 60)]
    process = EProcess(test)
    for value in values:
        process.update(value) if value else process.update_zeros(1)
    assert process.value.log == pytest.approx(math.log(_exact(test, values)), rel=1e-12)


def test_zeros_in_a_row_are_zeros_one_by_one() -> None:
    together, single = EProcess(ABOVE), EProcess(ABOVE)
    together.update_zeros(1_237)
    for _ in range(1_237):
        single.update_zeros(1)
    assert together.value.log == pytest.approx(single.value.log, rel=1e-12)
    before = together.value
    together.update_zeros(0)
    assert together.value == before


def test_the_shares_of_all_blocks_sum_to_one() -> None:
    octaves = [sum(start_weight(b) for b in range(2 ** (o - 1), 2**o)) for o in range(1, 15)]
    assert octaves == pytest.approx([1 / ((o + 1) * (o + 2)) for o in range(1, 15)])
    assert start_weight(0) + sum(octaves) == pytest.approx(1 - 1 / 16)


def _crossed(mean: float, test: MeanTest, delta: float, runs: int, looks: int, weight: float) -> float:
    rng, hit = np.random.default_rng(3), np.zeros(runs, bool)
    process = EProcess(test, (runs,))
    for _ in range(looks):
        process.update_zeros(rng.geometric(1 / weight, runs) - 1)
        process.update(np.where(rng.random(runs) < mean, weight, 0.0))
        hit |= process.log_values >= math.log(1 / delta)
    return float(hit.mean())


@pytest.mark.parametrize("alternative", ["above", "below"])
def test_the_level_holds_over_all_looks_at_the_bound(alternative: str) -> None:
    test = MeanTest(
        bound=0.1, alternative="above" if alternative == "above" else "below", low=0.0, high=4.0, restarts=16
    )
    level, runs = 0.2, 1_000
    found = _crossed(0.1, test, level, runs, 1_000, 4.0)
    assert found <= level + 3.5 * math.sqrt(level * (1 - level) / runs)
    # A wrong factor or bound that made it idle would be seen too.
    assert found >= level / 8


def test_a_bound_that_is_wrong_by_a_third_breaks_the_level() -> None:
    # What the test above must be able to see.
    test = MeanTest(bound=0.07, alternative="above", low=0.0, high=4.0, restarts=16)
    assert _crossed(0.1, test, 0.2, 400, 1_500, 4.0) > 0.5


def test_the_mean_capital_is_one_at_the_bound() -> None:
    rng, runs = np.random.default_rng(5), 200_000
    test = MeanTest(bound=0.5, alternative="above", low=0.0, high=1.0, restarts=2)
    process = EProcess(test, (runs,))
    for _ in range(6):
        process.update((rng.random(runs) < 0.5).astype(float))
    capital = np.exp(process.log_values)
    assert capital.mean() == pytest.approx(1.0, abs=4 * capital.std() / math.sqrt(runs))


@pytest.mark.parametrize("restarts", [0, 1, 2])
@pytest.mark.parametrize("alternative", ["above", "below"])
def test_the_expected_capital_over_all_paths_of_weighted_draws_is_one(alternative: str, restarts: int) -> None:
    # Each request is drawn with probability 0.3, and costs 1 with probability 0.2 if it is: every path, exactly.
    drawn, wrong = 0.3, 0.2
    test = MeanTest(
        bound=wrong,
        alternative="above" if alternative == "above" else "below",
        low=0.0,
        high=1 / drawn,
        restarts=restarts,
    )
    chances = {"passed": 1 - drawn, "right": drawn * (1 - wrong), "wrong": drawn * wrong}
    expected = 0.0
    for path in itertools.product(chances, repeat=6):
        process = EProcess(test)
        for step in path:
            process.update_zeros(1) if step == "passed" else process.update(1 / drawn if step == "wrong" else 0.0)
        expected += math.prod(chances[step] for step in path) * math.exp(process.value.log)
    assert expected == pytest.approx(1.0, abs=1e-9)


def test_a_change_after_a_long_good_time_is_found_with_restarts_only() -> None:
    found = dict[int, bool]()
    for restarts in (0, 64):
        rng = np.random.default_rng(0)
        process = EProcess(MeanTest(bound=0.02, alternative="above", low=0.0, high=10.0, restarts=restarts))
        for i in range(7_000):
            process.update_zeros(9)
            process.update(10.0 * (rng.random() < (0.01 if i < 5_000 else 0.05)))
        found[restarts] = process.value.reaches(0.05)
    assert found == {0: False, 64: True}


@pytest.mark.parametrize("test", [ABOVE, BELOW])
def test_going_on_from_a_stored_state_gives_the_same_bits(test: MeanTest) -> None:
    rng = np.random.default_rng(2)
    through, values = EProcess(test), rng.choice([0.0, 0.3, 10.0], 300, p=[0.7, 0.2, 0.1]).tolist()
    stopped = EProcess(test)
    for i, value in enumerate(values):
        for process in (through, stopped):
            process.update_zeros(i % 17)
            process.update(value)
        if i % 7 == 0:
            raw = msgspec.json.encode(stopped.capital())
            stopped = EProcess.resume(test, msgspec.json.decode(raw, type=Capital))
        assert stopped.value == through.value
    assert stopped.capital() == through.capital()


def test_side_by_side_streams_are_the_single_ones_to_the_last_bit() -> None:
    rng = np.random.default_rng(4)
    values, zeros = rng.choice([0.0, 2.5, 10.0], (200, 3)), rng.integers(0, 40, (200, 3))
    many, single = EProcess(ABOVE, (3,)), [EProcess(ABOVE) for _ in range(3)]
    for row, counts in zip(values, zeros, strict=True):
        many.update_zeros(counts)
        many.update(row)
        for process, value, count in zip(single, row.tolist(), counts.tolist(), strict=True):
            process.update_zeros(count)
            process.update(value)
        assert many.log_values.tolist() == pytest.approx([p.value.log for p in single], rel=1e-14)
    assert many._sum()[0].tolist() == [p.value.mantissa for p in single]


def test_a_million_values_neither_overflow_nor_vanish() -> None:
    process = EProcess(MeanTest(bound=0.02, alternative="below", low=0.0, high=1.0))
    process.update_zeros(10**9)
    assert math.isfinite(process.value.log) and process.value.reaches(1e-300)
    for _ in range(2_000):
        process.update(1.0)
    assert math.isfinite(process.value.log)
    lost = EProcess(MeanTest(bound=0.02, alternative="above", low=0.0, high=1.0, restarts=64))
    lost.update_zeros(10**9)
    assert 0.4 < math.exp(lost.value.log) <= 0.5
    for _ in range(3_000):
        lost.update(1.0)
    assert lost.value.log > 1_000


def test_an_e_value_beyond_a_float_still_knows_its_level() -> None:
    assert EValue(0.5, 100_000).reaches(1e-300) and not EValue(0.5, -100_000).reaches(0.99)
    assert EValue(0.5, 1).reaches(1.0) and not EValue(0.5, 1).reaches(0.999)
    assert not EValue(0.9, 900).reaches(0.0)


@pytest.mark.parametrize("value", [-0.01, 10.01, math.nan, math.inf])
def test_a_value_out_of_range_is_refused_and_changes_nothing(value: float) -> None:
    process, many = EProcess(ABOVE), EProcess(ABOVE, (2,))
    before = process.capital()
    with pytest.raises(DataError, match="outside"):
        process.update(value)
    with pytest.raises(DataError, match="outside"):
        many.update(np.array([0.0, value]))
    with pytest.raises(DataError, match="give 0 or more"):
        process.update_zeros(-1)
    assert process.capital() == before


@pytest.mark.parametrize(
    "fields",
    [
        {"bound": 0.0}, {"bound": 10.0}, {"bound": math.nan}, {"low": 0.01}, {"high": math.inf}, {"restarts": -1},
    ],
)  # fmt: skip
def test_a_test_that_contradicts_itself_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(DataError, match="give"):
        EProcess(msgspec.structs.replace(ABOVE, **fields))


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="start the test anew"):
        EProcess.resume(ABOVE, Capital((1.0,), (0,), 0.0, 0))
