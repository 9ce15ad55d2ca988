"""Encoders as ONNX files: embeddings of texts, or hidden states of tokens; batched by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiercel.errors import BundleError, MissingExtraError, ran_out_of_memory

__all__ = ["EmbeddingEngine", "HiddenStates"]

Floats = NDArray[np.float32]

BATCH = 32
MOST_PADDING = 1.5
"""How many times as long as the shortest the longest text of a batch may be."""
LONGEST_TEXT = 20_000
"""Characters of a text that are given to the tokenizer at the most: more than any encoder here reads."""


def _parts(ids: Sequence[NDArray[np.int64]]) -> Iterator[list[int]]:
    """Places of texts that are run together, the shortest first: never many, and little of them padding."""
    part: list[int] = []
    for i in sorted(range(len(ids)), key=lambda i: ids[i].size):
        if part and (len(part) == BATCH or ids[i].size > MOST_PADDING * ids[part[0]].size):
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def _session(model: Path, threads: int) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingExtraError(error.name or "onnxruntime", "serve") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A pool that spins between requests would keep a core busy while nothing is asked.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise BundleError(f"{model.parent}: the encoder can't be read ({type(error).__name__})") from None


class EmbeddingEngine:
    """Runs one ONNX encoder whose inputs are `input_ids` and `attention_mask` and whose output is `embedding`.

    Args:
        model: the ONNX file.
        tokenizer: a tokenizer.json of the library `tokenizers`.
        max_tokens: tokens of a text that are read.
        threads: of onnxruntime.

    Raises:
        BundleError: a file is missing or is not what its name says.
        MissingExtraError: onnxruntime or tokenizers is not installed.
    """

    def __init__(self, model: Path, tokenizer: Path, *, max_tokens: int, threads: int = 1) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtraError(error.name or "tokenizers", "serve") from None
        self._session: Any = _session(model, threads)
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(tokenizer))
        except Exception as error:
            raise BundleError(f"{model.parent}: the encoder can't be read ({type(error).__name__})") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.max_tokens = max_tokens

    def tokenize(self, texts: Sequence[str]) -> tuple[list[NDArray[np.int64]], Floats]:
        """Token ids of each text, cut to `max_tokens` with the last special token kept, and the share that was kept."""
        ids = list[NDArray[np.int64]]()
        kept = np.array([min(1.0, LONGEST_TEXT / max(1, len(t))) for t in texts], dtype=np.float32)
        for i, encoding in enumerate(self._tokenizer.encode_batch_fast([t[:LONGEST_TEXT] for t in texts])):
            tokens = np.array(encoding.ids, dtype=np.int64)
            if tokens.size > self.max_tokens:
                kept[i] *= self.max_tokens / tokens.size
                tokens = np.concatenate([tokens[: self.max_tokens - 1], tokens[-1:]])
            ids.append(tokens)
        return ids, kept

    def embed(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """Embeddings of shape (n, d), and the share of each text's tokens that was read, shape (n,)."""
        ids, kept = self.tokenize(texts)
        found: Floats | None = None
        for part in _parts(ids):
            longest = ids[part[-1]].size
            tokens = np.zeros((len(part), longest), dtype=np.int64)
            mask = np.zeros((len(part), longest), dtype=np.int64)
            for row, i in enumerate(part):
                tokens[row, : ids[i].size] = ids[i]
                mask[row, : ids[i].size] = 1
            output: Floats = self._session.run(["embedding"], {"input_ids": tokens, "attention_mask": mask})[0]
            if found is None:
                found = np.empty((len(ids), output.shape[1]), dtype=np.float32)
            found[part] = output
        return (found if found is not None else np.empty((0, 0), np.float32)), kept


class HiddenStates:
    """Runs one ONNX encoder from `input_ids`, `attention_mask` and `cases` to `hidden`.

    Args:
        model: the ONNX file.
        threads: of onnxruntime.

    Raises:
        BundleError: the file is missing or is not what its name says.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, model: Path, *, threads: int = 1) -> None:
        self._session: Any = _session(model, threads)

    def run(self, ids: Sequence[NDArray[np.int64]], cases: Sequence[NDArray[np.int64]]) -> list[Floats]:
        """Last hidden states of each request, shape (t, d), from its token ids and cases, shape (t,) each."""
        found: list[Floats] = [np.empty((0, 0), np.float32)] * len(ids)
        for part in _parts(ids):
            longest = ids[part[-1]].size
            tokens, mask, case = np.zeros((3, len(part), longest), dtype=np.int64)
            for row, i in enumerate(part):
                tokens[row, : ids[i].size] = ids[i]
                case[row, : ids[i].size] = cases[i]
                mask[row, : ids[i].size] = 1
            inputs = {"input_ids": tokens, "attention_mask": mask, "cases": case}
            output: Floats = self._session.run(["hidden"], inputs)[0]
            for row, i in zip(output, part, strict=True):
                found[i] = row[: ids[i].size]
        return found
