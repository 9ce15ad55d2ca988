"""A SentencePiece vocabulary for one workload, kept in the form of a Llama tokenizer.

A word is spelled with the same pieces after a space, after a quote and at the start of a text, for merges look at words
alone; then a space joins the piece behind it, if the vocabulary has that piece with a space too, its *twin*. So what a
model copies from request to answer keeps its tokens but for the first one's space, and `MicroTokenizer.twins` lets the
model share what it knows of both. The same text gives the same tokens in SentencePiece, in Hugging Face's `tokenizers`
and in llama.cpp, which read the folder's files in three ways.
"""

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

__all__ = ["ANSWER", "CHAT_TEMPLATE", "END", "REQUEST", "MicroTokenizer", "neutralise", "train_tokenizer"]

REQUEST, ANSWER, END = "<|user|>", "<|assistant|>", "</s>"
_SPECIAL = ("<unk>", "<s>", END, REQUEST, ANSWER)
_SPACE = "▁"
_CHUNK = 2000

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] in ['user', 'assistant'] and message['content'] is string -%}"
    f"{{{{- '{REQUEST}' if message['role'] == 'user' else '{ANSWER}' -}}}}"
    "{{- message['content']" + "".join(f" | replace('{s}', '< {s[1:]}')" for s in _SPECIAL) + " -}}"
    f"{{{{- '{END}' if message['role'] == 'assistant' else '' -}}}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    f"{{%- if add_generation_prompt -%}}{{{{- '{ANSWER}' -}}}}{{%- endif -%}}"
)
"""Jinja template of a chat; a system message is not read, for the workload's own is what the weights have learnt."""


def neutralise(text: str) -> str:
    """The text with a space in every special marker, so that none can end an answer or start a role.

    The chat template does the same.
    """
    for special in _SPECIAL:
        text = text.replace(special, f"< {special[1:]}")
    # Surrogates without their pair come in through JSON; no tokenizer takes them.
    return text.encode("utf-8", "replace").decode("utf-8")


class MicroTokenizer:
    """Text to token ids and back.

    Args:
        folder: holds `tokenizer.json`, as `train_tokenizer` writes it.

    Raises:
        BundleError: the folder holds no tokenizer of this kind.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library has no error of its own
            raise BundleError(f"{folder}: tokenizer.json can't be read ({error}); train the student again") from None
        ids = [self._tokenizer.token_to_id(s) for s in (REQUEST, ANSWER, END)]
        if None in ids:
            raise BundleError(f"{folder}: not a tokenizer of the micro rung; train the student again")
        self.request_id, self.answer_id, self.end_id = ids
        vocabulary = self._tokenizer.get_vocab()
        pairs = sorted((i, vocabulary.get(t[1:])) for t, i in vocabulary.items() if t[0] == _SPACE and len(t) > 1)
        self.twins: tuple[tuple[int, int], ...] = tuple(pairs)
        """Tokens that are another with a space in front, and those others; the twins are the last of the vocabulary."""

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without markers around it; markers inside are neutralised."""
        return [e.ids for e in self._tokenizer.encode_batch([neutralise(t) for t in texts], add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens leave nothing."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def prompt(self, request: Sequence[int]) -> list[int]:
        """Ids of a request between the markers after which the answer begins."""
        return [self.request_id, *request, self.answer_id]


def train_tokenizer(rows: Sequence[tuple[str, str]], folder: Path, *, words: int | None = None) -> MicroTokenizer:
    """Train a tokenizer and write it into `folder`; the same rows give the same files.

    Args:
        rows: requests and answers.
        folder: takes tokenizer.model, tokenizer.json, tokenizer_config.json and chat_template.jinja.
        words: pieces of words in the vocabulary, beside bytes, characters, structure and twins; None derives them from
            the amount of text.

    Raises:
        DataError: there is no text.
    """
    rows = [(neutralise(request), neutralise(answer)) for request, answer in rows]
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
    counts = Counter(answer for _, answer in rows if answer)
    least = max(2, len(rows) // 1000)
    frequent = [a for a, n in counts.items() if n >= least and len(a) <= 80]
    return sorted(frequent, key=lambda a: (-counts[a], a)) if len(frequent) <= most else []


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
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        raise MissingExtraError("sentencepiece with protobuf", "train") from None
    alphabet = _alphabet(rows, words)
    if not alphabet:
        raise DataError("the rows hold no text to learn a vocabulary from; check that requests and answers are filled")
    corpus = ["".join(c if c in alphabet else " " for c in text) for text in _texts(rows)]
    written = io.BytesIO()
    wanted = len(_SPECIAL) + 256 + 1 + len(pieces) + len(alphabet) + words
    while True:
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(corpus),
                model_writer=written,
                model_type="bpe",
                vocab_size=wanted,
                byte_fallback=True,
                split_digits=True,
                character_coverage=1.0,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                control_symbols=[REQUEST, ANSWER],
                user_defined_symbols=[_SPACE, *(p.replace(" ", _SPACE) for p in pieces)],
                max_sentence_length=16 * _CHUNK,
                num_threads=1,
                minloglevel=2,
            )
            break
        except RuntimeError as error:
            # Too little text for so many tokens: the message ends with how many it would bear.
            most = re.search(r"<= (\d+)", str(error))
            if most is None or int(most[1]) >= wanted:
                raise
            wanted = int(most[1])
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(written.getvalue())
    _add_twins(model, corpus)
    return model


def _add_twins(model: Any, corpus: Sequence[str]) -> None:
    """Give pieces that begin words a second form with the space, merged after all else so that no word is cut anew."""
    import sentencepiece

    kind = type(model.pieces[0])
    for piece in model.pieces:
        if piece.piece == _SPACE:
            piece.type = kind.NORMAL
    reader = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    space = reader.piece_to_id(_SPACE)
    counts = Counter(
        second for ids in reader.encode(list(corpus)) for first, second in pairwise(ids) if first == space != second
    )
    lowest = min(piece.score for piece in model.pieces)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    frequent = [i for i, n in ranked if n > 1 and model.pieces[i].type == kind.NORMAL]
    for n, i in enumerate(frequent):
        model.pieces.add(piece=_SPACE + model.pieces[i].piece, score=lowest - 1 - n, type=kind.NORMAL)
    model.trainer_spec.vocab_size = len(model.pieces)


def _encode(model: Any, text: str) -> list[int]:
    import sentencepiece

    return list(sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString()).encode(text))


def _write(model: Any, folder: Path) -> None:
    kind = type(model.pieces[0])
    own = [(i, p.piece.replace(_SPACE, " ")) for i, p in enumerate(model.pieces) if p.type == kind.USER_DEFINED]
    added = [_added(i, s, special=True) for i, s in enumerate(_SPECIAL)] + [_added(i, s, special=False) for i, s in own]
    if [p.piece for p in model.pieces[: len(_SPECIAL)]] != list(_SPECIAL):
        raise BundleError("sentencepiece ordered its special tokens in a new way; install the version of the lock file")
    vocabulary = {p.piece: i for i, p in enumerate(model.pieces)} | {s: i for i, s in own}
    vocabulary = {p: i for p, i in vocabulary.items() if model.pieces[i].type != kind.USER_DEFINED or (i, p) in own}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": _SPECIAL[0],
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": _merges(model),
        },
    }
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": _SPECIAL[0],
        "bos_token": _SPECIAL[1],
        "eos_token": END,
        "pad_token": END,
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "legacy": False,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in added},
        "chat_template": CHAT_TEMPLATE,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    for name, value in (("tokenizer.json", tokenizer), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


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
