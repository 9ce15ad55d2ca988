"""Verifies an exported log of audits. It needs nothing but Python: copy this file and run it anywhere.

    python -m tiercel.routing.audit_verifier log.jsonl [--head HASH]
    python audit_verifier.py log.jsonl

It shares no code with the program that wrote the log. From the rows alone it checks the chain of hashes, the
probability of every audit, every draw whose key is shown, every e-value to the last bit, every verdict, and the error
budget. Exit code 0: all of it holds. 1: the first row that does not is named. 2: the file can't be read.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import math
import sys
from collections import deque
from collections.abc import Iterable
from typing import Any

__all__ = ["BadRow", "Report", "main", "verify_lines"]

LANES, STEP, BOLDEST = 20, 0.625, 0.96875
LEVEL = 0.05
FAR = 2_000
SLACK = 1 + 1e-9
_UNMOVING = ("taken", "anchors", "anchor")
_MALFORMED = (
    ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, ZeroDivisionError, RecursionError,
)  # fmt: skip


class BadRow(Exception):
    """A row does not follow from those before it."""


class Report:
    """What was checked."""

    def __init__(self) -> None:
        self.rows = self.draws = self.unshown = self.evalues = self.verdicts = 0
        self.head = "0" * 64
        self.states: dict[str, str] = {}

    def __str__(self) -> str:
        unshown = f", {self.unshown} draws not repeated because their epoch's key is not shown" if self.unshown else ""
        states = "".join(f"\n  {name}: {state}" for name, state in sorted(self.states.items()))
        return (
            f"{self.rows} rows hold: the chain ends in {self.head}; {self.draws} draws repeated{unshown}; "
            f"{self.evalues} e-values and {self.verdicts} verdicts computed again{states}"
        )


class Bet:
    """One e-process, in plain floats; capitals are pairs of a mantissa and a power of two."""

    def __init__(self, bound: float, above: bool, low: float, high: float, restarts: int) -> None:
        self.bound, self.restarts = bound, restarts
        bet = BOLDEST / (bound - low if above else high - bound)
        self.bets: list[float] = []
        for _ in range(LANES):
            self.bets.append(bet if above else -bet)
            bet *= STEP
        self.low, self.high = low, high
        self.capital = [(0.0, 0)] * LANES
        self.waiting, self.seen = 1.0, 0
        self.put_in(weight_of(0) if restarts else 1.0)

    def copy(self) -> Bet:
        """Another process in the same state."""
        twin = object.__new__(Bet)
        twin.__dict__.update(self.__dict__)
        return twin

    def put_in(self, weight: float) -> None:
        """Add a part of the stake, evenly over the bets."""
        self.waiting -= weight
        share, fresh = weight / LANES, list[tuple[float, int]]()
        for m, e in self.capital:
            top = max(e, 0)
            fresh.append(scaled(math.ldexp(m, max(e - top, -FAR)) + math.ldexp(share, max(-top, -FAR)), top))
        self.capital = fresh

    def value(self, x: float) -> None:
        """Book an observation."""
        if not self.low <= x <= self.high:
            raise BadRow(f"a value of {x} is outside [{self.low}, {self.high}]")
        self.capital = [
            scaled(m * (bet * (x - self.bound) + 1.0), e) for (m, e), bet in zip(self.capital, self.bets, strict=True)
        ]
        self.seen += 1
        if self.restarts and self.seen % self.restarts == 0:
            self.put_in(weight_of(self.seen // self.restarts))

    def zeros(self, count: int) -> None:
        """Book zeros, by squaring."""
        factors = [math.frexp(1.0 + bet * (0.0 - self.bound)) for bet in self.bets]
        while count:
            if count & 1:
                self.capital = [scaled(m * fm, e + fe) for (m, e), (fm, fe) in zip(self.capital, factors, strict=True)]
            factors = [scaled(m * m, 2 * e) for m, e in factors]
            count >>= 1

    def evalue(self) -> tuple[float, int]:
        """The whole capital."""
        top = max(0, *(e for _, e in self.capital))
        total = 0.0
        for m, e in self.capital:
            total += math.ldexp(m, max(e - top, -FAR))
        return scaled(total + math.ldexp(self.waiting, max(-top, -FAR)), top)


def weight_of(block: int) -> float:
    """Share of the stake that is put in at the start of a block."""
    octave = block.bit_length()
    return 1.0 / ((octave + 1) * (octave + 2) * 2 ** max(0, octave - 1))


def scaled(m: float, e: int) -> tuple[float, int]:
    """The same number with its mantissa in [0.5, 1)."""
    m, more = math.frexp(m)
    return m, e + more


def reaches(value: tuple[float, int], delta: float) -> bool:
    """Whether an e-value is at least 1 / delta."""
    return delta > 0 and math.ldexp(value[0], max(-FAR, min(value[1], 1_000))) >= 1 / delta


class Scope:
    """The three processes of a workload or segment, and where it stands."""

    def __init__(self, o: dict[str, Any], share: float) -> None:
        high = 1.0 / o["rule"]["floor"]
        self.gains = o["gains"]
        low = -high if self.gains else 0.0
        self.broken = Bet(o["max_loss"], True, low, high, o["restarts"])
        self.within = Bet(o["max_loss"], False, low, high, 0)
        self.proven: Bet | None = None
        self.deltas = o["broken_delta"] * share, o["within_delta"] * share
        self.standing = "unknown"

    def zeros(self, count: int) -> None:
        """Requests that cost nothing."""
        for bet in filter(None, (self.broken, self.within, self.proven)):
            bet.zeros(count)

    def audit(self, propensity: float, excess: float | None) -> None:
        """An audit in the order of the draws."""
        if excess is None:
            weight = 1.0 / propensity
            self.proven = self.proven or self.broken.copy()
            self.broken.value(weight)
            self.within.value(weight)
            self.proven.value(-weight if self.gains else 0.0)
            return
        value = (excess if self.gains else max(0.0, excess)) / propensity
        for bet in filter(None, (self.broken, self.within, self.proven)):
            bet.value(value)

    def evalues(self) -> list[list[float]]:
        """As the log writes them."""
        return [list(bet.evalue()) for bet in (self.broken, self.within, self.proven or self.broken)]

    def step(self) -> str | None:
        """The reason, where the state changed."""
        before, within = self.standing, self.within.evalue()
        if before == "broken":
            return None
        if reaches(self.broken.evalue(), self.deltas[0]):
            self.standing = "broken"
            proven = reaches((self.proven or self.broken).evalue(), self.deltas[0])
            return "excess loss" if proven else "missing audits"
        if reaches(within, self.deltas[1]):
            self.standing = "within"
            return None if before == "within" else "evidence"
        if before == "within" and not reaches(within, math.sqrt(self.deltas[1])):
            self.standing = "unknown"
            return "evidence eroded"
        return None


class Epoch:
    """One epoch's audits in the order of their draws."""

    def __init__(self, opened: dict[str, Any], key: bytes | None) -> None:
        self.opened, self.key = opened, key
        names = opened["segments"]
        self.scopes = {"": Scope(opened, 0.5 if names else 1.0)}
        self.scopes |= {name: Scope(opened, 0.5 / len(names)) for name in names}
        self.audits: dict[str, dict[str, Any]] = {}
        self.queue: deque[Any] = deque()

    def propensity(self, score: float) -> float:
        """By the epoch's rule."""
        rule = self.opened["rule"]
        if not score >= rule["threshold"]:
            raise BadRow(f"a score of {score} is below the threshold {rule['threshold']}")
        near = max(0.0, 1.0 - (score - rule["threshold"]) / rule["width"])
        wanted = rule["floor"] + (rule["top"] - rule["floor"]) * (near * near)
        return min(rule["top"], max(rule["floor"], wanted))

    def drawn(self, trace: str, score: float, report: Report) -> float | None:
        """Repeat a draw; None where the key is not shown."""
        if self.key is None:
            report.unshown += 1
            return None
        digest = hmac.digest(self.key, trace.encode("utf-8", "surrogatepass"), "sha256")
        report.draws += 1
        return (int.from_bytes(digest[:7], "big") >> 3) / 2**53

    def take(self, row: dict[str, Any], report: Report) -> str:
        """Fold one event; what became of it."""
        body, kind, trace = row["body"], row["kind"], row["trace"]
        if kind == "passed":
            total = body["refused"] + body["undrawn"]
            counts = [body["refused"], body["undrawn"], *body["segments"].values()]
            if (
                min(counts) < 0
                or max(counts) > total
                or "" in body["segments"]
                or len(body["listed"]) > body["undrawn"]
            ):
                raise BadRow("its counts of requests contradict each other")
            for listed, score in body["listed"]:
                draw = self.drawn(listed, score, report)
                if draw is not None and draw < self.propensity(score):
                    raise BadRow(f"the request {listed} is listed as undrawn, but its draw asks for an audit")
            self.queue.append({**body["segments"], "": total})
            return "counted"
        audit = self.audits.get(trace)
        if kind == "drawn":
            propensity, draw = self.propensity(body["score"]), self.drawn(trace, body["score"], report)
            if audit is not None:
                raise BadRow("its audit was drawn before")
            if body["propensity"] != propensity:
                raise BadRow(f"its propensity is {body['propensity']}, the rule gives {propensity}")
            if not 0 <= body["draw"] < propensity or (draw is not None and draw != body["draw"]):
                raise BadRow(f"its draw is {body['draw']}, its id gives {draw}")
            segments = list(dict.fromkeys(s for s in body["segments"] if s))
            self.audits[trace] = {"p": propensity, "in": segments, "known": False, "x": None, "booked": False}
            self.audits[trace]["by"] = body["by"]
            self.queue.append(trace)
            return "counted"
        losses = body["student_loss"], body["frontier_loss"]
        missing = kind == "resolved" and body["source"] in ("failed", "expired")
        if missing != (losses[0] is None) or missing != (losses[1] is None):
            raise BadRow("losses and source contradict each other")
        if not missing and not all(0 <= loss <= 1 for loss in losses):
            raise BadRow(f"losses {losses} are outside [0, 1]")
        excess = None if missing else losses[0] - losses[1]
        if audit is None:
            if kind == "resolved":
                raise BadRow("its audit was never drawn")
            return "not audited"
        settled = audit["known"] and (missing or audit["x"] is not None)
        if audit["booked"] or (kind == "resolved" and settled):
            return "already judged"
        note = "replaced" if kind == "feedback" and audit["known"] else "counted"
        audit["known"], audit["x"] = True, excess
        return note

    def taken(self, trace: str, of: str, by: str) -> None:
        """Another gateway asks for an audit, whose result is still to come, from the one that had it."""
        audit = self.audits.get(trace)
        if audit is None or audit["known"] or audit["by"] != of or by == of:
            raise BadRow("its audit was not to be taken up, or not from that gateway")
        audit["by"] = by

    def advance(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Book all that can be booked: e-values of what moved, and verdicts."""
        moved, verdicts = dict[str, Any](), list[dict[str, Any]]()
        while self.queue:
            head = self.queue[0]
            audit = None if isinstance(head, dict) else self.audits[head]
            if audit is not None and not audit["known"]:
                break
            self.queue.popleft()
            if audit is not None:
                audit["booked"] = True
                touched = [s for s in ("", *audit["in"]) if s in self.scopes]
            else:
                touched = [s for s in ("", *head) if head[s] and s in self.scopes]
            for name in dict.fromkeys(touched):
                scope = self.scopes[name]
                if audit is not None:
                    scope.audit(audit["p"], audit["x"])
                else:
                    scope.zeros(head[name])
                moved[name] = None
                if (reason := scope.step()) is not None:
                    verdicts.append({"state": scope.standing, "segment": name, "reason": reason})
        return {name: self.scopes[name].evalues() for name in moved}, verdicts


class Log:
    """All workloads of a log."""

    def __init__(self, keys: dict[tuple[str, int], bytes]) -> None:
        self.keys = keys
        self.report = Report()
        self.epochs: dict[str, list[Epoch]] = {}
        self.due: deque[tuple[str, int, dict[str, Any]]] = deque()

    def row(self, row: dict[str, Any]) -> None:
        """Check one row."""
        report, kind, body = self.report, row["kind"], row["body"]
        content = {name: value for name, value in row.items() if name != "hash"}
        if row["sequence"] != report.rows + 1 or row["previous"] != report.head:
            raise BadRow("it does not follow from the row before it: a row was taken out, added or moved")
        if hashlib.sha256(canonical(content).encode()).hexdigest() != row["hash"]:
            raise BadRow("it was changed after it was written")
        if self.due or kind == "verdict":
            self.verdict(row)
        elif kind == "epoch":
            self.open(row)
        else:
            epochs = self.epochs.get(row["workload"], [])
            if not 1 <= row["epoch"] <= len(epochs):
                raise BadRow(f"its workload has no epoch {row['epoch']}")
            self.event(row, epochs[row["epoch"] - 1])
        if kind in (*_UNMOVING, "epoch", "verdict") and (body["note"], body["evalues"]) != ("recorded", {}):
            raise BadRow("it moves no process, yet it says so")
        report.rows, report.head = row["sequence"], row["hash"]

    def event(self, row: dict[str, Any], epoch: Epoch) -> None:
        """Fold an event and compare what it did."""
        body = row["body"]
        if row["kind"] in ("anchor", "anchors"):
            if not 0 <= body["error"] <= 1:
                raise BadRow(f"an error of {body['error']} is outside [0, 1]")
            return
        if row["kind"] == "taken":
            epoch.taken(row["trace"], body["of"], body["by"])
            return
        if row["kind"] not in ("passed", "drawn", "resolved", "feedback"):
            raise BadRow(f"its kind {row['kind']!r} is not known")
        note = epoch.take(row, self.report)
        moved, verdicts = epoch.advance() if row["kind"] != "drawn" else ({}, [])
        if note != body["note"]:
            raise BadRow(f"it became {note!r}, not {body['note']!r}")
        if moved != body["evalues"]:
            raise BadRow(f"its e-values are {body['evalues']}, its record gives {moved}")
        self.report.evalues += 3 * len(moved)
        self.due.extend((row["workload"], row["epoch"], verdict) for verdict in verdicts)

    def verdict(self, row: dict[str, Any]) -> None:
        """Compare a verdict with the one that is due."""
        if not self.due:
            raise BadRow("it is a verdict that no e-value gives")
        workload, epoch, verdict = self.due.popleft()
        said = {name: row["body"].get(name) for name in verdict}
        if (row["kind"], row["workload"], row["epoch"], said) != ("verdict", workload, epoch, verdict):
            raise BadRow(f"the e-values before it give the verdict {verdict} for {workload}, which is not here")
        self.report.verdicts += 1
        if not verdict["segment"]:
            self.report.states[workload] = f"epoch {epoch}, {verdict['state']} ({verdict['reason']})"

    def open(self, row: dict[str, Any]) -> None:
        """Check an epoch: its number, its rule, its key and what it spends."""
        body, workload, number = row["body"], row["workload"], row["epoch"]
        epochs = self.epochs.setdefault(workload, [])
        if number != len(epochs) + 1:
            raise BadRow(f"epoch {number} can't follow epoch {len(epochs)}")
        if epochs and body["budget"] != epochs[0].opened["budget"]:
            raise BadRow("the error budget was changed")
        rule = body["rule"]
        if not (0 < rule["floor"] <= rule["top"] <= 1 and rule["width"] > 0 and 0 < body["max_loss"] < 1):
            raise BadRow("its audit rule or bound is none")
        own = body["budget"] / (number * (number + 1))
        certificate, online = (0.0, own / 2) if number == 1 else (own / 2, own / 4)
        allowed = {"certificate_delta": certificate, "broken_delta": online, "within_delta": online}
        if not all(0 <= body[name] <= most * SLACK for name, most in allowed.items()):
            raise BadRow("it spends more of the error budget than its share")
        key = self.keys.get((workload, number))
        if key is not None and hashlib.sha256(b"tiercel audit key\n" + key).hexdigest() != body["key_commitment"]:
            raise BadRow("the key that is shown is not the one that it commits to")
        epochs.append(Epoch(body, key))
        self.report.states[workload] = f"epoch {number}, unknown"


def canonical(value: Any) -> str:
    """The form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def verify_lines(lines: Iterable[str], *, head: str | None = None) -> Report:
    """Verify a log.

    Args:
        lines: of the export: a header, then rows.
        head: hash that the chain must end in; it shows that no rows were cut off at the end.

    Raises:
        BadRow: the first row that does not hold, by its line and sequence.
    """
    log: Log | None = None
    for number, line in enumerate(lines, start=1):
        place = f"line {number}"
        try:
            row = json.loads(line)
            if log is None:
                if row["format"] != 1:
                    raise BadRow(f"its format is {row['format']}, this program reads 1")
                log = Log({(k["workload"], k["epoch"]): bytes.fromhex(k["key"]) for k in row["keys"]})
                continue
            place = f"row {row['sequence']} (line {number})"
            log.row(row)
        except BadRow as error:
            raise BadRow(f"{place}: {error}") from None
        except _MALFORMED as error:
            raise BadRow(f"{place}: it is not of the form that a log has ({type(error).__name__}: {error})") from None
    if log is None:
        raise BadRow("line 1: the file is empty")
    if log.due:
        raise BadRow(f"after row {log.report.rows}: the verdict {log.due[0][2]} is missing, which its e-values give")
    if head is not None and log.report.head != head:
        raise BadRow(
            f"after row {log.report.rows}: the chain ends in {log.report.head}, not in {head}: rows are missing"
        )
    return log.report


def main(arguments: list[str] | None = None) -> int:
    """Verify the file that is named on the command line."""
    parser = argparse.ArgumentParser(description="Verify an exported log of audits.")
    parser.add_argument("log", help="file that `AuditBook.export` wrote")
    parser.add_argument("--head", help="hash that the chain must end in")
    options = parser.parse_args(arguments)
    try:
        with open(options.log, encoding="utf-8") as lines:  # noqa: PTH123
            print(verify_lines(lines, head=options.head))
    except BadRow as error:
        print(f"the log does not hold: {error}", file=sys.stderr)
        return 1
    except (OSError, UnicodeDecodeError) as error:
        print(f"{options.log} can't be read: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
