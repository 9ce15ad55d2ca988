"""A random tiny model, and the engines that run it: in this process, and by the URL of a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engines.tiny_llama import make_llama, make_lora
from tiercel.compress.gguf import convert_to_gguf
from tiercel.engines.llamacpp import LlamaCppEngine
from tiercel.engines.protocol import Engine, GenerationRequest
from tiercel.engines.remote import RemoteEngine
from tiercel.types import Message

CONTEXT = 1024
SLOTS = 2


@dataclass(frozen=True, kw_only=True)
class Files:
    """What the model of the tests is made of."""

    folder: Path
    gguf: Path
    adapters: dict[str, Path]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    root = tmp_path_factory.mktemp("llama")
    folder = make_llama(root / "tiny")
    return Files(
        folder=folder,
        gguf=convert_to_gguf(folder, root / "tiny.gguf"),
        adapters={name: make_lora(root / f"{name}.gguf", seed=seed) for seed, name in enumerate(("brief", "formal"))},
    )


@pytest.fixture(scope="session")
def in_process(files: Files) -> Iterator[LlamaCppEngine]:
    with LlamaCppEngine(files.gguf, context=CONTEXT, slots=SLOTS, threads=1, adapters=files.adapters) as engine:
        yield engine


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A server of llama.cpp that listens on loopback."""

    url: str
    server: Any


@pytest.fixture(scope="session")
def serving(files: Files) -> Serving:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(files.gguf)
    params.n_ctx = CONTEXT * SLOTS
    params.n_parallel = SLOTS
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.verbosity = -1
    params.warmup = False
    params.ui = False
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(p), 1.0) for p in files.adapters.values()]
    params.lora_init_without_apply = True
    server = xllamacpp.Server(params)
    return Serving(url=server.listening_address, server=server)


@pytest.fixture(scope="session")
def remote(serving: Serving) -> Iterator[RemoteEngine]:
    with RemoteEngine(serving.url, slots=SLOTS) as engine:
        yield engine


@pytest.fixture(params=["in_process", "remote"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.getfixturevalue(request.param)


@pytest.fixture
def busy(engine: Engine) -> Callable[[], int]:
    """Slots at work."""
    if isinstance(engine, LlamaCppEngine):
        return lambda: engine.busy
    assert isinstance(engine, RemoteEngine)
    return lambda: sum(slot["is_processing"] for slot in engine._ask("GET", "/slots", None))  # type: ignore[arg-type]


def asked(text: str = "a customer lost the parcel on Monday", **more: Any) -> GenerationRequest:
    """A request of one question."""
    return GenerationRequest(**{"messages": (Message(role="user", content=text),), "max_tokens": 24, **more})
