"""Every error that Tiercel raises.

TiercelError
├── UserError                  the user's mistake: one line, ends with what to do; exit code 2
│   ├── ConfigurationError     an option, file or environment variable is wrong      (ValueError)
│   ├── DataError              the traffic can't be used as it is                    (ValueError)
│   ├── BundleError            a bundle is missing, corrupted, foreign or too new    (ValueError)
│   ├── ContextOverflowError   a request is longer than a model's context            (ValueError)
│   └── MissingExtraError      a feature needs an extra that is not installed        (ImportError)
└── RunError                   something failed while it ran; exit code 1
    ├── StorageError           a folder can't be written or a disk is full           (OSError)
    ├── CertificateError       a certificate does not follow from its own record     (ValueError)
    ├── RefusedQueryError      a query would do more than read                       (PermissionError)
    ├── EngineError            an engine failed or broke its own promise             (RuntimeError)
    │   └── BrokenAnswerError  an answer is not of the form that it was held to
    ├── ParityError            what would be served differs from what was trained    (ArithmeticError)
    └── ProviderError          a provider refused, failed or did not answer          (ConnectionError)
        └── UnreadableAnswerError  what it answered is not of the form that its API promises
"""

from __future__ import annotations

import errno
import re

__all__ = [
    "BrokenAnswerError",
    "BundleError",
    "CertificateError",
    "ConfigurationError",
    "ContextOverflowError",
    "DataError",
    "EngineError",
    "MissingExtraError",
    "ParityError",
    "ProviderError",
    "RefusedQueryError",
    "RunError",
    "StorageError",
    "TiercelError",
    "UnreadableAnswerError",
    "UserError",
    "ran_out_of_memory",
]

_NO_MEMORY = re.compile(
    r"out of memory|(can't|cannot|failed to|unable to|could not) allocate|not enough memory|bad_alloc|bad allocation",
    re.IGNORECASE,
)


class TiercelError(Exception):
    """The base of all errors that Tiercel raises on purpose."""

    exit_code = 1


class UserError(TiercelError):
    """A mistake that the user can mend; the message ends with what to do."""

    exit_code = 2


class ConfigurationError(UserError, ValueError):
    """An option, a file or an environment variable is wrong."""


class DataError(UserError, ValueError):
    """The traffic can't be used as it is."""


class BundleError(UserError, ValueError):
    """A bundle is missing, corrupted, foreign, or from a newer version."""


class ContextOverflowError(UserError, ValueError):
    """A request, with the answer that it asks for, is longer than the model's context.

    Attributes:
        input_tokens: of the request; None where the server only said that it is too long.
        max_tokens: that were asked for.
        context: tokens that fit.
    """

    def __init__(self, *, input_tokens: int | None, max_tokens: int, context: int, about: bool = False) -> None:
        super().__init__(input_tokens, max_tokens, context, about)
        self.input_tokens = input_tokens
        self.max_tokens = max_tokens
        self.context = context
        self.about = about
        """Whether `input_tokens` is an estimate."""

    def __str__(self) -> str:
        asked = f"an answer of {self.max_tokens} tokens"
        if self.input_tokens is not None:
            asked = f"{'about ' if self.about else ''}{self.input_tokens} tokens and {asked}"
        return (
            f"the request is too long: {asked} do not fit a context of {self.context}; "
            "shorten the messages, ask for fewer tokens, or start the engine with a larger context"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _context_overflow, (self.input_tokens, self.max_tokens, self.context, self.about)


def _context_overflow(input_tokens: int | None, max_tokens: int, context: int, about: bool) -> ContextOverflowError:
    return ContextOverflowError(input_tokens=input_tokens, max_tokens=max_tokens, context=context, about=about)


class MissingExtraError(UserError, ImportError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(what, extra)
        self.what = what
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.what} is not installed; run: pip install 'tiercel[{self.extra}]'"


class RunError(TiercelError):
    """Something failed while it ran."""


class StorageError(RunError, OSError):
    """A folder can't be written or a disk is full."""


class CertificateError(RunError, ValueError):
    """A certificate does not follow from its own record."""


class RefusedQueryError(RunError, PermissionError):
    """A query would do more than read, or can't be seen to read only."""


class EngineError(RunError, RuntimeError):
    """An engine failed, ended, or did not keep to a schema or tool choice that it was given."""


class BrokenAnswerError(EngineError):
    """One answer is not of the form that it was held to; the engine itself is well."""


class ParityError(RunError, ArithmeticError):
    """What would be served differs from what was trained."""


class ProviderError(RunError, ConnectionError):
    """A provider refused, failed or did not answer.

    Attributes:
        provider: host of the provider; never its key.
        status: HTTP status, or None when no response came.
        retry_after: seconds that the provider asked to wait, or None when it named none.
    """

    def __init__(
        self, message: str, *, provider: str, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.status = status
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        state = {"provider": self.provider, "status": self.status, "retry_after": self.retry_after}
        return _provider_error, (str(self), state)


def _provider_error(message: str, state: dict[str, object]) -> ProviderError:
    return ProviderError(message, **state)  # pyright: ignore[reportArgumentType]


class UnreadableAnswerError(ProviderError):
    """What a provider answered is not of the form that its API promises, or says what no other API has a word for.

    The text names the place in the answer and repeats nothing of it.
    """

    def __init__(self, message: str, *, provider: str = "the provider") -> None:
        super().__init__(message, provider=provider)

    def __reduce__(self) -> tuple[object, ...]:
        return _unreadable_answer, (str(self), self.provider)


def _unreadable_answer(message: str, provider: str) -> UnreadableAnswerError:
    return UnreadableAnswerError(message, provider=provider)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether a library's error says that memory ran out; Python, numpy, torch, onnxruntime and CUDA have their own.

    One of Tiercel's own errors says what it says and is none of these.
    """
    if isinstance(error, TiercelError):
        return False
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, Exception) and _NO_MEMORY.search(str(error)) is not None
