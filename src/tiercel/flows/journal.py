"""The record of what a teacher was asked, synced to disk before a request is sent and after it is answered.

A run that was killed leaves requests that were sent and never answered here. They may have been billed, so they count
against the budget at their upper estimate.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec
from msgspec import Struct

from tiercel.errors import ConfigurationError, StorageError
from tiercel.flows.storage import guarded
from tiercel.flows.teacher import Bill, Sample

try:
    import fcntl
except ImportError:  # Windows: two runs into one output are then not told apart.
    fcntl = None

__all__ = ["Answered", "Asked", "Chosen", "Failed", "Journal"]


class Asked(Struct, frozen=True, kw_only=True, tag="asked", tag_field="kind"):
    """A request that is about to be sent."""

    call: int
    """Number of the call, unique in the journal."""
    key: str
    """Of the request's content; the journal does not hold the request itself."""
    reserved: int
    """Billionths of a USD, the most that it may cost."""


class Answered(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="answered", tag_field="kind"):
    """A call that was answered."""

    call: int
    key: str
    samples: tuple[Sample, ...]
    bill: Bill
    charged: int
    """Billionths of a USD that count against the budget."""
    latency_s: float
    model: str | None = None
    """As the provider names it."""


class Failed(Struct, frozen=True, kw_only=True, tag="failed", tag_field="kind"):
    """A call that was not answered."""

    call: int
    charged: int
    """Billionths of a USD: 0 where it can't have been billed, else what was reserved."""


class Chosen(Struct, frozen=True, kw_only=True, tag="chosen", tag_field="kind"):
    """Requests that were chosen to be labelled next, by their keys."""

    keys: tuple[str, ...]


Record = Asked | Answered | Failed | Chosen


class Journal:
    """Opens or begins the journal at `path`, and holds what it says. Close it, or use it with `with`.

    Attributes:
        answered: calls by the key of their request, in the order of the answers.
        chosen: keys in the order in which they were chosen.
        spent: billionths of a USD that count against the budget.
        unsure: how many of them were charged for calls whose bill is not known.
        skipped: lines that could not be read.

    Raises:
        ConfigurationError: another run writes it.
        StorageError: it can't be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answered: dict[str, list[Answered]] = {}
        self.chosen: list[str] = []
        self.spent = self.unsure = self.skipped = 0
        self._next = 0
        self._encode = msgspec.json.Encoder().encode
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        with guarded(path, "--output"):
            self._stream: BinaryIO = path.open("a+b")
        try:
            self._lock()
            with guarded(path, "--output"):
                self._read()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stream.close()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(
                f"{self.path}: another run writes it; wait for it, or choose another --output"
            ) from None

    def _read(self) -> None:
        decoder = msgspec.json.Decoder(Record)
        reserved: dict[int, int] = {}
        self._stream.seek(0)
        whole = 0
        for line in self._stream:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                record = decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self.skipped += 1
                continue
            self._take(record, reserved)
        lost = sum(reserved.values())
        self.spent += lost
        self.unsure += lost
        # What a kill cut off in the middle of a line would spoil the next one.
        self._stream.truncate(whole)

    def _take(self, record: Record, reserved: dict[int, int]) -> None:
        if isinstance(record, Chosen):
            self.chosen += record.keys
            return
        self._next = max(self._next, record.call + 1)
        if isinstance(record, Asked):
            reserved[record.call] = record.reserved
            return
        reserved.pop(record.call, None)
        self.spent += record.charged
        if isinstance(record, Failed):
            self.unsure += record.charged
        else:
            self.unsure += 0 if record.bill.counted else record.charged
            self.answered.setdefault(record.key, []).append(record)

    def number(self) -> int:
        """The number of a new call."""
        self._next += 1
        return self._next - 1

    def samples(self, key: str) -> tuple[Sample, ...]:
        """All samples of a request."""
        return tuple(sample for call in self.answered.get(key, ()) for sample in call.samples)

    async def write(self, record: Asked | Answered | Failed) -> None:
        """Write a record; returns when it is safe on disk. Records that come meanwhile share the next sync.

        Raises:
            StorageError: it can't be written.
        """
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((self._encode(record) + b"\n", written))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._flush())
        await written
        if not isinstance(record, Asked):
            # `Budget` holds what is reserved while a run lasts.
            self._take(record, {})

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            failure: StorageError | None = None
            try:
                await asyncio.to_thread(self._append, b"".join(line for line, _ in batch))
            except StorageError as error:
                failure = error
            for _, written in batch:
                if written.done():
                    continue
                if failure is None:
                    written.set_result(None)
                else:
                    written.set_exception(failure)

    def write_choice(self, keys: Sequence[str]) -> None:
        """Record what was chosen; returns when it is safe on disk."""
        record = Chosen(keys=tuple(keys))
        self._append(self._encode(record) + b"\n")
        self.chosen += keys

    def _append(self, data: bytes) -> None:
        with guarded(self.path, "--output"):
            self._stream.write(data)
            self._stream.flush()
            os.fsync(self._stream.fileno())
