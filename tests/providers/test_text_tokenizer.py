from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.conftest import calling
from tiercel.errors import ConfigurationError
from tiercel.providers.text_tokenizer import TextTokenizer, read_tokenizer
from tiercel.providers.tokens import IMAGE_TOKENS
from tiercel.types import Answer, Message

TEXTS = ["where is my parcel", "the courier lost the parcel", "my invoice was charged twice", '{"city": "Paris"}']


def made() -> Tokenizer:
    """A small byte-level BPE whose file cuts, fills and frames texts, as those of encoders do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"])
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return tokenizer


def write(path: Path) -> Path:
    tokenizer = made()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(path))
    return path


WHOLE = made()
COUNTER = TextTokenizer(made())


@given(st.text(max_size=200))
def test_counts_are_those_of_the_tokenizer_itself(text: str) -> None:
    assert COUNTER.count(text) == len(WHOLE.encode(text, add_special_tokens=False).ids)


def test_what_a_file_says_of_cutting_filling_and_framing_changes_no_count(tmp_path: Path) -> None:
    counter = read_tokenizer(write(tmp_path / "tokenizer.json"))
    for text in [*TEXTS, "x" * 1_000, ""]:
        assert counter.count(text) == len(WHOLE.encode(text, add_special_tokens=False).ids)


def test_half_a_surrogate_is_counted_and_no_error() -> None:
    assert COUNTER.count("a\ud800b") > 0


def test_a_request_counts_its_texts_images_calls_and_tools() -> None:
    def count(text: str) -> int:
        return len(WHOLE.encode(text, add_special_tokens=False).ids)

    call = calling(("find_parcel", '{"city": "Paris"}'))
    messages = [
        Message(role="system", content=TEXTS[0]),
        Message(role="user", content=[{"type": "text", "text": TEXTS[1]}, {"type": "image_url", "image_url": {}}]),
        Message(role="assistant", tool_calls=call.tool_calls),
    ]
    tools = [{"type": "function", "function": {"name": "find_parcel"}}]
    usage = COUNTER.usage(messages, Answer(content=TEXTS[2], tool_calls=call.tool_calls), tools)
    called = count("find_parcel") + count('{"city": "Paris"}')
    asked = count(TEXTS[0]) + count(TEXTS[1]) + IMAGE_TOKENS + called
    assert usage.input_tokens == asked + count('[{"type":"function","function":{"name":"find_parcel"}}]')
    assert usage.output_tokens == count(TEXTS[2]) + called
    assert COUNTER.usage(messages, None).input_tokens == asked


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "tokenizer.json")
    first = read_tokenizer(path)
    assert read_tokenizer(path) is first
    os.utime(path, ns=(1, 1))
    assert read_tokenizer(path) is not first


@pytest.mark.parametrize("data", [b"", b"{}", b'{"version": "1.0"}', b"\xff\x00", b"[" * 10_000])
def test_a_broken_file_is_the_users_mistake(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    with pytest.raises(
        ConfigurationError, match=r"tokenizer\.json is no tokenizer\.json of .*; give that of the model"
    ):
        read_tokenizer(path)


def test_a_missing_file_is_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file or directory"):
        read_tokenizer(tmp_path / "none.json")
    with pytest.raises(ConfigurationError, match="can't be read"):
        read_tokenizer(tmp_path)
