from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.students.answer_form import AnswerForm, Compiled, Span, learn_form
from tiercel.types import Answer, FunctionCall, ToolCall


def words(text: str) -> list[tuple[int, int]]:
    return [m.span() for m in re.finditer(r"\w+|[^\w\s]", text)]


def learn(rows: list[tuple[str, Any]], **dump: Any) -> tuple[AnswerForm, list[Compiled | None]]:
    texts = [t for t, _ in rows]
    answers = [Answer(content=json.dumps(a, **dump)) for _, a in rows]
    form = learn_form(texts, answers, [words(t) for t in texts], calls=False)
    return form, [form.compile(t, a, words(t)) for t, a in zip(texts, answers, strict=True)]


def orders(n: int, seed: int = 0) -> list[tuple[str, Any]]:
    rng = random.Random(seed)
    names, items = ["Ann Lee", "Bob", "Cy Young", "Dora"], ["red lamps", "desk", "USB cables", "mugs"]
    spelled = {"two": 2, "twelve": 12, "7": 7, "1,500": 1500}
    rows = list[tuple[str, Any]]()
    for _ in range(n):
        name, item, count, soon = rng.choice(names), rng.choice(items), rng.choice(list(spelled)), rng.random() < 0.5
        text = f"{name} wants {count} {item}{' right now' if soon else ''} please"
        answer: Any = {"kind": "order", "item": item.lower(), "count": spelled[count], "urgent": soon, "for": {}}
        if rng.random() < 0.8:
            answer["for"] = {"name": name}
            rows.append((text, answer))
        else:
            rows.append((text.replace(name, "Someone"), answer))
    return rows


def test_copied_normalised_and_chosen_values_give_the_answer_back() -> None:
    rows = orders(300)
    form, compiled = learn(rows)
    fields = {f.path: f for f in form.fields}
    assert fields["item",].normalisers == ("lower",)
    assert fields["count",].normalisers[0] == "number"
    assert fields["kind",].values == ('"order"',)
    assert not fields["kind",].normalisers
    assert set(fields["urgent",].values) == {"true", "false"}
    assert ("for",) in form.objects
    assert all(c is not None for c in compiled)
    for (text, answer), found in zip(rows, compiled, strict=True):
        assert found is not None
        assert json.loads(form.render(text, found, words(text)).text) == answer
        assert form.render(text, found, words(text)).text == json.dumps(answer)


@pytest.mark.parametrize("dump", [{"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])
def test_the_layout_is_the_frontiers(dump: dict[str, Any]) -> None:
    rows = [(f"call Zoë{i} at home", {"who": f"Zoë{i}", "place": "home"}) for i in range(20)]
    form, compiled = learn(rows, **dump)
    text, answer = rows[3]
    found = compiled[3]
    assert found is not None
    assert form.render(text, found, words(text)).text == json.dumps(answer, **dump)


def test_a_field_that_never_had_two_values_gets_one() -> None:
    form, _ = learn([(f"weather in c{i}", {"city": f"c{i}"}) for i in range(20)])
    twice = Compiled(spans=(Span(0, 2, 2), Span(0, 4, 4)), classes=(0,))
    text = "weather in c3 and c5"
    assert json.loads(form.render(text, twice, words(text)).text) == {"city": "c3"}


def test_a_repeated_field_is_numbered_and_a_list_stays_a_list() -> None:
    twice = [(f"play a{i} then b{i}", {"song": f"a{i}", "song_2": f"b{i}"}) for i in range(20)]
    form, compiled = learn(twice)
    assert [f.path for f in form.fields] == [("song",)]
    assert all(compiled)
    lists = [(f"buy a{i} and b{i}", {"items": [f"a{i}", f"b{i}"]}) for i in range(20)]
    form, compiled = learn(lists)
    assert form.fields[0].listed
    assert all(compiled)


def test_what_is_not_made_of_the_request_is_not_claimed() -> None:
    rows = orders(200)
    form, _ = learn(rows)
    text, answer = rows[0]
    for other in (answer | {"item": "a sofa"}, answer | {"extra": 1}, [answer], "text"):
        assert form.compile(text, Answer(content=json.dumps(other)), words(text)) is None
    assert form.compile(text, Answer(content="no json"), words(text)) is None


def test_function_calls_are_rendered_as_calls() -> None:
    def call(name: str, **arguments: Any) -> Answer:
        function = FunctionCall(name=name, arguments=json.dumps(arguments))
        return Answer(tool_calls=(ToolCall(function=function),))

    texts = [f"weather in town{i}" for i in range(20)] + [f"mail bob{i}" for i in range(20)]
    answers = [call("weather", city=f"town{i}") for i in range(20)] + [call("mail", to=f"bob{i}") for i in range(20)]
    form = learn_form(texts, answers, [words(t) for t in texts], calls=True)
    for text, answer in zip(texts, answers, strict=True):
        found = form.compile(text, answer, words(text))
        assert found is not None
        assert form.render(text, found, words(text)) == answer
    several = Answer(tool_calls=answers[0].tool_calls + answers[1].tool_calls)
    assert form.compile(texts[0], several, words(texts[0])) is None


def test_the_same_word_twice_fills_two_fields() -> None:
    rows = [(f"from c{i} to d{i} via c{i}", {"from": f"c{i}", "to": f"d{i}", "via": f"c{i}"}) for i in range(20)]
    _, compiled = learn(rows)
    assert all(c is not None and len({s.first for s in c.spans}) == 3 for c in compiled)


LEAF = st.one_of(st.none(), st.booleans(), st.integers(-5, 500), st.text("abc ", min_size=1, max_size=6))
TREES = st.dictionaries(st.sampled_from(["a", "b", "a_2", "c"]), LEAF | st.lists(LEAF, max_size=2), max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.text("abc 1,", max_size=20), TREES), min_size=1, max_size=12))
def test_whatever_compiles_renders_to_the_same_value(rows: list[tuple[str, Any]]) -> None:
    form, compiled = learn(rows)
    for (text, answer), found in zip(rows, compiled, strict=True):
        if found is not None:
            assert json.loads(form.render(text, found, words(text)).text) == answer


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_tags_render_to_json(data: st.DataObject) -> None:
    rows = orders(60)
    form, _ = learn(rows)
    text = data.draw(st.sampled_from([t for t, _ in rows]))
    n = len(words(text))
    classes = tuple(data.draw(st.integers(0, len(f.values))) for f in form.fields)
    firsts = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=5))
    spans = tuple(Span(data.draw(st.integers(0, len(form.fields) - 1)), i, i) for i in firsts)
    assert isinstance(json.loads(form.render(text, Compiled(spans, classes), words(text)).text), dict)
