"""The outcome of labelling: the file of answers, the file of what was set aside, and the counts of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tiercel.datasets.contract import encode_example
from tiercel.flows.explaining import rationale_of, why, with_rationale
from tiercel.flows.journal import Answered, Journal
from tiercel.flows.label_checks import Fault, Label
from tiercel.flows.label_rows import Row
from tiercel.flows.rejects import raw_fields, rejects_beside
from tiercel.flows.storage import new_file, write_file
from tiercel.flows.teacher import Teacher
from tiercel.types import Example, Response, Usage

__all__ = ["LabelCounts", "LabelOutput"]


class LabelCounts(Struct, kw_only=True):
    """What became of the rows of a file."""

    teacher: str | None = None
    """None where each row named its own model."""
    rows: int = 0
    kept: int = 0
    """Rows that had an answer and keep it."""
    labelled: int = 0
    refused: int = 0
    truncated: int = 0
    unfit: int = 0
    """Answers that are not of the task's form, or break their schema."""
    failed: int = 0
    """Requests that the provider did not answer; the same command asks them again."""
    unreadable: int = 0
    """Lines that are no request."""
    not_chosen: int = 0
    left: int = 0
    """Requests that the budget left unanswered."""
    shared: int = 0
    """Labelled rows that repeat an earlier request and share its answer."""
    agreement: float | None = None
    """Mean over the labelled rows; None with a single sample."""
    spent_usd: float | None = None
    """By all runs into this output, as it counts against the budget; None where no price is known."""
    unsure_usd: float = 0.0
    """How much of it is the upper estimate of calls whose bill is not known: timed out, cut off, killed."""
    rest_usd: float | None = None
    """What the requests that are left would cost, by the mean of those answered; None where nothing tells."""
    rest_at_most_usd: float | None = None
    sent_again: int = 0
    """Calls that failed in passing and were sent again."""
    rejects: str | None = None
    """File of what was set aside; None where nothing was."""
    explained: int = 0
    """Answered rows with a rationale, those that came with one included."""
    unexplained: int = 0
    """Answered rows without one, where rationales were asked for: the teacher declined or did not answer."""
    rationales_left: int = 0
    """How many of them were not asked for, since the budget had ended."""

    def nothing_usable(self) -> str | None:
        """What to say where the teacher answered and not one of its answers can be used; None otherwise."""
        aside = {"refused": self.refused, "cut off": self.truncated, "of the wrong form": self.unfit}
        if self.labelled or not any(aside.values()):
            return None
        told = ", ".join(f"{times:,} {name}" for name, times in aside.items() if times)
        return (
            f"none of the teacher's {sum(aside.values()):,} answers can be used ({told}); read {self.rejects}, then "
            "mend the prompt, raise --max-tokens, or ask another model (--model) into another --output"
        )


@dataclass(frozen=True, kw_only=True)
class LabelOutput:
    """What the files are made from.

    Attributes:
        rows: of the source, in order.
        chosen: keys of the requests that were to be asked.
        labels: label or fault by key; a request without one has not been answered.
        failed: by key, why the provider gave no answer.
        journal: what was asked and answered.
        teacher: that was asked.
        samples: wanted of each request.
        rationales: by the key of the request that asks for each; None where none were asked for.
    """

    rows: Sequence[Row]
    chosen: frozenset[str]
    labels: Mapping[str, Label]
    failed: Mapping[str, str]
    journal: Journal
    teacher: Teacher
    samples: int
    rationales: Mapping[str, str] | None = None

    def answered(self) -> list[Example]:
        """The rows that will be written, rationales aside."""
        return list(self._outcome(LabelCounts(), []))

    def write(self, output: Path) -> LabelCounts:
        """Write `output`, whole or not at all, and the rejects beside it; returns what became of all rows.

        Raises:
            StorageError: one of them can't be written.
        """
        counts = LabelCounts(teacher=self.teacher.model, rows=len(self.rows))
        rejects = list[dict[str, Any]]()
        with new_file(output, "--output") as stream:
            for example in self._outcome(counts, rejects):
                stream.write(encode_example(self._explained(example, counts)) + b"\n")
        path = rejects_beside(output)
        if rejects:
            write_file(path, b"".join(msgspec.json.encode(r) + b"\n" for r in rejects), "--output")
            counts.rejects = str(path)
        else:
            path.unlink(missing_ok=True)
        return counts

    def _outcome(self, counts: LabelCounts, rejects: list[dict[str, Any]]) -> Iterator[Example]:
        """Rows of the output in order; fills `counts` and `rejects` on the way."""
        used, agreements, tally = set[str](), list[float](), Counter[str]()
        for row in self.rows:
            if row.example is None:
                tally["unreadable"] += 1
                rejects.append({"line": row.line, "kind": "unreadable", "reason": row.error} | raw_fields(row.raw))
            elif row.key is None:
                tally["kept"] += 1
                yield row.example
            elif row.key not in self.chosen:
                tally["not_chosen"] += 1
            elif (label := self.labels.get(row.key)) is None:
                failure = self.failed.get(row.key)
                tally["left" if failure is None else "failed"] += 1
                if failure is not None:
                    rejects.append(_reject(row.line, row.example, "failed", failure))
            elif label.answer is None:
                fault = label.fault or Fault(kind="unfit", reason="it can't be used")
                tally[fault.kind] += 1
                rejects.append(_reject(row.line, row.example, fault.kind, fault.reason) | self._told(row.key))
            else:
                tally["labelled"] += 1
                tally["shared"] += row.key in used
                if label.agreement is not None:
                    agreements.append(label.agreement)
                yield self._labelled(row.example, row.key, label, shared=row.key in used)
                used.add(row.key)
        for name, times in tally.items():
            setattr(counts, name, times)
        counts.agreement = sum(agreements) / len(agreements) if agreements else None

    def _explained(self, example: Example, counts: LabelCounts) -> Example:
        """The example with its rationale, counted."""
        if self.rationales is None:
            return example
        found = rationale_of(example.metadata)
        if found is None and (found := self.rationales.get(self.teacher.key(why(example)))):
            example = with_rationale(example, found)
        counts.explained += found is not None
        counts.unexplained += found is None
        return example

    def _told(self, key: str) -> dict[str, Any]:
        samples = self.journal.samples(key)[: self.samples]
        return {
            "responses": [
                {
                    "content": s.content,
                    "tool_calls": s.tool_calls,
                    "refusal": s.refusal,
                    "finish_reason": s.finish_reason,
                }
                for s in samples
            ]
        }

    def _labelled(self, example: Example, key: str, label: Label, *, shared: bool) -> Example:
        calls = self.journal.answered[key]
        name = self.teacher.name(example)
        responses = [r for call in calls for r in _responses(call, name, shared=shared)][: self.samples]
        source = [call for call in calls for _ in call.samples][label.sample]
        before = [] if example.answer is None else [_earlier(example)]
        known = [c.bill.cost_usd for c in calls if c.bill.cost_usd is not None]
        told = {
            "teacher": name or source.model,
            "samples": self.samples,
            "agreement": label.agreement,
            "cost_usd": 0.0 if shared else sum(known) if len(known) == len(calls) else None,
        }
        return msgspec.structs.replace(
            example,
            answer=label.answer,
            responses=(*example.responses, *before, *responses),
            usage=_usage_of_one(source),
            model=source.model or name,
            metadata=(example.metadata or {}) | told,
        )


def _reject(line: int, example: Example, kind: str, reason: str) -> dict[str, Any]:
    request = example.messages[-1].text[:500]
    return {"line": line, "id": example.id, "kind": kind, "reason": reason, "request": request}


def _responses(call: Answered, name: str | None, *, shared: bool) -> Iterator[Response]:
    """Each sample of a call as the data contract records answers; the call's cost in equal parts."""
    cost = call.bill.cost_usd
    for sample in call.samples:
        yield Response(
            model=call.model or name or "teacher",
            content=sample.content if sample.refusal is None else sample.content or sample.refusal,
            tool_calls=sample.tool_calls or None,
            cost_usd=0.0 if shared else None if cost is None else cost / len(call.samples),
            latency_s=call.latency_s,
            logprobs=sample.logprobs,
        )


def _earlier(example: Example) -> Response:
    """The answer that a new one takes the place of."""
    assert example.answer is not None
    return Response(
        model=example.model or "earlier answer",
        content=example.answer.content,
        tool_calls=example.answer.tool_calls or None,
    )


def _usage_of_one(call: Answered) -> Usage:
    """Tokens of one sample: what a call for one would have cost."""
    usage, n = call.bill.usage, len(call.samples)
    return msgspec.structs.replace(
        usage, output_tokens=round(usage.output_tokens / n), reasoning_tokens=round(usage.reasoning_tokens / n)
    )
