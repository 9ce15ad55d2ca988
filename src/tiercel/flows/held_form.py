"""What a decoder is taught to write, and the form that its answers are held to: a JSON Schema or a grammar."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tiercel.engines.json_grammar import literal
from tiercel.errors import DataError
from tiercel.flows.generating import text_of
from tiercel.flows.preparation import Prepared, Rows
from tiercel.tasks.labels import LabelSet
from tiercel.tasks.learned_schema import learn_schema

if TYPE_CHECKING:
    from tiercel.tasks.sql_schema import Schema

__all__ = ["form_of", "label_grammar", "schema_in_prompt", "taught_answers"]


def taught_answers(prepared: Prepared, rows: Rows) -> list[str]:
    """What a decoder is to write for each row: labels as the grammar has them, else the answers' own text.

    Empty where an answer names no label: such a row can't be learnt from.
    """
    labels = prepared.labels
    if prepared.task != "classification" or labels is None:
        return [text_of(prepared.task, answer) for answer in rows.reference]
    found = [labels.parse(answer.text) for answer in rows.reference]
    return [labels.render(numbers) if numbers is not None else "" for numbers in found]


def form_of(prepared: Prepared) -> tuple[dict[str, Any] | None, str | None]:
    """JSON Schema and grammar of a workload's answers; at most one of them is not None."""
    if prepared.task == "classification" and prepared.labels is not None:
        return None, label_grammar(prepared.labels)
    if prepared.task == "sql":
        return None, _sql_grammar(prepared)
    if prepared.task not in ("extraction", "function_calling"):
        return None, None
    values = [_parsed(text_of(prepared.task, a)) for a in prepared.train.reference]
    return learn_schema([v for v in values if v is not None]), None


def label_grammar(labels: LabelSet) -> str:
    """GBNF of answers that carry one label or, where several are allowed, a list of them in the workload's own form."""
    as_json = labels.multi and labels.separator == "json"
    names = [json.dumps(name, ensure_ascii=False) if as_json else name for name in labels.labels]
    label = "label ::= " + " | ".join(literal(name) for name in names) + "\n"
    if not labels.multi:
        return "root ::= label\n" + label
    between = literal(", " if as_json else labels.separator)
    listed = f"(label ({between} label)*)?"
    root = f"{literal('[')} {listed} {literal(']')}" if as_json else listed
    return f"root ::= {root}\n" + label


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def schema_in_prompt(prepared: Prepared) -> Schema | None:
    """The database's schema as it stands in the workload's system prompt; None where none does."""
    from tiercel.tasks.sql_schema import read_schema

    try:
        return read_schema(prepared.reader.key.template.shown)
    except (DataError, ImportError):
        return None


def _sql_grammar(prepared: Prepared) -> str | None:
    """The grammar of queries over the schema that stands in the workload's system prompt; None where none does."""
    from tiercel.tasks.sql_grammar import aliases_in, sql_grammar

    schema = schema_in_prompt(prepared)
    if schema is None:
        return None
    try:
        return sql_grammar(schema, aliases=aliases_in(a.text for a in prepared.train.reference))
    except DataError:
        return None
