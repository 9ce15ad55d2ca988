from __future__ import annotations

import copy
import pickle

import pytest

from tiercel import errors
from tiercel.errors import ContextOverflowError, MissingExtraError, ProviderError, TiercelError

BASES = {
    "BrokenAnswerError": (RuntimeError, 1),
    "BundleError": (ValueError, 2),
    "CertificateError": (ValueError, 1),
    "ConfigurationError": (ValueError, 2),
    "ContextOverflowError": (ValueError, 2),
    "DataError": (ValueError, 2),
    "EngineError": (RuntimeError, 1),
    "MissingExtraError": (ImportError, 2),
    "ParityError": (ArithmeticError, 1),
    "ProviderError": (ConnectionError, 1),
    "RefusedQueryError": (PermissionError, 1),
    "RunError": (Exception, 1),
    "StorageError": (OSError, 1),
    "TiercelError": (Exception, 1),
    "UnreadableAnswerError": (ConnectionError, 1),
    "UserError": (Exception, 2),
}


def _made(name: str) -> TiercelError:
    if name == "MissingExtraError":
        return MissingExtraError("aiohttp", "serve")
    if name == "ContextOverflowError":
        return ContextOverflowError(input_tokens=500, max_tokens=20, context=512)
    if name == "ProviderError":
        return ProviderError("too many requests", provider="api.example.com", status=429, retry_after=2.5)
    return getattr(errors, name)(f"what {name} says")


def test_every_error_is_listed_here() -> None:
    assert sorted(BASES) == errors.__all__


@pytest.mark.parametrize("name", BASES)
def test_an_error_is_the_standard_one_it_replaces_and_has_its_exit_code(name: str) -> None:
    base, code = BASES[name]
    error = _made(name)
    assert isinstance(error, base)
    assert isinstance(error, TiercelError)
    assert error.exit_code == code


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_an_error_survives_pickling_and_copying(name: str, copied: object) -> None:
    error = _made(name)
    again = copied(error)  # type: ignore[operator]
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_a_users_mistake_and_a_failure_at_run_time_are_never_the_same() -> None:
    for name in BASES:
        kind = getattr(errors, name)
        assert not (issubclass(kind, errors.UserError) and issubclass(kind, errors.RunError))


def test_a_missing_extra_says_what_to_type() -> None:
    assert str(MissingExtraError("torch", "train")) == "torch is not installed; run: pip install 'tiercel[train]'"
