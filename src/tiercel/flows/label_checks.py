"""Which of a teacher's samples may become a label: no refusal, not cut off, of the task's form, within the schema."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from tiercel.flows.teacher import Sample
from tiercel.tasks.agreement import most_agreed
from tiercel.tasks.json_schema import schema_violation
from tiercel.tasks.labels import LabelSet
from tiercel.tasks.losses import compare
from tiercel.tasks.recognition import closed_set, recognise
from tiercel.tasks.refusals import is_refusal
from tiercel.types import Answer, Example

__all__ = ["Fault", "FaultKind", "Form", "Label", "form_of", "judge", "obvious_fault"]

FaultKind = Literal["refused", "truncated", "unfit"]

ENOUGH = 10
"""Answers that show what form a workload's answers have."""
CLEAR = 0.9
"""Share of a teacher's own answers that must have one form before the others are held to it."""
_CUT = ("length", "max_tokens", "model_length")
_FILTERED = ("content_filter", "safety", "recitation")


class Form(Struct, frozen=True, kw_only=True):
    """What the answers of a workload are held to."""

    task: str
    """How samples are compared."""
    labels: LabelSet | None = None
    """For classification."""
    binding: bool = False
    """Whether an answer of another form is a fault; False where too few answers show the form."""


class Fault(Struct, frozen=True, kw_only=True):
    """Why a sample is no label."""

    kind: FaultKind
    reason: str
    """A few words that do not repeat the answer."""


class Label(Struct, frozen=True, kw_only=True):
    """What became of all samples of a request."""

    answer: Answer | None
    """The one that the samples agree on; None where most of them can't be used."""
    sample: int = 0
    """Its number among the samples."""
    agreement: float | None = None
    """In [0, 1]; None with a single sample, which has nothing to agree with."""
    fault: Fault | None = None
    """The most frequent one, where there is no answer."""


def obvious_fault(sample: Sample) -> Fault | None:
    """What is wrong with a sample whatever its task: it declines, it was cut off, it is empty."""
    reason = (sample.finish_reason or "").lower()
    if sample.refusal is not None:
        return Fault(kind="refused", reason="the provider marks it as a refusal")
    if reason in _FILTERED:
        return Fault(kind="refused", reason=f"the provider's filter stopped it (finish_reason {reason})")
    if reason in _CUT:
        return Fault(kind="truncated", reason=f"cut off at the token limit (finish_reason {reason})")
    text = sample.answer.text
    if not sample.tool_calls and not text.strip():
        return Fault(kind="unfit", reason="it holds neither text nor tool calls")
    if not sample.tool_calls and is_refusal(text):
        return Fault(kind="refused", reason="it begins as a refusal does")
    return None


def form_of(task: str | None, given: Sequence[Answer], samples: Sequence[Sample]) -> Form:
    """The form of a workload's answers.

    Args:
        task: that the user named; None to tell it from the answers.
        given: answers that the file already holds; they decide where there are `ENOUGH`.
        samples: of the teacher; they decide where the file holds too few and nearly all of them agree.
    """
    usable = [s.answer for s in samples if obvious_fault(s) is None]
    if len(given) >= ENOUGH:
        found, binding = recognise(given), True
    else:
        found = recognise([*given, *usable])
        binding = len(given) + len(usable) >= ENOUGH and found.share >= CLEAR
    chosen = task or found.task
    labels: LabelSet | None = None
    if chosen == "classification":
        texts = [a.text for a in (*given, *usable) if a.text.strip()]
        # The teacher may know labels that the file does not show yet; a sentence among labels is still none.
        labels = closed_set(texts, force=True) if texts else LabelSet(labels=())
    return Form(task=chosen, labels=labels, binding=binding or task is not None)


def judge(example: Example, samples: Sequence[Sample], form: Form) -> Label:
    """Take the answer that most samples agree on, or say why there is none.

    Args:
        example: the request.
        samples: all that were asked for, at least one.
        form: of the workload's answers.
    """
    faults = [_fault(example, s, form) for s in samples]
    usable = [i for i, fault in enumerate(faults) if fault is None]
    if 2 * len(usable) < len(samples):
        kinds = Counter(fault.kind for fault in faults if fault is not None)
        most = kinds.most_common(1)[0][0]
        return Label(answer=None, fault=next(f for f in faults if f is not None and f.kind == most))
    answers = [samples[i].answer for i in usable]
    best, agreement = most_agreed(form.task, answers, form.labels, asked=len(samples))
    return Label(answer=answers[best], sample=usable[best], agreement=agreement if len(samples) > 1 else None)


def _fault(example: Example, sample: Sample, form: Form) -> Fault | None:
    answer = sample.answer
    fault = obvious_fault(sample)
    if fault is not None:
        is_label = form.labels is not None and form.binding and form.labels.parse(answer.text) is not None
        # A label may read like a refusal; whoever named it so means it.
        return None if fault.reason.startswith("it begins") and is_label else fault
    wrong = _breaks_schema(example, answer)
    if wrong is None and form.binding and not compare(form.task, answer, answer, form.labels).parsed:
        known = f"none of the {len(form.labels.labels)} labels" if form.labels else f"not of the form of {form.task}"
        wrong = f"it is {known}"
    return None if wrong is None else Fault(kind="unfit", reason=wrong)


def _breaks_schema(example: Example, answer: Answer) -> str | None:
    """What an answer breaks of what its own request asks for: tools and their parameters, response format."""
    if answer.tool_calls:
        return next((found for call in answer.tool_calls if (found := _breaks_tool(example, call.function))), None)
    wanted = example.response_format or {}
    kind = wanted.get("type")
    if kind not in ("json_object", "json_schema"):
        return None
    try:
        value: Any = json.loads(answer.text)
    except (ValueError, RecursionError):
        return "it is no JSON, which response_format asks for"
    if kind == "json_object":
        return None if isinstance(value, dict) else "it is no JSON object, which response_format asks for"
    holder = wanted.get("json_schema")
    schema = holder.get("schema", True) if isinstance(holder, dict) else True
    found = schema_violation(value, schema)
    return None if found is None else f"it breaks the schema of response_format: {found}"


def _breaks_tool(example: Example, function: Any) -> str | None:
    try:
        arguments = json.loads(function.arguments or "{}")
    except (ValueError, RecursionError):
        return "the arguments of a tool call are no JSON"
    if not example.tools:
        return "it calls a tool, and the request offers none"
    offered = {f.get("name"): f for tool in example.tools if isinstance(f := tool.get("function") or tool, dict)}
    if function.name not in offered:
        return "it calls a tool that the request does not offer"
    found = schema_violation(arguments, offered[function.name].get("parameters", True))
    return None if found is None else f"the arguments of a tool call break its parameters: {found}"
