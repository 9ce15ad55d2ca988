"""Events of a simulated workload, for the tests of monitor, book and verifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from tiercel.routing.audit_events import Drawn, Event, Opened, Passed, Resolved
from tiercel.routing.audits import AuditRule, draw_audit, epoch_key, key_commitment

MASTER = bytes(range(32))
RULE = AuditRule(threshold=0.5, width=0.25, floor=0.2, top=0.8)


def opened(epoch: int = 1, *, workload: str = "tickets", master: bytes = MASTER, **changes: Any) -> Opened:
    """An epoch with all that the budget allows."""
    share = 0.05 / (epoch * (epoch + 1))
    online = share / 2 if epoch == 1 else share / 4
    event = Opened(
        epoch=epoch,
        policy=f"policy {epoch}",
        certificate=f"certificate {epoch}",
        max_loss=0.05,
        rule=RULE,
        key_commitment=key_commitment(epoch_key(master, workload, epoch)),
        budget=0.05,
        certificate_delta=0.0 if epoch == 1 else share / 2,
        broken_delta=online,
        within_delta=online,
    )
    return msgspec.structs.replace(event, **changes)


def traffic(
    requests: int,
    loss: float | Callable[[int], float],
    *,
    epoch: int = 1,
    seed: int = 0,
    workload: str = "tickets",
    master: bytes = MASTER,
    segments: tuple[str, ...] = (),
    failing: float = 0.0,
    prefix: str = "t",
) -> Iterator[tuple[Event, ...]]:
    """Requests of a workload, one audit with its result at a time.

    Args:
        requests: how many.
        loss: error rate of accepted answers; of the number of the request, where it changes.
        segments: to one of which each request belongs.
        failing: share of audits without a result.
    """
    rng, key = np.random.default_rng(seed), epoch_key(master, workload, epoch)
    refused = undrawn = 0
    counts = dict[str, int]()
    for i in range(requests):
        score, wrong = float(rng.random()), rng.random() < (loss(i) if callable(loss) else loss)
        segment = segments[int(rng.integers(len(segments)))] if segments else ""
        failed = rng.random() < failing
        trace = f"{prefix}{i}"
        draw = draw_audit(RULE, key, trace, score) if score >= RULE.threshold else None
        if draw is None or not draw.audited:
            refused, undrawn = refused + (draw is None), undrawn + (draw is not None)
            if segment:
                counts[segment] = counts.get(segment, 0) + 1
            continue
        yield (
            Passed(epoch=epoch, refused=refused, undrawn=undrawn, segments=counts),
            Drawn(
                epoch=epoch,
                trace=trace,
                score=score,
                propensity=draw.propensity,
                draw=draw.draw,
                segments=(segment,) if segment else (),
            ),
            Resolved(epoch=epoch, trace=trace, source="failed")
            if failed
            else Resolved(epoch=epoch, trace=trace, source="judge", student_loss=float(wrong), frontier_loss=0.0),
        )
        refused, undrawn, counts = 0, 0, {}
