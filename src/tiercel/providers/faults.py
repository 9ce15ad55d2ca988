"""Faults that a replay server plays: how often each, drawn from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping

from tiercel.errors import ConfigurationError

__all__ = ["FAULTS", "FaultDraw", "parse_faults"]

FAULTS = {
    "429": "too many requests, with Retry-After",
    "500": "an internal error",
    "timeout": "no answer, until the client leaves",
    "half": "the first half of the answer, then the connection ends",
    "garbage": "status 200 and no JSON, or a broken stream",
    "slow": "the answer one byte at a time",
    "reset": "the connection is reset",
}
"""Name and meaning of each."""


def parse_faults(settings: Iterable[str]) -> dict[str, float]:
    """Probabilities from texts such as 429=0.1.

    Raises:
        ConfigurationError: there is no such fault, one is named twice, or a probability can't be.
    """
    found: dict[str, float] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        name = name.strip()
        if name in found:
            raise ConfigurationError(f"the fault {name} is given twice; give it once, with one probability")
        try:
            found[name] = float(text)
        except ValueError:
            raise ConfigurationError(f"the fault {setting!r} has no probability; write it as 429=0.1") from None
    return _checked(found)


def _checked(faults: Mapping[str, float]) -> dict[str, float]:
    for name, probability in faults.items():
        if name not in FAULTS:
            raise ConfigurationError(f"there is no fault {name!r}; choose from {', '.join(FAULTS)}")
        if not 0 <= probability <= 1:
            raise ConfigurationError(f"the fault {name} has probability {probability}; give one from 0 to 1")
    total = math.fsum(faults.values())
    if total > 1 + 1e-9:
        raise ConfigurationError(f"the faults' probabilities add up to {total:g}; they must not exceed 1")
    return dict(faults)


class FaultDraw:
    """Which fault each request gets, if any.

    Args:
        faults: probability of each; the rest has none.
        seed: of the draw; the same order of requests gets the same faults.

    Raises:
        ConfigurationError: there is no such fault, or the probabilities can't be.
    """

    def __init__(self, faults: Mapping[str, float], seed: int = 0) -> None:
        self._faults = _checked(faults)
        self._rng = random.Random(seed)

    def draw(self) -> str | None:
        """The fault of the next request; None for none."""
        if not self._faults:
            return None
        drawn = self._rng.random()
        for name, probability in self._faults.items():
            if drawn < probability:
                return name
            drawn -= probability
        return None
