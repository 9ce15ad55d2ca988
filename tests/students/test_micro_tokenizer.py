"""The micro rung's tokenizer: three readers agree, any text comes back, nobody injects a marker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.students.micro_rows import NAMES, labelled, orders
from tiercel.errors import BundleError, DataError
from tiercel.students.micro_pieces import literals, structural_pieces
from tiercel.students.micro_tokenizer import (
    ANSWER,
    CHAT_TEMPLATE,
    END,
    REQUEST,
    MicroTokenizer,
    neutralise,
)
from tiercel.students.micro_vocabulary import train_tokenizer

ROWS = orders(400)
QUICK = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = st.one_of(
    st.text(),
    st.lists(st.sampled_from([*NAMES, " ", "  ", '"', '", "', 'name": "', "<", "/s>", "tea", "7", "▁", "\n"])).map(
        "".join
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(ROWS, found)
    return found


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> MicroTokenizer:
    return MicroTokenizer(folder)


@pytest.fixture(scope="module")
def sentencepiece(folder: Path) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.fixture(scope="module")
def hugging_face(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@QUICK
@given(text=TEXTS)
@example(text="日本語 naïve \t\r\n\0 👩‍👩‍👧 ")
@example(text="   ")
def test_any_text_comes_back(tokenizer: MicroTokenizer, text: str) -> None:
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids) == neutralise(text).replace("▁", " ")


@QUICK
@given(text=TEXTS)
def test_sentencepiece_and_hugging_face_read_alike(
    tokenizer: MicroTokenizer, sentencepiece: Any, hugging_face: Any, text: str
) -> None:
    """llama.cpp reads what SentencePiece reads: parity of tokens is parity with what is served."""
    text = neutralise(text).replace("\0", "")
    (ids,) = tokenizer.encode([text])
    assert sentencepiece.encode(text) == ids
    assert hugging_face.encode(text, add_special_tokens=False) == ids


@QUICK
@given(text=st.lists(st.sampled_from([REQUEST, ANSWER, END, "<s>", "<unk>", "<", "/s>", "|user|>", "x"])).map("".join))
@example(text="<</s>/s>")
def test_no_text_brings_a_marker_in(tokenizer: MicroTokenizer, hugging_face: Any, text: str) -> None:
    (ids,) = tokenizer.encode([text])
    assert not {0, 1, tokenizer.end_id, tokenizer.request_id, tokenizer.answer_id} & set(ids)
    chat = [{"role": "system", "content": text}, {"role": "user", "content": text}]
    told = hugging_face.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert told == tokenizer.prompt(ids)


def test_the_template_writes_what_was_trained_on(tokenizer: MicroTokenizer, hugging_face: Any) -> None:
    request, answer = ROWS[0]
    chat = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
    ids = tokenizer.encode([request, answer])
    told = hugging_face.apply_chat_template(chat, return_dict=False)
    assert told == [*tokenizer.prompt(ids[0]), *ids[1], tokenizer.end_id]
    assert hugging_face.chat_template == CHAT_TEMPLATE
    assert hugging_face.eos_token_id == tokenizer.end_id


@pytest.mark.parametrize("name", ["corgus", "Unheard-of", "x9"])
def test_a_value_is_spelled_alike_in_request_and_answer(tokenizer: MicroTokenizer, name: str) -> None:
    alone = dict(tokenizer.twins)
    space = tokenizer.encode([" "])[0]

    def spelled(text: str) -> list[int]:
        return [alone.get(i, i) for i in tokenizer.encode([text])[0] if [i] != space]

    wanted = spelled(name)
    for text in (f"tea for {name}, and quickly", name, f'{{"item": "tea", "name": "{name}"}}'):
        ids = spelled(text)
        assert any(ids[i : i + len(wanted)] == wanted for i in range(len(ids)))


def test_a_frequent_word_after_a_space_is_one_token(tokenizer: MicroTokenizer) -> None:
    assert len(tokenizer.encode(["tea for"])[0]) == 2
    ends = [twin for twin, _ in tokenizer.twins]
    assert ends == list(range(len(tokenizer) - len(ends), len(tokenizer)))


def test_keys_and_closed_values_are_one_token(tokenizer: MicroTokenizer) -> None:
    ids = tokenizer.encode([ROWS[0][1], ROWS[0][0].split()[0]])
    assert len(ids[0]) <= 14, [tokenizer.decode([i]) for i in ids[0]]


def test_a_label_is_one_token(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(labelled(300), tmp_path)
    assert [len(i) for i in tokenizer.encode(["card_lost", "rate_asked", "greeting"])] == [1, 1, 1]


def test_the_same_rows_give_the_same_files(folder: Path, tmp_path: Path) -> None:
    train_tokenizer(ROWS, tmp_path)
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()


def test_digits_stand_alone(tokenizer: MicroTokenizer) -> None:
    assert len(tokenizer.encode(["20260"])[0]) == 5


def test_pieces_are_cut_alike_from_the_left_and_by_length() -> None:
    pieces = structural_pieces(ROWS, limit=100)
    assert any("very_high" in p for p in pieces)
    assert not any(name in p for p in pieces for name in NAMES)
    for a in pieces:
        for b in pieces:
            overlaps = [n for n in range(1, min(len(a), len(b))) if a.endswith(b[:n])]
            assert a == b or len(b) < len(a) or not overlaps, (a, b)


def test_literals_are_values_not_keys() -> None:
    answer = json.dumps({"a": "x", "b": ["y", 'z"'], "c": {"d": ""}})
    assert [answer[start:end] for start, end in literals(answer)] == ["x", "y", 'z\\"', ""]
    assert [*literals("SELECT a FROM t WHERE b = 'new york'")] == [(27, 35)]


def test_rare_scripts_are_spelled_in_bytes(tmp_path: Path) -> None:
    rows = [(f"{chr(0x4E00 + i)}{chr(0x4E00 + 2 * i)} {i}", "yes" if i % 2 else "no") for i in range(900)]
    tokenizer = train_tokenizer(rows, tmp_path)
    assert [tokenizer.decode(i) for i in tokenizer.encode([r for r, _ in rows])] == [r for r, _ in rows]


def test_rows_without_text_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text"):
        train_tokenizer([("", "")] * 50, tmp_path)


@pytest.mark.parametrize("content", [None, "{}", '{"version": "1.0"'])
def test_a_damaged_tokenizer_is_one_clear_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BundleError, match="train the student again"):
        MicroTokenizer(tmp_path)
