"""Which workload a request belongs to, and what answers it there.

A request is recognised by what its workload has in common: tools, response format and the template of the system
prompt. `model: "tiercel/NAME"` names a workload outright.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tiercel.datasets.templates import WorkloadKey, signature_of, system_text
from tiercel.gateway.chat import ChatRequest
from tiercel.gateway.desk import Desk
from tiercel.gateway.sections import Workload as WorkloadSettings

if TYPE_CHECKING:
    from tiercel.flows.bundle import Bundle

__all__ = ["Workload", "Workloads", "opened", "version_of"]

_PREFIX = "tiercel/"
_LONGEST_KNOWN = 4_096
"""System prompts whose workload is remembered."""
_VERSION_DIGITS = 16


def version_of(manifest: bytes) -> str:
    """The version of a bundle: the first sixteen digits of `sha256sum manifest.json`, which names every file's hash."""
    return hashlib.sha256(manifest).hexdigest()[:_VERSION_DIGITS]


def opened(settings: WorkloadSettings, *, threads: int | None) -> Bundle:
    """The bundle of a workload, with its engine where it has one.

    Raises:
        TiercelError: as `tiercel.flows.bundle.load`.
    """
    from tiercel.flows.bundle import load

    assert settings.bundle is not None
    if settings.engine is None:
        return load(settings.bundle, threads=threads)
    from tiercel.engines.remote import RemoteEngine

    key = settings.engine_key.reveal() if settings.engine_key else None
    engine = RemoteEngine(settings.engine, api_key=key, timeout_s=settings.engine_timeout_s)
    return load(settings.bundle, threads=threads, engine=engine)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One workload that the gateway knows.

    Attributes:
        settings: what the configuration says of it.
        desk: where its bundle answers; None where it has none.
        version: of its bundle, as `version_of` its manifest; empty where it has none.
    """

    settings: WorkloadSettings
    desk: Desk | None = None
    version: str = ""

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return self.settings.name

    @property
    def cores(self) -> int:
        """Cores that its student may keep busy; 1 where it runs on a GPU or in a server of its own."""
        return 1 if self.settings.gpu or self.settings.engine else self.settings.threads or os.cpu_count() or 1

    @property
    def key(self) -> WorkloadKey | None:
        """What its requests have in common."""
        return self.desk.bundle.manifest.reader.key if self.desk else None

    @property
    def fingerprint(self) -> str:
        """Of what its requests have in common; empty where it has no bundle."""
        return self.key.fingerprint if self.key else ""


@dataclass
class Workloads:
    """All workloads that the gateway knows.

    Args:
        known: in the order of the configuration; where two would take a request, the first does.
    """

    known: Sequence[Workload]
    _by_name: dict[str, Workload] = field(init=False, repr=False)
    _by_signature: dict[str, list[tuple[WorkloadKey, Workload]]] = field(init=False, repr=False)
    _seen: dict[bytes, Workload | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._by_name = {w.fingerprint: w for w in self.known if w.fingerprint} | {w.name: w for w in self.known}
        self._by_signature, self._seen = {}, {}
        for workload in self.known:
            if workload.key is not None:
                self._by_signature.setdefault(workload.key.signature, []).append((workload.key, workload))

    def named(self, model: str | None) -> Workload | None:
        """The workload that a request's `model` names; None where it names another kind of model."""
        if model is None or not model.startswith(_PREFIX):
            return None
        return self._by_name.get(model.removeprefix(_PREFIX))

    def recognise(self, request: ChatRequest) -> Workload | None:
        """The workload that a request belongs to; None for a stranger."""
        if not self._by_signature or request.messages is None:
            return None
        signature = signature_of(request.body.get("tools"), request.body.get("response_format"))
        text = system_text(request.messages)
        # A digest, since callers choose how long a prompt is that is remembered.
        asked = hashlib.blake2b(f"{signature}\0{text}".encode("utf-8", "replace"), digest_size=16).digest()
        found = self._seen.get(asked, self)
        if not isinstance(found, Workloads):
            return found
        shape = signature.rpartition("|")[2]
        candidates = [*self._by_signature.get(signature, ()), *self._by_signature.get(f"*|{shape}", ())]
        workload = next((w for key, w in candidates if key.template.match(text) is not None), None)
        if len(self._seen) >= _LONGEST_KNOWN:
            self._seen.clear()
        self._seen[asked] = workload
        return workload
