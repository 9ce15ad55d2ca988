"""One configuration, loaded: bundles, providers, cache, limits, prices. A reload makes another and retires this one.

Requests enter and leave; a state that is retired closes what it holds when the last of them has left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from tiercel.gateway.cache import AnswerCache
from tiercel.gateway.cache_scopes import marked
from tiercel.gateway.costing import Costing
from tiercel.gateway.desk import Desk
from tiercel.gateway.limiter import Limiter
from tiercel.gateway.sections import Privacy, Settings
from tiercel.gateway.sections import Workload as WorkloadSettings
from tiercel.gateway.workloads import Workload, Workloads, opened, version_of
from tiercel.providers.chain import Chain, Link
from tiercel.providers.failures import Attempt
from tiercel.providers.prices import PriceTable
from tiercel.providers.provider_settings import ProviderSettings
from tiercel.providers.text_tokenizer import read_tokenizer
from tiercel.providers.upstream import Upstream
from tiercel.store.database import Database

if TYPE_CHECKING:
    from tiercel.datasets.personal_data import Recogniser
    from tiercel.datasets.redaction import Redactor
    from tiercel.store.keys import VirtualKey

__all__ = ["State"]

SETTLED_S = 300.0
"""Seconds after the longest request in which its cost is surely settled, the recorder's queue included."""

_OF_DESK = ("threads", "engine", "engine_key", "engine_timeout_s")
"""Settings of a workload with which its bundle is loaded."""
_log = logging.getLogger("tiercel.gateway")


class State:
    """What one configuration holds.

    Args:
        settings: the configuration.
        database: of keys and limits.
        before: the state that this one replaces; bundles that did not change are taken over.
        on_attempt: is told of every call of a provider.

    Raises:
        BundleError: a bundle can't be read.
        ConfigurationError: a provider, its tokenizer or the file of prices is wrong.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        before: State | None = None,
        on_attempt: Callable[[Attempt], None] | None = None,
    ) -> None:
        self.settings = settings
        self.needs_keys = settings.server.needs_keys
        self.limiter = before.limiter if before else Limiter(database)
        self.lease_s = settings.server.request_timeout_s + SETTLED_S
        """Seconds for which a limit holds what a request may cost."""
        self.prices = Costing(
            PriceTable(settings.costs.prices),
            settings.costs.cpu_hour_usd,
            settings.costs.gpu_hour_usd,
            settings.frontier.default_model,
        )
        privacy = settings.privacy
        recognisers = _recognisers(privacy)
        self.redactor = _redactor(privacy.redact_escalation, recognisers, "reversible")
        """Takes personal data out of what leaves this machine; None where nothing is to be taken out."""
        self.storage_redactor = _redactor(privacy.redact_storage, recognisers, "one-way")
        """Takes personal data out of what is stored; None where nothing is to be taken out."""
        cache = settings.cache
        self.cache = AnswerCache(cache.ttl_s, int(cache.max_mb * 2**20)) if cache.enabled else None
        self.workloads = Workloads([_workload(w, before) for w in settings.workloads])
        self._scopes = marked(settings, self.workloads.known, before._scopes if before else {})
        self._providers = {p.name: p for p in settings.providers}
        self._links = {
            p.name: Link(Upstream(ProviderSettings(**p.upstream())), retries=p.retries) for p in settings.providers
        }
        self.counting = frozenset(p.name for p in settings.providers if p.counts_streams)
        """Providers that are asked for the token counts of every stream."""
        self.tokenizers = {p.name: read_tokenizer(p.tokenizer) for p in settings.providers if p.tokenizer}
        """What counts the tokens of a provider that does not; by its name."""
        self._chains: dict[tuple[str, ...], Chain] = {}
        for workload in (None, *settings.workloads):
            names = tuple(p.name for p in settings.chain(workload))
            if names and names not in self._chains:
                self._chains[names] = Chain([self._links[name] for name in names], on_attempt=on_attempt)
        self._strangers = self._chains.get(tuple(p.name for p in settings.chain()))
        """Who answers what belongs to no workload."""
        self._users = 0
        self._retired = False
        for desk in self._desks():  # nothing fails after this, so that close() lets go what was taken
            desk.take(self)

    def chain(self, workload: Workload | None) -> Chain | None:
        """The providers that a workload, or a stranger, is escalated to; None where there are none."""
        if workload is None:
            return self._strangers
        return self._chains.get(tuple(p.name for p in self.settings.chain(workload.settings)))

    def cache_mark(self, workload: Workload | None) -> bytes:
        """What the keys of a workload's cached answers hold."""
        return self._scopes[workload.name if workload else None].mark

    def keep_answers(self, old: State) -> None:
        """Take over what the state that this one replaces has cached."""
        if self.cache is not None and old.cache is not None:
            old.cache.resize(self.cache.ttl_s, self.cache.max_bytes)
            self.cache = old.cache

    def sellers(self, chain: Chain | None, model: str | None) -> list[ProviderSettings]:
        """The providers of a chain that may be asked for a model."""
        settings = [link.upstream.settings for link in (chain.links if chain else ())]
        return [provider for provider in settings if self.takes(provider.name, model or "")]

    def takes(self, provider: str, model: str) -> bool:
        """Whether a provider may be asked for a model."""
        return self._providers[provider].takes(model)

    def provider(self, name: str) -> ProviderSettings:
        """How a provider is asked."""
        return self._links[name].upstream.settings

    def models(self, key: VirtualKey | None) -> Iterator[tuple[str, str, int]]:
        """Name, owner and time of making of what a key may ask for; of all where none is needed."""
        for workload in self.workloads.known:
            if key is not None and not key.may_use(workload.name):
                continue
            made = workload.desk.bundle.folder / "manifest.json" if workload.desk else None
            yield f"tiercel/{workload.name}", "tiercel", int(made.stat().st_mtime) if made else 0
        if key is not None and not key.may_ask_frontier:
            return
        for provider in self.settings.providers:
            for name in [*provider.models, *([provider.model] if provider.model else [])]:
                yield name, provider.name, 0

    def enter(self) -> None:
        """A request begins to use this state."""
        self._users += 1

    def leave(self) -> None:
        """A request has ended."""
        self._users -= 1
        if self._retired and not self._users:
            self._close_soon()

    def retire(self) -> None:
        """Close as soon as nobody uses this any more, except for what another state has taken over."""
        self._retired = True
        if not self._users:
            self._close_soon()

    async def close(self) -> None:
        """Close connections and let students go."""
        for desk in self._desks():
            desk.release(self)
        for link in self._links.values():
            await link.upstream.close()

    def _desks(self) -> list[Desk]:
        return [workload.desk for workload in self.workloads.known if workload.desk is not None]

    def _close_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self.close())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())


def _workload(settings: WorkloadSettings, before: State | None) -> Workload:
    if settings.bundle is None:
        return Workload(settings=settings)
    from tiercel.flows.bundle import locate  # with numpy and what students need

    path = locate(settings.bundle)
    version = version_of((path / "manifest.json").read_bytes())
    for old in before.workloads.known if before else ():
        same = old.version == version and all(getattr(old.settings, f) == getattr(settings, f) for f in _OF_DESK)
        if old.desk is not None and same:
            return Workload(settings=settings, desk=old.desk, version=version)
    return Workload(settings=settings, desk=Desk(opened(settings, threads=settings.threads)), version=version)


def _recognisers(privacy: Privacy) -> list[Recogniser | str]:
    """Those that are named, loaded once where they are folders; none where nothing is to be taken out."""
    if not (privacy.redact_escalation or privacy.redact_storage) or not privacy.recogniser_folders:
        return list(privacy.recognisers)
    from tiercel.students.span_model import SpanModel

    # One thread each: requests, not their parts, are what runs at once in a gateway.
    return [*privacy.recognisers, *(SpanModel.load(f, threads=1) for f in privacy.recogniser_folders)]


def _redactor(kinds: bool | tuple[str, ...], recognisers: Sequence[Recogniser | str], mode: str) -> Redactor | None:
    if not kinds:
        return None
    from tiercel.datasets.redaction import Mode, Redactor

    return Redactor(None if kinds is True else kinds, recognisers, Mode(mode))
