"""Byte-level BPE tokenizers that are newly trained, told by the pattern that cuts their text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engines.tiny_llama import sentences
from tests.students.slm_models import make_model, make_tokenizers
from tiercel.compress.gguf import convert_to_gguf
from tiercel.compress.gguf_names import MissingName, fill_missing_names
from tiercel.compress.gguf_tokenizer import leading_space, pre_tokenizer_of
from tiercel.compress.serving_parity import ParityRow, compare_serving
from tiercel.engines.llamacpp import LlamaCppEngine
from tiercel.types import Message

gguf = pytest.importorskip("gguf")

HARD = ["it's 12345 o'clock", "ÉCOLE déjà-vu?!", "a\n\n  b\r\n\tc", "東京 2024年", "x" * 40, "we'LL  see   "]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizers(tmp_path_factory.mktemp("tokenizers"))


def test_a_new_byte_level_bpe_is_cut_alike_by_the_server(tmp_path: Path) -> None:
    folder = make_model("Qwen2.5", tmp_path / "Qwen2.5")
    made = convert_to_gguf(folder, tmp_path / "made.gguf")
    assert gguf.GGUFReader(str(made)).fields["tokenizer.ggml.pre"].contents() == "qwen2"
    rows = [ParityRow(messages=(Message(role="user", content=text),)) for text in HARD]
    with LlamaCppEngine(made, context=256, slots=1, threads=1) as engine:
        found = compare_serving(folder, engine, rows, max_tokens=2, same_answers=False)
    assert found.first_difference is None


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "qwen2"),
        ({"model": {"ignore_merges": True}}, None),
        ({"normalizer": {"type": "Lowercase"}}, None),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}}, "gpt-2"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}}, None),
        ({"pre_tokenizer": {"type": "Whitespace"}}, None),
        ({"pre_tokenizer": None}, None),
    ],
)
def test_only_a_known_pattern_has_a_name(
    tokenizers: Path, tmp_path: Path, changes: dict[str, Any], name: str | None
) -> None:
    told = json.loads((tokenizers / "byte-level" / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(told | changes))
    assert pre_tokenizer_of(tmp_path) == name


def test_llama_3s_pattern_has_another_name_where_merges_go_before_whole_words(tokenizers: Path, tmp_path: Path) -> None:
    told = json.loads((tokenizers / "byte-level" / "tokenizer.json").read_text())
    split = told["pre_tokenizer"]["pretokenizers"][0]
    split["pattern"]["Regex"] = split["pattern"]["Regex"].replace(r"|\p{N}|", r"|\p{N}{1,3}|")
    for whole_words, name in ((True, "llama-bpe"), (False, "dbrx")):
        told["model"]["ignore_merges"] = whole_words
        (tmp_path / "tokenizer.json").write_text(json.dumps(told))
        assert pre_tokenizer_of(tmp_path) == name
    (tmp_path / "tokenizer.json").write_text("no")
    assert pre_tokenizer_of(tmp_path) is None


def test_a_leading_space_is_asked_of_sentencepiece_alone(tokenizers: Path) -> None:
    from transformers import AutoTokenizer

    for kind, wanted in (("byte-level", None), ("sentencepiece", False)):
        assert leading_space(tokenizers / kind, AutoTokenizer.from_pretrained(str(tokenizers / kind))) is wanted


def test_missing_names_are_no_members(tokenizers: Path) -> None:
    fill_missing_names()
    assert sentences()
    names = [n for n in dir(gguf.MODEL_ARCH) if isinstance(getattr(gguf.MODEL_ARCH, n), MissingName)]
    assert not {"LLAMA", "QWEN2", "GEMMA3", "DEEPSEEK2"} & set(names)
    assert all(getattr(gguf.MODEL_ARCH, n) not in gguf.MODEL_ARCH_NAMES for n in names)
