"""What a decoder's own probabilities say of an answer: signals for the gate, by name.

All are of the model before a grammar's mask. The mask takes what is left of the distribution for certain: under it a
model that wanted to say something else altogether would look sure of what it was made to say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tiercel.engines.protocol import Generated, Token

__all__ = ["FIRST_SIGNALS", "REQUEST_SIGNALS", "answer_signals", "field_logprobs", "signal_names"]

REQUEST_SIGNALS = ("length", "familiarity")
"""Of the request; the others are of its answer."""
FIRST_SIGNALS = (
    "mean_logprob",
    "log_probability",
    "weakest_token",
    "margin",
    "tokens",
    "finished",
    *REQUEST_SIGNALS,
)
"""Signals of bundles that do not name their own."""
WORST = -30.0
"""Log probability of what was not answered at all."""
LABELS_SEEN = 20
"""Alternatives among which the second best label is looked for."""
SEARCHED = 32
"""Characters in which a token's text is looked for behind the last one: servers leave out pieces of characters."""

_SCALAR = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?|-?\d[\d.eE+-]*|true|false|null')

Floats = NDArray[np.float64]


def signal_names(*, labels: bool = False, fields: bool = False, samples: bool = False) -> tuple[str, ...]:
    """Names of the signals of a new student.

    Args:
        labels: an answer is one token, a label.
        fields: answers are JSON.
        samples: answers are drawn beside the likeliest one.
    """
    if labels:
        # Of a single token the mean, the sum and the weakest are the same, and so are all lengths.
        return ("mean_logprob", "label_margin", "tokens", "finished", *REQUEST_SIGNALS)
    return (
        *FIRST_SIGNALS,
        "tenth_token",
        "quarter_token",
        *(("weakest_field", "mean_field") if fields else ()),
        *(("sample_agreement",) if samples else ()),
    )


def answer_signals(generated: Generated | None, labels: Sequence[str] = ()) -> dict[str, float]:
    """Signals of one answer by name, but for those of its request and of samples.

    Args:
        generated: the answer with its tokens; None where there is none.
        labels: the answers that are whole with their first token.
    """
    if generated is None or not generated.tokens:
        lost = ("mean_logprob", "log_probability", "weakest_token", "tenth_token", "quarter_token")
        return {
            **dict.fromkeys((*lost, "weakest_field", "mean_field"), WORST),
            **dict.fromkeys(("margin", "label_margin", "tokens", "finished"), 0.0),
        }
    tokens = generated.tokens
    logprobs: Floats = np.maximum([t.logprob for t in tokens], WORST)
    total = float(logprobs.sum())
    gaps = [t.alternatives[0].logprob - t.alternatives[1].logprob for t in tokens if len(t.alternatives) > 1]
    fields = field_logprobs(generated.answer.text, tokens) or [total]
    return {
        "mean_logprob": float(logprobs.mean()),
        "log_probability": total,
        "weakest_token": float(logprobs.min()),
        "tenth_token": float(np.quantile(logprobs, 0.1)),
        "quarter_token": float(np.quantile(logprobs, 0.25)),
        "weakest_field": min(fields),
        "mean_field": float(np.mean(fields)),
        "margin": min(gaps, default=0.0),
        "label_margin": _label_margin(tokens[0], labels),
        "tokens": float(np.log1p(len(tokens))),
        # A grammar also allows the first letters of a label: those are no answer.
        "finished": float(generated.finish_reason == "stop" or generated.answer.text in labels),
    }


def _label_margin(chosen: Token, labels: Sequence[str]) -> float:
    """By how many nats the chosen label is ahead of the next; what is not among the alternatives is behind the last."""
    others = [t.logprob for t in chosen.alternatives if t.text != chosen.text]
    known = [t.logprob for t in chosen.alternatives if t.text != chosen.text and t.text in labels]
    return chosen.logprob - max(known or others[-1:], default=chosen.logprob)


def field_logprobs(text: str, tokens: Sequence[Token]) -> list[float]:
    """Log probability of each value in a JSON answer, by where it stands; empty where none can be told.

    A value has the tokens that share a character with it, so that one which also holds a comma counts too. Keys,
    braces and what else a schema forces belong to no value.

    Args:
        text: of the answer, whole or broken off.
        tokens: of it, in their order; some may be missing.
    """
    spans = [match.span() for match in _SCALAR.finditer(text) if match.group(1) is None]
    placed, at = list[tuple[int, int, float]](), 0
    for token in tokens:
        piece = token.text.strip().strip("\ufffd")
        begin = text.find(piece, at, at + len(piece) + SEARCHED) if piece else -1
        if begin >= 0:
            at = begin + len(piece)
            placed.append((begin, at, max(token.logprob, WORST)))
    inside = [[p for begin, end, p in placed if begin < last and end > first] for first, last in spans]
    return [sum(found) for found in inside if found]
