"""Adapters of peft in llama.cpp: two share one base in memory, and each answers as the model that it was merged into."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.engines.tiny_llama import make_llama, sentences
from tests.students.test_slm_training import HELD
from tiercel.compress.gguf import convert_to_gguf
from tiercel.compress.gguf_adapter import convert_adapter
from tiercel.engines.llamacpp import LlamaCppEngine
from tiercel.engines.protocol import GenerationRequest
from tiercel.errors import ConfigurationError, StorageError
from tiercel.students.slm_adapter import attach_adapter, load_model, merge_adapter, save_adapter
from tiercel.students.slm_base import SlmBase, open_base
from tiercel.students.slm_rows import ChatRow
from tiercel.students.slm_training import SlmPlan, train_slm
from tiercel.types import Message

pytest.importorskip("xllamacpp")
pytest.importorskip("peft")

PLAN = SlmPlan(learning_rate=1e-2, batch=16, at_once=16, epochs=3, looks=1, context=96, dropout=0.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> SlmBase:
    return open_base(str(make_llama(tmp_path_factory.mktemp("base") / "Tiny-Llama")))


def trained(base: SlmBase, folder: Path, answer: dict[str, str]) -> tuple[Path, Path]:
    """Folder of an adapter that answers in its own words, and of its merged model."""
    rows = [ChatRow((Message(role="user", content=text),), answer[label]) for text, label in sentences()[::3]]
    held = [row._replace(answer=answer[row.answer]) for row in HELD]
    told = train_slm(base, rows, held, folder / "adapter", PLAN, threads=1)
    return folder / "adapter", merge_adapter(base, folder / "adapter", folder / "Tiny-Llama", ends=told.ends)


def asked(text: str, adapter: str | None = None) -> GenerationRequest:
    return GenerationRequest(messages=(Message(role="user", content=text),), max_tokens=8, adapter=adapter, logprobs=1)


def test_two_adapters_share_a_base_and_answer_as_their_merged_models(base: SlmBase, tmp_path: Path) -> None:
    words = {"delivery", "billing", "returns", "account"}
    plans = {"plain": {w: w for w in words}, "turned": dict(zip(sorted(words), sorted(words)[::-1], strict=True))}
    adapters, merged = dict[str, Path](), dict[str, Path]()
    for name, plan in plans.items():
        (tmp_path / name).mkdir()
        folder, whole = trained(base, tmp_path / name, plan)
        adapters[name] = convert_adapter(base.folder, folder, tmp_path / f"{name}.gguf")
        merged[name] = convert_to_gguf(whole, tmp_path / f"{name}-merged.gguf", "f16")
    shared = convert_to_gguf(base.folder, tmp_path / "base.gguf", "f16")
    texts = [text for text, _ in sentences()[1::60]]
    found = dict[str, list[str]]()
    with LlamaCppEngine(shared, context=128, threads=1, adapters=adapters) as engine:
        for name in adapters:
            with LlamaCppEngine(merged[name], context=128, threads=1) as alone:
                own = [engine.generate(asked(text, name)) for text in texts]
                wanted = [alone.generate(asked(text)) for text in texts]
            found[name] = [g.answer.text for g in own]
            assert found[name] == [g.answer.text for g in wanted]
            for one, other in zip(own, wanted, strict=True):
                pairs = zip(one.tokens, other.tokens, strict=True)
                assert all(a.logprob == pytest.approx(b.logprob, abs=0.05) for a, b in pairs)
    assert found["plain"] != found["turned"]


@pytest.fixture(scope="module")
def adapter(base: SlmBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that knows its base; what it learnt does not matter."""
    import torch

    folder = tmp_path_factory.mktemp("adapter")
    model, _ = attach_adapter(load_model(base, torch.float32), rank=2, alpha=4, dropout=0.0, four_bits=False)
    save_adapter(model, base, folder)
    return folder


@pytest.mark.parametrize("said", [True, False])
def test_an_adapter_of_another_base_is_refused_and_named(
    base: SlmBase, adapter: Path, tmp_path: Path, said: bool
) -> None:
    assert convert_adapter(base.folder, adapter, tmp_path / "own.gguf").is_file()
    own = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    if not said:
        # As peft writes it: then other shapes are all that can be told from.
        (own / "base.json").unlink()
    wider = make_llama(tmp_path / "wider", width=96)
    with pytest.raises(ConfigurationError, match=r"adapter: the adapter was trained on another base.*wider"):
        convert_adapter(wider, own, tmp_path / "x.gguf")
    if said:
        same_shape = Path(shutil.copytree(base.folder, tmp_path / "same-shape"))
        weights = {k: v + 1 for k, v in load_file(same_shape / "model.safetensors").items()}
        save_file(weights, same_shape / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ConfigurationError, match=r"another base \(Tiny-Llama\) than .*same-shape"):
            convert_adapter(same_shape, own, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "adapter_model.safetensors").unlink(), "the adapter's weights can't be read"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"no weights"), "the adapter's weights can't be read"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "does not say the rank"),
        (lambda f: (f / "base.json").write_text("[]"), "base.json can't be read"),
        (lambda f: (f / "adapter_config.json").unlink(), "is no adapter"),
    ],
)
def test_a_damaged_adapter_is_named(
    base: SlmBase, adapter: Path, tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    own = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    spoil(own)
    with pytest.raises(ConfigurationError, match=f"^{own}: .*{says}"):
        convert_adapter(base.folder, own, tmp_path / "x.gguf")


def test_a_place_that_can_not_be_written_is_said(base: SlmBase, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"x\.gguf: can't be written"):
        convert_adapter(base.folder, adapter, tmp_path / "file" / "x.gguf")


def test_what_can_not_be_converted_is_said(base: SlmBase, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    (other / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="adapters of mamba models can't be converted"):
        convert_adapter(other, other, tmp_path / "x.gguf")
    with pytest.raises(ConfigurationError, match="nothing: is no adapter"):
        convert_adapter(base.folder, tmp_path / "nothing", tmp_path / "x.gguf")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    save_file(
        {"base_model.model.model.embed_tokens.weight": np.zeros((2, 2), np.float32)},
        broken / "adapter_model.safetensors",
    )
    with pytest.raises(ConfigurationError, match="no low-rank matrix"):
        convert_adapter(base.folder, broken, tmp_path / "x.gguf")
