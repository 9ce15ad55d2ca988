"""A mock of an OpenAI upstream that is never the bottleneck: it reads just enough of HTTP/1.1 and writes fixed bytes.

POST anything   a chat completion of about 600 bytes, or a stream of events where the body sets `"stream": true`
GET /calls      how many requests were answered, failed and streamed so far, as JSON; any other GET gets the same

python benchmarks/gateway/upstream.py --port 9000 --fail 0.2 --seed 7
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re

try:
    import uvloop
except ImportError:  # works without, at half the rate
    uvloop = None

TEXT = (
    "Your parcel left our warehouse in Ghent on Tuesday and reached the carrier's depot the same evening. The carrier "
    "expects to deliver it tomorrow between nine and twelve. You can change the day or name a neighbour on its page."
)
_STREAMED = re.compile(rb'"stream"\s*:\s*true')
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
_USAGE = {"prompt_tokens": 231, "completion_tokens": 46, "total_tokens": 277}
_COMMON = {"id": "chatcmpl-9fK2mB7qTnX0cWvYd3JhLzRs", "created": 1760000000, "model": "gpt-4o-mini"}


def completion() -> bytes:
    """The answer to a request that does not stream."""
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = _USAGE | {"prompt_tokens_details": {"cached_tokens": 0}}
    whole = _COMMON | {"object": "chat.completion", "choices": [choice], "usage": usage, "system_fingerprint": "fp_1"}
    return json.dumps(whole).encode()


def events(count: int) -> list[bytes]:
    """The answer as a stream: `count` events with text, one that ends it, one with the usage, and [DONE]."""
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": f" word{i}"}, None) for i in range(count)]
    deltas[0][0]["role"] = "assistant"
    bodies: list[dict[str, object]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in [*deltas, ({}, "stop")]
    ]
    bodies.append({"choices": [], "usage": _USAGE})
    texts = [json.dumps(_COMMON | {"object": "chat.completion.chunk"} | body) for body in bodies]
    return [f"data: {text}\n\n".encode() for text in [*texts, "[DONE]"]]


def _response(status: str, body: bytes, *, headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


class Script:
    """What the upstream answers, how fast, and which calls it lets fail; shared by all connections."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.latency_s: float = options.latency_ms / 1000
        self.pace_s: float = options.pace_ms / 1000
        self.fail: float = options.fail
        self.faults: list[str] = options.faults.split(",")
        self.draw = random.Random(options.seed)
        self.whole = _response("200 OK", completion())
        self.stream_head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        framed = [b"%x\r\n%b\r\n" % (len(event), event) for event in events(options.chunks)]
        # The finish, the usage and [DONE] come with the last word, as providers send them.
        self.stream = [*framed[: options.chunks - 1], b"".join(framed[options.chunks - 1 :]) + b"0\r\n\r\n"]
        error = b'{"error": {"message": "a fault that was asked for", "type": "server_error", "code": null}}'
        wait = f"Retry-After: {options.retry_after:g}\r\n"
        self.refusals = {
            "500": _response("500 Internal Server Error", error),
            "429": _response("429 Too Many Requests", error, headers=wait),
        }
        self.calls = {"answered": 0, "streamed": 0, "failed": 0}

    def fault(self) -> str | None:
        """Which fault the next call gets; the draws depend on the seed alone."""
        return self.draw.choice(self.faults) if self.fail and self.draw.random() < self.fail else None


class Upstream(asyncio.Protocol):
    """One connection; requests on it are answered one after another."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.loop = asyncio.get_running_loop()
        self.buffer = bytearray()
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._next()

    def _next(self) -> None:
        while not self.busy and not self.transport.is_closing():
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            length = self._body_length(end + 4)
            if length is None or len(self.buffer) < end + 4 + length:
                return
            streamed = _STREAMED.search(self.buffer, end + 4, end + 4 + length) is not None
            asked = self.buffer.startswith(b"POST")
            del self.buffer[: end + 4 + length]
            self._answer(asked, streamed)

    def _body_length(self, start: int) -> int | None:
        """Bytes of the body, framing included; None while a chunked one is not all there."""
        if found := _LENGTH.search(self.buffer, 0, start):
            return int(found[1])
        if _CHUNKED.search(self.buffer, 0, start):
            end = self.buffer.find(b"0\r\n\r\n", start)
            return None if end < 0 else end + 5 - start
        return 0

    def _answer(self, asked: bool, streamed: bool) -> None:
        script = self.script
        if not asked:
            self.transport.write(_response("200 OK", json.dumps(script.calls).encode()))
            return
        fault = script.fault()
        if fault:
            script.calls["failed"] += 1
            if fault == "reset":
                self.transport.abort()
            else:
                self.transport.write(script.refusals[fault])
        elif streamed:
            script.calls["streamed"] += 1
            self.busy = True
            self.loop.call_later(script.latency_s, self._stream, 0)
        else:
            script.calls["answered"] += 1
            if script.latency_s:
                self.busy = True
                self.loop.call_later(script.latency_s, self._whole)
            else:
                self.transport.write(script.whole)

    def _whole(self) -> None:
        self.busy = False
        if not self.transport.is_closing():
            self.transport.write(self.script.whole)
            self._next()

    def _stream(self, number: int) -> None:
        if self.transport.is_closing():
            return
        event = self.script.stream[number]
        self.transport.write(self.script.stream_head + event if number == 0 else event)
        if number + 1 < len(self.script.stream):
            self.loop.call_later(self.script.pace_s, self._stream, number + 1)
        else:
            self.busy = False
            self._next()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="before an answer's first byte")
    parser.add_argument("--chunks", type=int, default=20, help="events with text in a stream")
    parser.add_argument("--pace-ms", type=float, default=10.0, help="between two events of a stream")
    parser.add_argument("--fail", type=float, default=0.0, help="share of calls that fail, 0 to 1")
    parser.add_argument("--faults", default="500,429,reset", help="which faults, drawn with equal chances")
    parser.add_argument("--retry-after", type=float, default=1.0, help="seconds that a 429 asks to wait")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    return parser.parse_args()


async def _main(options: argparse.Namespace) -> None:
    script = Script(options)
    server = await asyncio.get_running_loop().create_server(
        lambda: Upstream(script), "127.0.0.1", options.port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None)
    with runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(_main(_options()))
