"""Entries for the tests of the store."""

from __future__ import annotations

import json
from typing import Any

from tiercel.store.entries import Content, Entry, new_id


def content(asked: str = "where is my parcel", answered: str = "delivery", **request: Any) -> Content:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": asked}], **request}
    return Content(
        request=json.dumps(body).encode(), response=json.dumps({"role": "assistant", "content": answered}).encode()
    )


def entry(**fields: Any) -> Entry:
    """An entry of the frontier that cost a cent, with content unless told otherwise."""
    plain: dict[str, Any] = {
        "id": new_id(),
        "created": 1_700_000_000.0,
        "api": "chat",
        "workload": "tickets",
        "tier": "frontier",
        "provider": "openai",
        "model": "gpt-4o",
        "status": 200,
        "latency_s": 0.5,
        "first_byte_s": 0.25,
        "input_tokens": 100,
        "output_tokens": 10,
        "cost_usd": 0.01,
        "frontier_cost_usd": 0.01,
        "content": content(),
    }
    return Entry(**plain | fields)
