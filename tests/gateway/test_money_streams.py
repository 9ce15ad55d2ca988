"""What streams are charged: by the provider's own counts where it can tell them, and never nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.gateway.conftest import Frontier, Loop, Running, answering, chunk, send, sse
from tests.gateway.test_money import HOSTED, chat, key, paying, usage, used
from tiercel.gateway.escalation import MOST_KEPT, TAIL
from tiercel.gateway.sections import Provider
from tiercel.store.entries import Entry

COUNTS = {**chunk(""), "choices": [], "usage": usage(10, 300)}
"""The chunk that OpenAI ends a stream with where it is asked to."""


def streaming(frontier: Frontier, *parts: bytes, counted: bytes = b"") -> Callable[[web.Request], Any]:
    """Streams parts, and before the last of them the counts, where they are asked for."""

    async def stream(request: web.Request) -> web.StreamResponse:
        asked = frontier.requests[-1].get("stream_options") or {}
        extra = [counted] if counted and asked.get("include_usage") else []
        return await frontier.stream(request, *parts[:-1], *extra, parts[-1])

    return stream


def one(gateway: Running) -> tuple[str, int, int, float | None]:
    """Who counted the only entry, its tokens and its cost."""
    entry: Entry = gateway.entries(1)[0]
    return entry.counted_by, entry.input_tokens, entry.output_tokens, entry.cost_usd


@pytest.fixture
def gateway(loop: Loop, frontier: Frontier, tmp_path: Path) -> Iterator[Running]:
    with paying(loop, tmp_path, frontier.provider(responses=True)) as running:
        yield running


class TestAskedFor:
    @pytest.fixture(autouse=True)
    def _counting(self, frontier: Frontier) -> None:
        deltas = sse(chunk("deli"), chunk("very", "stop"), b"[DONE]")
        frontier.behave = streaming(frontier, *deltas, counted=sse(COUNTS)[0])

    def test_a_client_that_did_not_ask_for_counts_pays_by_them_and_sees_none(
        self, gateway: Running, frontier: Frontier
    ) -> None:
        asked = chat(stream=True, x_number=1.50)
        status, _, raw = send(gateway.url, asked)
        assert (status, raw) == (200, b"".join(sse(chunk("deli"), chunk("very", "stop"), b"[DONE]")))
        assert frontier.requests == [{**asked, "stream_options": {"include_usage": True}}]
        assert one(gateway) == ("provider", 10, 300, pytest.approx(0.61))

    def test_a_client_that_asked_sees_them(self, gateway: Running, frontier: Frontier) -> None:
        asked = chat(stream=True, stream_options={"include_usage": True})
        assert sse(COUNTS)[0] in send(gateway.url, asked)[2]
        assert frontier.requests == [asked]
        assert one(gateway) == ("provider", 10, 300, pytest.approx(0.61))

    @pytest.mark.parametrize("options", [None, {"include_usage": False, "include_obfuscation": False}])
    def test_other_options_of_a_stream_are_kept(
        self, gateway: Running, frontier: Frontier, options: dict[str, Any] | None
    ) -> None:
        assert b"usage" not in send(gateway.url, chat(stream=True, stream_options=options))[2]
        assert frontier.requests[0]["stream_options"] == {**(options or {}), "include_usage": True}
        assert one(gateway)[0] == "provider"

    @pytest.mark.parametrize("options", [7, "all", [1]])
    def test_options_of_another_kind_are_left_to_the_provider(
        self, gateway: Running, frontier: Frontier, options: Any
    ) -> None:
        async def refuse(_: web.Request) -> web.Response:
            return web.json_response({"error": {"message": "stream_options must be an object"}}, status=400)

        frontier.behave = refuse
        asked = {"model": "m", "prompt": "hello", "stream": True, "stream_options": options}
        status, _, raw = send(gateway.url, asked, "/completions")
        assert (status, b"must be an object" in raw) == (400, True)
        assert frontier.requests == [asked]

    @pytest.mark.parametrize("cut", [1, 7, 50])
    def test_it_does_not_matter_how_the_stream_comes_in_pieces(
        self, gateway: Running, frontier: Frontier, cut: int
    ) -> None:
        told = sse({**chunk("deli"), "usage": None}, chunk("very", "stop"), COUNTS, b"[DONE]")
        whole = b"".join(told)
        frontier.behave = streaming(frontier, *(whole[i : i + cut] for i in range(0, len(whole), cut)))
        status, _, raw = send(gateway.url, chat(stream=True))
        assert (status, raw) == (200, b"".join([told[0], told[1], told[3]]))
        assert one(gateway)[:3] == ("provider", 10, 300)

    def test_a_provider_that_is_said_to_refuse_the_question_is_not_asked(
        self, loop: Loop, frontier: Frontier, tmp_path: Path
    ) -> None:
        with paying(loop, tmp_path, frontier.provider(stream_usage=False)) as gateway:
            for path, asked in (
                ("/chat/completions", chat(stream=True)),
                ("/messages", chat(stream=True, max_tokens=9)),
            ):
                assert send(gateway.url, asked, path)[0] == 200
            assert not any("stream_options" in asked for asked in frontier.requests)
            assert {entry.counted_by for entry in gateway.entries(2)} == {"estimate"}

    @pytest.mark.parametrize(
        ("provider", "asked"),
        [
            ({}, True),
            ({"url": "http://127.0.0.1:11434/v1"}, True),
            ({"url": "https://api.mistral.ai/v1"}, False),
            ({"url": "https://api.mistral.ai/v1", "stream_usage": True}, True),
            ({"kind": "azure", "api_version": "2024-10-21"}, True),
            ({"kind": "azure", "api_version": "2024-06-01"}, False),
            ({"kind": "azure", "url": "https://name.openai.azure.com/openai/v1"}, True),
            ({"kind": "anthropic"}, False),
            ({"stream_usage": False}, False),
        ],
    )
    def test_who_is_asked_unless_the_settings_say_otherwise(self, provider: dict[str, Any], asked: bool) -> None:
        assert Provider(name="p", **provider).counts_streams is asked


LOUD = sse(chunk("abcdefg" * 1_400 + " "))[0] * 480
"""4.8 MB of an answer, by the estimate 672,000 tokens."""


class TestLong:
    def test_a_long_answer_is_charged_by_the_counts_at_its_end(self, gateway: Running, frontier: Frontier) -> None:
        assert len(LOUD) > MOST_KEPT + TAIL
        frontier.behave = streaming(frontier, LOUD, b"data: [DONE]\n\n", counted=sse(COUNTS)[0])
        scope, shown = key(gateway, budget_usd=10.0)
        status, _, raw = send(gateway.url, chat(stream=True), headers=shown)
        assert (status, len(raw)) == (200, len(LOUD) + 14)
        assert one(gateway) == ("provider", 10, 300, pytest.approx(0.61))
        assert used(gateway, scope).spent_usd == pytest.approx(0.61)
        assert gateway.entries(1)[0].content is None

    def test_without_counts_it_is_estimated_whole(self, loop: Loop, frontier: Frontier, tmp_path: Path) -> None:
        frontier.behave = streaming(frontier, LOUD, b"data: [DONE]\n\n")
        with paying(loop, tmp_path, frontier.provider(stream_usage=False)) as gateway:
            assert send(gateway.url, chat(stream=True))[0] == 200
            counted_by, _, outputs, _ = one(gateway)
            assert (counted_by, outputs) == ("estimate", pytest.approx(672_000, rel=0.01))

    def test_counts_inside_a_last_event_that_is_itself_too_long_are_found(
        self, gateway: Running, frontier: Frontier
    ) -> None:
        text = "word " * 900_000
        item = {"type": "message", "content": [{"type": "output_text", "text": text}]}
        counts = {"input_tokens": 7, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 500}
        done = {"id": "r", "status": "completed", "output": [item], "usage": counts, "user": None, "metadata": {}}
        begun = {"type": "response.created", "response": {"id": "r", "usage": None}}
        frontier.behave = streaming(frontier, *sse(begun, {"type": "response.completed", "response": done}))
        assert send(gateway.url, {**HOSTED, "stream": True}, "/responses")[0] == 200
        assert one(gateway) == ("provider", 7, 500, pytest.approx(1.007))

    def test_a_long_message_is_charged_for_what_its_beginning_and_its_end_count(
        self, loop: Loop, frontier: Frontier, tmp_path: Path
    ) -> None:
        start = {
            "type": "message_start",
            "message": {"id": "m", "model": "m", "usage": {"input_tokens": 40, "output_tokens": 1}},
        }
        opened = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word " * 2_000}}
        end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 900}}
        told = sse(start, opened) + sse(delta) * 470 + sse(end, {"type": "message_stop"})
        frontier.behave = streaming(frontier, *told)
        with paying(loop, tmp_path, frontier.provider(kind="anthropic")) as gateway:
            assert send(gateway.url, chat(stream=True, max_tokens=9), "/messages")[0] == 200
            assert one(gateway) == ("provider", 40, 900, pytest.approx(1.84))


def leave(url: str, path: str, asked: dict[str, Any]) -> None:
    """Ask for a stream, and go away once its first bytes have come."""

    async def left() -> None:
        async with aiohttp.ClientSession() as session, session.post(url + path, json=asked) as response:
            assert response.status == 200
            await response.content.readany()

    asyncio.run(left())


class TestLeft:
    def unending(self, frontier: Frontier, *parts: bytes) -> None:
        async def stream(request: web.Request) -> web.StreamResponse:
            response = await frontier.stream(request, *parts)
            await frontier.until_released()
            return response

        frontier.behave = stream

    def test_of_a_request_without_chat_form_the_request_and_what_was_said_are_charged(
        self, gateway: Running, frontier: Frontier
    ) -> None:
        begun = {
            "type": "response.created",
            "response": {"id": "r", "status": "in_progress", "output": [], "usage": None},
        }
        said = {"type": "response.output_text.delta", "delta": "one two three four"}
        self.unending(frontier, b"".join(sse(begun, said)))
        asked = {**HOSTED, "stream": True}
        leave(gateway.url, "/responses", asked)
        counted_by, inputs, outputs, cost = one(gateway)
        assert (counted_by, outputs) == ("estimate", 4)
        assert inputs == pytest.approx(len(json.dumps(asked)) / 4, abs=2)
        assert cost == pytest.approx((1000 * inputs + 2000 * outputs) / 1e6)

    def test_of_a_message_the_counted_request_and_what_was_said_are_charged(
        self, loop: Loop, frontier: Frontier, tmp_path: Path
    ) -> None:
        counts = {"input_tokens": 40, "cache_read_input_tokens": 60, "output_tokens": 1}
        start = {"type": "message_start", "message": {"id": "m", "model": "m", "usage": counts}}
        opened = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one two three"}}
        self.unending(frontier, b"".join(sse(start, opened, delta)))
        with paying(loop, tmp_path, frontier.provider(kind="anthropic")) as gateway:
            leave(gateway.url, "/messages", chat(stream=True, max_tokens=9))
            entry = gateway.entries(1)[0]
            assert (entry.input_tokens, entry.cached_input_tokens, entry.output_tokens) == (100, 60, 3)
            assert entry.cost_usd == pytest.approx((40 * 1000 + 60 * 500 + 3 * 2000) / 1e6)


WRITTEN = {
    "input_tokens": 100,
    "cache_read_input_tokens": 1_000,
    "cache_creation_input_tokens": 700,
    "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 200},
    "output_tokens": 10,
}
WRITTEN_USD = (100 * 3 + 1_000 * 0.3 + 500 * 3.75 + 200 * 6 + 10 * 15) / 1e6
"""At Claude Sonnet 4.5's prices."""


class TestCacheWrites:
    @pytest.mark.parametrize("path", ["/messages", "/chat/completions"])
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
    def test_what_is_written_to_anthropics_cache_costs_more_than_input(
        self, loop: Loop, frontier: Frontier, tmp_path: Path, path: str, stream: bool
    ) -> None:
        head = {"id": "m", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929", "content": []}
        text = {"type": "text", "text": "fine"}
        whole = {**head, "content": [text], "stop_reason": "end_turn", "usage": WRITTEN}
        events = sse(
            {"type": "message_start", "message": {**head, "usage": {**WRITTEN, "output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": text},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 10}},
            {"type": "message_stop"},
        )
        frontier.behave = streaming(frontier, *events) if stream else answering(200, whole)
        with paying(loop, tmp_path, frontier.provider(kind="anthropic")) as gateway:
            assert send(gateway.url, chat("claude-sonnet-4-5", stream=stream, max_tokens=9), path)[0] == 200
            counted_by, inputs, outputs, cost = one(gateway)
            assert (counted_by, inputs, outputs) == ("provider", 1_800, 10)
            assert cost == pytest.approx(WRITTEN_USD)
