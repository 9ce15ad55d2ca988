"""A teacher on loopback that speaks OpenAI's chat completions, bills what it answers, and fails on demand."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tiercel.providers.openai_compatible import FrontierSettings

__all__ = ["KEY", "TeacherServer", "choice"]

KEY = "sk-secret-9876543210fedcba"


def choice(content: str | None = "delivery", **more: Any) -> dict[str, Any]:
    """One choice of an answer; `finish_reason` and fields of the message by name."""
    outside = {k: more.pop(k) for k in ("finish_reason", "logprobs") if k in more}
    return {
        "index": 0,
        "message": {"role": "assistant", "content": content, **more},
        "finish_reason": "stop",
        **outside,
    }


class TeacherServer:
    """Answers with `behave(text, times asked)`: a text, choices, a response, or an exception to be raised.

    Every answer that leaves it is billed: 10 input tokens and 2 output tokens a choice.
    """

    def __init__(self) -> None:
        self.behave: Callable[[str, int], Any] = lambda text, times: "delivery"
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.asked: Counter[str] = Counter()
        self.billed = 0
        self.delay = 0.0
        self.most_at_once = self.at_once = 0
        self.usage = True
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        text = body["messages"][-1]["content"]
        self.bodies.append(body)
        self.times.append(time.monotonic())
        self.asked[text] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.delay:
                await asyncio.sleep(self.delay)
            told = self.behave(text, self.asked[text])
            if asyncio.iscoroutine(told):
                told = await told
        finally:
            self.at_once -= 1
        if isinstance(told, web.StreamResponse):
            return told
        if isinstance(told, str):
            told = [choice(told) for _ in range(body.get("n", 1))]
        self.billed += 10 + 2 * len(told)
        usage = {"prompt_tokens": 10, "completion_tokens": 2 * len(told), "total_tokens": 10 + 2 * len(told)}
        answer = {"id": "c", "object": "chat.completion", "model": "teacher-1-2025-01-01", "choices": told}
        return web.json_response(answer | ({"usage": usage} if self.usage else {}))

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        self._ready.set()

    def _run(self) -> None:
        self._loop.run_until_complete(self._start())
        self._loop.run_forever()

    def __enter__(self) -> TeacherServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def settings(self, **more: Any) -> FrontierSettings:
        return FrontierSettings(**{"url": self.url, "model": "teacher-1", "api_key": KEY, "timeout_s": 10, **more})


def failing(status: int, *, headers: dict[str, str] | None = None, **error: Any) -> web.Response:
    """A refusal of the provider; its words quote the key, as some providers do."""
    told = {"message": f"no, {KEY}", "type": "t", **error}
    return web.Response(
        status=status, text=json.dumps({"error": told}), content_type="application/json", headers=headers or {}
    )
