"""A pretrained causal language model before it is loaded: where it is, whether it is whole, and what it will take.

What is wrong with a model is said here, in one line, before hours are spent on it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiercel.errors import ConfigurationError, MissingExtraError
from tiercel.students.slm_targets import lora_targets

__all__ = [
    "SERVED_BYTES",
    "TOKENIZER_FILES",
    "SlmBase",
    "free_memory",
    "locate_model",
    "open_base",
    "tuning_bytes",
]

Json = dict[str, Any]

_WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "vocab.json",
    "vocab.txt",
)
"""Files of a tokenizer, which are copied and never written anew: what is saved again is not always the same."""
_WINDOW_NOT_SERVED = {"mistral", "mixtral", "phi3"}
"""Families whose sliding window llama.cpp does not keep to; up to its end they are served as they were trained."""
SERVED_BYTES = 6
"""Bytes a parameter while serving is compared with training: float32 beside 16 bits."""


@dataclass(frozen=True, kw_only=True)
class SlmBase:
    """A pretrained model that can be worked with.

    Attributes:
        folder: in Hugging Face's form.
        name: without its owner; llama.cpp knows a few families by it.
        tokenizer: of it.
        parameters: how many.
        context: tokens that it was trained for, up to a sliding window that llama.cpp does not keep to.
        layers: of the decoder.
        width: of a hidden state.
        vocabulary: rows of the embedding.
        adapter_unit: parameters of an adapter of rank 1 on all that LoRA can reach.
        ends: tokens at which it stops.
        system_role: whether its chat template has a place for a system message.
    """

    folder: Path
    name: str
    tokenizer: Any
    parameters: int
    context: int
    layers: int
    width: int
    vocabulary: int
    adapter_unit: int
    ends: tuple[int, ...]
    system_role: bool


def locate_model(name: str) -> Path:
    """The folder of a causal language model.

    Args:
        name: a folder, or a name on the Hugging Face hub.

    Raises:
        ConfigurationError: there is no such folder, or the hub can't be reached and holds nothing in its cache.
        MissingExtraError: huggingface_hub is not installed.
    """
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise ConfigurationError(f"--model {name}: there is no such folder; give one, or a name on the hub")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError("huggingface_hub", "tune") from None
    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except Exception as error:
        raise ConfigurationError(
            f"--model {name}: neither a folder nor to be had from the hub ({type(error).__name__}); check the name and "
            "the network, or give the folder of a model that lies here"
        ) from None


def open_base(name: str) -> SlmBase:
    """The model called `name`, once it is known to be whole; no weight is loaded.

    Raises:
        ConfigurationError: it is not there, not whole, or of an unknown architecture.
        MissingExtraError: torch or transformers is not installed.
    """
    folder = locate_model(name)
    _check_files(folder)
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "tune") from None
    try:
        config: Any = AutoConfig.from_pretrained(str(folder))
        # On the meta device a model has shapes and no memory.
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
    except Exception as error:
        told = (_read_json(folder / "config.json") or {}).get("architectures") or ["none named"]
        raise ConfigurationError(
            f"{folder}: no causal language model that transformers knows (architecture {told[0]}: "
            f"{_first_line(error)}); use a Llama, Qwen, Gemma, Mistral or Phi, or upgrade transformers"
        ) from None
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:
        raise ConfigurationError(
            f"{folder}: the tokenizer can't be read ({_first_line(error)}); fetch the model again"
        ) from None
    rows = int(model.get_input_embeddings().weight.shape[0])
    if len(tokenizer) > rows:
        raise ConfigurationError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens but the embedding {rows} rows; call "
            "model.resize_token_embeddings(len(tokenizer)), train the new rows, and save it"
        )
    if not tokenizer.chat_template:
        raise ConfigurationError(
            f"{folder}: the tokenizer has no chat template; take the model's instruct variant, or set "
            "tokenizer.chat_template and save it"
        )
    text: Any = config.get_text_config()
    parameters = sum({id(p): p.numel() for p in model.parameters()}.values())
    return SlmBase(
        folder=folder,
        name=(folder if Path(name).is_dir() else Path(name)).resolve().name,
        tokenizer=tokenizer,
        parameters=parameters,
        context=_context(text),
        layers=int(text.num_hidden_layers),
        width=int(text.hidden_size),
        vocabulary=rows,
        adapter_unit=sum(lora_targets(model).sizes),
        ends=_ends(folder, text, tokenizer),
        system_role=_takes_system(folder, tokenizer),
    )


def _context(config: Any) -> int:
    context = int(getattr(config, "max_position_embeddings", None) or 4096)
    window = getattr(config, "sliding_window", None) if config.model_type in _WINDOW_NOT_SERVED else None
    return min(context, window) if window else context


def _check_files(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        told = (_read_json(folder / "adapter_config.json") or {}).get("base_model_name_or_path") or "its base"
        raise ConfigurationError(f"{folder}: is an adapter and no model; give {told}, or the two merged")
    if _read_json(folder / "config.json") is None:
        raise ConfigurationError(f"{folder}: has no config.json that can be read; give a Hugging Face model folder")
    if not any(folder.glob("*.safetensors")):
        raise ConfigurationError(f"{folder}: has no weights in safetensors form; fetch or convert them")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ConfigurationError(f"{folder}: has no tokenizer; save it there with tokenizer.save_pretrained")


def _ends(folder: Path, config: Any, tokenizer: Any) -> tuple[int, ...]:
    told = (_read_json(folder / "generation_config.json") or {}).get("eos_token_id")
    found = told if told is not None else getattr(config, "eos_token_id", None)
    found = found if found is not None else tokenizer.eos_token_id
    return tuple(found) if isinstance(found, list) else () if found is None else (int(found),)


def _takes_system(folder: Path, tokenizer: Any) -> bool:
    """Whether a system message is written, and not refused as Gemma's template does or left out."""
    marker = "instructions-7c1"
    messages = [{"role": "system", "content": marker}, {"role": "user", "content": "?"}]
    try:
        tokenizer.apply_chat_template(messages[1:], tokenize=False, add_generation_prompt=True)
    except Exception as error:
        raise ConfigurationError(
            f"{folder}: the chat template can't be read ({_first_line(error)}); fetch the model again"
        ) from None
    try:
        return marker in tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception:  # templates refuse by an error of jinja's
        return False


def free_memory(*, main: bool = False) -> int:
    """Bytes that a model may take: of the first GPU where there is one, else, or with `main`, of main memory."""
    if not main:
        import torch

        if torch.cuda.is_available():
            return int(torch.cuda.mem_get_info()[0])
    limits = list[int]()
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):
            continue
    try:
        told = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        told = None
    if told:
        limits.append(1024 * int(told[1]))
    return min(limits, default=2**63)


def tuning_bytes(
    base: SlmBase, *, weight_bytes: float, adapted: int, tokens: int, checkpointing: bool, value_bytes: int
) -> int:
    """Memory that tuning takes at its peak, as an estimate that errs to the safe side.

    Args:
        base: the model.
        weight_bytes: of one parameter of the base.
        adapted: parameters of the adapter; each has a value, a gradient, two moments and its best value so far.
        tokens: that are read at a time.
        checkpointing: whether activations are made again in the backward pass.
        value_bytes: of an activation.
    """
    # About 34 hidden states a token and layer are kept for the backward pass (Korthikanti et al., 2022), one with
    # checkpointing; logits are kept in single precision, with their gradient and a copy.
    kept = base.layers * (1 if checkpointing else 34) + (34 if checkpointing else 0)
    activations = tokens * base.width * kept * value_bytes
    logits = tokens * base.vocabulary * 4 * 3
    return int(base.parameters * weight_bytes + adapted * 4 * 5 + activations + logits)


def _read_json(path: Path) -> Json | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
