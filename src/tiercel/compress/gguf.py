"""A Hugging Face folder as a GGUF file that llama.cpp serves: f16, q8_0, or 4 bits calibrated on texts of the workload.

The conversion is llama.cpp's own, which auto-round brings along; 4-bit weights are auto-round's. Before it starts the
folder is staged: transformers 5 no longer writes into tokenizer_config.json which tokens are special, whether a BOS is
put first and whether a space is, and a GGUF made without them cuts the same prompt into other tokens.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from tiercel.compress.gguf_edit import edit_gguf
from tiercel.compress.gguf_names import MissingName, fill_missing_names
from tiercel.compress.gguf_tokenizer import leading_space, pre_tokenizer_of
from tiercel.errors import ConfigurationError, MissingExtraError, RunError, StorageError, ran_out_of_memory

__all__ = ["GgufPrecision", "check_convertible", "convert_to_gguf"]

Json = dict[str, Any]
GgufPrecision = Literal["f16", "q8_0", "q4_0", "q4_k_m"]

WINDOW = 512
"""Tokens of a calibration window; fewer where the texts have fewer."""
MOST_WINDOWS = 128
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


def convert_to_gguf(
    folder: Path,
    target: Path,
    precision: GgufPrecision = "f16",
    *,
    texts: Sequence[str] = (),
    steps: int = 0,
    context: int | None = None,
) -> Path:
    """Write the model of `folder` to `target`.

    Args:
        folder: of a causal language model, its tokenizer and its chat template, as `save_pretrained` writes them.
        target: the GGUF file; it is written aside and renamed.
        precision: of the weights.
        texts: rendered prompts and answers of the workload, needed for 4 bits; short ones are packed together.
        steps: of auto-round's tuning of the rounding, for each block; 0 weighs errors by the texts' activations alone,
            which auto-round's authors recommend for GGUF.
        context: tokens that will be served at the most; None for all that the model was trained for.

    Returns:
        `target`.

    Raises:
        ConfigurationError: the folder is incomplete, its architecture, tokenizer or sliding window is unknown to
            llama.cpp, or no texts are given for 4 bits.
        MissingExtraError: auto-round, gguf, transformers or torch is not installed.
        RunError: the conversion failed.
        StorageError: the file can't be written.
    """
    if precision not in get_args(GgufPrecision):
        raise ConfigurationError(f"precision {precision!r} is none; use one of {', '.join(get_args(GgufPrecision))}")
    if precision.startswith("q4") and not any(texts):
        raise ConfigurationError(f"{precision} is calibrated on texts of the workload; give some, or use q8_0")
    config, tokenizer = _opened(folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".gguf-", dir=target.parent) as work, _quiet(), _mapped(folder):
            staged = _stage(folder, Path(work) / folder.resolve().name, tokenizer)
            _check_window(folder, config, staged, context)
            made = Path(work) / "made.gguf"
            if precision in ("f16", "q8_0"):
                _convert(staged, made, precision)
            else:
                made = _quantise(staged, Path(work) / "out", precision, _windows(tokenizer, texts), steps)
            corrected = _other_ends(staged, config) | _spacing(made, staged, tokenizer)
            if corrected:
                edit_gguf(made, Path(work) / "corrected.gguf", corrected)
                made = Path(work) / "corrected.gguf"
            made.replace(target)
    except OSError as error:
        if isinstance(error, StorageError) or ran_out_of_memory(error):
            raise
        raise StorageError(f"{target}: can't be written ({error.strerror or error}); choose another place") from None
    return target


def check_convertible(folder: Path, *, context: int | None = None) -> None:
    """See that the model of `folder` can be converted; it takes seconds and reads no weights.

    Args:
        folder: as for `convert_to_gguf`.
        context: as for `convert_to_gguf`.

    Raises:
        ConfigurationError: the folder is incomplete, or its architecture, tokenizer, sliding window or number of end
            tokens is more than a GGUF of llama.cpp can hold.
        MissingExtraError: auto-round, gguf, transformers or torch is not installed.
    """
    config, tokenizer = _opened(folder)
    with tempfile.TemporaryDirectory(prefix="gguf-") as work, _quiet(), _mapped(folder):
        staged = _stage(folder, Path(work) / folder.resolve().name, tokenizer)
        _other_ends(staged, config)
        _check_window(folder, config, staged, context)
        _converter(staged, Path(work) / "made.gguf", "f16").prepare_metadata(vocab_only=False)


def _opened(folder: Path) -> tuple[Json, Any]:
    """The folder's config.json and its tokenizer, once the folder is known to be whole."""
    config = _checked(folder)
    try:
        import auto_round  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import gguf  # noqa: F401  # pyright: ignore[reportUnusedImport]
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtraError(error.name or "auto-round", "compress") from None
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:
        raise ConfigurationError(f"{folder}: the tokenizer can't be read ({error}); save it again") from None
    _check_size(folder, config, tokenizer)
    return config, tokenizer


def _checked(folder: Path) -> Json:
    """The folder's config.json, once the folder is known to be whole."""
    config = _read_json(folder / "config.json")
    if config is None:
        raise ConfigurationError(f"{folder}: has no config.json that can be read; give a Hugging Face model folder")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ConfigurationError(f"{folder}: has no tokenizer; save it there with tokenizer.save_pretrained")
    told = _read_json(folder / "tokenizer_config.json") or {}
    if not (folder / "chat_template.jinja").is_file() and not told.get("chat_template"):
        raise ConfigurationError(
            f"{folder}: the tokenizer has no chat template, so that the model would be served another prompt than it "
            "was trained on; set tokenizer.chat_template and save it"
        )
    return config


def _check_size(folder: Path, config: Json, tokenizer: Any) -> None:
    rows = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    if rows is not None and len(tokenizer) > rows:
        raise ConfigurationError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens but the embedding {rows} rows; call "
            "model.resize_token_embeddings(len(tokenizer)), train the new rows, and save it"
        )


def _read_json(path: Path) -> Json | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _stage(folder: Path, staged: Path, tokenizer: Any) -> Path:
    """A folder of links to the model's files, with a tokenizer_config.json that says what a GGUF has to know."""
    staged.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name != "tokenizer_config.json":
            (staged / path.name).symlink_to(path.resolve())
    told = _read_json(folder / "tokenizer_config.json") or {}
    if "added_tokens_decoder" not in told:
        told["added_tokens_decoder"] = {
            str(id_): {"content": token.content, "special": token.special}
            for id_, token in tokenizer.added_tokens_decoder.items()
        }
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}], tokenize=False, add_generation_prompt=True
    )
    bos = tokenizer.bos_token
    # llama.cpp takes away the template's BOS where it adds one by itself: either way there is one where there was one.
    told["add_bos_token"] = bool(bos) and prompt.startswith(bos)
    told["add_eos_token"] = False
    space = leading_space(folder, tokenizer)
    if space is not None:
        told["add_prefix_space"] = space
    (staged / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    return staged


def _conversion(staged: Path) -> tuple[Any, Json, Any]:
    """llama.cpp's converter module, the model's parameters, and the converter's class for them."""
    from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion

    fill_missing_names()
    conversion: Any = get_conversion(staged)
    parameters: Json = conversion.ModelBase.load_hparams(staged, False)
    architecture = conversion.get_model_architecture(parameters, conversion.ModelType.TEXT)
    kind = conversion.get_model_class(architecture)
    if isinstance(kind.model_arch, MissingName):
        raise NotImplementedError(f"gguf has no name for {kind.model_arch}")
    return conversion, parameters, kind


def _converter(staged: Path, made: Path, precision: str) -> Any:
    """llama.cpp's converter for the model, which has read no weight yet."""
    import gguf

    _, parameters, kind = _conversion(staged)
    model = kind(
        dir_model=staged,
        ftype=gguf.LlamaFileType[f"MOSTLY_{precision.upper()}"],
        fname_out=made,
        model_name=staged.name,
        hparams=parameters,
    )
    # A family of which one class stands for several architectures does its work in another.
    model = getattr(model, "impl", model)
    model.get_vocab_base_pre = _known_by_pattern(model.get_vocab_base_pre, staged)
    return model


def _check_window(folder: Path, config: Json, staged: Path, context: int | None) -> None:
    """Refuse a window that ends before the context does, where llama.cpp would let a token see all before it."""
    told = config.get("text_config") or config
    window, positions = told.get("sliding_window"), told.get("max_position_embeddings")
    reach = min((n for n in (context, positions) if n), default=None)
    if not window or told.get("use_sliding_window") is False or (reach is not None and window >= reach):
        return
    model = _converter(staged, staged, "f16")
    model.set_gguf_parameters()
    written = any(key.endswith("attention.sliding_window") for key in model.gguf_writer.kv_data[0])
    # That of Phi-3 is written and not kept to.
    if not written or config.get("model_type") == "phi3":
        raise ConfigurationError(
            f"{folder}: its tokens see {window} tokens back, in a context of {reach or 'any length'}; llama.cpp knows "
            f"no such window for {config.get('model_type')} models and would serve another model than was trained: "
            "train without a window, or take a model without one"
        )


def _convert(staged: Path, made: Path, precision: str) -> None:
    import torch

    with torch.inference_mode():
        model = _converter(staged, made, precision)
        model.prepare_tensors()
        model.prepare_metadata(vocab_only=False)
        model.gguf_writer.write_header_to_file(path=made)
        model.gguf_writer.write_kv_data_to_file()
        model.gguf_writer.write_tensors_to_file(progress=False)
        model.gguf_writer.close()


def _known_by_pattern(known: Callable[[Any], str], staged: Path) -> Callable[[Any], str]:
    """The converter's look at a byte-level BPE tokenizer, with the tokenizer's own pattern where it knows no better."""

    def name(tokenizer: Any) -> str:
        try:
            return known(tokenizer)
        except NotImplementedError:
            found = pre_tokenizer_of(staged)
            if found is None:
                raise
            return found

    return name


def _windows(tokenizer: Any, texts: Sequence[str]) -> list[Json]:
    """Texts one after the other, cut into windows of one length: auto-round drops whatever is shorter."""
    import torch

    ids = list[int]()
    for text in texts:
        ids += tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) >= WINDOW * MOST_WINDOWS:
            break
    length = min(WINDOW, len(ids))
    cut = torch.tensor(ids[: len(ids) // length * length][: WINDOW * MOST_WINDOWS]).view(-1, 1, length)
    return [{"input_ids": one, "attention_mask": torch.ones_like(one)} for one in cut]


def _quantise(staged: Path, out: Path, precision: str, windows: list[Json], steps: int) -> Path:
    from auto_round import AutoRound

    _conversion(staged)
    compressor: Any = AutoRound(
        str(staged),
        scheme=f"GGUF:{precision.upper()}",
        iters=steps,
        seqlen=windows[0]["input_ids"].shape[1],
        nsamples=len(windows),
        batch_size=min(8, len(windows)),
        dataset=windows,  # pyright: ignore[reportArgumentType]
        device_map="cpu",
        enable_torch_compile=False,
    )
    compressor.quantize_and_save(str(out), format=f"gguf:{precision}")
    found = sorted(out.rglob("*.gguf"))
    if len(found) != 1:
        raise RunError(f"auto-round left {len(found)} GGUF files where one was wanted")
    return found[0]


def _other_ends(staged: Path, config: Json) -> dict[str, int]:
    """Where the model stops at more tokens than its first EOS, the keys under which a GGUF names two more."""
    told = (_read_json(staged / "generation_config.json") or {}).get("eos_token_id", config.get("eos_token_id"))
    ends = told if isinstance(told, list) else [told]
    first = config.get("eos_token_id")
    first = first[0] if isinstance(first, list) else first
    others = [int(end) for end in ends if end is not None and end != first]
    if len(others) > 2:
        raise ConfigurationError(f"the model stops at {len(others) + 1} tokens, a GGUF names three; take some away")
    return dict(zip(("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"), others, strict=False))


def _spacing(made: Path, staged: Path, tokenizer: Any) -> dict[str, bool]:
    """The key that says whether a space comes first, where the converter wrote it otherwise or, as for Phi-3, not."""
    import gguf

    key = "tokenizer.ggml.add_space_prefix"
    space = leading_space(staged, tokenizer)
    fields = gguf.GGUFReader(str(made)).fields
    if space is None or fields["tokenizer.ggml.model"].contents() != "llama":
        return {}
    return {} if key in fields and fields[key].contents() == space else {key: space}


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Neither logs nor progress bars of the libraries."""
    loggers = [logging.getLogger(name) for name in ("autoround", "hf-to-gguf", "gguf", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _mapped(folder: Path) -> Generator[None]:
    """Turn what the converters raise into one clear error."""
    try:
        yield
    except (ConfigurationError, MissingExtraError, RunError, OSError, MemoryError):
        raise
    except NotImplementedError as error:
        if "pre-tokenizer" in str(error):
            raise ConfigurationError(
                f"{folder}: llama.cpp does not know this byte-level BPE tokenizer, neither by its output on a sample "
                "nor by the pattern that cuts its text; take the tokenizer of a published model, or train a "
                "SentencePiece one with byte fallback"
            ) from None
        architecture = (_read_json(folder / "config.json") or {}).get("architectures") or ["no architecture"]
        raise ConfigurationError(
            f"{folder}: llama.cpp does not know the architecture {architecture[0]}; use a Llama, Qwen, Gemma or "
            "another that it lists"
        ) from None
    except (Exception, SystemExit) as error:
        if ran_out_of_memory(error):
            raise
        raise RunError(f"{folder}: the conversion to GGUF failed ({type(error).__name__}: {error})") from error
