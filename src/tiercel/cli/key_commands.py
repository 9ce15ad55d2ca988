"""Commands of virtual keys: make one, list them, revoke one."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tiercel.cli import options
from tiercel.cli.terminal import print_json
from tiercel.cli.times import moment

if TYPE_CHECKING:
    from tiercel.store.keys import VirtualKey
    from tiercel.store.limits import Spent

__all__ = ["create", "list_", "register", "revoke"]

keys = typer.Typer(help="Make, list and revoke the gateway's virtual keys.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(keys, name="keys")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="What people call the key, such as the application that will hold it.")],
    budget: Annotated[float | None, typer.Option(help="USD that it may spend in each period.")] = None,
    period: Annotated[
        str, typer.Option(help="Of the budget: day or month (of the calendar, UTC), or total.")
    ] = "month",
    rpm: Annotated[int | None, typer.Option(help="Requests in any minute.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens in any minute, input and output.")] = None,
    workload: Annotated[list[str] | None, typer.Option(help="Name of a workload that it may use; repeatable.")] = None,
    tier: Annotated[
        list[str] | None, typer.Option(help="Tier that may answer it: cache, student, frontier; repeatable.")
    ] = None,
    permission: Annotated[
        list[str] | None,
        typer.Option(
            help="What it may do beside asking: operator (see everybody's figures), feedback (judge answers that "
            "others asked for); repeatable."
        ),
    ] = None,
    local_only: Annotated[bool, typer.Option("--local-only", help="Its requests never leave the machine.")] = False,
    no_capture: Annotated[bool, typer.Option("--no-capture", help="Store no contents of its requests.")] = False,
    expires: Annotated[
        str | None,
        typer.Option(help="From when it is refused: after 30m, 12h, 7d or 8w, or a date such as 2027-01-31 (UTC)."),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Keys of one tenant share cached answers; the key alone when left out.")
    ] = None,
    store: options.Store = None,
    config: options.Config = None,
    json_output: options.JsonOutput = False,
) -> None:
    """Make a key and print its secret, this one time.

    The store keeps a hash, so that a lost secret can't be had again: revoke its key and make another one.
    """
    from contextlib import closing

    from tiercel.store.database import open_database
    from tiercel.store.keys import create_key

    now = time.time()
    until = moment(expires, "--expires", now, ahead=True)
    with closing(open_database(options.store_of(store, config))) as database:
        key, secret = create_key(
            database,
            name,
            tenant=tenant,
            expires=until,
            workloads=workload or None,
            tiers=tier or None,
            local_only=local_only,
            budget_usd=budget,
            period=period,
            requests_per_minute=rpm,
            tokens_per_minute=tpm,
            capture=not no_capture,
            permissions=permission or (),
            now=now,
        )
    if json_output:
        print_json({"key": key, "secret": secret})
    else:
        print(secret)
    sys.stdout.flush()
    print(f"the secret of {key.id} ({key.name}) will not be shown again", file=sys.stderr)


@keys.command("list")
def list_(store: options.Store = None, config: options.Config = None, json_output: options.JsonOutput = False) -> None:
    """List all keys, oldest first, with what they have spent."""
    from contextlib import closing

    import msgspec

    from tiercel.store.database import open_database
    from tiercel.store.keys import list_keys
    from tiercel.store.limits import spent

    now = time.time()
    with closing(open_database(options.store_of(store, config), migrate=False)) as database:
        found = list_keys(database)
        used = spent(database, [key.scope for key in found], now)
    if json_output:
        print_json(
            [
                msgspec.structs.asdict(key)
                | {"valid": key.is_valid(now), "spent_usd": use.spent_usd, "reserved_usd": use.reserved_usd}
                for key, use in zip(found, used, strict=True)
            ]
        )
    elif found:
        _print_table(found, used, now)
    else:
        print("no keys; next: tiercel keys create NAME")


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="Id from `tiercel keys list`, key_...; not the secret.")],
    store: options.Store = None,
    config: options.Config = None,
    json_output: options.JsonOutput = False,
) -> None:
    """Revoke a key for good; running gateways refuse it within seconds."""
    from contextlib import closing

    from tiercel.store.database import open_database
    from tiercel.store.keys import revoke_key

    with closing(open_database(options.store_of(store, config), migrate=False)) as database:
        revoked = revoke_key(database, key)
    if json_output:
        print_json(revoked)
    else:
        print(f"{revoked.id} ({revoked.name}) is revoked since {_moment(revoked.revoked)}")


def _moment(at: float | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _print_table(found: tuple[VirtualKey, ...], used: tuple[Spent, ...], now: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "name", "state", "created", "expires", "spent", "budget", "rpm", "tpm", "allowed"):
        table.add_column(name, justify="right" if name in ("spent", "budget", "rpm", "tpm") else "left")
    for key, use in zip(found, used, strict=True):
        table.add_row(
            key.id,
            key.name,
            "revoked" if key.revoked is not None else "valid" if key.is_valid(now) else "expired",
            _moment(key.created),
            _moment(key.expires),
            f"{use.spent_usd:,.2f} USD",
            "-" if key.budget_usd is None else f"{key.budget_usd:,.2f} USD/{key.period}",
            "-" if key.requests_per_minute is None else f"{key.requests_per_minute:,}",
            "-" if key.tokens_per_minute is None else f"{key.tokens_per_minute:,}",
            _allowed(key),
        )
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        # What is read by another program has one line a key.
        console = Console(highlight=False, markup=False, width=400)
    console.print(table)


def _allowed(key: VirtualKey) -> str:
    limits = [
        *([f"workloads {', '.join(key.workloads)}"] if key.workloads is not None else []),
        *([f"tiers {', '.join(key.tiers)}"] if key.tiers is not None else []),
        *(["local only"] if key.local_only else []),
        *(["no capture"] if not key.capture else []),
    ]
    may = [f"and {', '.join(key.permissions)}"] if key.permissions else []
    return "; ".join([*(limits or ["all"]), *may])
