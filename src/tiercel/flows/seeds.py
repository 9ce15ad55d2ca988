"""Seeds that all of numpy, scikit-learn and torch take."""

from __future__ import annotations

from tiercel.errors import ConfigurationError

__all__ = ["check_seed"]


def check_seed(seed: int) -> None:
    """Raise `ConfigurationError` for a seed that can't be used."""
    if not 0 <= seed < 2**32:
        raise ConfigurationError(f"--seed is {seed}; give a number from 0 to {2**32 - 1}")
