"""A tiny model that learned its answers, so that it ends them by itself, and its GGUF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engines.tiny_llama import make_llama, train
from tiercel.compress.gguf import convert_to_gguf


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The folder of the trained model and what would be served."""

    folder: Path
    gguf: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("trained")
    folder = train(make_llama(root / "model", tied=True))
    return Trained(folder=folder, gguf=convert_to_gguf(folder, root / "model.gguf"))
