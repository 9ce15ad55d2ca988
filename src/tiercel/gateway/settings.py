"""tiercel.toml read: every mistake is found at once, secrets come from the environment or from files.

`read_settings` gives the `Settings` of `sections`, or one ConfigurationError with a line for each mistake. Relative
paths start from the file's own folder, so that it means the same wherever the program is started.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import structs

from tiercel.errors import BundleError, ConfigurationError, UserError
from tiercel.gateway._addresses import is_own_network
from tiercel.gateway._secrets import SecretReader
from tiercel.gateway._section_reader import SectionReader, nearest
from tiercel.gateway.sections import (
    Cache,
    Capture,
    Costs,
    Frontier,
    Monitor,
    Privacy,
    Provider,
    Server,
    Settings,
    Telemetry,
    Workload,
    is_loopback,
)

__all__ = ["DEFAULT_URLS", "SECTIONS", "Settings", "read_settings"]

SECTIONS: dict[str, type[Any]] = {
    "server": Server,
    "provider": Provider,
    "frontier": Frontier,
    "workload": Workload,
    "capture": Capture,
    "privacy": Privacy,
    "cache": Cache,
    "costs": Costs,
    "monitor": Monitor,
    "telemetry": Telemetry,
}
"""Sections by their name in the file, in the order of the documentation."""
DEFAULT_URLS = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com/v1"}
"""URL of a provider that names none, by its kind."""


def read_settings(
    path: Path | None,
    environ: Mapping[str, str] | None = None,
    *,
    kinds: Collection[str] | None = None,
    only: str | None = None,
) -> Settings:
    """Read and check the gateway's configuration.

    Args:
        path: of tiercel.toml; None for the defaults alone.
        environ: variables that settings may name; None for the process's own.
        kinds: kinds of personal data that can be recognised; None to take any name.
        only: name of the one section that is read and checked; the others are as if they were left out.

    Raises:
        ConfigurationError: the file is missing, is no TOML, or has mistakes: a line for each.
    """
    if path is None:
        return Settings()
    document = _document(path)
    reading = _Reading(path, os.environ if environ is None else environ)
    if only is not None:
        document = {name: section for name, section in document.items() if name == only}
    settings = reading.settings(document)
    if only is None:
        reading.check_chains(settings)
    if kinds is not None:
        reading.check_kinds(settings.privacy, kinds)
    errors = _in_order(reading.reader.errors, document)
    if len(errors) == 1:
        raise ConfigurationError(f"{path}: {errors[0]}")
    if errors:
        raise ConfigurationError("\n  ".join([f"{path} has {len(errors)} mistakes:", *errors]))
    return structs.replace(settings, warnings=tuple(reading.reader.warnings))


def _in_order(errors: Sequence[str], document: Mapping[str, Any]) -> list[str]:
    """Errors in the order of the file's sections."""
    places = {name: i for i, name in enumerate(document)}

    def place(error: str) -> int:
        found = re.match(r"[\w-]+", error)
        return places.get(found[0], -1) if found else -1

    return sorted(errors, key=place)


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file; write one with `tiercel init`") from None
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ConfigurationError(f"{path} can't be read ({why}); give a file that this user may read") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is no TOML: {error}; mend that place first") from None
    except RecursionError:
        raise ConfigurationError(f"{path} is nested too deep; settings are three levels deep at most") from None


class _Reading:
    """One file being read.

    Args:
        path: of it.
        environ: variables of the environment.
    """

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self.reader = SectionReader(path.resolve().parent)
        self._secrets = SecretReader(self.reader, environ)
        self._places: dict[str, str] = {}
        """Where each workload stands, by its name."""

    def settings(self, document: dict[str, Any]) -> Settings:
        """All sections, with defaults in the place of what is wrong."""
        self.reader.unknown_sections(document, SECTIONS)
        providers = self._providers(document)
        workloads = self._workloads(document)
        return Settings(
            server=self._server(document),
            providers=providers,
            frontier=self._plain(document, Frontier, "frontier"),
            workloads=workloads,
            capture=self._capture(document),
            privacy=self._plain(document, Privacy, "privacy"),
            cache=self._plain(document, Cache, "cache"),
            costs=self._costs(document),
            monitor=self._monitor(document),
            telemetry=self._telemetry(document),
        )

    def check_kinds(self, privacy: Privacy, kinds: Collection[str]) -> None:
        """Note kinds of personal data that nobody recognises."""
        if privacy.recognisers or privacy.recogniser_folders:
            return  # theirs are known once they are loaded
        for name in ("redact_storage", "redact_escalation"):
            chosen = getattr(privacy, name)
            for i, kind in enumerate(() if isinstance(chosen, bool) else chosen):
                if kind not in kinds:
                    self.reader.error(f"privacy.{name}[{i}]", f"no such kind; {_which(kind, sorted(kinds))}")

    def _table(self, document: dict[str, Any], name: str) -> dict[str, Any]:
        return self.reader.table(document.get(name, {}), name)

    def _plain(self, document: dict[str, Any], kind: type[Any], name: str) -> Any:
        return self.reader.section(kind, self._table(document, name), name) or kind()

    def _server(self, document: dict[str, Any]) -> Server:
        server: Server = self._plain(document, Server, "server")
        if server.require_keys is False and not is_loopback(server.host):
            if server.insecure_open:
                self.reader.warn("server.insecure_open", "whoever reaches this address can spend your providers' money")
            else:
                self.reader.error(
                    "server.require_keys",
                    "is false at an address that other machines reach; take it out, or listen at 127.0.0.1 (or accept "
                    "that with insecure_open = true)",
                )
        return server

    def _providers(self, document: dict[str, Any]) -> tuple[Provider, ...]:
        found: dict[str, Provider] = {}
        for i, table in enumerate(self.reader.tables(document.get("provider", []), "provider")):
            where = f"provider[{i}]"
            headers = partial(self._secrets.headers, where=f"{where}.headers")
            provider = self.reader.section(Provider, table, where, {"headers": headers})
            if provider is not None:
                found[where] = self._completed(provider, table, where)
        self._check_names({where: p.name for where, p in found.items()})
        return tuple(found.values())

    def _completed(self, provider: Provider, table: Mapping[str, Any], where: str) -> Provider:
        """A provider with its URL and its key."""
        key = self._secrets.find(provider.key_env, provider.key_file, where, "key")
        if key is not None and not all("!" <= c <= "~" for c in key.reveal()):
            self.reader.error(
                where, "its key holds blanks or other characters that no header can carry; check its source"
            )
        url = provider.url or DEFAULT_URLS.get(provider.kind, "")
        if not url:
            self.reader.error(
                f"{where}.url", "is missing; give the address of your resource, such as https://NAME.openai.azure.com"
            )
        elif self._check_url(url, f"{where}.url"):
            self._check_key(provider, table, url, where)
        self._check_version(provider, url, f"{where}.api_version")
        if provider.tokenizer is not None:
            self._check_tokenizer(provider.tokenizer, f"{where}.tokenizer")
        return structs.replace(provider, url=url, api_key=key)

    def _check_tokenizer(self, path: Path, where: str) -> None:
        from tiercel.providers.text_tokenizer import read_tokenizer

        try:
            read_tokenizer(path)
        except UserError as error:
            self.reader.error(where, str(error))

    def _check_version(self, provider: Provider, url: str, where: str) -> None:
        if provider.kind != "azure" and provider.api_version:
            self.reader.error(where, 'is Azure\'s alone; take it out, or write kind = "azure"')
        elif provider.kind == "azure" and not provider.api_version and not url.rstrip("/").endswith("/v1"):
            self.reader.error(where, "is missing; give one, such as 2024-10-21, or a url that ends in /openai/v1")

    def _check_key(self, provider: Provider, table: Mapping[str, Any], url: str, where: str) -> None:
        parts = urlsplit(url)
        if is_own_network(parts.hostname or ""):
            return
        headers = table.get("headers")
        secret_header = isinstance(headers, dict) and any(isinstance(value, dict) for value in headers.values())
        if not secret_header and not any(name in table for name in ("key_env", "key_file", "api_key")):
            self.reader.error(where, 'has no key; name where it is: key_env = "NAME" or key_file = "/run/secrets/x"')
        elif parts.scheme == "http":
            self.reader.warn(f"{where}.url", "is http:// to another network: keys and requests travel in clear text")

    def _check_url(self, url: str, where: str, example: str = "its base, such as https://api.openai.com/v1") -> bool:
        from tiercel.providers.openai_compatible import FrontierSettings

        try:
            FrontierSettings(url=url)
        except ConfigurationError as error:
            what = str(error).replace("the frontier's URL ", "").partition("; ")[0]
            self.reader.error(where, f"{what}; give {example}")
            return False
        return True

    def _workloads(self, document: dict[str, Any]) -> tuple[Workload, ...]:
        found: dict[str, Workload] = {}
        bundles: dict[str, str] = {}
        for i, table in enumerate(self.reader.tables(document.get("workload", []), "workload")):
            where = f"workload[{i}]"
            workload = self.reader.section(Workload, table, where)
            if workload is not None:
                self._check_workload(workload, where, bundles)
                found[where] = self._with_engine(workload, where)
        self._check_names({where: w.name for where, w in found.items()})
        self._places = dict(zip((w.name for w in found.values()), found, strict=True))
        return tuple(found.values())

    def _check_workload(self, workload: Workload, where: str, bundles: dict[str, str]) -> None:
        if workload.bundle is not None:
            self._check_bundle(workload.bundle, f"{where}.bundle", bundles)
        if workload.local_only and workload.bundle is None:
            self.reader.error(f"{where}.local_only", "leaves nobody to answer: give a bundle, or take it out")
        if workload.local_only and workload.providers:
            self.reader.error(
                f"{where}.providers", "are never asked in a workload that is local_only; take one of both out"
            )
        if workload.tiers is not None:
            self._check_tiers(workload, workload.tiers, where)

    def _with_engine(self, workload: Workload, where: str) -> Workload:
        """A workload with the key of its engine."""
        key = self._secrets.find(workload.engine_key_env, workload.engine_key_file, where, "engine_key")
        if workload.engine is None:
            if key is not None:
                self.reader.error(where, "has the key of an engine and no engine; give its url, or take the key out")
            return workload
        if workload.bundle is None:
            self.reader.error(f"{where}.engine", "serves a bundle's decoder; give the bundle, or take it out")
        if self._check_url(workload.engine, f"{where}.engine", "its base, such as http://127.0.0.1:8000/v1"):
            parts = urlsplit(workload.engine)
            host = parts.hostname or ""
            if workload.local_only and workload.engine_is_elsewhere:
                self.reader.error(f"{where}.engine", "is another machine, and the workload is local_only; drop one")
            elif parts.scheme == "http" and not is_own_network(host):
                self.reader.warn(f"{where}.engine", "is http:// to another network: requests travel in clear text")
        return structs.replace(workload, engine_key=key)

    def _check_bundle(self, folder: Path, where: str, others: dict[str, str]) -> None:
        """See that a bundle is there, and that no other one answers the same requests.

        Args:
            folder: of it.
            where: it is named.
            others: where bundles are named, by the fingerprints of their workloads.
        """
        from tiercel.flows.bundle import locate, read_manifest

        try:
            fingerprint = read_manifest(locate(folder)).reader.key.fingerprint
        except BundleError as error:
            self.reader.error(where, str(error))
            return
        except OSError as error:
            why = (error.strerror or type(error).__name__).lower()
            self.reader.error(where, f"{folder} can't be read ({why}); give a folder that this user may read")
            return
        other = others.setdefault(fingerprint, where)
        if other != where:
            self.reader.error(where, f"answers the same requests as {other}; keep one of them")

    def _check_tiers(self, workload: Workload, tiers: Sequence[str], where: str) -> None:
        if workload.local_only and "frontier" in tiers:
            self.reader.error(f"{where}.tiers", 'a workload that is local_only has no "frontier"; take one of both out')
        if tuple(tiers) == ("cache",) or (workload.bundle is None and "frontier" not in tiers):
            self.reader.error(f"{where}.tiers", 'leaves nobody to answer; add "frontier", or "student" and a bundle')

    def _check_names(self, names: Mapping[str, str]) -> None:
        taken: set[str] = set()
        for where, name in names.items():
            if name in taken:
                self.reader.error(f"{where}.name", f"{name} is taken by an earlier one; give another")
            taken.add(name)

    def check_chains(self, settings: Settings) -> None:
        """Note providers that are named and not there."""
        known = [p.name for p in settings.providers]
        chains = [("frontier.providers", settings.frontier.providers)]
        chains += [(f"{self._places[w.name]}.providers", w.providers) for w in settings.workloads]
        for where, chain in chains:
            for i, name in enumerate(chain):
                if name not in known:
                    self.reader.error(f"{where}[{i}]", f"no such provider; {_which(name, known)}")
                elif name in chain[:i]:
                    self.reader.error(f"{where}[{i}]", f"{name} stands there twice; take one out")
        if not settings.providers and not settings.workloads:
            self.reader.warn("provider", "there is none, and no workload either: every request gets an error")

    def _capture(self, document: dict[str, Any]) -> Capture:
        table = self._table(document, "capture")
        capture: Capture = self.reader.section(Capture, table, "capture") or Capture()
        url = self._secrets.find(capture.store_env, capture.store_file, "capture", "store")
        if url is not None:
            if "store" in table:
                self.reader.error("capture.store", "stands beside store_env or store_file; give one of them")
            elif not url.reveal().startswith(("postgresql://", "postgres://")):
                place = "store_env" if capture.store_env is not None else "store_file"
                self.reader.error(f"capture.{place}", "does not lead to a URL that begins with postgresql://")
            return structs.replace(capture, store_url=url)
        return structs.replace(capture, store=self._store(capture.store))

    def _store(self, store: str) -> str:
        if "://" not in store:
            return str(self.reader.path(store))
        try:
            parts = urlsplit(store)
            password = parts.password is not None or "password" in parts.query
        except ValueError:
            self.reader.error("capture.store", "can't be read as a URL; give postgresql://user@host/database")
            return store
        if password:
            self.reader.error(
                "capture.store",
                "holds a password, and a secret does not belong into this file; put the URL into a variable and write "
                'store_env = "TIERCEL_STORE", or into a file and write store_file = "/run/secrets/store"',
            )
        elif parts.scheme not in ("postgresql", "postgres"):
            self.reader.error(
                "capture.store",
                "is neither a file nor a postgresql:// URL; give tiercel.db or postgresql://user@host/database",
            )
        return store

    def _costs(self, document: dict[str, Any]) -> Costs:
        costs: Costs = self._plain(document, Costs, "costs")
        if costs.prices is not None:
            from tiercel.providers.prices import PriceTable

            try:
                PriceTable(costs.prices)
            except (ConfigurationError, OSError) as error:
                self.reader.error("costs.prices", str(error).removesuffix("; check --prices"))
        return costs

    def _monitor(self, document: dict[str, Any]) -> Monitor:
        monitor: Monitor = self._plain(document, Monitor, "monitor")
        if monitor.anchors is not None:
            self._check_anchors(monitor.anchors)
        hook = self._secrets.find(monitor.webhook_env, monitor.webhook_file, "monitor", "webhook")
        if hook is None:
            return monitor
        if not hook.reveal().startswith(("http://", "https://")):
            place = "webhook_env" if monitor.webhook_env is not None else "webhook_file"
            self.reader.error(f"monitor.{place}", "does not lead to a URL that begins with http:// or https://")
        return structs.replace(monitor, hook=hook)

    def _check_anchors(self, path: Path) -> None:
        from tiercel.flows.anchors import read_anchor_rows

        try:
            read_anchor_rows(path)
        except (UserError, OSError) as error:
            self.reader.error("monitor.anchors", str(error))

    def _telemetry(self, document: dict[str, Any]) -> Telemetry:
        telemetry: Telemetry = self._plain(document, Telemetry, "telemetry")
        if telemetry.otlp_endpoint is not None:
            self._check_url(telemetry.otlp_endpoint, "telemetry.otlp_endpoint", "one such as http://127.0.0.1:4318")
        return telemetry


def _which(name: str, known: Sequence[str]) -> str:
    """What is right in the place of a name that nobody has; the name itself is not repeated."""
    near = nearest(name, known)
    if near:
        return f"did you mean {near}?"
    return f"there are {', '.join(known)}" if known else "there are none"
