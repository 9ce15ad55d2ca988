"""What a decoder is taught to write, and the form that its answers are held to: a JSON Schema or a grammar."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tiercel.engines.json_grammar import JsonGrammar, literal, schema_grammar
from tiercel.engines.tool_form import arguments_schema
from tiercel.errors import ConfigurationError, DataError
from tiercel.flows.generating import text_of
from tiercel.flows.preparation import Prepared, Rows
from tiercel.flows.progress import Progress
from tiercel.tasks.gbnf import Grammar
from tiercel.tasks.labels import LabelSet
from tiercel.tasks.learned_schema import learn_schema

if TYPE_CHECKING:
    from tiercel.tasks.sql_schema import Schema

__all__ = ["call_grammar", "form_of", "label_grammar", "schema_of", "taught_answers"]

Json = dict[str, Any]

MOSTLY = 0.9
"""Share of the training rows' answers that a declared form has to allow: with less, it is not the form they have."""
HALF = 0.5
"""Share of the training rows' queries that a grammar of their schema has to allow: what it forbids escalates."""
TRIED = 100
"""Answers that are looked at for that."""


def taught_answers(prepared: Prepared, rows: Rows) -> list[str]:
    """What a decoder is to write for each row: labels as the grammar has them, else the answers' own text.

    Empty where an answer names no label: such a row can't be learnt from.
    """
    labels = prepared.labels
    if prepared.task != "classification" or labels is None:
        return [text_of(prepared.task, answer) for answer in rows.reference]
    found = [labels.parse(answer.text) for answer in rows.reference]
    return [labels.render(numbers) if numbers is not None else "" for numbers in found]


def form_of(prepared: Prepared, progress: Progress) -> tuple[Json | None, str | None]:
    """JSON Schema and grammar of a workload's answers; at most one of them is not None.

    What requests declare goes before what is learned from answers, where a grammar can hold it and the training rows'
    answers follow it; `progress` is warned where it does not, and where queries are held to nothing.
    """
    if prepared.task == "classification" and prepared.labels is not None:
        return None, label_grammar(prepared.labels)
    if prepared.task == "sql":
        return None, _sql_grammar(prepared, progress)
    if prepared.task == "function_calling":
        return None, _calls_of(prepared, progress)
    if prepared.task == "extraction":
        return _schema_of_answers(prepared, progress), None
    return None, None


def _schema_of_answers(prepared: Prepared, progress: Progress) -> Json:
    texts = [a.text for a in prepared.train.reference]
    declared = prepared.declared.schema
    if declared is not None:
        why = _unfit(declared, texts)
        if why is None:
            return declared
        progress.warn(f"the schema of the response format {why}; one learned from the answers takes its place")
    return learn_schema(_parsed(texts))


def _calls_of(prepared: Prepared, progress: Progress) -> str | None:
    """The grammar of calls of the declared functions, or else of those that answers call."""
    made = defaultdict[str, list[str]](list)
    for answer in prepared.train.reference:
        for call in answer.tool_calls:
            made[call.function.name].append(call.function.arguments or "{}")
    learned = {name: learn_schema(values) for name, texts in made.items() if (values := _parsed(texts))}
    arguments = dict[str, Json]()
    for function in prepared.declared.functions:
        name, schema = function["name"], arguments_schema(function)
        why = _unfit(schema, made[name])
        if why is None:
            arguments[name] = schema
            continue
        if name in learned:
            arguments[name] = learned[name]
        instead = "ones learned from its calls take their place" if name in learned else "it is not called"
        progress.warn(f"the declared parameters of {name} {why}; {instead}")
    arguments = arguments or learned
    several = any(len(a.tool_calls) > 1 for a in prepared.train.reference)
    return call_grammar(arguments, several=several) if arguments else None


def call_grammar(arguments: Mapping[str, Json], *, several: bool) -> str:
    """GBNF of function calls as `text_of` writes them.

    Args:
        arguments: JSON Schema of the arguments of each function.
        several: whether an answer may also be a list of two calls or more.

    Raises:
        ConfigurationError: a grammar can't hold a schema.
    """
    rules = JsonGrammar()
    calls = list[str]()
    for name, schema in arguments.items():
        before = json.dumps({"name": name}, ensure_ascii=False)[:-1] + ', "arguments": '
        calls.append(f"{literal(before)} {rules.add(schema, f'#({name})')} {literal('}')}")
    listed = f" | {literal('[')} call ({literal(', ')} call)+ {literal(']')}" if several else ""
    return rules.text(f"call{listed}") + f"call ::= {' | '.join(calls)}\n"


def _unfit(schema: Json, texts: Sequence[str]) -> str | None:
    """Why answers can't be held to a schema, as the end of a sentence; None where they can."""
    try:
        share = _accepted(schema_grammar(schema), texts)
    except ConfigurationError as error:
        return f"can't be held by a grammar ({error})"
    return None if share >= MOSTLY else f"would forbid {1 - share:.0%} of the answers"


def _accepted(source: str, texts: Sequence[str]) -> float:
    """Share of some of the texts that follow a grammar; 1 where there are none."""
    grammar = Grammar(source)
    tried = texts[:: max(1, len(texts) // TRIED)]
    return sum(grammar.accepts(text.strip()) for text in tried) / len(tried) if tried else 1.0


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


def _parsed(texts: Sequence[str]) -> list[Any]:
    """The values of those texts that are JSON."""
    values = list[Any]()
    for text in texts:
        with contextlib.suppress(ValueError, RecursionError):
            values.append(json.loads(text))
    return values


def schema_of(prepared: Prepared) -> Schema | None:
    """Tables and columns that queries may name: those of the workload's system prompt, or else of the database."""
    from tiercel.tasks.sql_execution import dialect_of
    from tiercel.tasks.sql_schema import read_schema, schema_of_database

    database = prepared.database
    with contextlib.suppress(DataError, ImportError):
        return read_schema(prepared.reader.key.template.shown, dialect_of(database) if database else "sqlite")
    with contextlib.suppress(DataError, ImportError):
        return schema_of_database(database) if database else None
    return None


def _sql_grammar(prepared: Prepared, progress: Progress) -> str | None:
    """The grammar of queries over the workload's tables and columns; None, with a warning, where there is none."""
    from tiercel.tasks.sql import extract_sql
    from tiercel.tasks.sql_execution import dialect_of
    from tiercel.tasks.sql_grammar import aliases_in, sql_grammar

    schema, why = schema_of(prepared), "the system prompt has no CREATE TABLE that can be read; give --database"
    queries = [extract_sql(a.text) or "" for a in prepared.train.reference]
    if schema is not None:
        sqlite = prepared.database is None or dialect_of(prepared.database) == "sqlite"
        try:
            grammar = sql_grammar(schema, aliases=aliases_in(queries), quoted_texts=sqlite)
            share = _accepted(grammar, queries)
            if share >= HALF:
                return grammar
            why = f"their grammar would forbid {1 - share:.0%} of the answers"
        except (ConfigurationError, DataError) as error:
            why = str(error)
    progress.warn(f"queries are not held to the tables and columns of a schema: {why}")
    return None
