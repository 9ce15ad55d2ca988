from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import calling
from tiercel.errors import DataError
from tiercel.providers import replay_form
from tiercel.providers.recordings import Question, Recorded
from tiercel.providers.replay_form import CHAT, MESSAGES, Asked, embeddings, pieces
from tiercel.types import Answer, Message, Usage

WORDS = st.text(st.characters(codec="utf-8"), max_size=80)
ASKED = Asked(question=Question(messages=(Message(role="user", content="x"),)), include_usage=True)


def recorded(answer: Answer) -> Recorded:
    return Recorded(answer=answer, model="m", usage=Usage(input_tokens=7, output_tokens=3))


def data(events: list[tuple[bytes, int]]) -> list[Any]:
    found = [line[6:] for event, _ in events for line in event.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(text) for text in found if text != "[DONE]"]


@given(WORDS)
def test_pieces_make_the_text_again(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert all(pieces(text))


@given(WORDS, st.dictionaries(WORDS, st.integers() | WORDS, max_size=3))
def test_a_chats_events_make_the_whole_again(text: str, arguments: dict[str, Any]) -> None:
    found = recorded(calling(("f", arguments), ("g", "{}"), content=text))
    whole = json.loads(CHAT.whole(ASKED, found))["choices"][0]
    chunks = data(list(CHAT.events(ASKED, found)))
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    assert "".join(d.get("content") or "" for d in deltas) == whole["message"]["content"] == text
    calls: list[list[str]] = [["", ""], ["", ""]]
    for call in (c for d in deltas for c in d.get("tool_calls", ())):
        calls[call["index"]][0] += call["function"].get("name", "")
        calls[call["index"]][1] += call["function"]["arguments"]
    assert calls == [[c["function"]["name"], c["function"]["arguments"]] for c in whole["message"]["tool_calls"]]
    assert chunks[-1]["usage"]["total_tokens"] == 10
    assert chunks[-2]["choices"][0]["finish_reason"] == whole["finish_reason"] == "tool_calls"


@given(WORDS, st.dictionaries(WORDS, st.integers() | WORDS, max_size=3))
def test_a_messages_events_make_the_whole_again(text: str, arguments: dict[str, Any]) -> None:
    found = recorded(calling(("f", arguments), content=text))
    whole = json.loads(MESSAGES.whole(ASKED, found))
    blocks: list[Any] = []
    for event in data(list(MESSAGES.events(ASKED, found))):
        if event["type"] == "content_block_start":
            blocks.append([event["content_block"], ""])
        elif event["type"] == "content_block_delta":
            blocks[event["index"]][1] += event["delta"].get("text", event["delta"].get("partial_json"))
    made = [b | ({"text": t} if b["type"] == "text" else {"input": json.loads(t)}) for b, t in blocks]
    for block in (*made, *whole["content"]):
        block.pop("id", None)
    assert made == whole["content"]
    assert whole["content"][-1]["input"] == arguments


@pytest.mark.parametrize("text", ["", "no json", "[1]", "[" * 100_000])
def test_arguments_that_are_no_object_are_an_empty_one_for_anthropic(text: str) -> None:
    whole = json.loads(MESSAGES.whole(ASKED, recorded(calling(("f", text)))))
    assert whole["content"][0]["input"] == {}


@pytest.mark.parametrize("raw", [b"{}", b'{"input": []}', b'{"input": 5}', b'{"input": "x", "dimensions": 0}', b"["])
def test_embeddings_of_nothing_are_refused(raw: bytes) -> None:
    with pytest.raises(DataError):
        embeddings(raw)


def test_embeddings_are_the_same_for_the_same_text_and_close_for_shared_words() -> None:
    def vectors(*texts: Any) -> list[list[float]]:
        told = json.loads(embeddings(json.dumps({"input": texts}).encode()))
        return [d["embedding"] for d in told["data"]]

    near, same, far, empty = vectors("track my parcel now", "track my parcel today", "an entirely other matter", "")

    def cosine(one: list[float], two: list[float]) -> float:
        return sum(a * b for a, b in zip(one, two, strict=True))

    assert vectors("track my parcel now")[0] == near
    assert cosine(near, same) > 0.6 > 0.4 > cosine(near, far)
    assert cosine(empty, empty) == pytest.approx(1)
    assert len(vectors(1, 2, 3)) == 1
    assert len(vectors([1, 2], [3])) == 2


def test_the_public_names() -> None:
    assert replay_form.__all__ == [
        "CHAT",
        "MESSAGES",
        "Asked",
        "Dialect",
        "Event",
        "embeddings",
        "openai_error",
        "pieces",
    ]
