"""Confidence sequences cover the mean at all looks at once, and are the inversion of the e-processes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tiercel.errors import DataError
from tiercel.stats.confidence_sequences import Tally, mean_sequence, observations_until
from tiercel.stats.e_processes import EProcess, MeanTest


def _tally(values: list[float]) -> Tally:
    tally = Tally(values={})
    for value in values:
        tally.add(value)
    return tally


def test_its_ends_are_where_the_e_processes_reach_the_level() -> None:
    values = np.random.default_rng(0).choice([0.0, 2.0, 10.0], 800, p=[0.98, 0.01, 0.01]).tolist()
    found = mean_sequence(_tally(values), low=0.0, high=10.0, least=0.0, most=1.0, confidence=0.9)
    assert found.value == pytest.approx(np.mean(values))
    for mean, alternative in ((found.low, "above"), (found.high, "below")):
        process = EProcess(
            MeanTest(bound=mean, alternative="above" if alternative == "above" else "below", low=0.0, high=10.0)
        )
        for value in values:
            process.update(value)
        assert process.value.log == pytest.approx(math.log(2 / 0.1), abs=1e-6)


def test_it_covers_at_all_looks_at_once() -> None:
    rng, runs, missed = np.random.default_rng(1), 120, 0
    for _ in range(runs):
        tally, bad = Tally(values={}), False
        for look in range(1, 400):
            tally.add(5.0 if rng.random() < 0.01 else 0.0)
            if look % 20 == 0:
                found = mean_sequence(tally, low=0.0, high=5.0, least=0.0, most=1.0, confidence=0.8)
                bad |= not found.low <= 0.05 <= found.high
        missed += bad
    assert missed / runs <= 0.2 + 3.5 * math.sqrt(0.2 * 0.8 / runs)


def test_it_shrinks_and_depends_on_no_order() -> None:
    values = np.random.default_rng(2).choice([0.0, -4.0, 4.0], 3_000, p=[0.97, 0.01, 0.02]).tolist()
    widths = list[float]()
    for n in (30, 300, 3_000):
        one = mean_sequence(_tally(values[:n]), low=-4.0, high=4.0, least=-1.0, most=1.0)
        other = mean_sequence(_tally(values[:n][::-1]), low=-4.0, high=4.0, least=-1.0, most=1.0)
        assert one == other
        assert one.low <= one.value <= one.high
        widths.append(one.high - one.low)
    assert widths[0] > widths[1] > widths[2]


def test_the_ends_of_the_range() -> None:
    nothing = mean_sequence(Tally(values={}), low=0.0, high=4.0, least=0.0, most=1.0)
    assert (nothing.low, nothing.high, math.isnan(nothing.value)) == (0.0, 1.0, True)
    good = mean_sequence(Tally(zeros=5_000, values={}), low=0.0, high=4.0, least=0.0, most=1.0)
    assert good.low == 0.0 < good.high < 0.02
    bad = mean_sequence(Tally(zeros=0, values={1.0: 500}), low=0.0, high=4.0, least=0.0, most=1.0)
    assert bad.low > 0.8 and bad.high == 1.0
    with pytest.raises(DataError, match="outside"):
        mean_sequence(Tally(values={5.0: 1}), low=0.0, high=4.0, least=0.0, most=1.0)


def test_the_forecast_of_observations_is_near_what_it_takes() -> None:
    test = MeanTest(bound=0.05, alternative="below", low=0.0, high=10.0)
    tally = Tally(zeros=999, values={10.0: 1})
    taken = list[int]()
    for seed in range(20):
        rng, process, n = np.random.default_rng(seed), EProcess(test), 0
        while not process.value.reaches(0.05):
            process.update(10.0 if rng.random() < 0.001 else 0.0)
            n += 1
        taken.append(n)
    assert observations_until(test, tally, 0.05) == pytest.approx(np.mean(taken), rel=0.5)
    assert observations_until(test, tally, 0.05, log_capital=9.0) == 0.0
    assert observations_until(test, Tally(zeros=900, values={10.0: 100}), 0.05) == math.inf
    assert observations_until(test, Tally(values={}), 0.05) == math.inf
