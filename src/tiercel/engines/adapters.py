"""Which base an adapter is of: written beside it when it is trained, asked before the two are put together."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tiercel.errors import ConfigurationError

__all__ = ["another_base", "check_base", "record_base"]

_RECORD = "base.json"
_ENDS = 1 << 20
"""Bytes at each end of a file of weights by which it is known again."""


def record_base(base: Path, name: str, adapter: Path) -> None:
    """Write into the folder `adapter` what the model in `base`, called `name`, is known by."""
    (adapter / _RECORD).write_text(json.dumps({"name": name, "digest": _digest(base)}), encoding="utf-8")


def check_base(base: Path, adapter: Path) -> None:
    """See that the folder `adapter` is one of an adapter, and of this base as far as it says of which it is.

    Raises:
        ConfigurationError: it is not.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise ConfigurationError(f"{adapter}: is no adapter, it has no adapter_config.json; give the folder of one")
    try:
        told = json.loads((adapter / _RECORD).read_text(encoding="utf-8"))
        name, digest = told["name"], told["digest"]
    except FileNotFoundError:  # peft alone writes none
        return
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{adapter}: {_RECORD} can't be read; train the adapter again") from None
    if digest != _digest(base):
        raise another_base(base, adapter, name)


def another_base(base: Path, adapter: Path, own: str | None = None) -> ConfigurationError:
    """The error for an adapter that is not of `base`; `own` names the base that it is of."""
    of = f" ({own})" if own else ""
    return ConfigurationError(
        f"{adapter}: the adapter was trained on another base{of} than {base}; give the base that it is of"
    )


def _digest(folder: Path) -> str:
    """Tells one base from another by its settings and the ends of its files of weights."""
    try:
        found = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=16)
        for path in sorted(folder.glob("*.safetensors")):
            size = path.stat().st_size
            found.update(f"{path.name}{size}".encode())
            with path.open("rb") as file:
                found.update(file.read(_ENDS))
                file.seek(max(0, size - _ENDS))
                found.update(file.read(_ENDS))
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: the base can't be read ({error.strerror}); give the folder of a model"
        ) from None
    return found.hexdigest()
