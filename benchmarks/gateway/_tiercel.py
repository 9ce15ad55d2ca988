"""How Tiercel itself is started for the benchmarks, and where it leaves what they check."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

from _process import HERE, Launch, NotStarted, free_port

__all__ = [
    "PYTHON",
    "ROOT",
    "dropped",
    "helpdesk_bundle",
    "integrity",
    "launch",
    "recorded",
    "stored_ids",
    "version",
]

PYTHON = sys.executable
PROGRAM = str(Path(sys.executable).parent / "tiercel")
ROOT = HERE.parent.parent
BUNDLE = HERE.parent / "out" / "helpdesk"


def launch(
    upstream: int, folder: Path, *, keyed: bool = False, bundle: Path | None = None, fallback: int | None = None
) -> Launch:
    """`tiercel serve` with capture into SQLite.

    Args:
        upstream: port of the provider.
        folder: for configuration and store.
        keyed: demand a virtual key with a budget.
        bundle: that answers its workload; None for none.
        fallback: port of a second provider that takes over when the first fails.

    Raises:
        NotStarted: this version of Tiercel can't do that.
    """
    port = free_port()
    store = folder / "traces.sqlite"
    config = folder / "tiercel.toml"
    config.write_text(_config(upstream, port, store, bundle, fallback))
    env = {"TIERCEL_BENCH_KEY": "bench"}
    headers = {}
    if keyed:
        command = [PROGRAM, "keys", "create", "bench", "--store", str(store), "--budget", "1000000", "--json"]
        made = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)
        if made.returncode:
            raise NotStarted(f"`{' '.join(command)}` ended with code {made.returncode}: {made.stderr.strip()}")
        headers["Authorization"] = f"Bearer {json.loads(made.stdout)['secret']}"
    serve = [PROGRAM, "serve", "--config", str(config)]
    name = f"Tiercel, capture{', key and budget' * keyed}{', encoder bundle' * (bundle is not None)}"
    return Launch(name=name, command=serve, port=port, env=env, headers=headers, store=store)


def _config(upstream: int, port: int, store: Path, bundle: Path | None, fallback: int | None) -> str:
    def provider(name: str, at: int) -> str:
        return f'[[provider]]\nname = "{name}"\nurl = "http://127.0.0.1:{at}/v1"\nkey_env = "TIERCEL_BENCH_KEY"\n'

    parts = [
        f'[server]\nhost = "127.0.0.1"\nport = {port}\n',
        provider("mock", upstream),
        provider("fallback", fallback) if fallback else "",
        f'[capture]\nstore = "{store}"\n',
        f'[[workload]]\nname = "bench"\nbundle = "{bundle}"\n' if bundle else "",
        # The mock's one answer is right for no request: audits would break the bound and send the workload back.
        "[monitor]\nenabled = false\n",
    ]
    return "\n".join(part for part in parts if part)


def version() -> str:
    """Of the program that is started."""
    import tiercel

    return tiercel.__version__


def helpdesk_bundle() -> Path:
    """The bundle of the helpdesk example, with an encoder; piloted once, in minutes, where it is not there.

    Raises:
        NotStarted: the pilot failed.
    """
    if not (BUNDLE / "bundle").exists():
        traffic = ROOT / "examples" / "helpdesk" / "traffic.jsonl.gz"
        command = [PROGRAM, "pilot", str(traffic), "--max-loss", "0.05", "--out", str(BUNDLE)]
        print("piloting the helpdesk example for a bundle with an encoder: a few minutes", file=sys.stderr)
        done = subprocess.run(command, stdout=sys.stderr, check=False)
        if done.returncode:
            raise NotStarted(f"`{' '.join(command)}` ended with code {done.returncode}")
    return BUNDLE


def recorded(store: Path, port: int, wanted: int, wait_s: float = 10.0) -> tuple[int, int]:
    """How many answers are in the ledger and how many were dropped, once they add up or the wait is over.

    Args:
        store: SQLite file.
        port: of the gateway, still running.
        wanted: how many answers it gave.
        wait_s: seconds that the last batch gets to be written.
    """
    deadline = time.monotonic() + wait_s
    while True:
        with closing(sqlite3.connect(store)) as connection:
            stored = int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])
        lost = dropped(port)
        if stored + lost >= wanted or time.monotonic() > deadline:
            return stored, lost
        time.sleep(0.1)


def stored_ids(store: Path) -> set[str]:
    """Ids of all ledger entries, as the header x-tiercel-id of their answers named them."""
    with closing(sqlite3.connect(store)) as connection:
        return {str(row[0]) for row in connection.execute("SELECT id FROM entries")}


def integrity(store: Path) -> str:
    """What SQLite says of the file: "ok" or what is broken; opening it replays its write-ahead log."""
    with closing(sqlite3.connect(store)) as connection:
        return "; ".join(str(row[0]) for row in connection.execute("PRAGMA integrity_check"))


def dropped(port: int) -> int:
    """Entries that a full queue dropped, from the gateway's own metric."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    values = [line.rsplit(" ", 1)[1] for line in lines if line.startswith("tiercel_capture_dropped_total")]
    if not values:
        raise SystemExit("/metrics of the gateway does not hold tiercel_capture_dropped_total")
    return round(sum(map(float, values)))
