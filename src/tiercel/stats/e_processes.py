"""E-processes: the capital of a gambler who bets against a hypothesis on the mean of a stream of bounded values.

While the hypothesis holds, the capital's chance of ever reaching 1 / delta is at most delta (Ville's inequality),
however often and whenever it is looked at. The gambler splits his stake over fixed bets, so that nothing has to be
tuned; with *restarts* a part of the stake waits and is put in later, so that a change after a long good time is not
hidden by what was lost in that time.

All arithmetic is multiplication, addition and scaling by powers of two, each of which IEEE 754 fixes to the last bit:
the same values in the same order give the same capital on every machine, and nothing overflows or vanishes.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024; the capital that waits
is a mixture of e-processes over their starting times, as in Shin, Ramdas and Rinaldo, "E-detectors", 2023.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.errors import DataError

__all__ = ["Capital", "EProcess", "EValue", "MeanTest", "bets_of", "start_weight"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LANES = 20
"""Bets that the stake is split over."""
_STEP = 0.625
"""Each bet is this much of the one before; 20 of them span a factor of 7,500."""
_BOLDEST = 0.96875
"""Of the bet that could ruin the gambler."""
_FAR = 2_000
"""Powers of two beyond which a part of a sum can't be seen."""


class MeanTest(Struct, frozen=True, kw_only=True):
    """A hypothesis on the conditional mean of each value of a stream, given the values before it."""

    bound: float
    """The mean that is tested, strictly between `low` and `high`."""
    alternative: Literal["above", "below"]
    """What the gambler bets on: "above" speaks against "the mean is at most `bound`", "below" against "at least"."""
    low: float
    """Smallest value that can occur; at most 0, so that a zero can."""
    high: float
    """Largest value that can occur; at least 0."""
    restarts: int = 0
    """Observations, zeros not counted, after which more of the stake is put in; 0 puts all in at the start."""


class EValue(Struct, frozen=True, array_like=True):
    """A capital `mantissa * 2 ** exponent`, which may be far beyond what a float holds."""

    mantissa: float
    """In [0.5, 1)."""
    exponent: int
    """Power of two."""

    @property
    def log(self) -> float:
        """Natural logarithm."""
        return math.log(self.mantissa) + self.exponent * math.log(2)

    def reaches(self, delta: float) -> bool:
        """Whether the hypothesis is refuted at level `delta`; never, where `delta` is 0."""
        return delta > 0 and math.ldexp(self.mantissa, max(-_FAR, min(self.exponent, 1_000))) >= 1 / delta


class Capital(Struct, frozen=True, array_like=True):
    """All that an e-process remembers; JSON keeps it to the last bit."""

    mantissas: tuple[float, ...]
    """Capital on each bet, without its power of two."""
    exponents: tuple[int, ...]
    """The powers of two."""
    waiting: float
    """Stake that was not put in yet."""
    seen: int
    """Observations, zeros not counted."""


def start_weight(block: int) -> float:
    """Share of the stake that is put in at the start of a block of observations; all shares sum to 1.

    Octave o, which has 2 ** (o - 1) blocks (octave 0 has one), shares 1 / ((o + 1) (o + 2)) evenly: a change in block b
    costs about log b + 2 log log b in the logarithm of the capital.
    """
    octave = block.bit_length()
    return 1.0 / ((octave + 1) * (octave + 2) * 2 ** max(0, octave - 1))


def bets_of(test: MeanTest) -> Floats:
    """The bets that the stake is split over, shape (20,), boldest first; negative where they are on "below".

    A value x multiplies what lies on a bet by 1 + bet * (x - bound).

    Raises:
        DataError: the test contradicts itself.
    """
    return _bets_of(test).bets


class _Bets:
    """What follows from a test alone: the bets, and what k zeros in a row do to each."""

    def __init__(self, test: MeanTest) -> None:
        if not (test.low < test.bound < test.high and test.low <= 0 <= test.high) or not math.isfinite(
            test.high - test.low
        ):
            raise DataError(
                f"a mean of {test.bound} can't be tested for values in [{test.low}, {test.high}]; "
                "give a bound strictly between the two, and a range that holds 0"
            )
        if test.restarts < 0:
            raise DataError(f"restarts after {test.restarts} observations make no sense; give 0 or more")
        above = test.alternative == "above"
        bet = _BOLDEST / (test.bound - test.low if above else test.high - test.bound)
        bets = list[float]()
        for _ in range(LANES):
            bets.append(bet if above else -bet)
            bet *= _STEP
        self.bets: Floats = np.array(bets)
        # No factor, and no product of so many, leaves the range of a float, so that scaling may wait that long.
        widest = max(test.high - test.bound, test.bound - test.low) * abs(bets[0])
        self.patience = max(1, int(400 / max(6.0, math.log2(1.0 + widest))))
        self._powers: list[tuple[Floats, Integers]] = [_split(1.0 + self.bets * (0.0 - test.bound))]

    def power(self, bit: int) -> tuple[Floats, Integers]:
        """What `2 ** bit` zeros multiply the capital with, shape (lanes,)."""
        while len(self._powers) <= bit:
            mantissas, exponents = self._powers[-1]
            squares, more = _split(mantissas * mantissas)
            self._powers.append((squares, 2 * exponents + more))
        return self._powers[bit]


@functools.lru_cache(maxsize=4_096)
def _bets_of(test: MeanTest) -> _Bets:
    return _Bets(test)


def _split(values: Floats) -> tuple[Floats, Integers]:
    mantissas, exponents = np.frexp(values)
    return mantissas, exponents.astype(np.int64)


class EProcess:
    """A test's capital along a stream.

    Args:
        test: the hypothesis and the range of values.
        runs: shape of independent streams that go side by side; empty for one stream.

    Raises:
        DataError: the test contradicts itself.
    """

    def __init__(self, test: MeanTest, runs: tuple[int, ...] = ()) -> None:
        self.test = test
        self._bets = _bets_of(test)
        self._mantissas: Floats = np.zeros((*runs, LANES))
        self._exponents: Integers = np.zeros((*runs, LANES), np.int64)
        self._waiting = 1.0
        self._seen = 0
        self._unscaled = 0
        self._value: EValue | None = None
        self._put_in(start_weight(0) if test.restarts else 1.0)

    def update(self, value: float | Floats) -> None:
        """Book the next observation.

        Args:
            value: in [low, high]; with several streams, an array of their shape.

        Raises:
            DataError: the value is outside of the range or is no number; nothing was booked.
        """
        test = self.test
        if isinstance(value, np.ndarray):
            if not ((value >= test.low) & (value <= test.high)).all():
                raise DataError(f"a value outside [{test.low:g}, {test.high:g}]; check weights and losses")
            value = value[..., None]
        elif not test.low <= value <= test.high:
            raise DataError(f"the value {value} is outside [{test.low:g}, {test.high:g}]; check weights and losses")
        self._value = None
        factors = self._bets.bets * (value - test.bound)
        factors += 1.0
        self._mantissas = self._mantissas * factors
        self._seen += 1
        self._unscaled += 1
        if self._unscaled >= self._bets.patience:
            self._scale()
        # Now, and not before the next observation: by then it is known whether zeros came in between.
        if test.restarts and self._seen % test.restarts == 0:
            self._put_in(start_weight(self._seen // test.restarts))

    def update_zeros(self, count: int | Integers) -> None:
        """Book `count` zeros in a row, in time that grows with the logarithm of `count`.

        Args:
            count: 0 or more; with several streams, an array of their shape.

        Raises:
            DataError: a count below 0.
        """
        most = int(np.max(count)) if isinstance(count, np.ndarray) else count
        if (int(np.min(count)) if isinstance(count, np.ndarray) else count) < 0:
            raise DataError(f"{count} zeros can't be booked; give 0 or more")
        self._value = None
        for bit in range(most.bit_length()):
            mantissas, exponents = self._bets.power(bit)
            if isinstance(count, np.ndarray):
                here = ((count >> bit) & 1).astype(np.bool_)[..., None]
                mantissas, exponents = np.where(here, mantissas, 1.0), np.where(here, exponents, 0)
            elif not (count >> bit) & 1:
                continue
            self._mantissas = self._mantissas * mantissas
            self._exponents += exponents
            self._unscaled += 1
            if self._unscaled >= self._bets.patience:
                self._scale()

    @property
    def value(self) -> EValue:
        """The capital of one stream."""
        if self._value is None:
            mantissa, exponent = self._sum()
            self._value = EValue(float(mantissa), int(exponent))
        return self._value

    @property
    def log_values(self) -> Floats:
        """Natural logarithm of the capital, of the streams' shape."""
        mantissa, exponent = self._sum()
        return np.log(mantissa) + exponent * math.log(2)

    def _scale(self) -> None:
        """Bring every capital to [0.5, 1) and its power of two, which changes no bit of it."""
        self._mantissas, more = np.frexp(self._mantissas)
        self._exponents += more
        self._unscaled = 0

    def _sum(self) -> tuple[Any, Any]:
        # A running sum has one order of additions on every machine, which numpy's sum has not.
        if self._exponents.ndim == 1:
            top: Any = max(int(self._exponents.max()), 0)
            total = float(np.ldexp(self._mantissas, np.maximum(self._exponents - top, -_FAR)).cumsum()[-1])
            mantissa, more = math.frexp(total + math.ldexp(self._waiting, max(-top, -_FAR)))
            return mantissa, top + more
        top = np.maximum(self._exponents.max(axis=-1), 0)
        shifts = np.maximum(self._exponents - top[..., None], -_FAR)
        total = np.ldexp(self._mantissas, shifts).cumsum(axis=-1)[..., -1]
        mantissa, more = np.frexp(total + np.ldexp(self._waiting, np.maximum(-top, -_FAR)))
        return mantissa, top + more

    def _put_in(self, weight: float) -> None:
        self._scale()
        self._waiting -= weight
        share = weight / LANES
        # Each bet's capital and its share of the new stake are added at the larger of their two scales.
        top = np.maximum(self._exponents, 0)
        old = np.ldexp(self._mantissas, np.maximum(self._exponents - top, -_FAR))
        self._mantissas, more = np.frexp(old + np.ldexp(share, np.maximum(-top, -_FAR)))
        self._exponents = top + more

    def capital(self) -> Capital:
        """What `resume` needs to go on; of one stream."""
        self._scale()
        return Capital(tuple(self._mantissas.tolist()), tuple(self._exponents.tolist()), self._waiting, self._seen)

    @classmethod
    def resume(cls, test: MeanTest, capital: Capital) -> EProcess:
        """The process as it was when `capital` was taken.

        Raises:
            DataError: the capital is of another kind of test.
        """
        if len(capital.mantissas) != LANES or len(capital.exponents) != LANES:
            raise DataError(f"a capital on {len(capital.mantissas)} bets is not one of {LANES}; start the test anew")
        process = cls(test)
        process._mantissas = np.array(capital.mantissas)
        process._exponents = np.array(capital.exponents, np.int64)
        process._waiting, process._seen = capital.waiting, capital.seen
        return process
