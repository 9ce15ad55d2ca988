from __future__ import annotations

import copy
import errno
import pickle
from collections.abc import Callable

import pytest

from tiercel import errors
from tiercel.errors import ContextOverflowError, MissingExtraError, ProviderError, TiercelError, ran_out_of_memory

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
    assert sorted(BASES) == [name for name in errors.__all__ if isinstance(getattr(errors, name), type)]


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


def _by_numpy() -> None:
    import numpy as np

    np.ones(1 << 55)


def _by_torch() -> None:
    pytest.importorskip("torch").ones(1 << 55)


def _by_onnxruntime() -> None:
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    size = onnx.helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [1])
    made = onnx.helper.make_tensor_value_info("made", onnx.TensorProto.FLOAT, [None])
    node = onnx.helper.make_node("ConstantOfShape", ["size"], ["made"])
    graph = onnx.helper.make_graph([node], "large", [size], [made])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    import numpy as np

    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, {"size": np.array([1 << 55])})


def _by_the_system() -> None:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


@pytest.mark.parametrize("ask", [_by_numpy, _by_torch, _by_onnxruntime, _by_the_system])
def test_memory_that_runs_out_is_known_by_whatever_error_it_is_told(ask: Callable[[], None]) -> None:
    with pytest.raises(Exception) as caught:
        ask()
    assert ran_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("shapes (2,) and (3,) do not match"),
        OSError(errno.ENOSPC, "No space left on device"),
        errors.RunError("the teacher said: out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_no_want_of_memory(error: BaseException) -> None:
    assert not ran_out_of_memory(error)
