from __future__ import annotations

from pathlib import Path

import pytest

from tiercel.errors import BundleError
from tiercel.students.word_tokens import WordTokenizer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(
        models.WordPiece({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "big": 3, "##ger": 4}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_words_are_told_by_their_first_token(file: Path) -> None:
    [tokens] = WordTokenizer(file, 16)(["bigger big"])
    assert tokens.ids.tolist() == [1, 3, 4, 3, 2]
    assert tokens.first.tolist() == [1, 3]
    assert tokens.words == [(0, 6), (7, 10)]
    assert tokens.kept == 1.0


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_a_text_without_a_word_has_special_tokens_alone(file: Path, text: str) -> None:
    [tokens, other] = WordTokenizer(file, 16)([text, "big"])
    assert tokens.ids.tolist() == [1, 2]
    assert tokens.words == []
    assert tokens.first.size == 0
    assert other.words == [(0, 3)]


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json: the tokenizer can't be read"):
        WordTokenizer(tmp_path / "tokenizer.json", 16)
