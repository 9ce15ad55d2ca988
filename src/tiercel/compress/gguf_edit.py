"""A GGUF file copied with some of its values changed; its tensors stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiercel.errors import BundleError, MissingExtraError

__all__ = ["edit_gguf"]


def edit_gguf(source: Path, target: Path, values: Mapping[str, Any]) -> None:
    """Copy `source` to `target`.

    Args:
        source: a GGUF file.
        target: another path; written aside and renamed.
        values: by key; None takes a key away. New keys hold whole numbers above 0, numbers, texts or booleans.

    Raises:
        BundleError: `source` is no GGUF file.
        MissingExtraError: gguf is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("gguf", "compress") from None
    try:
        reader: Any = gguf.GGUFReader(str(source))
        architecture = reader.fields["general.architecture"].contents()
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise BundleError(f"{source}: is no GGUF file that can be read ({error}); convert the model again") from None
    aside = target.with_suffix(".part")
    writer: Any = gguf.GGUFWriter(str(aside), architecture)
    left = dict(values)
    for name, field in reader.fields.items():
        # The writer writes these by itself.
        if name == "general.architecture" or name.startswith("GGUF."):
            continue
        value = left.pop(name, field.contents())
        if value is not None:
            kind = field.types[0]
            sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, value, kind, sub_type=sub)
    kinds = {
        bool: gguf.GGUFValueType.BOOL,
        int: gguf.GGUFValueType.UINT32,
        float: gguf.GGUFValueType.FLOAT32,
        str: gguf.GGUFValueType.STRING,
    }
    for name, value in left.items():
        if value is not None:
            writer.add_key_value(name, value, kinds[type(value)])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_shape=tensor.data.shape, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    aside.replace(target)
