"""The encoder rung: a small transformer's mean embedding and a linear head, served by onnxruntime."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiercel.engines.onnx import EmbeddingEngine
from tiercel.students.linear import to_probabilities
from tiercel.students.prediction import Prediction
from tiercel.students.reading import merge_numbers

__all__ = ["EncoderStudent"]

Floats = NDArray[np.float32]


class EncoderStudent:
    """A served encoder and its head.

    Args:
        folder: holds `encoder.onnx` and `tokenizer.json`.
        weights: head, shape (d, k).
        bias: head, shape (k,).
        multi: several labels a request.
        max_tokens: tokens of a request that are read; a longer one is cut, and its familiarity is below 0.
        precision: "int8" or "fp32", as exported.
        threads: of onnxruntime; None for all cores.
        plain_numbers: read every number as 0.
    """

    rung = "encoder"
    files = ("encoder.onnx", "tokenizer.json", "encoder.safetensors", "encoder.json")

    def __init__(
        self,
        folder: Path,
        weights: Floats,
        bias: Floats,
        *,
        multi: bool = False,
        max_tokens: int = 128,
        precision: str = "fp32",
        threads: int | None = None,
        plain_numbers: bool = False,
    ) -> None:
        self.folder = folder
        self.weights = weights.astype(np.float32)
        self.bias = bias.astype(np.float32)
        self.multi = multi
        self.max_tokens = max_tokens
        self.precision = precision
        self.plain_numbers = plain_numbers
        self.engine = EmbeddingEngine(
            folder / self.files[0],
            folder / self.files[1],
            max_tokens=max_tokens,
            threads=threads or os.cpu_count() or 1,
        )

    def predict(self, texts: Sequence[str]) -> Prediction:
        """Predictions for `texts`; what one text gets does not depend on the others in the batch."""
        embedding, kept = self._embed(texts)
        logits = embedding @ self.weights + self.bias
        return Prediction(
            probabilities=to_probabilities(logits, multi=self.multi),
            embedding=embedding,
            familiarity=np.where(kept < 1, kept - 1, 1).astype(np.float32),
        )

    def embed(self, texts: Sequence[str]) -> Floats:
        """Embeddings of n texts, shape (n, d)."""
        return self._embed(texts)[0]

    def _embed(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        return self.engine.embed([merge_numbers(t) for t in texts] if self.plain_numbers else texts)

    def single_threaded(self) -> EncoderStudent:
        """The same student on one thread."""
        return EncoderStudent(
            self.folder,
            self.weights,
            self.bias,
            multi=self.multi,
            max_tokens=self.max_tokens,
            precision=self.precision,
            threads=1,
            plain_numbers=self.plain_numbers,
        )

    def save(self, folder: Path) -> None:
        """Write the head into `folder` and copy model and tokenizer there."""
        from safetensors.numpy import save_file

        if folder.resolve() != self.folder.resolve():
            for name in self.files[:2]:
                shutil.copyfile(self.folder / name, folder / name)
        save_file({"weights": self.weights, "bias": self.bias}, folder / self.files[2])
        record: dict[str, Any] = {
            "rung": self.rung,
            "multi": self.multi,
            "max_tokens": self.max_tokens,
            "precision": self.precision,
            "plain_numbers": self.plain_numbers,
        }
        (folder / self.files[3]).write_bytes(msgspec.json.encode(record))

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None) -> EncoderStudent:
        """The student that `save` wrote into `folder`."""
        from safetensors.numpy import load_file

        head = load_file(folder / cls.files[2])
        record = msgspec.json.decode((folder / cls.files[3]).read_bytes())
        return cls(
            folder,
            head["weights"],
            head["bias"],
            multi=record["multi"],
            max_tokens=record["max_tokens"],
            precision=record["precision"],
            threads=threads,
            plain_numbers=record["plain_numbers"],
        )
