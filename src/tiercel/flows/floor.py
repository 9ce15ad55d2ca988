"""How far the frontier disagrees with itself where it answered the same request more than once.

A student is measured against one answer of the frontier. Where the frontier asked again would answer otherwise, no
student can agree with both: its self-disagreement is a floor under the loss that can be measured against its answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from tiercel.datasets.contract import content_key
from tiercel.flows.preparation import Prepared
from tiercel.flows.traffic import Traffic
from tiercel.report.result import FloorSummary
from tiercel.stats.intervals import mean_interval
from tiercel.tasks.losses import loss_of
from tiercel.types import Answer, Example

__all__ = ["floor_of"]

MOST_ANSWERS = 12
"""Answers of one request that are compared with one another."""


@dataclass(kw_only=True)
class _Asked:
    """Different answers to one request and how often each was given."""

    answers: list[Answer] = field(default_factory=list[Answer])
    times: list[int] = field(default_factory=list[int])

    def add(self, answer: Answer, times: int = 1) -> None:
        if answer in self.answers:
            self.times[self.answers.index(answer)] += times
        elif len(self.answers) < MOST_ANSWERS:
            self.answers.append(answer)
            self.times.append(times)


def floor_of(read: Traffic, prepared: Prepared, *, frontier: str | None, confidence: float) -> FloorSummary | None:
    """The mean loss of one answer of the frontier against another to the same request, over the requests that have two.

    Requests repeat in the log itself, exact duplicates that were dropped from training included, and rows may carry
    further answers of the frontier's model in `responses`. Where each row carries one, and it is always the row's own
    answer, these are records of the same call and tell nothing.

    Args:
        read: the traffic.
        prepared: whose task and measure of loss compare answers.
        frontier: model whose answers in `responses` count; None for the model of each row.
        confidence: of the interval.

    Returns:
        None where no request has two answers.
    """
    asked = _answers(read, frontier)
    values = list[float]()
    for one in asked:
        total = sum(one.times)
        if total < 2:
            continue
        different = 0.0
        for i, a in enumerate(one.answers):
            for j, b in enumerate(one.answers[:i]):
                loss = (_loss(prepared, a, b) + _loss(prepared, b, a)) / 2
                different += 2 * loss * one.times[i] * one.times[j]
        values.append(different / (total * (total - 1)))
    if not values:
        return None
    return FloorSummary(
        disagreement=mean_interval(np.clip(values, 0.0, 1.0), 0.0, 1.0, confidence),
        requests=len(values),
        answers=sum(sum(one.times) for one in asked if sum(one.times) > 1),
    )


def _answers(read: Traffic, frontier: str | None) -> Sequence[_Asked]:
    asked: dict[bytes, _Asked] = {}
    recorded = [_recorded(example, frontier) for example in read.examples]
    single = [(e.answer, r[0]) for e, r in zip(read.examples, recorded, strict=True) if len(r) == 1]
    copies = all(own == other for own, other in single)
    for example, further in zip(read.examples, recorded, strict=True):
        key = msgspec.json.encode((example.messages, example.tools, example.response_format))
        one = asked.setdefault(key, _Asked())
        if example.answer is not None and len(further) < 2:  # several samples stand for themselves
            one.add(example.answer, 1 + read.repeats[content_key(example)])
        for answer in further if len(further) > 1 or not copies else []:
            one.add(answer)
    return list(asked.values())


def _recorded(example: Example, frontier: str | None) -> list[Answer]:
    """Further answers of the frontier's model that the row carries."""
    model = example.model or frontier
    if model is None:
        return []
    return [
        Answer(content=r.content, tool_calls=r.tool_calls or ())
        for r in example.responses
        if r.model == model and (r.content or r.tool_calls)
    ]


def _loss(prepared: Prepared, answer: Answer, reference: Answer) -> float:
    return loss_of(prepared.measure, prepared.task, answer, reference, prepared.labels, prepared.database)
