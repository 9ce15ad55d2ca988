from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.gateway.cache import AnswerCache, cache_key, is_whole

BODY: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "hello"}],
    "temperature": 0,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": 1, "b": 2}}}],
}


def completion(content: str | None = "hi", finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
        ]
    }


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"messages": [{"role": "user", "content": "hello!"}]},
        {"temperature": 1},
        {"seed": 1},
        {"max_tokens": 5},
        {"tools": []},
        {"response_format": {"type": "json_object"}},
        {"a field of tomorrow": True},
    ],
)
def test_what_changes_the_answer_changes_the_key(change: dict[str, Any]) -> None:
    assert cache_key("a", "chat", BODY | change) != cache_key("a", "chat", BODY)


@pytest.mark.parametrize(
    "change", [{"stream": True}, {"stream_options": {"include_usage": True}}, {"user": "u"}, {"metadata": {}}]
)
def test_how_an_answer_is_sent_or_filed_does_not(change: dict[str, Any]) -> None:
    assert cache_key("a", "chat", BODY | change) == cache_key("a", "chat", BODY)


def test_the_order_of_fields_does_not_and_the_tenant_does() -> None:
    turned = dict(reversed(BODY.items()))
    turned["tools"] = [{"function": {"parameters": {"b": 2, "a": 1}, "name": "f"}, "type": "function"}]
    assert cache_key("a", "chat", turned) == cache_key("a", "chat", BODY)
    assert cache_key("b", "chat", BODY) != cache_key("a", "chat", BODY)
    assert cache_key("a", "chat", BODY, None, b"mark") != cache_key("a", "chat", BODY)


def test_a_tenant_can_not_be_mixed_up_with_a_body() -> None:
    assert cache_key('a","chat",{"x":1', "chat", {}) != cache_key("a", "chat", {"x": 1})


@pytest.mark.parametrize(
    "cut",
    [
        completion(finish="length"),
        completion(finish="content_filter"),
        completion(None),
        completion(""),
        completion("no", refusal="I can't"),
        {"choices": []},
        {"error": {"message": "x"}},
        {"choices": "x"},
        {"choices": [None]},
        {"choices": [completion()["choices"][0], completion(finish="length")["choices"][0]]},
    ],
)
def test_errors_refusals_and_cut_answers_are_never_kept(cut: dict[str, Any]) -> None:
    cache = AnswerCache(60, 10_000)
    cache.put(b"k", cut)
    assert not is_whole(cut)
    assert cache.get(b"k") is None
    assert len(cache) == cache.bytes == 0


def test_an_answer_is_kept_for_its_time() -> None:
    now = 100.0
    cache = AnswerCache(60, 10_000, clock=lambda: now)
    cache.put(b"k", completion())
    now = 159.9
    assert cache.get(b"k") == completion()
    now = 160.0
    assert cache.get(b"k") is None
    assert len(cache) == cache.bytes == 0


def test_a_new_size_and_time_hold_for_what_is_kept_already() -> None:
    now = 100.0
    cache = AnswerCache(60, 10_000, clock=lambda: now)
    for key in (b"a", b"b", b"c"):
        cache.put(key, completion("x" * 100))
    cache.resize(60, cache.bytes - 1)
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c")] == [False, True, True]
    now = 130.0
    cache.resize(30, 10_000)
    assert cache.get(b"b") is None


def test_a_caller_who_changes_an_answer_does_not_change_the_cache() -> None:
    cache = AnswerCache(60, 10_000)
    cache.put(b"k", completion())
    found = cache.get(b"k")
    assert found is not None
    found["choices"].clear()
    assert cache.get(b"k") == completion()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 300)), max_size=60))
def test_memory_is_bounded_and_the_least_used_go_first(puts: list[tuple[int, int]]) -> None:
    cache = AnswerCache(60, 3_000)
    order: list[bytes] = []
    for number, size in puts:
        key = bytes([number])
        cache.put(key, completion("x" * (size + 1)))
        if cache.get(key) is not None:
            order = [*(k for k in order if k != key), key]
        assert cache.bytes <= 3_000
    kept = [k for k in order if cache.get(k) is not None]
    assert kept == order[len(order) - len(kept) :]
    assert len(cache) == len(kept)
