"""What a teacher is asked so that it writes new requests like some that a student fails on, and what it wrote."""

from __future__ import annotations

import json
import random

import msgspec
from msgspec import Struct

from tiercel.datasets.templates import RequestReader
from tiercel.types import Example, Message

__all__ = ["Group", "instructions_of", "new_example", "requests_in", "texts_a_call", "writing_prompt"]

SHOTS = 8
"""Requests that a prompt shows at the most."""
MOST_SHOWN = 12_000
"""Characters of them together."""
MOST_INSTRUCTIONS = 3_000
"""Characters of the workload's own instructions that a prompt repeats."""
MOST_A_CALL = 10
"""Requests that one call writes: longer lists repeat themselves."""
CHARACTERS_A_TOKEN = 2.5
"""A cautious rate, for languages that tokenizers cut into small pieces."""

_INSTRUCTIONS = """\
You write requests that people send to a service, so that a small model can learn from them. Write as such people do. \
Never answer a request."""


class Group(Struct, frozen=True, kw_only=True):
    """Requests that the student fails on and that resemble each other."""

    name: str
    words: tuple[str, ...]
    """Words that are commoner here than elsewhere."""
    examples: tuple[Example, ...]
    """Each with one message of a user; the most typical first."""
    texts: tuple[str, ...]
    """What is new in each of them."""
    rows: int
    """Failures in the group, those of other forms included."""
    share_of_loss: float
    mean_loss: float


def texts_a_call(group: Group, max_tokens: int) -> int:
    """How many requests of the group's length an answer of `max_tokens` tokens has room for, at least 1."""
    longest = sorted(map(len, group.texts))[-1 - len(group.texts) // 10]
    return max(1, min(MOST_A_CALL, int(max_tokens * CHARACTERS_A_TOKEN / (longest + 8))))


def writing_prompt(
    group: Group, number: int, count: int, instructions: str, *, seed: int, model: str | None
) -> Example:
    """The request to a teacher for `count` new requests.

    The same arguments always give the same prompt, so that a run that was cut off finds its answers again; another
    `number` shows other examples.

    Args:
        group: what to write more of.
        number: of the call for this group, from 0.
        count: requests to write.
        instructions: of the workload, for the teacher to know what the requests are for.
        seed: of the choice of examples.
        model: to ask, where the command names none.
    """
    shown = _shown(group, random.Random(f"{seed}/{group.name}/{number}"))
    listed = "\n".join(f"- {json.dumps(text, ensure_ascii=False)}" for text in shown)
    told = f"The service works by these instructions:\n<instructions>\n{instructions}\n</instructions>\n\n"
    asked = (
        f"{told if instructions.strip() else ''}The small model often goes wrong on requests like these:\n{listed}\n\n"
        f"Write {count} new requests that are hard in the same way, on the same subjects, in the same language and of "
        "about the same length. Vary wording, names, numbers and details; copy none of the above, and let no two be "
        f"alike. Answer with a JSON array of {count} strings and nothing else."
    )
    messages = (Message(role="system", content=_INSTRUCTIONS), Message(role="user", content=asked))
    return Example(id=f"write {group.name} {number}", messages=messages, model=model)


def _shown(group: Group, rng: random.Random) -> list[str]:
    """Some of the group's requests: always a typical one, the others by chance."""
    texts = group.texts
    order = [rng.randrange(min(3, len(texts)))]
    order += [i for i in rng.sample(range(len(texts)), len(texts)) if i != order[0]]
    found, room = list[str](), MOST_SHOWN
    for text in (texts[i] for i in order):
        if len(found) < SHOTS and (len(text) <= room or not found):
            found.append(text[:MOST_SHOWN])
            room -= len(text)
    rng.shuffle(found)
    return found


def instructions_of(shown: str) -> str:
    """The workload's instructions as a prompt repeats them: whole, or their beginning and end."""
    if len(shown) <= MOST_INSTRUCTIONS:
        return shown
    half = MOST_INSTRUCTIONS // 2
    return f"{shown[:half]}\n[...]\n{shown[-half:]}"


def requests_in(text: str) -> list[str] | None:
    """The requests of a teacher's list; None where it holds no list that can be read.

    Understood are a JSON array of strings, or of objects with one string each, also with words or a code fence around.
    """
    start, end = text.find("["), text.rfind("]")
    if not 0 <= start < end:
        return None
    try:
        found = json.loads(text[start : end + 1], strict=False)
    except (ValueError, RecursionError):
        return None
    texts = [_only_text(item) for item in found]
    return [t.strip() for t in texts if t is not None]


def _only_text(item: object) -> str | None:
    if isinstance(item, dict):
        held = [value for value in item.values() if isinstance(value, str)]
        return held[0] if len(held) == 1 else None
    return item if isinstance(item, str) else None


def new_example(text: str, like: Example, group: Group, reader: RequestReader, identity: str) -> Example:
    """A request that says `text` where `like` says its own, marked with its group; without an answer.

    Args:
        text: without what all users' messages begin and end with.
        like: a request of the group, whose instructions, tools and response format it takes over.
        group: that it was written for.
        reader: of the workload.
        identity: its id.
    """
    last = like.messages[-1]
    content = reader.dressed(text, last.text)
    messages = (*like.messages[:-1], msgspec.structs.replace(last, content=content))
    return Example(
        id=identity,
        messages=messages,
        tools=like.tools,
        response_format=like.response_format,
        model=like.model,
        metadata={"augmented": group.name},
    )
