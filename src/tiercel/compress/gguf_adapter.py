"""A low-rank adapter of peft in the form that llama.cpp reads, so that several share one base in memory.

Neither auto-round nor llama.cpp's Python package brings this along: llama.cpp has it as a script in its repository
alone. What is done here is what the conversion of the base does to its weights: names are mapped, and where a family's
query and key rows are reordered for its rotation, the rows of the adapter's second matrix are reordered alike.
"""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiercel.engines.adapters import another_base, check_base
from tiercel.errors import ConfigurationError, MissingExtraError, StorageError

__all__ = ["convert_adapter"]

_FAMILIES = {
    "llama": ("LLAMA", True),
    "mistral": ("LLAMA", True),
    "qwen2": ("QWEN2", False),
    "qwen3": ("QWEN3", False),
}
"""Architecture in GGUF by the model type of a folder, and whether its query and key rows are reordered."""
_PREFIX = "base_model.model."


def convert_adapter(base: Path, adapter: Path, target: Path) -> Path:
    """Write an adapter as GGUF.

    Args:
        base: Hugging Face folder of the model that the adapter is of.
        adapter: folder that peft wrote.
        target: file to write; `LlamaCppEngine` takes it beside the base's own GGUF.

    Returns:
        `target`.

    Raises:
        ConfigurationError: the family can't be converted, the adapter can't be read, is of another base, or holds more
            than low-rank matrices.
        MissingExtraError: gguf is not installed.
        StorageError: the file can't be written.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("gguf", "compress") from None

    config = _read(base / "config.json")
    check_base(base, adapter)
    plan = _read(adapter / "adapter_config.json")
    kind = str(config.get("model_type"))
    if kind not in _FAMILIES:
        raise ConfigurationError(
            f"{base}: adapters of {kind} models can't be converted, those of {', '.join(_FAMILIES)} can; merge the "
            "adapter into its base and serve the two as one model"
        )
    name, reordered = _FAMILIES[kind]
    architecture: Any = gguf.MODEL_ARCH[name]
    names: Any = gguf.get_tensor_name_map(architecture, int(config["num_hidden_layers"]))
    shapes = _shapes(base)
    tensors: dict[str, NDArray[np.float32]] = {}
    for key, value in _weights(adapter).items():
        module, _, half = key.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        mapped = names.get_name(module)
        if half not in ("lora_A", "lora_B"):
            raise _unknown(adapter, key)
        own = shapes.get(f"{module}.weight")
        if own is None or value.shape[1 if half == "lora_A" else 0] != own[1 if half == "lora_A" else 0]:
            raise another_base(base, adapter)
        if mapped is None:
            raise _unknown(adapter, key)
        weights = value.astype(np.float32)
        if reordered and half == "lora_B" and module.endswith(("q_proj", "k_proj")):
            heads = int(config["num_attention_heads"])
            if module.endswith("k_proj"):
                heads = int(config.get("num_key_value_heads") or heads)
            weights = _reordered(weights, heads)
        tensors[f"{mapped}.weight.{half.lower()}"] = weights
    if not tensors:
        raise ConfigurationError(f"{adapter}: the adapter holds no weights; train it again")
    _write(target, gguf.MODEL_ARCH_NAMES[architecture], _alpha(adapter, plan), tensors)
    return target


def _unknown(adapter: Path, key: str) -> ConfigurationError:
    return ConfigurationError(
        f"{adapter}: {key} is no low-rank matrix that llama.cpp knows; merge the adapter into its base"
    )


def _shapes(base: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the base's weights, by name."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, tuple[int, ...]] = {}
    try:
        for path in base.glob("*.safetensors"):
            with safe_open(path, "np") as file:  # pyright: ignore[reportUnknownVariableType]
                found |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"{base}: the weights can't be read ({error}); fetch the model again") from None
    return found


def _weights(adapter: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(adapter / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        told = str(error).splitlines()[0]
        raise ConfigurationError(f"{adapter}: the adapter's weights can't be read ({told}); train it again") from None


def _alpha(adapter: Path, plan: dict[str, Any]) -> float:
    """What llama.cpp is told, which scales with alpha over the rank; rank-stabilised adapters go by its root."""
    try:
        rank = int(plan["r"])
        return float(plan["lora_alpha"]) * (math.sqrt(rank) if plan.get("use_rslora") else 1.0)
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(
            f"{adapter}: adapter_config.json does not say the rank (r) and lora_alpha; train the adapter again"
        ) from None


def _write(target: Path, architecture: str, alpha: float, tensors: dict[str, NDArray[np.float32]]) -> None:
    import gguf

    aside = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        writer: Any = gguf.GGUFWriter(str(aside), architecture)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for tensor, weights in sorted(tensors.items()):
            writer.add_tensor(tensor, np.ascontiguousarray(weights))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        aside.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise StorageError(f"{target}: can't be written ({error.strerror or error}); choose another place") from None


def _reordered(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of each head from halves to pairs, as llama.cpp rotates them; shape (out, r)."""
    out, rank = weights.shape
    return weights.reshape(heads, 2, out // heads // 2, rank).swapaxes(1, 2).reshape(out, rank)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigurationError(f"{path}: can't be read; give the folder of a model and of its adapter") from None
    return found
