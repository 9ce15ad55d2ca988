"""Pilots whose answers a decoder writes, trained here from scratch and served by llama.cpp."""

from __future__ import annotations

import json
import math
import random
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.flows.conftest import rows, write_rows
from tests.flows.test_structure import as_call, as_json, order, write
from tiercel import load, verify_bundle
from tiercel.datasets.contract import example_from
from tiercel.datasets.templates import TemplateIndex
from tiercel.engines.protocol import Generated, Token
from tiercel.errors import ConfigurationError, DataError, ParityError
from tiercel.flows import micro_rung
from tiercel.flows.answer_confidence import FIRST_SIGNALS, answer_signals
from tiercel.flows.generating import Generator, answer_of, text_of
from tiercel.flows.pilot import PilotSettings, pilot
from tiercel.flows.preparation import prepare
from tiercel.flows.progress import Silent
from tiercel.students import micro_labels
from tiercel.students.micro_tokenizer import MicroTokenizer
from tiercel.students.micro_training import MicroPlan
from tiercel.tasks.gbnf import Grammar
from tiercel.tasks.json_schema import schema_violation
from tiercel.types import Answer, FunctionCall, ToolCall

pytest.importorskip("xllamacpp")

TOKEN = Token(text="ref", logprob=-0.1)
SCHEMA = "CREATE TABLE orders (item text, count integer, name text)"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_rung, "PLAN", {"size": 250_000, "epochs": 40})


def as_text(text: str, answer: dict[str, Any]) -> dict[str, Any]:
    told = f"{answer['count']} {answer['item']} {'now' if answer['urgent'] else 'soon'}"
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"We ship {told}."}]}


def as_sql(text: str, answer: dict[str, Any]) -> dict[str, Any]:
    query = f"SELECT name FROM orders WHERE item = '{answer['item']}' AND count = {answer['count']}"
    system = f"Write one query. The schema: {SCHEMA}"
    return {
        "messages": [
            {"role": "system", "content": system},
            {"role": "user", "content": text},
            {"role": "assistant", "content": query},
        ]
    }


def run(tmp_path: Path, make: Callable[..., dict[str, Any]], **more: Any) -> Any:
    traffic = write(tmp_path / "traffic.jsonl", 700, make)
    return pilot([traffic], tmp_path / "out", PilotSettings(**({"max_loss": 0.5, "threads": 2} | more)))


def test_free_text_is_taken_over_and_served_as_trained(tmp_path: Path) -> None:
    result = run(tmp_path, as_text, task="generation", gate_samples=2)
    [student] = result.students
    assert (result.task, student.rung, student.precision) == ("generation", "micro", "q8_0")
    assert student.parity == 1.0
    assert student.loss is not None
    assert student.loss < 0.4
    assert re.search(r"loss 0\.\d+ served, 0\.\d+ trained.* on \d\d rows of the gate", student.note)
    assert result.certificate.bound == 0.5
    verify_bundle(tmp_path / "out")
    bundle = load(tmp_path / "out")
    text, _ = order(random.Random(77))
    answered = bundle.answer([{"role": "user", "content": text}])
    assert answered.answer is None or answered.answer.startswith("We ship ")
    strange = bundle.answer([{"role": "user", "content": "quantum flux " * 2_000}])
    assert strange.tier == "frontier"
    requests = [order(random.Random(i))[0] for i in range(12)]
    found = bundle.student.respond([*requests, "quantum flux " * 2_000])
    signal = dict(zip(bundle.student.signals, found.signals.T, strict=True))
    assert set(signal["sample_agreement"]) <= {0.0, 0.5, 1.0}
    assert signal["sample_agreement"][:12].mean() > 0.5
    assert signal["sample_agreement"][12] == 0.0
    assert (signal["weakest_token"] <= signal["tenth_token"] + 1e-9).all()
    assert (signal["tenth_token"] <= signal["quarter_token"] + 1e-9).all()
    as_before_signals_had_names(tmp_path / "out" / "bundle" / "students", requests, signal)


def as_before_signals_had_names(students: Path, requests: list[str], signal: dict[str, Any]) -> None:
    """A student whose record names no signals gives its gate the columns that it was fitted on."""
    path = students / "generator" / "generator.json"
    record = json.loads(path.read_text())
    assert record["samples"] == 2
    path.write_text(json.dumps({k: v for k, v in record.items() if k not in ("signals", "samples")}))
    old = Generator.load(students, threads=2)
    assert old.signals == FIRST_SIGNALS
    columns = old.respond(requests).signals.T
    assert columns.shape == (8, 12)
    for name, column in zip(FIRST_SIGNALS, columns, strict=True):
        assert column == pytest.approx(signal[name][:12], abs=1e-3)


def test_json_is_always_valid_under_the_schema_of_the_response_format(tmp_path: Path) -> None:
    person = {"type": "object", "properties": {"name": {"type": "string"}, "through": {"$ref": "#/$defs/person"}}}
    kinds = {"item": {"type": "string"}, "count": {"type": "integer"}, "to": {"$ref": "#/$defs/person"}}
    schema = {
        "type": "object",
        "properties": kinds | {"urgent": {"type": "boolean"}},
        "required": ["item", "count", "to", "urgent"],
        "$defs": {"person": person},
    }
    asked = {"type": "json_schema", "json_schema": {"name": "order", "strict": True, "schema": schema}}
    run(tmp_path, lambda *row: as_json(*row) | {"response_format": asked}, students=("micro",), threads=1)
    bundle = load(tmp_path / "out")
    assert bundle.student.record.schema == schema
    texts = [order(random.Random(i))[0] for i in range(30)]
    responses = bundle.student.respond(texts)
    signal = dict(zip(bundle.student.signals, responses.signals.T, strict=True))
    finished = signal["finished"] > 0
    # Four values, of which the weakest costs most; what is left of the answer are keys and braces.
    assert (signal["weakest_field"] <= signal["mean_field"]).all()
    assert (signal["log_probability"] <= 4 * signal["mean_field"] + 1e-6)[finished].mean() > 0.9
    assert finished.sum() > 20
    for answer, whole in zip(responses.answers, finished, strict=True):
        if whole:
            assert schema_violation(json.loads(answer.text), schema) is None
    messages = as_json(texts[0], {})["messages"][:-1]
    assert bundle.answer(messages, response_format=asked).reason != "another workload"
    for other in (None, {"type": "json_object"}):
        assert bundle.answer(messages, response_format=other).reason == "another workload"


def test_sql_names_only_what_the_schema_has(tmp_path: Path) -> None:
    result = run(tmp_path, as_sql, task="sql")
    assert result.task == "sql"
    bundle = load(tmp_path / "out")
    asked = [order(random.Random(i)) for i in range(20)]
    answers = bundle.student.respond([text for text, _ in asked]).answers
    assert all(a.text.upper().startswith("SELECT") for a in answers)
    # Items are hidden from the model and put back into what it writes; no query can name another's.
    request = bundle.student.request(asked[0][0]).messages[-1].text
    assert "item xa" in request
    assert asked[0][1]["item"] not in request
    for answer, (_, wanted) in zip(answers, asked, strict=True):
        assert set(re.findall("'([^']*)'", answer.text)) <= {wanted["item"]}


def test_sql_names_only_what_the_database_has_and_needs_it_no_more_when_it_is_served(tmp_path: Path) -> None:
    def without_schema(text: str, answer: dict[str, Any]) -> dict[str, Any]:
        return {"messages": as_sql(text, answer)["messages"][1:]}

    path = database(tmp_path / "shop.sqlite", SCHEMA)
    traffic = write(tmp_path / "traffic.jsonl", 300, without_schema)
    told = Silent()
    settings = PilotSettings(max_loss=0.9, threads=1, task="sql", database=path, micro_size=120_000)
    result = pilot([traffic], tmp_path / "out", settings, progress=told)
    assert "held to" not in " ".join(told.warnings)
    assert float(result.students[0].note.partition(" M parameters")[0]) <= 0.12
    Path(path).unlink()
    student = load(tmp_path / "out").student
    grammar = Grammar(student.record.grammar)
    assert grammar.accepts("SELECT id FROM customers")
    assert not grammar.accepts("SELECT price FROM orders")
    responses = student.respond([order(random.Random(i))[0] for i in range(12)])
    finished = responses.signals[:, student.signals.index("finished")] > 0
    assert finished.any()
    assert all(grammar.accepts(a.text) for a, whole in zip(responses.answers, finished, strict=True) if whole)


def small_labels(
    usual: Callable[..., MicroPlan], tokenizer: MicroTokenizer, rows: int, minutes: float | None
) -> MicroPlan:
    """The usual plan of labels in the size of a test, whatever the clock says."""
    return replace(usual(tokenizer, rows, None), size=120_000)


def test_a_decoder_of_labels_stands_beside_the_other_rungs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_labels, "label_plan", partial(small_labels, micro_labels.label_plan))
    traffic = write_rows(tmp_path / "traffic.jsonl", rows(400))
    settings = PilotSettings(max_loss=0.5, threads=1, students=("linear", "micro"))
    result = pilot([traffic], tmp_path / "out", settings)
    assert (result.task, [s.name for s in result.students]) == ("classification", ["linear", "micro"])
    micro = result.students[1]
    assert micro.rung == "micro"
    assert micro.parity is not None
    assert micro.parity > 0.9
    assert micro.loss is not None
    assert micro.loss < 0.4
    assert micro.macro_f1 is not None


def test_a_decoder_alone_takes_labels_over_in_one_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_labels, "label_plan", partial(small_labels, micro_labels.label_plan))
    traffic = write_rows(tmp_path / "traffic.jsonl", [{**r, "messages": _shouted(r["messages"])} for r in rows(500)])
    result = pilot([traffic], tmp_path / "out", PilotSettings(max_loss=0.5, threads=1, students=("micro",)))
    assert result.policy.student == "micro"
    assert result.certificate.bound == 0.5
    verify_bundle(tmp_path / "out")
    student = load(tmp_path / "out").student
    labels = {"refund", "delivery", "account", "praise"}
    # What the frontier wrote in several ways is learnt, and answered, in one.
    assert {label.casefold() for label in student.record.one_token} == labels
    responses = student.respond([r["messages"][1]["content"] for r in rows(40, seed=9)])
    assert {a.text for a in responses.answers} <= set(student.record.one_token)
    signal = dict(zip(student.signals, responses.signals.T, strict=True))
    assert set(signal["finished"]) == {1.0}
    assert signal["tokens"].max() == pytest.approx(math.log(2))
    assert signal["label_margin"].min() >= 0
    assert signal["label_margin"].max() > 1


def _shouted(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same answer, every third time in capitals and with a full stop."""
    *asked, answer = messages
    text = answer["content"]
    return [*asked, {**answer, "content": f"{text.upper()}." if len(asked[-1]["content"]) % 3 == 0 else text}]


def test_a_piece_of_a_label_is_no_answer() -> None:
    found = Generated(
        answer=Answer(content="ref"), finish_reason="length", input_tokens=1, output_tokens=1, tokens=(TOKEN,)
    )
    whole = msgspec.structs.replace(found, answer=Answer(content="refund"))
    read = [answer_signals(g, ("refund", "praise"))["finished"] for g in (found, whole)]
    assert read == [0.0, 1.0]


def test_what_is_served_otherwise_than_trained_is_never_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiercel.compress.serving_parity as serving

    def differs(*_: Any) -> None:
        raise ParityError("what would be served is not what was trained: stop differs in row 0")

    monkeypatch.setattr(serving, "require_parity", differs)
    with pytest.raises(ParityError, match="stop differs"):
        run(tmp_path, as_text, task="generation", students=("micro",))
    assert not (tmp_path / "out" / "bundle").exists()


def database(path: Path, *statements: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        for statement in ("CREATE TABLE customers (id integer)", *statements):
            connection.execute(statement)
        connection.commit()
    return str(path)


def test_a_database_on_which_no_query_runs_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of \d+ queries .* on the database \(failed: no such table: orders\)"):
        run(tmp_path, as_sql, task="sql", database=database(tmp_path / "other.sqlite"))
    assert not (tmp_path / "out" / ".work").exists()


def test_queries_that_do_not_run_on_the_database_are_told(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [as_sql(*order(rng)) for _ in range(80)]
    for row in rows[::2]:
        row["messages"][-1]["content"] = row["messages"][-1]["content"].replace("orders", "bills")
    examples = [example_from({"id": str(i)} | row) for i, row in enumerate(rows)]
    index = TemplateIndex()
    index.add(examples[0])
    told = Silent()
    prepare(
        index.keys[0],
        examples,
        None,
        task="sql",
        labels=None,
        shape="SQL",
        max_loss=0.5,
        seed=0,
        progress=told,
        database=database(tmp_path / "shop.sqlite", SCHEMA),
    )
    assert told.warnings == [
        "40 of 80 queries that were tried give no result on the database (failed: no such table: bills); "
        "such queries are compared by their text"
    ]


def test_a_database_for_answers_that_are_no_sql_is_told(tmp_path: Path) -> None:
    told = Silent()
    settings = PilotSettings(database="nowhere.sqlite", students=("lora",))
    with pytest.raises(ConfigurationError, match="no student is called 'lora'"):
        pilot([write(tmp_path / "traffic.jsonl", 200, as_json)], tmp_path / "out", settings, progress=told)
    assert told.warnings == ["--database is not used: the answers are JSON (extraction), no SQL"]


def test_answers_of_which_none_has_the_tasks_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no answer to train on is of the form of sql"):
        pilot([write(tmp_path / "traffic.jsonl", 200, as_json)], tmp_path / "out", PilotSettings(task="sql"))


def test_a_rung_that_no_task_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no student is called 'tagger'"):
        run(tmp_path, as_text, task="generation", students=("tagger",))


def test_calls_become_text_and_text_becomes_calls() -> None:
    rng = random.Random(0)
    message = as_call(*order(rng))["messages"][-1]["tool_calls"][0]["function"]
    call = ToolCall(function=FunctionCall(name=message["name"], arguments=message["arguments"]))
    for calls in ((call,), (call, call)):
        answer = Answer(tool_calls=calls)
        assert answer_of("function_calling", text_of("function_calling", answer)) == answer
    for text in ("nothing", "[1]", '{"arguments": {}}', ""):
        assert answer_of("function_calling", text) == Answer(content=text)
    assert answer_of("generation", "x") == Answer(content="x")
