"""What the monitor says, and that it depends on the order of draws alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import numpy as np
import pytest

from tests.routing.audit_streams import RULE, opened, traffic
from tiercel.errors import DataError
from tiercel.routing.audit_events import (
    AnchorScored,
    AnchorsFixed,
    Drawn,
    Event,
    Feedback,
    Passed,
    Resolved,
    Taken,
    Verdict,
)
from tiercel.routing.audits import draw_audit, epoch_key
from tiercel.routing.epoch_watch import Note
from tiercel.routing.monitor import Monitor


def run(events: Iterable[Event], monitor: Monitor | None = None) -> tuple[Monitor, list[Verdict]]:
    monitor, verdicts = monitor or Monitor("tickets"), list[Verdict]()
    for event in events:
        verdicts += monitor.apply(event).verdicts
    return monitor, verdicts


def flat(*parts: Iterable[tuple[Event, ...]]) -> list[Event]:
    return [event for part in parts for events in part for event in events]


def evidence(monitor: Monitor, segment: str = "") -> tuple[object, ...]:
    assert monitor.current is not None
    return monitor.current.evidence[segment].evalues, monitor.current.evidence[segment].state()


def an_audit(i: int = 0, epoch: int = 1, segments: tuple[str, ...] = ()) -> Drawn:
    """The first trace from number `i` on that is drawn."""
    key = epoch_key(bytes(range(32)), "tickets", epoch)
    while True:
        draw = draw_audit(RULE, key, f"x{i}", 0.5)
        if draw.audited:
            return Drawn(
                epoch=epoch, trace=f"x{i}", score=0.5, propensity=draw.propensity, draw=draw.draw, segments=segments
            )
        i += 1


def judged(trace: str, loss: float = 0.0, epoch: int = 1, frontier: float = 0.0) -> Resolved:
    return Resolved(epoch=epoch, trace=trace, source="judge", student_loss=loss, frontier_loss=frontier)


def fixed(subject: str, error: float) -> AnchorsFixed:
    row = {"kind": "anchors", "epoch": 1, "subject": subject, "digest": "d", "rows": 50, "error": error}
    return msgspec.convert(row, AnchorsFixed)


def test_a_good_student_is_within_and_a_bad_one_is_broken() -> None:
    good, verdicts = run([opened(), *flat(traffic(6_000, 0.02))])
    assert [(v.state, v.reason) for v in verdicts] == [("within", "evidence")]
    status = good.status()
    assert (status.standing, status.send_back, good.sends_back()) == ("within", False, False)
    assert status.whole.excess_loss.low <= 0.01 <= status.whole.excess_loss.high < 0.05
    assert status.offload == pytest.approx(0.5, abs=0.03)

    bad, verdicts = run([opened(), *flat(traffic(3_000, 0.4))])
    assert [(v.state, v.reason, v.send_back) for v in verdicts] == [("broken", "excess loss", True)]
    assert bad.sends_back() and bad.status().cause == "student"


def test_the_estimate_is_the_marginal_loss_over_all_requests() -> None:
    losses = [0.0] * 4_000
    monitor, _ = run([opened(), *flat(traffic(len(losses), 0.2, seed=3))])
    tally = monitor.current.evidence[""].tally  # pyright: ignore[reportOptionalMemberAccess]
    # Half of the requests are accepted, a fifth of those is wrong.
    assert tally.mean == pytest.approx(0.1, abs=0.025)
    assert tally.count == monitor.status().requests


def test_a_student_that_turns_bad_loses_within_first_and_is_broken_then() -> None:
    _, verdicts = run([opened(), *flat(traffic(9_000, lambda i: 0.0 if i < 1_200 else 0.15))])
    assert [v.state for v in verdicts] == ["within", "unknown", "broken"]


def test_a_verdict_of_broken_stays_whatever_comes_after() -> None:
    monitor, verdicts = run([opened(), *flat(traffic(3_000, 0.4))])
    _, more = run(flat(traffic(6_000, 0.0, prefix="later")), monitor)
    assert verdicts and not more and monitor.sends_back()


def test_e_values_do_not_depend_on_when_results_come() -> None:
    events = [opened(), *flat(traffic(600, 0.2))]
    results = [e for e in events if isinstance(e, Resolved)]
    in_time, _ = run(events)
    for seed in range(3):
        late = [e for e in events if not isinstance(e, Resolved)]
        late += [results[i] for i in np.random.default_rng(seed).permutation(len(results))]
        shuffled, verdicts = run(late)
        assert evidence(shuffled) == evidence(in_time)
        assert verdicts == run(events)[1]


def test_nothing_is_booked_past_an_audit_without_a_result() -> None:
    first, second = an_audit(0), an_audit(50)
    monitor, _ = run(
        [opened(), Passed(epoch=1, refused=3, undrawn=0), first, Passed(epoch=1, refused=5, undrawn=2), second]
    )
    run([judged(second.trace)], monitor)
    assert monitor.current is not None and monitor.current.evidence[""].tally.count == 3
    assert monitor.current.waiting == 2
    run([judged(first.trace)], monitor)
    assert monitor.current.evidence[""].tally.count == 12 and monitor.current.waiting == 0


def test_going_on_from_stored_bytes_gives_the_same_bits() -> None:
    setup = opened(segments=("de", "en"), gains=True)
    anchors = [fixed("judge", 0.02), fixed("frontier", 0.0)]
    events = flat(traffic(1_200, 0.15, segments=("de", "en"), failing=0.02))
    through, stopped = Monitor("tickets"), Monitor("tickets")
    for i, event in enumerate([setup, *anchors, *events]):
        one, other = through.apply(event, created=float(i)), stopped.apply(event, created=float(i))
        assert one == other
        if i % 97 == 5:
            through.apply(AnchorScored(epoch=1, trace="a", subject="judge", error=0.0))
            stopped.apply(AnchorScored(epoch=1, trace="a", subject="judge", error=0.0))
            stopped = Monitor.decode(stopped.encode())
    assert stopped.encode() == through.encode()
    assert stopped.status() == through.status()
    with pytest.raises(DataError, match="made again from the log"):
        Monitor.decode(b"{}")


def test_failing_audits_count_as_losses_and_are_told_apart() -> None:
    monitor, verdicts = run([opened(), *flat(traffic(6_000, 0.01, failing=0.4))])
    assert [(v.state, v.reason) for v in verdicts] == [("broken", "missing audits")]
    status = monitor.status()
    assert status.counts.failed > 100 and status.counts.judged + status.counts.failed == status.counts.drawn
    # The sequence has the missing ones at their best at one end, at their worst at the other.
    assert status.whole.excess_loss.low < 0.02 and status.whole.excess_loss.high > 0.2
    _, verdicts = run([opened(), *flat(traffic(3_000, 0.5, failing=0.05))])
    assert verdicts[0].reason == "excess loss"


def test_a_failure_that_is_mended_before_it_is_booked_has_its_result() -> None:
    first, second = an_audit(0), an_audit(50)
    monitor, _ = run([opened(), first, second])
    for event, note in (
        (Resolved(epoch=1, trace=second.trace, source="failed"), Note.COUNTED),
        (Resolved(epoch=1, trace=second.trace, source="expired"), Note.ALREADY_JUDGED),
        (judged(second.trace), Note.COUNTED),
        (judged(second.trace, 1.0), Note.ALREADY_JUDGED),
        (judged(first.trace), Note.COUNTED),
        (judged(first.trace), Note.ALREADY_JUDGED),
    ):
        assert monitor.apply(event).note == note
    assert monitor.current is not None and not monitor.current.evidence[""].missing


def test_a_person_replaces_a_judge_before_the_booking_and_is_counted_apart_after() -> None:
    first, second = an_audit(0), an_audit(50)
    monitor, _ = run([opened(), first, second, judged(second.trace, 0.0)])
    assert monitor.apply(Feedback(epoch=1, trace=second.trace, student_loss=1.0)).note == Note.REPLACED
    assert monitor.apply(judged(second.trace, 0.0)).note == Note.ALREADY_JUDGED
    # A person's word is a result of its own, too.
    assert monitor.apply(Feedback(epoch=1, trace=first.trace, student_loss=0.0)).note == Note.COUNTED
    watch = monitor.current
    assert watch is not None and watch.evidence[""].tally.values == {1 / second.propensity: 1}
    before = evidence(monitor)
    assert monitor.apply(Feedback(epoch=1, trace=second.trace, student_loss=0.0)).note == Note.ALREADY_JUDGED
    assert monitor.apply(Feedback(epoch=1, trace=second.trace, student_loss=1.0)).note == Note.ALREADY_JUDGED
    assert monitor.apply(Feedback(epoch=1, trace="who", student_loss=1.0)).note == Note.NOT_AUDITED
    assert evidence(monitor) == before
    counts = monitor.status().counts
    assert (counts.replaced, counts.already_judged, counts.contradicted, counts.unaudited_feedback) == (1, 3, 1, 1)


def test_a_replaced_policy_gets_its_late_audits_and_the_new_one_none() -> None:
    late = an_audit(0)
    monitor, _ = run([opened(), *flat(traffic(3_000, 0.4)), late, opened(2)])
    assert not monitor.sends_back()
    fresh = evidence(monitor)
    old = monitor.state().epochs[0].counts.booked
    assert monitor.apply(judged(late.trace, 1.0)).note == Note.COUNTED
    assert evidence(monitor) == fresh and monitor.state().epochs[0].counts.booked == old + 1
    with pytest.raises(DataError, match="no audit of"):
        monitor.apply(judged(late.trace, 1.0, epoch=2))
    assert [s.epoch for s in monitor.status().budget.spends] == [1, 1, 2, 2, 2]


def test_a_broken_bound_needs_a_new_epoch_with_its_own_share_of_the_budget() -> None:
    monitor, _ = run([opened(), *flat(traffic(3_000, 0.4))])
    with pytest.raises(DataError, match="--confidence"):
        monitor.apply(opened(2, certificate_delta=0.05))
    with pytest.raises(DataError, match="number it 2"):
        monitor.apply(opened(3))
    with pytest.raises(DataError, match="a larger one would undo"):
        monitor.apply(opened(2, budget=0.5))
    assert monitor.sends_back()
    monitor.apply(opened(2))
    assert not monitor.sends_back() and monitor.status().budget_left < 0.025


def test_who_still_serves_a_replaced_policy_obeys_the_verdicts_on_it() -> None:
    monitor, _ = run([opened(segments=("de",)), *flat(traffic(3_000, 0.4, segments=("de",)))])
    assert monitor.sends_back() and monitor.sends_back(("de",))
    run([opened(2, segments=("de",))], monitor)
    assert not monitor.sends_back() and not monitor.sends_back(("de",), epoch=2)
    assert monitor.sends_back(epoch=1) and monitor.sends_back(("de",), epoch=1)
    late = an_audit(10_000)
    run([late], monitor)
    assert (monitor.epoch_of(late.trace), monitor.epoch_of("nobody's")) == (1, None)
    assert monitor.sends_back(epoch=9)


def test_a_clock_that_runs_backwards_changes_no_e_value() -> None:
    events = [opened(), *flat(traffic(400, 0.2))]
    forwards, backwards = Monitor("tickets"), Monitor("tickets")
    for i, event in enumerate(events):
        forwards.apply(event, created=1e9 + i)
        backwards.apply(event, created=1e9 - 60.0 * i if i % 3 else math.nan)
    assert evidence(forwards) == evidence(backwards)
    assert backwards.status().days_to_tighter is not None


def test_an_audit_is_taken_up_once_from_the_gateway_that_has_it_and_only_while_it_waits() -> None:
    audit = msgspec.structs.replace(an_audit(), by="dead")
    monitor, _ = run([opened(), audit])

    def take(by: str, of: str) -> None:
        monitor.apply(Taken(epoch=1, trace=audit.trace, by=by, of=of), created=5_000.0)

    assert [a.by for a in monitor.under_way()] == ["dead"]
    take("second", "dead")
    for by, of in (("third", "dead"), ("second", "second")):
        with pytest.raises(DataError, match="another gateway's"):
            take(by, of)
    assert monitor.unresolved(4_999.0) == []  # its time begins anew
    monitor = Monitor.decode(monitor.encode())
    take("third", "second")
    assert monitor.status().counts.taken_up == 2
    run([judged(audit.trace)], monitor)
    assert monitor.under_way() == []
    with pytest.raises(DataError, match="waits for no result"):
        take("fourth", "third")


def test_anchors_may_be_chosen_anew_and_the_change_of_cause_is_told() -> None:
    monitor, _ = run([opened(), fixed("frontier", 0.0)])
    bad = AnchorScored(epoch=1, trace="a", subject="frontier", error=1.0)
    causes = [monitor.apply(bad).cause for _ in range(40)]
    assert [cause for cause in causes if cause] == ["frontier"]
    assert monitor.status().cause == "frontier"
    assert monitor.apply(fixed("frontier", 0.1)).cause == "none"
    assert monitor.status().frontier_log10 == pytest.approx(0.0)


def test_audits_without_a_result_can_be_listed() -> None:
    one, two = an_audit(0), an_audit(50)
    monitor = Monitor("tickets")
    monitor.apply(opened(), created=0.0)
    monitor.apply(one, created=100.0)
    monitor.apply(two, created=50.0)
    assert monitor.unresolved(101.0) == [(1, one.trace), (1, two.trace)]
    assert monitor.unresolved(100.0) == [(1, two.trace)]
    monitor.apply(Resolved(epoch=1, trace=two.trace, source="expired"))
    assert monitor.unresolved(100.0) == []
    assert monitor.status().counts.expired == 1


def test_a_bad_segment_is_sent_back_alone() -> None:
    names = ("de", "en", "fr")
    events = flat(traffic(9_000, 0.0, segments=names, seed=1))
    worse = [
        msgspec.structs.replace(e, student_loss=1.0)
        if isinstance(e, Resolved) and _segment(events, e) == "fr" and i % 4 == 0
        else e
        for i, e in enumerate(events)
    ]
    monitor, verdicts = run([opened(segments=names), *worse])
    assert {v.segment for v in verdicts if v.state == "broken"} == {"fr"}
    status = monitor.status()
    assert status.segments_sent_back == ("fr",) and not status.send_back
    assert monitor.sends_back(("fr",)) and not monitor.sends_back(("de",)) and not monitor.sends_back(("it",))
    assert set(status.segments) == set(names)


def _segment(events: list[Event], resolved: Resolved, cache: dict[str, str] = {}) -> str:  # noqa: B006
    if not cache:
        cache.update({e.trace: e.segments[0] for e in events if isinstance(e, Drawn)})
    return cache[resolved.trace]


def test_segments_share_the_levels_so_that_no_more_is_spent() -> None:
    monitor, _ = run([opened(segments=("de", "en"))])
    watch = monitor.current
    assert watch is not None
    levels = [e._deltas[0] for e in watch.evidence.values()]
    assert sum(levels) == pytest.approx(watch.opened.broken_delta)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (msgspec.structs.replace(an_audit(50), propensity=0.0), r"outside \(0, 1\]"),
        (msgspec.structs.replace(an_audit(50), propensity=1.5), r"outside \(0, 1\]"),
        (msgspec.structs.replace(an_audit(50), propensity=math.nan), r"outside \(0, 1\]"),
        (msgspec.structs.replace(an_audit(50), propensity=0.3), "the rule of epoch 1 gives 0.8"),
        (msgspec.structs.replace(an_audit(50), draw=0.9), "asks for no audit"),
        (msgspec.structs.replace(an_audit(50), score=0.4), "below the threshold"),
        (an_audit(), "drawn already"),
        (msgspec.structs.replace(an_audit(900), epoch=2), "no epoch 2"),
        (judged("never"), "no audit of never was drawn"),
        (judged(an_audit().trace, 1.5), r"a student loss of 1.5 is outside \[0, 1\]"),
        (judged(an_audit().trace, math.nan), r"outside \[0, 1\]"),
        (judged(an_audit().trace, 0.0, frontier=-1.0), r"a frontier loss of -1.0 is outside"),
        (Resolved(epoch=1, trace=an_audit().trace, source="judge"), "not both losses"),
        (Resolved(epoch=1, trace=an_audit().trace, source="failed", student_loss=1.0, frontier_loss=0.0), "has losses"),
        (Feedback(epoch=1, trace=an_audit().trace, student_loss=2.0), "outside"),
        (Passed(epoch=1, refused=-1, undrawn=0), "count each request once"),
        (Passed(epoch=1, refused=1, undrawn=0, segments={"de": 2}), "count each request once"),
        (Passed(epoch=1, refused=1, undrawn=0, segments={"": 1}), "count each request once"),
        (Passed(epoch=1, refused=1, undrawn=0, listed=(("a", 0.9),)), "count each request once"),
        (Passed(epoch=1, refused=1, undrawn=1, listed=(("a", 0.1),)), "below the threshold"),
        (AnchorScored(epoch=1, trace="a", subject="judge", error=0.0), "knows no error of the judge"),
        (fixed("judge", 0.99), "error \\+ shift < 1"),
        (Taken(epoch=1, trace="nobody's", by="b", of=""), "waits for no result"),
    ],
)
def test_an_event_that_can_not_be_is_refused_and_changes_nothing(event: Event, message: str) -> None:
    monitor, _ = run([opened(), an_audit()])
    before = monitor.encode()
    with pytest.raises(DataError, match=message):
        monitor.apply(event)
    assert monitor.encode() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_loss": 0.0}, "take it from the certificate"),
        ({"max_loss": math.nan}, "take it from the certificate"),
        ({"segments": ("a", "a")}, "name each once"),
        ({"segments": ("",)}, "name each once"),
        ({"restarts": -1}, "restarts"),
        ({"broken_delta": 0.04}, "lower its level"),
    ],
)
def test_an_epoch_that_can_not_be_is_refused(changes: dict[str, object], message: str) -> None:
    monitor = Monitor("tickets")
    with pytest.raises(DataError, match=message):
        monitor.apply(opened(**changes))
    assert monitor.epoch == 0 and monitor.sends_back()
    with pytest.raises(DataError, match="promote a bundle"):
        monitor.status()


def test_gains_count_where_the_epoch_says_so() -> None:
    audit = an_audit()
    for gains, value in ((False, 0.0), (True, -1 / audit.propensity)):
        monitor, _ = run([opened(gains=gains), audit, judged(audit.trace, 0.0, frontier=1.0)])
        assert monitor.current is not None
        assert monitor.current.evidence[""].tally.mean == value


def test_days_until_are_told_while_the_student_is_good() -> None:
    monitor = Monitor("tickets")
    for i, event in enumerate([opened(), *flat(traffic(800, 0.02))]):
        monitor.apply(event, created=60.0 * i)
    status = monitor.status()
    assert status.standing == "unknown"
    assert status.days_to_within is not None and 0 < status.days_to_within < 30
    assert status.days_to_tighter is not None and status.days_to_tighter > 0


def test_false_alarms_stay_below_the_level_over_all_looks() -> None:
    # Half of the requests are accepted and a tenth of those is wrong: exactly at the bound.
    alarms = sum(
        any(v.state == "broken" for v in run([opened(), *flat(traffic(1_000, 0.1, seed=s))])[1]) for s in range(40)
    )
    # A level of 1.25 %: four of forty have a chance of one in five hundred.
    assert alarms <= 3


def test_false_alarms_of_all_segments_together_stay_below_the_level_over_all_looks() -> None:
    names = ("de", "en", "fr")
    alarms = sum(
        any(
            v.state == "broken"
            for v in run([opened(segments=names), *flat(traffic(900, 0.1, seed=s, segments=names))])[1]
        )
        for s in range(40)
    )
    # As above: the four alarms, of the workload and of its segments, share a level of 1.25 %.
    assert alarms <= 3
