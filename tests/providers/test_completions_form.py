from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion

from tests.providers.chats import Json, anything, broken, completions, few
from tiercel.errors import DataError, UnreadableAnswerError
from tiercel.providers.chunks import chunks_of
from tiercel.providers.completions_form import CompletionTexts, chat_from_completions, text_from_completion

REQUEST = {
    "model": "m",
    "prompt": "Once",
    "max_tokens": 5,
    "logprobs": 2,
    "best_of": 1,
    "echo": False,
    "suffix": None,
    "stop": ".",
}


def without_calls(completion: Json) -> Json:
    for choice in completion["choices"]:
        choice["message"].pop("tool_calls", None)
        choice["finish_reason"] = choice["finish_reason"].replace("tool_calls", "stop")
    return completion


answers = completions(3).map(without_calls)


def streamed(chunks: Any) -> list[Json]:
    stream = CompletionTexts()
    return [text for chunk in chunks for text in stream.feed(chunk)] + stream.end()


def test_a_whole_request() -> None:
    assert chat_from_completions(REQUEST) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Once"}],
        "max_completion_tokens": 5,
        "logprobs": True,
        "top_logprobs": 2,
        "stop": ".",
    }


def test_what_is_not_said_is_as_that_api_has_it() -> None:
    chat = chat_from_completions({"model": "m", "prompt": ["Once"], "logprobs": 0, "n": 2, "best_of": 2})
    messages = [{"role": "user", "content": "Once"}]
    assert chat == {"model": "m", "messages": messages, "max_completion_tokens": 16, "logprobs": True, "n": 2}


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"prompt": None}, "prompt is missing"),
        ({"prompt": ["secret", "b"]}, "prompt is several prompts or tokens, .* send one text"),
        ({"prompt": [1, 2]}, "prompt is several prompts or tokens"),
        ({"prompt": [[1]]}, "prompt is several prompts or tokens"),
        ({"prompt": {}}, "prompt is neither text nor a list"),
        ({"echo": True}, "echo asks"),
        ({"suffix": "s"}, "suffix asks"),
        ({"best_of": 2}, "best_of asks for more answers than are given back"),
        ({"best_of": 3, "n": 2}, "best_of asks"),
        ({"model": None}, "model is missing"),
    ],
)
def test_what_a_chat_has_no_word_for_is_named(fields: Json, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        chat_from_completions(REQUEST | fields)
    assert "secret" not in str(caught.value)


@few
@given(answers)
def test_a_completion_is_a_text(completion: Json) -> None:
    text = text_from_completion(completion)
    Completion.model_validate(text)
    assert (text["id"], text["model"], text["usage"]) == (completion["id"], "m", completion["usage"])
    for told, choice in zip(text["choices"], completion["choices"], strict=True):
        message = choice["message"]
        assert told["text"] == (message["content"] or "") + (message["refusal"] or "")
        assert told["finish_reason"] == choice["finish_reason"]


@few
@given(answers)
def test_a_stream_says_what_the_whole_text_says(completion: Json) -> None:
    whole = {c["index"]: c for c in text_from_completion(completion)["choices"]}
    chunks = streamed(chunks_of(completion))
    for index, choice in whole.items():
        parts = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert "".join(p["text"] for p in parts) == choice["text"]
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
    assert [chunk["usage"] for chunk in chunks][-1] == completion["usage"]
    assert len({(c["id"], c["object"]) for c in chunks}) == 1


def test_offsets_of_tokens_go_on_through_a_stream() -> None:
    def chunk(text: str, finish: str | None = None) -> Json:
        token = {"token": text, "logprob": -0.5, "top_logprobs": [{"token": "x", "logprob": -2.0}]}
        choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": [token]}, "finish_reason": finish}
        return {"id": "c", "created": 1, "model": "m", "choices": [choice]}

    told = [c["logprobs"] for part in streamed([chunk("Once"), chunk(" upon", "stop")]) for c in part["choices"]]
    more = {"token_logprobs": [-0.5], "top_logprobs": [{"x": -2.0}]}
    assert told == [{"tokens": ["Once"], "text_offset": [0]} | more, {"tokens": [" upon"], "text_offset": [4]} | more]


@pytest.mark.parametrize("chunks", [[], [{"choices": [{"index": 0, "delta": {"content": "a"}}]}]])
def test_a_stream_that_is_cut_ends_with_an_error(chunks: list[Json]) -> None:
    assert streamed(chunks)[-1]["error"]["message"] == "the provider's stream ended before its answer did"


def test_an_error_ends_a_stream() -> None:
    error = {"error": {"message": "oh", "type": "api_error"}}
    assert streamed([error, {"choices": []}]) == [error]


def test_calls_of_tools_are_no_text() -> None:
    message = {"tool_calls": [{"id": "a", "function": {"name": "f"}}]}
    with pytest.raises(UnreadableAnswerError, match=r"choices\[0\].message.tool_calls has no word"):
        text_from_completion({"choices": [{"message": message}]})


@few
@given(broken(st.just(REQUEST)) | anything)
def test_any_json_is_a_request_for_a_chat_or_an_error(body: Any) -> None:
    with suppress(DataError):
        assert len(chat_from_completions(body)["messages"]) == 1


@few
@given(broken(completions(2)) | anything)
def test_any_json_is_a_text_or_refused(completion: Any) -> None:
    with suppress(UnreadableAnswerError):
        assert text_from_completion(completion)["object"] == "text_completion"


@few
@given(st.lists(broken(completions().map(lambda c: next(chunks_of(c)))) | anything, max_size=4))
def test_any_json_is_streamed_or_refused(chunks: list[Any]) -> None:
    with suppress(UnreadableAnswerError):
        streamed(chunks)
