"""Trains the vocabulary of a workload and writes it for its three readers; `micro_tokenizer` says what is special."""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tiercel.errors import BundleError, DataError, MissingExtraError
from tiercel.students.micro_pieces import structural_pieces
from tiercel.students.micro_tokenizer import (
    ANSWER,
    CHAT_TEMPLATE,
    END,
    REQUEST,
    SPACE,
    SPECIAL,
    MicroTokenizer,
    neutralise,
)

__all__ = ["train_tokenizer"]

_CHUNK = 2000


def train_tokenizer(
    rows: Sequence[tuple[str, str]], folder: Path, *, words: int | None = None, beside: Sequence[str] = ()
) -> MicroTokenizer:
    """Train a tokenizer and write it into `folder`; the same rows give the same files.

    Args:
        rows: requests and answers.
        folder: takes tokenizer.model, tokenizer.json, tokenizer_config.json and chat_template.jinja.
        words: pieces of words in the vocabulary, beside bytes, characters, structure and twins; None derives them from
            the amount of text.
        beside: other texts that are to be written in it, such as rationales.

    Raises:
        DataError: there is no text.
    """
    rows = [(neutralise(request), neutralise(answer)) for request, answer in (*rows, *((b, "") for b in beside if b))]
    words = words or _suggested_words(rows)
    pieces = structural_pieces(rows, limit=words // 2)
    model = _train(rows, words, pieces)
    # Labels are answers that come again and again: each has to be one token.
    labels = [label for label in _labels(rows) if len(_encode(model, label)) > 1 and label not in pieces]
    if labels:
        model = _train(rows, words, [*pieces, *labels])
    _write(model, folder)
    return MicroTokenizer(folder)


def _suggested_words(rows: Sequence[tuple[str, str]]) -> int:
    """Vocabularies grow with the root of the text (Heaps' law)."""
    characters = sum(len(request) for request, _ in rows)
    return min(3072, max(256, 16 * round(2 * math.sqrt(characters) / 16)))


def _labels(rows: Sequence[tuple[str, str]], most: int = 256) -> list[str]:
    """Answers that come again and again, where nearly all do."""
    counts = Counter(answer for _, answer in rows if answer)
    least = max(2, len(rows) // 1000)
    frequent = [a for a, n in counts.items() if n >= least and len(a) <= 80]
    if len(frequent) > most or sum(counts[a] for a in frequent) < 0.8 * counts.total():
        return []
    return sorted(frequent, key=lambda a: (-counts[a], a))


def _texts(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for row in rows:
        for text in row:
            yield from (text[i : i + _CHUNK] for i in range(0, len(text), _CHUNK))


def _alphabet(rows: Sequence[tuple[str, str]], most: int) -> frozenset[str]:
    """Characters with a token of their own; the rest are spelled in bytes."""
    counts = Counter(c for text in _texts(rows) for c in text)
    return frozenset(c for c, n in counts.most_common(most) if n > 1 and not c.isspace() and c != "\0")


def _train(rows: Sequence[tuple[str, str]], words: int, pieces: Sequence[str]) -> Any:
    """The trained model as SentencePiece's own message."""
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        raise MissingExtraError("sentencepiece with protobuf", "compress") from None
    alphabet = _alphabet(rows, words)
    if not alphabet:
        raise DataError("the rows hold no text to learn a vocabulary from; check that requests and answers are filled")
    corpus = ["".join(c if c in alphabet else " " for c in text) for text in _texts(rows)]
    size = len(SPECIAL) + 256 + 1 + len(pieces) + len(alphabet) + words
    messages: Any = sentencepiece_model_pb2  # made at run time: it has no types
    model = messages.ModelProto()
    try:
        model.ParseFromString(_sentencepiece(corpus, size, pieces))
    except RuntimeError as error:
        # Too little text for so many tokens: the message ends with how many it would bear.
        most = re.search(r"too high .* <= (\d+)", str(error))
        if most is None:
            raise
        model.ParseFromString(_sentencepiece(corpus, int(most[1]), pieces))
    _add_twins(model, corpus)
    return model


def _sentencepiece(corpus: Sequence[str], size: int, pieces: Sequence[str]) -> bytes:
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=written,
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        split_digits=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        control_symbols=[REQUEST, ANSWER],
        user_defined_symbols=[SPACE, *(p.replace(" ", SPACE) for p in pieces)],
        max_sentence_length=16 * _CHUNK,
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()


def _add_twins(model: Any, corpus: Sequence[str]) -> None:
    """Give pieces that begin words a second form with the space, merged after all else so that no word is cut anew."""
    import sentencepiece

    kind = type(model.pieces[0])
    for piece in model.pieces:
        if piece.piece == SPACE:
            piece.type = kind.NORMAL
    reader = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    space = reader.piece_to_id(SPACE)
    counts = Counter(
        second for ids in reader.encode(list(corpus)) for first, second in pairwise(ids) if first == space != second
    )
    lowest = min(piece.score for piece in model.pieces)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    frequent = [i for i, n in ranked if n > 1 and model.pieces[i].type == kind.NORMAL]
    for n, i in enumerate(frequent):
        model.pieces.add(piece=SPACE + model.pieces[i].piece, score=lowest - 1 - n, type=kind.NORMAL)
    model.trainer_spec.vocab_size = len(model.pieces)


def _encode(model: Any, text: str) -> list[int]:
    import sentencepiece

    return list(sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString()).encode(text))


def _write(model: Any, folder: Path) -> None:
    if [p.piece for p in model.pieces[: len(SPECIAL)]] != list(SPECIAL):
        raise BundleError("sentencepiece ordered its special tokens in a new way; install the version of the lock file")
    kind = type(model.pieces[0])
    # A piece of the workload is looked for in the text as it came, so its spaces are spaces to all but SentencePiece.
    own = {i: p.piece.replace(SPACE, " ") for i, p in enumerate(model.pieces) if p.type == kind.USER_DEFINED}
    added = [_added(i, s, special=True) for i, s in enumerate(SPECIAL)]
    added += [_added(i, s, special=False) for i, s in own.items()]
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": SPECIAL[0],
        "bos_token": SPECIAL[1],
        "eos_token": END,
        "pad_token": END,
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "legacy": False,
        "clean_up_tokenization_spaces": False,
        # Conversion to GGUF learns from this which pieces are matched whole.
        "added_tokens_decoder": {str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in added},
        "chat_template": CHAT_TEMPLATE,
    }
    tokenizer = _as_tokenizers(_merges(model), {own.get(i, p.piece): i for i, p in enumerate(model.pieces)}, added)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    for name, value in (("tokenizer.json", tokenizer), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


def _as_tokenizers(merges: list[list[str]], vocabulary: dict[str, int], added: list[dict[str, Any]]) -> dict[str, Any]:
    """What the library `tokenizers` stores for the same tokenizer."""
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "unk_token": SPECIAL[0],
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _added(token: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": content, **flags, "special": special}


def _merges(model: Any) -> list[list[str]]:
    """Merges of the pieces, best first: SentencePiece keeps scores of the results instead."""
    kind = type(model.pieces[0])
    rank = {p.piece: i for i, p in enumerate(model.pieces) if p.type == kind.NORMAL}
    merges = list[list[str]]()
    for piece in rank:
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        known = [(a, b) for a, b in cuts if a in rank and b in rank]
        merges += [list(cut) for cut in sorted(known, key=lambda cut: (rank[cut[0]], rank[cut[1]]))]
    return merges
