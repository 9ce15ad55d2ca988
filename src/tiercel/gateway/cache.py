"""Answers that were given before to the very same request.

A key is made of the tenant, of the workload's scope, and of everything in the request that changes the answer: its API,
its body as it came, the headers that go along. What is kept is a whole chat completion, never an error, a refusal or an
answer that was cut; the least recently used go first.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

__all__ = ["AnswerCache", "cache_key", "is_whole"]

Json = dict[str, Any]

_WITHOUT_EFFECT = frozenset(
    [
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "user",
    ]
)
"""Fields that change how an answer is sent, billed or filed, not what it says."""
_encode = msgspec.json.Encoder(order="deterministic").encode


def cache_key(tenant: str, api: str, body: Json, headers: Mapping[str, str] | None = None, mark: bytes = b"") -> bytes:
    """Sixteen bytes that are equal for requests of one tenant that ask for the same answer.

    Args:
        tenant: who shares answers.
        api: that the client speaks.
        body: of the request, in that API's words: those of another may leave out what changes the answer.
        headers: that a provider gets.
        mark: up to 16 bytes that stand for all else that answers depend on, as `cache_scopes` tells it.
    """
    asked = {name: value for name, value in body.items() if name not in _WITHOUT_EFFECT}
    return hashlib.blake2b(_encode([tenant, api, asked, headers]), digest_size=16, salt=mark).digest()


def is_whole(completion: Json) -> bool:
    """Whether every choice of a chat completion ended by itself and says something."""
    choices = completion.get("choices")
    if not isinstance(choices, list) or not choices:
        return False
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict) or choice.get("finish_reason") not in ("stop", "tool_calls", "function_call"):
            return False
        if message.get("refusal") or not (message.get("content") or message.get("tool_calls")):
            return False
    return True


class AnswerCache:
    """A cache in this process.

    Args:
        ttl_s: seconds that an answer is kept.
        max_bytes: of all answers together; an answer larger than a tenth of it is not kept.
        clock: seconds that never go backwards.
    """

    def __init__(self, ttl_s: float, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.ttl_s = ttl_s
        self.max_bytes = max_bytes
        self.bytes = 0
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()

    def get(self, key: bytes) -> Json | None:
        """The chat completion that is kept under `key`."""
        found = self._kept.get(key)
        if found is None:
            return None
        if self._clock() >= found[0] + self.ttl_s:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return msgspec.json.decode(found[1])

    def put(self, key: bytes, completion: Json) -> None:
        """Keep a chat completion, if it is whole."""
        if not is_whole(completion):
            return
        data = msgspec.json.encode(completion)
        if len(data) > self.max_bytes // 10:
            return
        if key in self._kept:
            self._drop(key)
        self._kept[key] = (self._clock(), data)
        self.bytes += len(data)
        self._shrink()

    def resize(self, ttl_s: float, max_bytes: int) -> None:
        """Go by another time and another size, also for what is kept already."""
        self.ttl_s, self.max_bytes = ttl_s, max_bytes
        self._shrink()

    def __len__(self) -> int:
        return len(self._kept)

    def _shrink(self) -> None:
        while self.bytes > self.max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        _, data = self._kept.pop(key)
        self.bytes -= len(data)
