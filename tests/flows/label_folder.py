"""A folder in which tests label requests, and what came out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.flows.conftest import SYSTEM, write_rows
from tests.flows.teacher_server import TeacherServer
from tiercel.flows.label_output import LabelCounts
from tiercel.flows.labelling import LabelSettings, label_file
from tiercel.flows.progress import Silent
from tiercel.providers.pacing import Retry

__all__ = ["Folder", "request", "requests"]

QUICK = Retry(tries=4, first_s=0.01, longest_s=0.02)


def request(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}], **more}


def requests(n: int) -> list[dict[str, Any]]:
    return [request(f"where is parcel {i}", id=f"q{i}") for i in range(n)]


class Folder:
    """Labels into one folder, and reads what came out."""

    def __init__(self, folder: Path, teacher: TeacherServer) -> None:
        self.folder, self.teacher = folder, teacher
        self.output = folder / "labelled.jsonl"
        self.journal = folder / "labelled.jsonl.journal"
        self.progress = Silent()

    def label(self, lines: list[Any], *, frontier: dict[str, Any] | None = None, **settings: Any) -> LabelCounts:
        source = write_rows(self.folder / "requests.jsonl", lines)
        chosen = {"retry": QUICK, "frontier": self.teacher.settings(**(frontier or {})), **settings}
        return label_file(source, self.output, LabelSettings(**chosen), self.progress)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_text().splitlines()]

    @property
    def rejects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "labelled.rejects.jsonl").read_text().splitlines()]

    def holds(self, secret: str) -> bool:
        return any(secret in path.read_text() for path in self.folder.iterdir())
