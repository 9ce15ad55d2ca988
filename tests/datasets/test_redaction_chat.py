from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.test_personal_data import TEXTS
from tiercel.datasets.personal_data import KINDS
from tiercel.datasets.redaction import Mode, Redactor
from tiercel.datasets.redaction_chat import ChatStreamRestorer, redact_chat, restore_chat
from tiercel.errors import DataError

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
BODY = {
    "model": "gpt-4o",
    "user": "ada@example.org",
    "metadata": {"caller": "+44 20 7946 0958", "ada@example.org": "x"},
    "stop": ["bob@example.org"],
    "messages": [
        {"role": "system", "content": "You help ada@example.org."},
        {
            "role": "user",
            "name": "ada@example.org",
            "content": [
                {"type": "text", "text": "Write to bob@example.org"},
                IMAGE,
                {"type": "input_audio", "input_audio": {}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_5417141388",
                    "type": "function",
                    "function": {
                        "name": "mail",
                        "arguments": '{"to": "bob@example.org",  "n": 1.0, "card": 4111111111111111}',
                    },
                }
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "call_5417141388",
            "content": '{"note": "x\\nbob@example.org", "phone": "467 3395"}',
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "{broken bob@example.org"},
        {"role": "user", "content": "467 3395?"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "mail",
                "description": "Mails from ada@example.org",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "to": {"type": "string", "description": "like bob@example.org", "enum": ["ada@example.org"]},
                        "description": {"type": "string"},
                    },
                    "required": ["to"],
                },
            },
        }
    ],
    "x_unknown": {"deep": [{"ip": "81.2.69.142"}]},
}


def test_every_text_of_a_request_is_redacted_and_its_structure_left() -> None:
    before = copy.deepcopy(BODY)
    body, session = redact_chat(BODY, Redactor())
    assert before == BODY
    text = json.dumps(body)
    for value in ("ada@", "bob@", "467 3395", "7946", "411111", "81.2"):
        assert value not in text
    system, user, called, result, broken, last = body["messages"]
    assert system["content"] == "You help <EMAIL_1>."
    assert body["user"] == "<EMAIL_1>"
    assert user["name"] == "EMAIL_1"
    assert user["content"] == [{"type": "text", "text": "Write to <EMAIL_2>"}, *BODY["messages"][1]["content"][1:]]
    assert called["tool_calls"][0]["function"] == {
        "name": "mail",
        "arguments": '{"to": "<EMAIL_2>",  "n": 1.0, "card": "<CARD_1>"}',
    }
    assert called["tool_calls"][0]["id"] == result["tool_call_id"] == "call_5417141388"
    assert json.loads(result["content"]) == {"note": "x\n<EMAIL_2>", "phone": "<PHONE_2>"}
    assert broken["content"] == "{broken <EMAIL_2>"
    assert last["content"] == "<PHONE_2>?"
    parameters = body["tools"][0]["function"]["parameters"]
    assert parameters["properties"]["to"] == {"type": "string", "description": "like <EMAIL_2>", "enum": ["<EMAIL_1>"]}
    assert parameters["properties"]["description"] == {"type": "string"}
    assert body["model"] == "gpt-4o"
    assert session.unread_parts == 2


def test_a_request_without_personal_data_is_the_one_that_came() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}, IMAGE]}]}
    redacted, session = redact_chat(body, Redactor())
    assert redacted is body
    assert session.unread_parts == 1


def test_a_placeholder_in_a_later_message_is_not_given_out_in_an_earlier_one() -> None:
    texts = ["ada@example.org", "What does <EMAIL_1> mean?"]
    body, session = redact_chat({"messages": [{"role": "user", "content": t} for t in texts]}, Redactor())
    assert [m["content"] for m in body["messages"]] == ["<EMAIL_2>", texts[1]]
    assert session.restore("<EMAIL_1> is not <EMAIL_2>") == "<EMAIL_1> is not ada@example.org"


def test_one_way_forgets_what_it_took_out() -> None:
    body, session = redact_chat(BODY, Redactor(mode=Mode.ONE_WAY))
    assert body["user"] == "<EMAIL_1>"
    assert session.restore("<EMAIL_1>") == "<EMAIL_1>"
    assert session.counts["email"] == 2


def test_anthropic_parts_are_read_and_documents_counted() -> None:
    parts = [
        {"type": "tool_use", "id": "t1", "name": "mail", "input": {"to": "bob@example.org"}},
        {
            "type": "tool_result",
            "tool_use_id": "t1",
            "content": [{"type": "text", "text": "to bob@example.org"}, {"type": "image", "source": {}}],
        },
        {"type": "document", "source": {"type": "text", "data": "by bob@example.org"}},
        {"type": "document", "source": {"type": "base64", "data": "AAAA"}},
    ]
    body, session = redact_chat({"messages": [{"role": "user", "content": parts}]}, Redactor())
    used, result, text, unread = body["messages"][0]["content"]
    assert used == {"type": "tool_use", "id": "t1", "name": "mail", "input": {"to": "<EMAIL_1>"}}
    assert result["content"][0]["text"] == "to <EMAIL_1>"
    assert text["source"]["data"] == "by <EMAIL_1>"
    assert unread == parts[3]
    assert session.unread_parts == 2


def test_a_body_that_is_nested_too_deep_is_refused_in_one_line() -> None:
    deep: object = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(DataError, match="nested too deep"):
        redact_chat({"messages": [], "x": deep}, Redactor())


def test_values_come_back_in_texts_and_arguments_of_an_answer() -> None:
    body, session = redact_chat(
        {"messages": [{"role": "user", "content": 'I am "ada@example.org", password: a"1\\bcdef'}]}, Redactor()
    )
    assert "ada@" not in json.dumps(body)
    message = {
        "role": "assistant",
        "content": "Hello <EMAIL_1>",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "<EMAIL_1>"}'}}],
    }
    completion = {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {}}
    restored = restore_chat(completion, session)
    assert restored["choices"][0]["message"]["content"] == "Hello ada@example.org"
    assert json.loads(restored["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]) == {
        "a": "ada@example.org"
    }
    assert completion["choices"][0]["message"]["content"] == "Hello <EMAIL_1>"


def _chunks(pieces: list[tuple[int, dict]], choices: int) -> list[dict]:
    chunks = [{"id": "x", "choices": [{"index": i, "delta": delta, "finish_reason": None}]} for i, delta in pieces]
    ends = [{"id": "x", "choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]} for i in range(choices)]
    return [*chunks, *ends, {"id": "x", "choices": [], "usage": {}}]


@given(TEXTS, st.integers(1, 5), st.integers(1, 2))
def test_a_streamed_answer_says_what_the_whole_one_would(text: str, size: int, choices: int) -> None:
    body, session = redact_chat({"messages": [{"role": "user", "content": text}]}, Redactor(KINDS))
    sent = body["messages"][0]["content"]
    arguments = json.dumps({"v": sent})
    pieces = []
    for i in range(0, max(len(sent), len(arguments)), size):
        for choice in range(choices):
            call = {"index": 1, "function": {"arguments": arguments[i : i + size]}}
            pieces.append((choice, {"content": sent[i : i + size], "tool_calls": [call]}))
    restorer, texts, calls = ChatStreamRestorer(session), ["", ""], ["", ""]
    for chunk in _chunks(pieces, choices):
        for choice in restorer.feed(chunk)["choices"]:
            delta = choice["delta"]
            texts[choice["index"]] += delta.get("content") or ""
            for call in delta.get("tool_calls") or ():
                assert call["index"] == 1
                calls[choice["index"]] += call["function"]["arguments"]
    assert texts[:choices] == [text] * choices
    assert [json.loads(c)["v"] for c in calls[:choices]] == [text] * choices
    assert restorer.close() == []


def test_what_a_broken_stream_still_held_is_given_at_its_close() -> None:
    _, session = redact_chat({"messages": [{"role": "user", "content": "ada@example.org"}]}, Redactor())
    restorer = ChatStreamRestorer(session)
    chunk = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "to <EMA"}, "finish_reason": None}]}
    assert restorer.feed(chunk)["choices"][0]["delta"] == {"role": "assistant", "content": "to "}
    assert restorer.close() == [{"index": 0, "delta": {"content": "<EMA"}, "finish_reason": None}]
    assert restorer.close() == []
