"""The models that may be asked for, in the words of OpenAI's API and of Anthropic's.

Both have GET /v1/models and GET /v1/models/ID; a caller of Anthropic's names its version in a header.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

__all__ = ["model_entry", "model_list"]

Json = dict[str, Any]
Known = tuple[str, str, int]
"""Name, owner, and Unix time of making; 0 where that is not known."""


def model_entry(model: Known, *, anthropic: bool) -> Json:
    """One model."""
    name, owner, created = model
    if anthropic:
        made = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"type": "model", "id": name, "display_name": name, "created_at": made}
    return {"id": name, "object": "model", "created": created, "owned_by": owner}


def model_list(models: Iterable[Known], *, anthropic: bool) -> Json:
    """All models, on one page; of those that share a name the first counts."""
    known: dict[str, Known] = {}
    for model in models:
        known.setdefault(model[0], model)
    data = [model_entry(model, anthropic=anthropic) for model in known.values()]
    if not anthropic:
        return {"object": "list", "data": data}
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"data": data, "has_more": False, **ends}
