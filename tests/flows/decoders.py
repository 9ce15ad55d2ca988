"""A small decoder's bundle, and a real server of llama.cpp that serves its model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.flows.test_generating import as_text
from tests.flows.test_structure import write
from tiercel.flows import micro_rung
from tiercel.flows.pilot import PilotSettings, pilot

xllamacpp = pytest.importorskip("xllamacpp")


def decoder_bundle(folder: Path) -> Path:
    """The bundle of a pilot with a decoder that writes sentences, as `order` asks for them."""
    traffic = write(folder / "traffic.jsonl", 260, as_text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(micro_rung, "PLAN", {"size": 120_000, "epochs": 40})
        settings = PilotSettings(max_loss=0.5, threads=1, task="generation", students=("micro",))
        pilot([traffic], folder / "out", settings)
    return folder / "out" / "bundle"


@contextmanager
def served(gguf: Path, **more: Any) -> Iterator[str]:
    """The URL of a real server of llama.cpp on loopback."""
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx, params.n_parallel = 512, 2
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.verbosity, params.warmup, params.ui = -1, False, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    for name, value in more.items():
        setattr(params, name, value)
    server = xllamacpp.Server(params)
    yield server.listening_address
    del server


def model_of(bundle: Path) -> Path:
    return bundle / "students" / "generator" / "model.gguf"
