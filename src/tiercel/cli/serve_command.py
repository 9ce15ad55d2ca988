"""`tiercel serve`: a configuration file, or a few options that stand in for one."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tiercel.cli import options
from tiercel.errors import ConfigurationError, TiercelError

if TYPE_CHECKING:
    from tiercel.gateway.sections import Provider, Settings, Workload

__all__ = ["register"]


def serve(
    config: Annotated[
        Path | None, typer.Option(help="tiercel.toml; the one in this folder when neither this nor --bundle is given.")
    ] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(help="A bundle, or the folder of the pilot that wrote it; may be repeated.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; loopback unless you say otherwise.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8080 when left out, 0 for any.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share the port.")] = None,
    frontier_url: options.FrontierUrl = None,
    frontier_model: options.FrontierModel = None,
    frontier_key_env: options.FrontierKeyEnv = "TIERCEL_FRONTIER_KEY",
    store: Annotated[
        str | None,
        typer.Option(
            envvar="TIERCEL_STORE",
            help="SQLite file or postgresql:// URL for traces; tiercel.db if not given. A URL with a password belongs "
            "into TIERCEL_STORE, or where store_env or store_file in [capture] of tiercel.toml leads: what stands on "
            "the command line is seen by everybody on this machine.",
        ),
    ] = None,
    capture: Annotated[bool, typer.Option(help="Store what is asked and answered, and not its figures alone.")] = True,
    threads: Annotated[int | None, typer.Option(help="Of the encoder; all cores when left out.")] = None,
) -> None:
    """Serve an OpenAI-compatible API: students answer what their gates are sure of, the frontier the rest."""
    from tiercel.gateway.server import serve as run_server

    if config is None and not bundle and not frontier_url:
        if not options.CONFIG_FILE.is_file():
            raise ConfigurationError(
                "there is nothing to serve: give --bundle or --frontier-url, "
                "or write a tiercel.toml with `tiercel init`"
            )
        config = options.CONFIG_FILE
    given = _Given(
        config=config,
        bundles=tuple(bundle or ()),
        server={"host": host, "port": port, "workers": workers},
        frontier_url=frontier_url,
        frontier_model=frontier_model,
        frontier_key_env=frontier_key_env,
        store=store,
        capture=capture,
        threads=threads,
    )
    with _failures_logged(config):
        run_server(given.settings(), given.settings)


@contextmanager
def _failures_logged(config: Path | None) -> Generator[None]:
    """Where the log is JSON, tell in that form too what ends the program."""
    from tiercel.gateway.logs import log_failure, logs_json

    if config is None or not logs_json(config):
        yield
        return
    try:
        yield
    except TiercelError as error:
        log_failure(str(error))
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        log_failure("interrupted")
        raise typer.Exit(130) from None
    except OSError as error:
        log_failure(f"{error.filename or 'the system'}: {error.strerror or error}")
        raise typer.Exit(1) from None


@dataclass(frozen=True, kw_only=True, repr=False)
class _Given:
    """What the command line says; it stays in force when the file is read again.

    Attributes are the command's options. `store` may hold a password.
    """

    config: Path | None
    bundles: tuple[Path, ...]
    server: dict[str, Any]
    frontier_url: str | None
    frontier_model: str | None
    frontier_key_env: str
    store: str | None
    capture: bool
    threads: int | None

    def settings(self) -> Settings:
        """The configuration file as it is now, and the options over it."""
        from msgspec.structs import replace

        from tiercel.gateway.sections import Secret
        from tiercel.gateway.settings import read_settings

        settings: Settings = read_settings(self.config)
        provider = _provider(self.frontier_url, self.frontier_model, self.frontier_key_env)
        if provider is not None:
            settings = replace(settings, providers=(provider, *settings.providers))
        if self.bundles:
            known = {workload.name for workload in settings.workloads}
            own = _workloads(self.bundles, self.threads, known)
            settings = replace(settings, workloads=(*settings.workloads, *own))
        server = replace(settings.server, **{name: v for name, v in self.server.items() if v is not None})
        if not 0 <= server.port <= 65_535:
            raise ConfigurationError(f"--port is {server.port}; give one from 0 (any that is free) to 65535")
        if not 1 <= server.workers <= 64:
            raise ConfigurationError(f"--workers is {server.workers}; give a number from 1 to 64")
        kept = settings.capture if self.capture else replace(settings.capture, content=False)
        if self.store is not None:
            kept = replace(kept, store=self.store, store_url=Secret(self.store) if "://" in self.store else None)
        return replace(settings, server=server, capture=kept)


def _provider(url: str | None, model: str | None, key_env: str) -> Provider | None:
    if not url:
        return None
    from tiercel.gateway.sections import Provider, Secret

    # It checks the URL and the key, whose errors speak of these options.
    frontier = options.frontier_settings(url, model, key_env)
    if frontier is None:
        return None
    key = Secret(frontier.api_key) if frontier.api_key else None
    return Provider(
        name="frontier", url=frontier.url, model=frontier.model, api_key=key, first_byte_s=frontier.timeout_s
    )


def _workloads(bundles: Sequence[Path], threads: int | None, known: set[str]) -> list[Workload]:
    from tiercel.gateway.sections import Workload

    found: list[Workload] = []
    for folder in bundles:
        parts = [part for part in folder.resolve().parts if part not in ("bundle", "/")]
        stem = name = re.sub(r"[^A-Za-z0-9_.-]+", "-", parts[-1] if parts else "bundle").strip("-.") or "bundle"
        number = 1
        while name in known:
            number += 1
            name = f"{stem}-{number}"
        known.add(name)
        found.append(Workload(name=name, bundle=folder, threads=threads))
    return found


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)
