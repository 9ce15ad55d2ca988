"""Names that llama.cpp's converter wants of the library gguf and that the library's last release does not have.

The converter that auto-round brings along is newer than gguf on PyPI. One name of one new architecture that is missing
keeps a whole file of the converter, and with it every Gemma, Qwen or DeepSeek, from being imported.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["MissingName", "fill_missing_names"]

_NAME = re.compile(r"\bgguf\.([A-Z]\w*)\.([A-Z][A-Z0-9_]*)\b")


class MissingName(str):
    """Stands where a name is missing: equal to no member, so that what needs the name itself still fails."""

    __slots__ = ()


def fill_missing_names() -> None:
    """Put a `MissingName` in each place of gguf's enumerations that the converter names and gguf lacks."""
    import auto_round.export.export_to_gguf as exporting
    import gguf

    library: Any = gguf
    for file in sorted((Path(str(exporting.__file__)).parent / "conversion").glob("*.py")):
        for kind, name in set(_NAME.findall(file.read_text(encoding="utf-8"))):
            enumeration = getattr(library, kind, None)
            if enumeration is not None and not hasattr(enumeration, name):
                setattr(enumeration, name, MissingName(name))
