"""The online monitor under simulation: false alarms over all looks, power, coverage, whose drift it is, and its speed.

Of a stream's requests 60 % are accepted; audits are drawn by the rule of `plan_audits` for a budget of 10 %.
Errors are likelier near the threshold. A look is taken after every audit.

    python benchmarks/monitor.py [--quick]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from _record import write_result
from tiercel.routing.attribution import Anchors, attribute
from tiercel.routing.audit_book import AuditBook
from tiercel.routing.audit_events import Drawn, Event, Opened, Passed, Resolved
from tiercel.routing.audits import AuditRule, draw_audit, key_commitment, plan_audits
from tiercel.routing.evidence import Evidence
from tiercel.routing.input_drift import InputDrift
from tiercel.routing.monitor import Monitor
from tiercel.stats.e_processes import EProcess, MeanTest
from tiercel.stats.intervals import rate_interval
from tiercel.store.database import open_database

BOUND, BUDGET, SHARE, OFFLOAD = 0.02, 0.05, 0.1, 0.6
LEVEL = BUDGET / 4  # of the alarm in a workload's first epoch
RESTARTS = 64
QUICK = "--quick" in sys.argv
RUNS = 100 if QUICK else 300
LOOKS = 10_000 if QUICK else 100_000
DAY = 1_000  # requests

Table = list[tuple[str, str, str, bool | None]]


class Stream:
    """Scores, audits and errors of one kind of traffic, as tables over equally likely scores of accepted answers."""

    def __init__(self, rule: AuditRule, scores: np.ndarray) -> None:
        self.rule = rule
        self.pi = np.array([rule.propensity(float(s)) for s in scores])
        # Errors three times as likely at the threshold as far from it.
        shape = 1 + 2 * np.exp(-(scores - rule.threshold) / 0.15)
        self.shape = shape / shape.mean()
        self.drawn = OFFLOAD * self.pi.mean()
        self.of_audits = np.cumsum(self.pi / self.pi.sum())

    @property
    def high(self) -> float:
        """Largest weight."""
        return self.rule.largest_weight

    def audits(self, rng: np.random.Generator, n: int, loss: float) -> tuple[np.ndarray, np.ndarray]:
        """Zeros before each of n audits and its weighted loss, when the marginal excess loss is `loss`."""
        zeros = rng.geometric(self.drawn, n) - 1
        which = np.minimum(np.searchsorted(self.of_audits, rng.random(n)), len(self.pi) - 1)
        wrong = rng.random(n) < self.shape[which] * loss / OFFLOAD
        return zeros, np.where(wrong, 1 / self.pi[which], 0.0)


def streams() -> dict[str, Stream]:
    scores = np.linspace(0.4, 1.0, 400)
    return {
        "even audits": Stream(AuditRule(threshold=0.4, width=1.0, floor=SHARE, top=SHARE), scores),
        "more audits near the threshold": Stream(plan_audits(scores.tolist(), 0.4, share=SHARE), scores),
    }


def shown(hits: int, runs: int) -> str:
    found = rate_interval(hits, runs)
    return f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"


def false_alarms(table: Table) -> None:
    """At the bound exactly, the worst case: how often is an alarm raised at any look."""
    for name, stream in streams().items():
        rng = np.random.default_rng(1)
        test = MeanTest(bound=BOUND, alternative="above", low=0.0, high=stream.high, restarts=RESTARTS)
        process, peak = EProcess(test, (RUNS,)), np.full(RUNS, -np.inf)
        count, total, squares, last_day = (np.zeros(RUNS) for _ in range(4))
        z_alarm = np.zeros(RUNS, bool)
        for _ in range(LOOKS):
            zeros, values = stream.audits(rng, RUNS, BOUND)
            process.update_zeros(zeros)
            process.update(values)
            np.maximum(peak, process.log_values, out=peak)
            count += zeros + 1
            total += values
            squares += values * values
            # The same data, looked at at the end of each day by a one-sided z-test at 5 %.
            due = (count // DAY > last_day) & (total > 0)
            last_day = np.where(due, count // DAY, last_day)
            spread = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 1e-12) / count)
            z_alarm |= due & ((total / count - BOUND) / spread > 1.645)
        for level in (0.05, LEVEL):
            hits = int((peak >= -np.log(level)).sum())
            table.append(
                (
                    f"false alarms over {LOOKS:,} looks, {name}, level {level:.4g}",
                    f"<= {level:.4g} + sampling error",
                    shown(hits, RUNS),
                    hits <= rate_interval(round(level * RUNS), RUNS).high * RUNS,
                )
            )
        table.append((f"daily z-test at 5 % beside it, {name}", "(no target)", shown(int(z_alarm.sum()), RUNS), None))


def jump(table: Table) -> None:
    """From 1 % to 5 % excess loss: audits until the alarm."""
    for name, stream in streams().items():
        for before in (0, 1_000, 10_000):
            rng = np.random.default_rng(2)
            test = MeanTest(bound=BOUND, alternative="above", low=0.0, high=stream.high, restarts=RESTARTS)
            process, hit = EProcess(test, (RUNS,)), np.full(RUNS, -1)
            for n in range(before + 3_000):
                zeros, values = stream.audits(rng, RUNS, 0.01 if n < before else 0.05)
                process.update_zeros(zeros)
                process.update(values)
                hit[(hit < 0) & (process.log_values >= -np.log(LEVEL))] = n
                if n >= before and (hit >= 0).all():
                    break
            fair = (hit < 0) | (hit >= before)
            delays = np.where(hit < 0, 10**6, hit - before + 1)[fair]
            found = int((delays <= 2_000).sum())
            table.append(
                (
                    f"jump from 1 % to 5 % after {before:,} audits found within 2,000, {name}, level {LEVEL:.4g}",
                    ">= 95 %",
                    f"{shown(found, len(delays))}; median {np.median(delays):.0f}, "
                    f"95th percentile {np.quantile(delays, 0.95):.0f} audits",
                    found >= 0.95 * len(delays),
                )
            )


def within(table: Table) -> None:
    """At 0.5 % and 1 %: audits until "within"; at the bound: how often it is said."""
    stream = streams()["even audits"]
    test = MeanTest(bound=BOUND, alternative="below", low=0.0, high=stream.high)
    for loss in (0.005, 0.01, BOUND):
        rng = np.random.default_rng(3)
        process, hit = EProcess(test, (RUNS,)), np.full(RUNS, -1)
        most = 20_000 if loss == BOUND else 8_000
        for n in range(most):
            zeros, values = stream.audits(rng, RUNS, loss)
            process.update_zeros(zeros)
            process.update(values)
            hit[(hit < 0) & (process.log_values >= -np.log(LEVEL))] = n
        said = int((hit >= 0).sum())
        if loss == BOUND:
            good = said <= rate_interval(round(LEVEL * RUNS), RUNS).high * RUNS
            table.append((f'false "within" at the bound, {most:,} looks', f"<= {LEVEL:.4g}", shown(said, RUNS), good))
        else:
            median = np.median(np.where(hit < 0, 10**6, hit))
            table.append(
                (f'audits until "within" at a loss of {loss:.1%}', "(no target)", f"median {median:.0f}", None)
            )


def coverage(table: Table) -> None:
    """How often the true mean is outside of the 95 % confidence sequence at any look."""
    looks = 2_000 if QUICK else 10_000
    for name, stream in streams().items():
        for loss in (0.005, 0.02):
            rng, outside = np.random.default_rng(4), np.zeros(RUNS, bool)
            sides = [
                EProcess(MeanTest(bound=loss, alternative=side, low=0.0, high=stream.high), (RUNS,))
                for side in ("above", "below")
            ]
            for _ in range(looks):
                zeros, values = stream.audits(rng, RUNS, loss)
                for side in sides:
                    side.update_zeros(zeros)
                    side.update(values)
                    outside |= side.log_values >= np.log(2 / 0.05)
            missed = int(outside.sum())
            table.append(
                (
                    f"95 % confidence sequence misses a mean of {loss:.1%} at any of {looks:,} looks, {name}",
                    "<= 5 % + sampling error",
                    shown(missed, RUNS),
                    missed <= rate_interval(round(0.05 * RUNS), RUNS).high * RUNS,
                )
            )


def attribution(table: Table) -> None:
    """A stream goes bad after 1,000 audits, because of the student, the judge or the frontier."""
    runs = 40 if QUICK else 200
    base, stream = 0.02, streams()["even audits"]
    # A judge or frontier that errs that much more often lifts the loss that is seen by as much as the student does.
    drifted = base + 0.04 / OFFLOAD
    right, scored, undecided = 0, list[int](), 0
    for cause in ("student", "judge", "frontier"):
        hits = 0
        for seed in range(runs):
            rng = np.random.default_rng([5, seed])
            evidence = Evidence(
                max_loss=BOUND, largest_weight=stream.high, gains=False, restarts=RESTARTS,
                broken_delta=LEVEL, within_delta=LEVEL,
            )  # fmt: skip
            anchors = {name: Anchors(base, 0.02, 0.04) for name in ("judge", "frontier")}
            for n in range(6_000):
                changed = n >= 1_000
                zeros, values = stream.audits(rng, 1, 0.05 if changed else 0.01)
                evidence.book_zeros(int(zeros[0]))
                evidence.book_audit(SHARE, float(values[0] * SHARE))
                if n % 10 == 0:
                    for name, subject in anchors.items():
                        subject.score(float(rng.random() < (drifted if changed and name == cause else base)))
                if evidence.judged() == "broken":
                    break
            for subject in anchors.values():
                subject.begin_trial()
            found, used = attribute(True, anchors), 0
            while found == "undecided" and used < 2_000:
                for name, subject in anchors.items():
                    subject.score(float(rng.random() < (drifted if name == cause else base)))
                found, used = attribute(True, anchors), used + 1
            hits += found == cause
            undecided += found == "undecided"
            scored.append(used)
        right += hits
        table.append((f"drift of the {cause} named as such", ">= 95 %", shown(hits, runs), hits >= 0.95 * runs))
    table.append(
        (
            "anchors scored after the alarm until the cause is named",
            "(no target)",
            f"median {np.median(scored):.0f}, 95th percentile {np.quantile(scored, 0.95):.0f}; undecided {undecided}",
            None,
        )
    )


def input_drift(table: Table) -> None:
    """Synthetic embeddings about six topics: no change, and a fifth of the requests about two new ones."""
    runs, width = 20 if QUICK else 100, 384
    alarms, delays = 0, list[int]()
    for seed in range(runs):
        rng = np.random.default_rng([6, seed])
        topics = rng.standard_normal((8, width))
        topics /= np.linalg.norm(topics, axis=1, keepdims=True)

        def draw(n: int, new: float, topics: np.ndarray = topics, rng: np.random.Generator = rng) -> np.ndarray:
            which = np.where(rng.random(n) < new, rng.integers(6, 8, n), rng.integers(0, 6, n))
            rows = topics[which] + 0.06 * rng.standard_normal((n, width))
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

        def tokens(n: int, rng: np.random.Generator = rng) -> np.ndarray:
            return np.exp(rng.normal(4, 0.5, n))

        drift = InputDrift(draw(2_000, 0), tokens(2_000), rng.random(2_000) < 0.02, level=0.05, seed=seed)
        for i, (e, t) in enumerate(zip(draw(500, 0), tokens(500), strict=True)):
            drift.observe(f"a{i}", e, float(t), bool(rng.random() < 0.02))
        if drift.status().drifted:
            alarms += 1
            continue
        found = next(
            (
                i + 1
                for i, (e, t) in enumerate(zip(draw(500, 0.2), tokens(500), strict=True))
                if drift.observe(f"b{i}", e, float(t), bool(rng.random() < 0.02))
            ),
            10**6,
        )
        delays.append(found)
    table.append(
        (
            "input drift: false alarms in 500 pairs, level 5 %",
            "<= 5 %",
            shown(alarms, runs),
            alarms <= rate_interval(round(0.05 * runs), runs).high * runs,
        )
    )
    found_in = int((np.array(delays) <= 500).sum())
    table.append(
        (
            "input drift: a fifth of the requests is new, found within 500 pairs",
            "(no target)",
            f"{shown(found_in, len(delays))}; median {np.median(delays):.0f}",
            None,
        )
    )


def speed(table: Table) -> None:
    """Time of one event in the monitor, and of writing three of them to SQLite."""
    rule = streams()["more audits near the threshold"].rule
    with tempfile.TemporaryDirectory() as folder:
        book = AuditBook(open_database(Path(folder) / "store.db"))
        opened = Opened(
            epoch=1, policy="p", certificate="c", max_loss=BOUND, rule=rule, budget=BUDGET, certificate_delta=0.0,
            key_commitment=key_commitment(book.key("w", 1)), broken_delta=LEVEL, within_delta=LEVEL,
        )  # fmt: skip
        rng, events = np.random.default_rng(7), list[Event]()
        for i in range(60_000):
            score = 0.4 + 0.6 * float(rng.random())
            draw = draw_audit(rule, book.key("w", 1), f"t{i}", score)
            if draw.audited:
                trace = f"t{i}"
                events += [
                    Passed(epoch=1, refused=int(rng.integers(10)), undrawn=int(rng.integers(10))),
                    Drawn(epoch=1, trace=trace, score=score, propensity=draw.propensity, draw=draw.draw),
                    Resolved(
                        epoch=1, trace=trace, source="judge", student_loss=float(rng.random() < 0.02), frontier_loss=0.0
                    ),
                ]
        monitor, times = Monitor("w"), dict[str, list[float]]()
        monitor.apply(opened)
        for event in events:
            start = time.perf_counter()
            monitor.apply(event)
            times.setdefault(type(event).__name__, []).append((time.perf_counter() - start) * 1e6)
        worst = max(float(np.median(t)) for t in times.values())
        each = ", ".join(f"{name} {np.median(t):.0f} (p99 {np.quantile(t, 0.99):.0f})" for name, t in times.items())
        table.append(("monitor update, median of the slowest event, us", "<= 50", f"{worst:.0f}: {each}", worst <= 50))
        book.record("w", [opened], now=0.0)
        batches = [events[i : i + 3] for i in range(0, 900, 3)]
        start = time.perf_counter()
        for batch in batches:
            book.record("w", batch, now=0.0)
        each_ms = (time.perf_counter() - start) / len(batches) * 1e3
        table.append(("one audit's three rows written to SQLite, ms", "(no target)", f"{each_ms:.1f}", None))


def main() -> None:
    table: Table = []
    for part in (speed, jump, within, coverage, attribution, input_drift, false_alarms):
        start = time.perf_counter()
        part(table)
        print(f"{part.__name__}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    notes = (
        f"Bound {BOUND:.0%}, {RUNS} runs a row unless an interval says otherwise, 95 % intervals (Clopper-Pearson); "
        f"{OFFLOAD:.0%} of requests accepted, {SHARE:.0%} of those audited, so 100,000 looks are 1.7 million requests. "
        f"The level {LEVEL} is the alarm's share of an error budget of {BUDGET:.0%} in a workload's first epoch. "
        "False alarms are counted at an excess loss that equals the bound, the worst there is without being broken."
    )
    write_result("monitor", "make bench-monitor", table, notes, keep=not QUICK)


if __name__ == "__main__":
    main()
