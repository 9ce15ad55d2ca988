"""The loss of an answer against a reference, from 0 (right) to 1 (wrong), for each task.

An answer that can't be parsed for its task has a loss of 1; `Comparison.parsed` counts such answers apart.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from tiercel.errors import MissingExtraError
from tiercel.tasks.labels import LabelSet, label_key
from tiercel.types import Answer

__all__ = ["LOSSES", "TASKS", "Comparison", "answer_fields", "compare", "json_fields", "loss_of"]

TASKS = ("classification", "extraction", "function_calling", "sql", "generation")
LOSSES = ("exact", "field-f1")
"""What a loss measures: what the task asks for, or how far the fields of the answer are from the reference's."""


class Comparison(Struct, frozen=True, kw_only=True):
    """How an answer did against a reference."""

    loss: float
    """In [0, 1]."""
    parsed: bool = True
    """False when the answer is not of the task's form at all; its loss is then 1."""
    field_f1: float | None = None
    """For extraction: F1 over the fields of the JSON; None for other tasks."""
    error: str | None = None
    """For SQL on a database: why the answer (or the reference) gave no result; None where both did."""


WRONG_FORM = Comparison(loss=1.0, parsed=False)


def compare(
    task: str,
    answer: Answer,
    reference: Answer,
    labels: LabelSet | None = None,
    database: str | Path | None = None,
) -> Comparison:
    """Compare `answer` with `reference` as `task` asks for it.

    Args:
        task: a name of `TASKS`.
        answer: to be judged.
        reference: taken to be right.
        labels: the closed set; needed for classification.
        database: for SQL, where both are run: a SQLite file or a PostgreSQL URL; None compares the queries' texts.
    """
    if task == "classification":
        if labels is None:
            raise ValueError("classification needs its labels")
        return _classification(answer.text, reference.text, labels)
    if task == "sql":
        return _sql(answer, reference, database)
    return _COMPARE[task](answer, reference)


def loss_of(
    measure: str,
    task: str,
    answer: Answer,
    reference: Answer,
    labels: LabelSet | None = None,
    database: str | Path | None = None,
) -> float:
    """The loss of `answer` against `reference` in [0, 1], as `measure` has it.

    Args:
        measure: one of `LOSSES`. "field-f1" is 1 less the F1 over fields, for extraction and function calling, and 1
            where one of both does not parse.
        task: a name of `TASKS`.
        answer: to be judged.
        reference: taken to be right.
        labels: as for `compare`.
        database: as for `compare`.
    """
    found = compare(task, answer, reference, labels, database)
    if measure == "exact" or found.loss == 0 or not found.parsed:
        return found.loss
    if found.field_f1 is not None:
        return 1 - found.field_f1
    ours, theirs = answer_fields(task, answer), answer_fields(task, reference)
    fields = ours.total() + theirs.total()
    return 1 - 2 * (ours & theirs).total() / fields if fields else found.loss


def _classification(answer: str, reference: str, labels: LabelSet) -> Comparison:
    got, wanted = labels.parse(answer), labels.parse(reference)
    if got is None:
        return WRONG_FORM
    if wanted is None:
        return Comparison(loss=1.0 if label_key(answer) != label_key(reference) else 0.0)
    if not labels.multi:
        return Comparison(loss=float(got != wanted))
    union = set(got) | set(wanted)
    return Comparison(loss=1 - len(set(got) & set(wanted)) / len(union) if union else 0.0)


def json_fields(value: Any, path: tuple[str | int, ...] = ()) -> Counter[tuple[tuple[str | int, ...], str]]:
    """The leaves of a JSON value as (path, value) pairs, for field F1.

    A list's items share one path, and an object in a list is one leaf with all its fields: the price of one item is not
    the price of another.
    """
    found: Counter[tuple[tuple[str | int, ...], str]] = Counter()
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            found += json_fields(inner, (*path, key))
        return found
    if isinstance(value, list) and value:
        for inner in value:
            found[(*path, 0), _canonical(inner)] += 1
        return found
    return Counter({(path, _canonical(value)): 1})


def answer_fields(task: str, answer: Answer) -> Counter[tuple[tuple[str | int, ...], str]]:
    """The fields of an answer as (path, value) pairs; none where it does not parse.

    A function call is one field, its name with the names of its arguments below it.
    """
    try:
        if task == "function_calling":
            calls = ((c.function.name, json.loads(c.function.arguments or "{}")) for c in answer.tool_calls)
            return Counter(
                pair for name, arguments in calls for pair in ({((name,), ""): 1} | json_fields(arguments, (name,)))
            )
        return json_fields(_parsed(answer.text))
    except (ValueError, RecursionError):
        return Counter()


def _canonical(value: Any) -> str:
    """One text for JSON values that mean the same: keys in any order, lists as multisets, 1.0 as 1."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{_canonical(v)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(sorted(map(_canonical, value))) + "]"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def _parsed(text: str) -> Any:
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    return json.loads(fenced[1] if fenced else text)


def _extraction(answer: Answer, reference: Answer) -> Comparison:
    try:
        got = _parsed(answer.text)
        ours, canonical = json_fields(got), _canonical(got)
    except (ValueError, RecursionError):
        return WRONG_FORM
    try:
        wanted = _parsed(reference.text)
        theirs, expected = json_fields(wanted), _canonical(wanted)
    except (ValueError, RecursionError):
        return Comparison(loss=1.0)
    f1 = 2 * (ours & theirs).total() / (ours.total() + theirs.total())
    return Comparison(loss=float(canonical != expected), field_f1=f1)


def _calls(answer: Answer) -> Counter[tuple[str, str]] | None:
    calls: Counter[tuple[str, str]] = Counter()
    for call in answer.tool_calls:
        try:
            arguments = _canonical(json.loads(call.function.arguments or "{}"))
        except (ValueError, RecursionError):
            return None
        calls[call.function.name, arguments] += 1
    return calls


def _function_calling(answer: Answer, reference: Answer) -> Comparison:
    got = _calls(answer)
    if got is None:
        return WRONG_FORM
    return Comparison(loss=float(got != _calls(reference)))


_SQL_PIECE = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|[A-Za-z_][\w$]*|\d+(?:\.\d+)?|[<>!=]=|<>|\S")
_SQL_START = re.compile(r"\s*(?:```(?:sql)?\s*)?(?:select|with)\b", re.IGNORECASE)


def _sql_pieces(text: str) -> list[str]:
    text = re.sub(r"^\s*```(?:sql)?\s*|\s*```\s*$", "", text).strip().rstrip(";")
    return [p if p[0] in "'\"" else p.lower() for p in _SQL_PIECE.findall(text)]


def _sql(answer: Answer, reference: Answer, database: str | Path | None) -> Comparison:
    """By result or canonical form; word by word where sqlglot is not installed and there is no database."""
    from tiercel.tasks.sql import sql_loss

    try:
        return sql_loss(answer.text, reference.text, database)
    except MissingExtraError:
        if database is not None:
            raise
    if not _SQL_START.match(answer.text):
        return WRONG_FORM
    return Comparison(loss=float(_sql_pieces(answer.text) != _sql_pieces(reference.text)))


def _generation(answer: Answer, reference: Answer) -> Comparison:
    ours, theirs = (Counter(re.findall(r"\w+|[^\w\s]", a.text.casefold())) for a in (answer, reference))
    if not ours:
        return WRONG_FORM
    return Comparison(loss=1 - 2 * (ours & theirs).total() / (ours.total() + theirs.total()))


_COMPARE: dict[str, Callable[[Answer, Answer], Comparison]] = {
    "extraction": _extraction,
    "function_calling": _function_calling,
    "generation": _generation,
}
