"""The tokenizer of the micro rung: SentencePiece, kept in the form of a Llama tokenizer.

A word is spelled with the same pieces after a space, after a quote and at the start of a text, for merges look at words
alone; then a space joins the piece behind it, if the vocabulary has that piece with a space too, its *twin*. So what a
model copies from request to answer keeps its tokens but for the first one's space, and `MicroTokenizer.twins` lets the
model share what it knows of both. The same text gives the same tokens in SentencePiece, in Hugging Face's `tokenizers`
and in llama.cpp, which read the folder's files in three ways.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiercel.errors import BundleError

__all__ = ["ANSWER", "CHAT_TEMPLATE", "END", "FILES", "REQUEST", "SPACE", "SPECIAL", "MicroTokenizer", "neutralise"]

REQUEST, ANSWER, END = "<|user|>", "<|assistant|>", "</s>"
SPECIAL = ("<unk>", "<s>", END, REQUEST, ANSWER)
FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Of the tokenizer, for its three readers."""
SPACE = "▁"
"""What SentencePiece writes for a space."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] in ['user', 'assistant'] and message['content'] is string -%}"
    f"{{{{- '{REQUEST}' if message['role'] == 'user' else '{ANSWER}' -}}}}"
    "{{- message['content']" + "".join(f" | replace('{s}', '< {s[1:]}')" for s in SPECIAL) + " -}}"
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
    for special in SPECIAL:
        text = text.replace(special, f"< {special[1:]}")
    # Surrogates without their pair come in through JSON; no tokenizer takes them.
    return text.encode("utf-8", "replace").decode("utf-8")


class MicroTokenizer:
    """Text to token ids and back.

    Args:
        folder: holds `tokenizer.json`, as `micro_vocabulary.train_tokenizer` writes it.

    Raises:
        BundleError: the folder holds no tokenizer of this kind.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.folder = folder
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library has no error of its own
            raise BundleError(f"{folder}: tokenizer.json can't be read ({error}); train the student again") from None
        ids = [self._tokenizer.token_to_id(s) for s in (REQUEST, ANSWER, END)]
        if None in ids:
            raise BundleError(f"{folder}: not a tokenizer of the micro rung; train the student again")
        self.request_id, self.answer_id, self.end_id = ids
        vocabulary = self._tokenizer.get_vocab()
        pairs = sorted((i, vocabulary.get(t[1:])) for t, i in vocabulary.items() if t[0] == SPACE and len(t) > 1)
        self.twins: tuple[tuple[int, int], ...] = tuple(pairs)
        """Tokens that are another with a space in front, and those others; the twins are the last of the vocabulary."""

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def copy_to(self, folder: Path) -> None:
        """Copy the tokenizer's files into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (self.folder / name).is_file() and folder.resolve() != self.folder.resolve():
                shutil.copyfile(self.folder / name, folder / name)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without markers around it; markers inside are neutralised."""
        return [e.ids for e in self._tokenizer.encode_batch([neutralise(t) for t in texts], add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens leave nothing."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def prompt(self, request: Sequence[int]) -> list[int]:
        """Ids of a request between the markers after which the answer begins."""
        return [self.request_id, *request, self.answer_id]
