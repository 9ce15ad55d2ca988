from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.datasets.contract import example_from
from tiercel.datasets.templates import TemplateIndex
from tiercel.engines.json_grammar import schema_grammar
from tiercel.flows.held_form import form_of, label_grammar
from tiercel.flows.preparation import Prepared, prepare
from tiercel.flows.progress import Silent
from tiercel.tasks.gbnf import Grammar
from tiercel.tasks.labels import LabelSet

NAMES = ("refund", 'say "no"', "a\\b", "new\nline", "déjà-vu", "refund later")
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "parts": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["name", "parts"],
    "additionalProperties": False,
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
QUERY = "SELECT name FROM town WHERE id = "


@given(st.lists(st.sampled_from(range(len(NAMES))), unique=True))
@pytest.mark.parametrize("separator", [", ", "; ", "json"])
def test_every_answer_with_several_labels_is_in_the_grammar(separator: str, numbers: list[int]) -> None:
    labels = LabelSet(labels=NAMES, multi=True, separator=separator)
    grammar = Grammar(label_grammar(labels))
    text = labels.render(sorted(numbers))
    assert grammar.accepts(text)
    assert not grammar.accepts(text + "x")


def test_one_label_is_one_label() -> None:
    grammar = Grammar(label_grammar(LabelSet(labels=NAMES)))
    assert all(grammar.accepts(name) for name in NAMES)
    assert not any(grammar.accepts(text) for text in ("", "refund, refund", "Refund", "refund ", "other"))


def prepared(task: str, answer: Callable[[int], dict[str, Any]], **more: Any) -> Prepared:
    """90 rows of a workload, whose answers are messages; `more` goes beside the messages, or to `prepare`."""
    database, system = more.pop("database", None), more.pop("system", None)
    rows = list[Any]()
    for i in range(90):
        before = [{"role": "system", "content": system}] if system else []
        request = {"role": "user", "content": f"{i} {'abcdefghij'[i % 10] * 3} {i * i}"}
        rows.append(example_from({"id": str(i), "messages": [*before, request, answer(i)], **more}))
    index = TemplateIndex()
    for row in rows:
        index.add(row)
    return prepare(
        index.keys[0],
        rows,
        None,
        task=task,
        labels=None,
        shape=task,
        max_loss=0.5,
        seed=0,
        progress=Silent(),
        database=database,
    )


def as_json(value: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": json.dumps(value)}


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def tree(i: int) -> dict[str, Any]:
    return {"name": f"n{i}", "parts": [tree(i // 2)] if i % 3 else []}


def test_json_follows_the_schema_of_the_response_format_however_deep_it_refers_to_itself() -> None:
    told = Silent()
    schema, _ = form_of(prepared("extraction", lambda i: as_json(tree(i)), response_format=strict(TREE)), told)
    assert (schema, told.warnings) == (TREE, [])
    deeper = {"name": "x", "parts": [{"name": "y", "parts": [{"name": "z", "parts": []}]}]}
    grammar = Grammar(schema_grammar(TREE))
    assert grammar.accepts(json.dumps(deeper))
    assert not grammar.accepts(json.dumps(deeper | {"parts": [{}]}))


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "object", "not": {}}, "can't be held by a grammar"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "can't be held by a grammar"),
        ({"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}, "would forbid 100%"),
    ],
)
def test_a_schema_that_can_not_be_held_gives_way_to_a_learned_one_and_is_told(schema: Any, why: str) -> None:
    told = Silent()
    found, _ = form_of(prepared("extraction", lambda i: as_json({"n": i}), response_format=strict(schema)), told)
    assert found is not None
    assert found["properties"] == {"n": {"type": "integer"}}
    [warning] = told.warnings
    assert warning.startswith(f"the schema of the response format {why}")
    assert warning.endswith("one learned from the answers takes its place")


def test_json_without_a_schema_is_learned_in_silence() -> None:
    told = Silent()
    row = {"response_format": {"type": "json_object"}}
    found, _ = form_of(prepared("extraction", lambda i: as_json({"n": i}), **row), told)
    assert found is not None
    assert (found["properties"], told.warnings) == ({"n": {"type": "integer"}}, [])


def called(*calls: tuple[str, Any]) -> dict[str, Any]:
    made = [
        {"id": str(i), "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for i, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": None, "tool_calls": made}


def tool(name: str, parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def one_of_two(i: int) -> dict[str, Any]:
    return called(("weather", {"city": f"c{i}"}) if i % 2 else ("stop", {}))


def said(*calls: tuple[str, Any]) -> str:
    made = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return json.dumps(made[0] if len(made) == 1 else made)


def test_arguments_belong_to_their_function() -> None:
    told = Silent()
    tools = [tool("weather", CITY), tool("stop", {"type": "object", "properties": {}}), tool("never", CITY)]
    schema, source = form_of(prepared("function_calling", one_of_two, tools=tools), told)
    assert source is not None
    assert (schema, told.warnings) == (None, [])
    grammar = Grammar(source)
    weather, stop = ("weather", {"city": "Bern"}), ("stop", {})
    assert all(grammar.accepts(said(call)) for call in (weather, stop, ("never", {"city": "Bern"})))
    wrong = [("weather", {}), ("stop", {"city": "Bern"}), ("other", {}), ("weather", {"city": 7})]
    assert not any(grammar.accepts(said(call)) for call in wrong)
    # No answer of this traffic calls two functions at once.
    assert not grammar.accepts(said(weather, stop))


def test_calls_come_together_where_the_traffic_has_them_so() -> None:
    def both(i: int) -> dict[str, Any]:
        return called(("weather", {"city": f"c{i}"}), ("stop", {})) if i % 3 == 0 else one_of_two(i)

    _, source = form_of(prepared("function_calling", both, tools=[tool("weather", CITY), tool("stop", None)]), Silent())
    assert source is not None
    grammar = Grammar(source)
    weather, stop = ("weather", {"city": "Bern"}), ("stop", {})
    assert all(grammar.accepts(said(*calls)) for calls in ((weather,), (stop, weather), (weather, weather, stop)))
    assert not any(grammar.accepts(text) for text in ("[]", f"[{said(stop)}]", said(weather, ("weather", {}))))


def test_calls_of_functions_that_nobody_declares_keep_the_arguments_that_each_has_had() -> None:
    told = Silent()
    _, source = form_of(prepared("function_calling", one_of_two), told)
    assert source is not None
    grammar = Grammar(source)
    assert grammar.accepts(said(("weather", {"city": "Bern"})))
    assert not any(grammar.accepts(said(call)) for call in (("weather", {}), ("stop", {"city": "Bern"})))
    assert told.warnings == []


def test_parameters_that_can_not_be_held_are_learned_from_calls_or_left_out() -> None:
    told = Silent()
    pattern = CITY | {"properties": {"city": {"type": "string", "pattern": "^c"}}}
    tools = [tool("weather", pattern), tool("stop", None), tool("never", pattern)]
    _, source = form_of(prepared("function_calling", one_of_two, tools=tools), told)
    assert source is not None
    grammar = Grammar(source)
    assert grammar.accepts(said(("weather", {"city": "Bern"})))
    assert not any(grammar.accepts(said(call)) for call in (("weather", {}), ("never", {"city": "Bern"})))
    assert [w.partition(" can't")[0] for w in told.warnings] == [
        "the declared parameters of weather",
        "the declared parameters of never",
    ]
    assert told.warnings[1].endswith("it is not called")


def query(i: int) -> dict[str, Any]:
    return {"role": "assistant", "content": f"{QUERY}{i}"}


@pytest.fixture
def towns(tmp_path: Path) -> str:
    path = tmp_path / "towns.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE town (id INTEGER, name TEXT); INSERT INTO town VALUES (1, 'Bern');")
    return str(path)


def test_queries_name_what_the_prompt_or_else_the_database_has(towns: str) -> None:
    told = Silent()
    prompt = "The schema: CREATE TABLE town (id integer, name text, mayor text)"
    for more, mayor in (({"system": prompt, "database": towns}, True), ({"database": towns}, False)):
        _, source = form_of(prepared("sql", query, **more), told)
        assert source is not None
        grammar = Grammar(source)
        assert grammar.accepts(f"{QUERY}7")
        assert grammar.accepts("SELECT mayor FROM town") is mayor
        assert not grammar.accepts("SELECT name FROM city")
    assert told.warnings == []


def test_queries_on_postgresql_name_what_the_role_may_read_there(postgres_url: str) -> None:
    import psycopg

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE town (id integer, name text)")
        connection.execute("INSERT INTO town VALUES (1, 'Bern')")
    told = Silent()
    _, source = form_of(prepared("sql", query, database=postgres_url), told)
    assert source is not None
    grammar = Grammar(source)
    assert grammar.accepts("SELECT id FROM town WHERE name = 'Bern'")
    # A text in double quotes is a name here.
    assert not any(map(grammar.accepts, ("SELECT mayor FROM town", 'SELECT id FROM town WHERE name = "Bern"')))
    assert told.warnings == []


def test_queries_that_are_held_to_no_schema_are_told() -> None:
    told = Silent()
    assert form_of(prepared("sql", query), told) == (None, None)
    assert form_of(prepared("sql", query, system="CREATE TABLE river (id integer)"), told) == (None, None)
    start = "queries are not held to the tables and columns of a schema: "
    assert told.warnings == [
        f"{start}the system prompt has no CREATE TABLE that can be read; give --database",
        f"{start}their grammar would forbid 100% of the answers",
    ]
