"""The gateway against its peers: added latency, requests a second, memory and start, one run for all.

In every round each contender is started anew, warmed up, measured and stopped, so that what the machine does besides
meets all of them. Every request is a new one, and the upstream's own count says that none was answered from a cache.

python benchmarks/gateway/compare.py [--smoke] [--only tiercel,litellm]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import _client
from _contenders import CONTENDERS, Contender, tensorzero_command
from _load import Row, added_latency, calls, keep, progress, quantile_ms, wrk
from _process import HERE, NotStarted, Server, running, upstream, workplace
from _tiercel import recorded
from upstream import TEXT

WARM_S = 2.0


@dataclass(kw_only=True)
class Measured:
    """What the rounds found of one contender."""

    contender: Contender
    name: str = ""
    version: str = "?"
    direct_s: list[float] = field(default_factory=list)
    through_s: list[float] = field(default_factory=list)
    rate_1: list[float] = field(default_factory=list)
    rate_32: list[float] = field(default_factory=list)
    p99_32_ms: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)
    errors: int = 0
    answered: int = 0
    """Requests that a capturing gateway answered, and what became of them:"""
    stored: int | None = None
    """Entries in its store; None where it captures nothing."""
    dropped: int = 0

    def added_ms(self, q: float) -> float:
        """Quantile through the gateway less the same quantile without it."""
        return quantile_ms(self.through_s, q) - quantile_ms(self.direct_s, q)

    def line(self) -> str:
        """A row of the comparison."""
        cells = [
            self.name,
            self.version,
            f"{self.added_ms(0.5):.2f}",
            f"{self.added_ms(0.99):.2f}",
            f"{median(self.rate_1):,.0f}",
            f"{median(self.rate_32):,.0f}",
            f"{median(self.p99_32_ms):.1f}",
            f"{max(self.rss_mb):.0f}",
            f"{median(self.start_s):.2f}",
            str(self.errors),
        ]
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| gateway | version | added p50, ms | added p99, ms | requests/s, c=1 | requests/s, c=32 | p99 at c=32, ms "
    "| memory, MB | first answer, s | errors |\n|---|---|---|---|---|---|---|---|---|---|"
)


def measure_server(found: Measured, mock: Server, folder: Path, seconds: float) -> None:
    """One round of a contender that is a server."""
    assert found.contender.launch is not None
    launch = found.contender.launch(mock.port, folder)
    found.name = launch.name
    with running(launch, answers=TEXT) as server:
        warm = wrk(server.port, 32, WARM_S, server.launch.headers)
        before = calls(mock)["answered"]
        direct, through = _client.run(added_latency(mock, server, seconds))
        one = wrk(server.port, 1, seconds, server.launch.headers)
        many = wrk(server.port, 32, seconds, server.launch.headers)
        seen, sent = calls(mock)["answered"] - before, len(direct) + len(through) + one.requests + many.requests
        if seen < sent:
            raise NotStarted(f"{found.contender.name}: {sent} requests were answered, the upstream saw only {seen}")
        found.rss_mb.append(server.rss_mb)
        found.start_s.append(server.start_s)
        if launch.store is not None:
            answered = 1 + warm.requests + len(through) + one.requests + many.requests  # 1: the first answer
            stored, dropped = recorded(launch.store, server.port, answered)
            found.answered, found.stored = found.answered + answered, (found.stored or 0) + stored
            found.dropped += dropped
    found.direct_s += direct
    found.through_s += through
    found.rate_1.append(one.rate)
    found.rate_32.append(many.rate)
    found.p99_32_ms.append(many.p99_ms)
    found.errors += warm.errors + one.errors + many.errors


def measure_tensorzero(found: Measured, mock: Server, folder: Path, seconds: float) -> None:
    """One round of the gateway that lives in its caller's process."""
    command, env = tensorzero_command(mock.port, folder, seconds, time.time())
    found.name = found.contender.name
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotStarted(f"TensorZero's driver ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    found.direct_s += figures["direct_s"]
    found.through_s += figures["through_s"]
    found.errors += figures["errors"]
    for name in ("rate_1", "rate_32", "p99_32_ms", "rss_mb", "start_s"):
        getattr(found, name).append(figures[name])


def measure(names: list[str], rounds: int, seconds: float) -> tuple[dict[str, Measured], list[str], str]:
    """All contenders, round by round.

    Returns:
        What was found, by name; what could not be measured and why; a line on the upstream itself.
    """
    found = {name: Measured(contender=CONTENDERS[name]) for name in names}
    failed: list[str] = []
    with upstream() as mock:
        bare = [wrk(mock.port, 1, seconds), wrk(mock.port, 32, seconds)]
        own = f"The upstream alone: {bare[0].rate:,.0f} requests/s at c=1, {bare[1].rate:,.0f} at c=32."
        for number in range(rounds):
            for name in [n for n in names if n in found]:
                progress(f"round {number + 1} of {rounds}: {CONTENDERS[name].name}")
                work = measure_server if CONTENDERS[name].launch else measure_tensorzero
                try:
                    with workplace() as folder:
                        work(found[name], mock, folder, seconds)
                    found[name].version = CONTENDERS[name].version()
                except NotStarted as error:
                    progress(str(error))
                    failed.append(f"{CONTENDERS[name].name}: {str(error).splitlines()[0]}")
                    del found[name]
    return found, failed, own


def targets(found: dict[str, Measured]) -> list[Row]:
    """What was promised, as far as it was measured."""
    own = found.get("tiercel")
    if own is None:
        return [("Tiercel, capture", "measured", "it did not start", False)]
    if own.stored is None:
        return [("Tiercel, capture", "measured", "this version captures nothing; see the line below", False)]
    p50, p99, rate = own.added_ms(0.5), own.added_ms(0.99), median(own.rate_32)
    memory, start = max(own.rss_mb), median(own.start_s)
    rows: list[Row] = [
        ("added latency with capture, c = 1: p50", "<= 0.5 ms", f"{p50:.2f} ms", p50 <= 0.5),
        ("added latency with capture, c = 1: p99", "<= 2 ms", f"{p99:.2f} ms", p99 <= 2),
        ("requests/s with capture, c = 32, one worker", ">= 3,500", f"{rate:,.0f}", rate >= 3500),
        ("memory without a bundle", "<= 120 MB", f"{memory:.0f} MB", memory <= 120),
        ("first answer after the start", "<= 1 s", f"{start:.2f} s", start <= 1),
        ("requests without a right answer", "0", str(own.errors), own.errors == 0),
        (
            "answers captured while this was measured",
            "every one",
            f"{own.answered:,} answered; {own.stored:,} stored, some for clients that left; {own.dropped:,} dropped",
            own.stored >= own.answered,
        ),
    ]
    for name, factor in (("litellm", 15.0), ("portkey", 2.0), ("tensorzero", 1.0)):
        if name in found:
            times = rate / median(found[name].rate_32)
            peer = CONTENDERS[name].name
            rows.append((f"requests/s at c = 32 against {peer}", f">= {factor:g}x", f"{times:.2f}x", times >= factor))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, with commas between")
    parser.add_argument("--smoke", action="store_true", help="one round of 5 s; nothing is written down")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(CONTENDERS):
        raise SystemExit(f"no such contender: {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    rounds, seconds = (1, 5.0) if options.smoke else (options.rounds, options.seconds)
    found, failed, own = measure(names, rounds, seconds)
    lines = [HEAD, *[one.line() for one in found.values()], "", own]
    direct = [s for one in found.values() for s in one.direct_s]
    if direct:
        lines[-1] += f" Asked directly: p50 {quantile_ms(direct, 0.5):.3f} ms, p99 {quantile_ms(direct, 0.99):.3f} ms."
    lines += [
        "",
        (HERE / "README.md").read_text().partition("## How it is measured\n")[2].partition("\n## ")[0].strip(),
    ]
    if failed:
        lines += ["", "Not measured:", *[f"- {text}" for text in failed]]
    complete = set(names) == set(CONTENDERS)
    return keep("gateway", "make bench-gateway", targets(found), "\n".join(lines), smoke=options.smoke or not complete)


if __name__ == "__main__":
    raise SystemExit(main())
