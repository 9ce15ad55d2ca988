"""A low-rank adapter on a pretrained model: attached, saved, and merged into a plain Hugging Face folder."""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import torch

from tiercel.engines.adapters import another_base, check_base, record_base
from tiercel.errors import ConfigurationError, MissingExtraError, ran_out_of_memory
from tiercel.students.slm_base import TOKENIZER_FILES, SlmBase
from tiercel.students.slm_targets import LoraTargets, lora_targets

__all__ = ["attach_adapter", "four_bits_work", "load_model", "merge_adapter", "quiet", "save_adapter"]


def four_bits_work() -> bool:
    """Whether weights of 4 bits can be trained on here: bitsandbytes and a GPU."""
    import importlib.util

    return torch.cuda.is_available() and importlib.util.find_spec("bitsandbytes") is not None


def load_model(base: SlmBase, dtype: torch.dtype, *, four_bits: bool = False) -> Any:
    """The model of `base` on the first GPU where there is one.

    Raises:
        ConfigurationError: its weights can't be read.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    more: dict[str, Any] = {}
    if four_bits:
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        more["device_map"] = {"": 0}
    try:
        with quiet():
            model: Any = AutoModelForCausalLM.from_pretrained(str(base.folder), dtype=dtype, **more)
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        told = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ConfigurationError(f"{base.folder}: the weights can't be read ({told}); fetch the model again") from None
    model.config.use_cache = False
    if torch.cuda.is_available() and not four_bits:
        model = model.to("cuda")
    return model


def attach_adapter(model: Any, *, rank: int, alpha: float, dropout: float, four_bits: bool) -> tuple[Any, LoraTargets]:
    """A rank-stabilised adapter on all linear layers and on the experts; everything else is frozen.

    Source: Kalajdzievski, "A rank stabilization scaling factor for fine-tuning with LoRA", 2023: the product is scaled
    with alpha over the root of the rank, so that a learning rate suits every rank.

    Raises:
        MissingExtraError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    except ImportError:
        raise MissingExtraError("peft", "tune") from None
    targets = lora_targets(model)
    if four_bits:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]
        # peft knows no dropout on experts that lie in one tensor.
        lora_dropout=0.0 if targets.parameters else dropout,
        use_rslora=True,
        target_modules=list(targets.modules),
        target_parameters=list(targets.parameters) or None,
    )
    with quiet():
        return get_peft_model(model, config), targets


def save_adapter(model: Any, base: SlmBase, folder: Path) -> None:
    """Write the adapter of `model` into `folder`, with what its base is known by."""
    with quiet():
        model.save_pretrained(str(folder), save_embedding_layers=False)
    record_base(base.folder, base.name, folder)


def merge_adapter(base: SlmBase, adapter: Path, target: Path, *, ends: Sequence[int] = ()) -> Path:
    """Write `base` with `adapter` merged into it as a plain Hugging Face folder.

    The tokenizer's files and the generation settings are the base's own, copied.

    Args:
        base: that the adapter was trained on.
        adapter: folder of it.
        target: new folder; llama.cpp knows a few families by its name, so give it the base's.
        ends: further tokens at which the merged model has to stop.

    Returns:
        `target`.

    Raises:
        ConfigurationError: the adapter can't be read, or is of another base.
        MissingExtraError: peft is not installed.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError:
        raise MissingExtraError("peft", "tune") from None
    from safetensors import SafetensorError, safe_open
    from transformers import AutoModelForCausalLM, GenerationConfig

    check_base(base.folder, adapter)
    with quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(str(base.folder), dtype="auto")
    try:
        with safe_open(adapter / "adapter_model.safetensors", "pt") as file:  # pyright: ignore[reportUnknownVariableType]
            stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        with quiet():
            adapted: Any = PeftModel.from_pretrained(model, str(adapter))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigurationError(
            f"{adapter}: the adapter can't be read ({str(error).splitlines()[0]}); train it again"
        ) from None
    except RuntimeError:
        raise another_base(base.folder, adapter) from None
    wanted = {key: tuple(value.shape) for key, value in get_peft_model_state_dict(adapted).items()}
    if stored != wanted:
        raise another_base(base.folder, adapter)
    merged = adapted.merge_and_unload()
    merged.config.use_cache = True
    # Settings for sampling that a base ships with need not be valid by today's rules; its own file is copied below.
    merged.generation_config = GenerationConfig(eos_token_id=list(base.ends) or None)
    target.mkdir(parents=True, exist_ok=True)
    with quiet():
        merged.save_pretrained(str(target))
    for name in TOKENIZER_FILES:
        if (base.folder / name).is_file():
            shutil.copyfile(base.folder / name, target / name)
    _write_generation(base, target, ends)
    return target


def _write_generation(base: SlmBase, target: Path, ends: Sequence[int]) -> None:
    source = base.folder / "generation_config.json"
    told = json.loads((source if source.is_file() else target / source.name).read_text(encoding="utf-8"))
    stops = [*base.ends, *(end for end in ends if end not in base.ends)]
    if stops != list(base.ends) or "eos_token_id" not in told:
        told["eos_token_id"] = stops[0] if len(stops) == 1 else stops
    (target / source.name).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Neither progress bars nor hints of the libraries."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
