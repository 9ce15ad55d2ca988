"""Whether what an engine serves is what was trained: the Hugging Face folder and the engine side by side, row by row.

For each row: the rendered prompt, its token ids, where the model stops, the probabilities of the answer's tokens and
the answer. The first difference is a value that says what differs, and `require_parity` raises it. Most deployments
that lose quality lose it here: a second BOS, another chat template, a token that no longer ends the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tiercel.compress.trained_model import TrainedAnswer, TrainedModel
from tiercel.engines.protocol import Engine, Generated, GenerationRequest, Token
from tiercel.errors import ConfigurationError, ParityError
from tiercel.types import Message

__all__ = ["LIMITS", "Difference", "ParityRow", "ServingParity", "compare_serving", "require_parity"]

Json = dict[str, Any]
Floats = NDArray[np.float64]

ALTERNATIVES = 20
"""Alternatives of each token that are compared; what is left of the distribution counts as one more."""
MOST_KL = 0.01
"""Nats. For 4 bits give what the student's accuracy bears, such as 0.1."""
MOST_GAP = 0.1
"""Nats between two log probabilities, on average over the alternatives. A model that is sure of its answers hides a
wrong position or matrix from the divergence, but not from the order of what it did not say."""
LIMITS = {"f16": {"most_kl": 1e-4, "most_gap": 0.08}, "q8_0": {"most_kl": MOST_KL, "most_gap": MOST_GAP}}
"""By precision. Thirteen small models that 16 bits serve as trained stay a twentieth below, at 3e-6 and .004 nats."""
CLOSE_LOGPROB = 0.05
"""Two tokens whose log probabilities differ by less may change places without the model being another."""


class ParityRow(Struct, frozen=True, kw_only=True):
    """A request of the workload."""

    messages: tuple[Message, ...]
    tools: list[Json] | None = None


class Difference(Struct, frozen=True, kw_only=True):
    """Where serving first differs from training."""

    kind: str
    """bos, chat template, tokens, prompt length, probabilities, stop or answer."""
    row: int
    """Number of the row, from 0."""
    position: int
    """Of the character for a chat template, of the token otherwise, from 0; -1 where it has no place."""
    served: str
    trained: str

    def __str__(self) -> str:
        return f"{self.kind} differs in row {self.row} at {self.position}: served {self.served}, trained {self.trained}"


class ServingParity(Struct, frozen=True, kw_only=True):
    """How serving compares with training."""

    rows: int
    """Rows that were compared, the one with the difference included."""
    tokens: int
    """Tokens of answers whose probabilities were compared."""
    kl: float
    """Mean over those tokens of KL(trained || served), the Kullback-Leibler divergence in nats."""
    largest_kl: float
    """The largest mean of a row."""
    largest_gap: float
    """The largest of the rows' mean absolute differences of the alternatives' log probabilities, in nats."""
    same_answers: int
    """Rows whose greedy answers are the same text."""
    first_difference: Difference | None = None
    """None when there is none."""


def require_parity(found: ServingParity) -> None:
    """Let nothing be served that differs.

    Raises:
        ParityError: there is a difference.
    """
    if found.first_difference is not None:
        raise ParityError(f"what would be served is not what was trained: {found.first_difference}")
    if not found.rows or not found.tokens:
        raise ParityError("no token was compared, so that nothing is known of what would be served; give more rows")


def compare_serving(
    trained: Path | TrainedModel,
    engine: Engine,
    rows: Sequence[ParityRow],
    *,
    max_tokens: int = 32,
    most_kl: float = MOST_KL,
    most_gap: float = MOST_GAP,
    same_answers: bool = True,
) -> ServingParity:
    """Compare until the first difference.

    Args:
        trained: folder of the trained model, its tokenizer and its chat template, or the model once it is read.
        engine: what would serve it; it has to show its prompts and tokens.
        rows: of the workload.
        max_tokens: of the answers that are compared.
        most_kl: of a row, in nats.
        most_gap: of a row, in nats; for 4 bits give about 1.
        same_answers: whether greedy answers have to be the same, but for tokens that are as good as equally likely;
            False for 4 bits, where they need not be.

    Raises:
        BundleError: the folder can't be read.
        ConfigurationError: the engine does not show its prompts or tokens.
        MissingExtraError: torch or transformers is not installed.
    """
    trained = TrainedModel(trained) if isinstance(trained, Path) else trained
    compared, tokens, same = 0, 0, 0
    total, largest = 0.0, np.zeros(2)
    first: Difference | None = None
    for number, row in enumerate(rows):
        compared += 1
        prompt, ids = trained.prompt(row.messages, row.tools)
        first = _prompt_difference(number, (prompt, ids), _served_prompt(engine, row), trained.tokenizer)
        if first is not None:
            break
        served = engine.generate(
            GenerationRequest(messages=row.messages, tools=row.tools, max_tokens=max_tokens, logprobs=ALTERNATIVES)
        )
        if not served.estimated and served.input_tokens != len(ids):
            first = _difference("prompt length", number, -1, served.input_tokens, len(ids))
            break
        distances, chosen = _follow(trained, ids, served)
        [answer] = trained.answer_many([ids], max_tokens)
        tokens += len(distances)
        total += float(distances[:, 0].sum())
        if len(distances):
            mean = distances.mean(axis=0)
            largest = np.maximum(largest, mean)
            if mean[0] > most_kl or mean[1] > most_gap:
                at = int(np.argmax((distances > (most_kl, most_gap)).any(axis=1)))
                told = f"KL {distances[at, 0]:.4f} and a gap of {distances[at, 1]:.3f}"
                first = _difference("probabilities", number, at, told, f"means of at most {most_kl} and {most_gap}")
                break
        same += _same(answer, served, chosen)
        if same_answers:
            first = _answer_difference(number, served, answer, chosen)
            if first is not None:
                break
    return ServingParity(
        rows=compared,
        tokens=tokens,
        kl=total / tokens if tokens else 0.0,
        largest_kl=float(largest[0]),
        largest_gap=float(largest[1]),
        same_answers=same,
        first_difference=first,
    )


class _Chosen(Struct, frozen=True, kw_only=True):
    """A token that the engine chose."""

    id: int
    behind: float
    """Nats by which the trained model finds another token likelier; 0 where it finds none."""


def _same(answer: TrainedAnswer, served: Generated, chosen: Sequence[_Chosen]) -> bool:
    """Whether the engine answered as the trained model.

    By tokens where all are known, since servers show some of them as nothing; by text otherwise.
    """
    ended = served.finish_reason != "length"
    if len(chosen) == served.output_tokens - ended:
        return ended == answer.ended and tuple(c.id for c in chosen) == answer.ids
    return ended == answer.ended and served.answer.text == answer.text


def _follow(trained: TrainedModel, ids: list[int], served: Generated) -> tuple[Floats, list[_Chosen]]:
    """What the trained model makes of the served answer to the prompt `ids`.

    Returns:
        Divergence and gap at each of the served answer's t tokens, shape (t, 2), and those tokens.
    """
    tokens = _aligned(served, trained.tokenizer)
    said = [t.id for t in tokens if t.id is not None]
    logprobs = trained.logprobs(ids, said)
    distances = np.array([_distances(t, p) for t, p in zip(tokens, logprobs, strict=True)]).reshape(-1, 2)
    chosen = [_Chosen(id=i, behind=float(p.max() - p[i])) for i, p in zip(said, logprobs, strict=True)]
    return distances, chosen


def _aligned(served: Generated, tokenizer: Any) -> tuple[Token, ...]:
    """The served tokens, where each has an id and none is missing.

    llama.cpp leaves out tokens that begin a character; behind one of them the places no longer agree.
    """
    tokens = served.tokens
    missing = served.output_tokens - len(tokens) - (served.finish_reason == "stop")
    if any(t.id is None for t in tokens):
        raise ConfigurationError("the engine does not report token ids; serve with llama.cpp or vLLM")
    if missing <= 0:
        return tokens
    whole = list[Token]()
    for token in tokens:
        # A token that ends a character is shown as all of it, though one before it was left out.
        if "\ufffd" in token.text or "\ufffd" in tokenizer.decode([token.id]):
            break
        whole.append(token)
    return tuple(whole)


def _served_prompt(engine: Engine, row: ParityRow) -> tuple[str, list[int]]:
    text = engine.render(row.messages, row.tools)
    return text, engine.tokenize(text)


def _prompt_difference(
    number: int, trained: tuple[str, list[int]], served: tuple[str, list[int]], tokenizer: Any
) -> Difference | None:
    (text, ids), (served_text, served_ids) = trained, served
    if ids == served_ids:
        return None
    bos, sign = tokenizer.bos_token_id, tokenizer.bos_token or ""
    counts = [_leading(served_ids, bos), _leading(ids, bos)]
    if counts[0] != counts[1]:
        return _difference("bos", number, 0, f"{counts[0]} times", f"{counts[1]} times")
    # llama.cpp shows the prompt without the BOS that its tokenizer adds.
    bare, served_bare = (t.removeprefix(sign) if sign else t for t in (text, served_text))
    if bare != served_bare:
        at = next(
            (i for i, (a, b) in enumerate(zip(served_bare, bare, strict=False)) if a != b),
            min(len(bare), len(served_bare)),
        )
        return _difference("chat template", number, at, repr(served_bare[at : at + 20]), repr(bare[at : at + 20]))
    at = next(
        (i for i, (a, b) in enumerate(zip(served_ids, ids, strict=False)) if a != b), min(len(ids), len(served_ids))
    )
    return _difference("tokens", number, at, served_ids[at : at + 5], ids[at : at + 5])


def _answer_difference(
    number: int, served: Generated, answer: TrainedAnswer, chosen: list[_Chosen]
) -> Difference | None:
    if _same(answer, served, chosen) or any(0 < c.behind < CLOSE_LOGPROB for c in chosen):
        # Where the trained model itself can hardly tell two tokens apart, either may come first.
        return None
    text, ended = served.answer.text, served.finish_reason != "length"
    if ended != answer.ended and (text.startswith(answer.text) or answer.text.startswith(text)):
        says = {True: "ends there", False: "goes on"}
        return _difference("stop", number, min(len(chosen), len(answer.ids)), says[ended], says[answer.ended])
    return _difference("answer", number, -1, repr(text[:60]), repr(answer.text[:60]))


def _distances(token: Token, trained: Floats) -> tuple[float, float]:
    """KL(trained || served), and the mean absolute difference of the alternatives' log probabilities, in nats.

    For the divergence the alternatives are taken one by one and the rest as one event, which bounds it from below.

    Args:
        token: with its likeliest alternatives, as served.
        trained: log probabilities, shape (v,).
    """
    ids = [t.id for t in token.alternatives if t.id is not None]
    log_q, log_p = np.array([t.logprob for t in token.alternatives]), trained[ids]
    p, q = np.exp(log_p), np.exp(log_q)
    p, q = np.append(p, max(0.0, 1 - p.sum())), np.append(q, max(0.0, 1 - q.sum()))
    kl = sum(a * (math.log(a) - math.log(max(b, 1e-12))) for a, b in zip(p, q, strict=True) if a > 1e-12)
    return float(kl), float(np.abs(log_p - log_q).mean())


def _leading(ids: list[int], bos: int | None) -> int:
    return next((i for i, id_ in enumerate(ids) if id_ != bos), len(ids))


def _difference(kind: str, row: int, position: int, served: object, trained: object) -> Difference:
    return Difference(kind=kind, row=row, position=position, served=str(served), trained=str(trained))
