"""The desk hands each request's metadata on, by which a bundle may part requests."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.flows.conftest import rows, write_rows
from tiercel.flows.bundle import Answered, load
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.gateway.desk import Desk
from tiercel.types import Message


def test_requests_that_wait_together_keep_their_own_metadata(tmp_path: Path) -> None:
    lines = rows(700)
    for i, line in enumerate(lines):
        line["metadata"] = {"team": "a" if i % 50 else "rare"}
    settings = PilotSettings(students=("linear",), max_loss=0.1, segment="team")
    pilot([write_rows(tmp_path / "t.jsonl", lines)], tmp_path / "out", settings)
    messages = [Message(role=m["role"], content=m["content"]) for m in lines[1]["messages"][:2]]

    async def ask() -> list[Answered]:
        desk = Desk(load(tmp_path / "out"))
        try:
            given = [{"team": "a"}, {"team": "rare"}, None, {"team": "a"}]
            return list(await asyncio.gather(*(desk.answer(messages, metadata) for metadata in given)))
        finally:
            desk.close()

    told = asyncio.run(ask())
    assert [a.segment for a in told] == ["a", "rare", "", "a"]
    assert [a.tier for a in told] == ["student", "frontier", "frontier", "student"]
