from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import calling
from tiercel.tasks.labels import LabelSet
from tiercel.tasks.losses import TASKS, compare, json_fields, loss_of
from tiercel.types import Answer, FunctionCall, ToolCall

ONE = LabelSet(labels=("refund", "card lost", "other"))
SEVERAL = LabelSet(labels=("a", "b", "c", "d"), multi=True)
DEEP = "[" * 100_000

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def _loss(task: str, answer: str, reference: str, labels: LabelSet | None = None) -> float:
    return compare(task, Answer(content=answer), Answer(content=reference), labels).loss


@pytest.mark.parametrize("task", TASKS)
def test_an_answer_is_right_when_it_is_the_reference(task: str) -> None:
    answer = {
        "classification": Answer(content="refund"),
        "extraction": Answer(content='{"name": "Ada", "items": [1, 2]}'),
        "function_calling": calling(("look_up", {"id": 1})),
        "sql": Answer(content="SELECT name FROM t WHERE id = 1"),
        "generation": Answer(content="It ships tomorrow."),
    }[task]
    found = compare(task, answer, answer, ONE)
    assert found.loss == 0
    assert found.parsed


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("classification", "I am not sure"),
        ("classification", ""),
        ("extraction", "the name is Ada"),
        ("extraction", '{"name": "Ada"'),
        ("extraction", ""),
        ("sql", "You could use a join here"),
        ("sql", ""),
        ("generation", "  "),
    ],
)
def test_an_answer_that_is_not_of_the_tasks_form_is_lost_and_counted_apart(task: str, answer: str) -> None:
    reference = {"classification": "refund", "extraction": '{"name": "Ada"}', "sql": "select 1", "generation": "Ada"}
    found = compare(task, Answer(content=answer), Answer(content=reference[task]), ONE)
    assert found.loss == 1
    assert not found.parsed


def test_classification_counts_labels_not_spelling() -> None:
    assert _loss("classification", '"Refund".', "refund", ONE) == 0
    assert _loss("classification", "other", "refund", ONE) == 1
    with pytest.raises(ValueError, match="labels"):
        _loss("classification", "a", "a")


def test_classification_against_a_reference_that_is_no_label_is_lost_but_parsed() -> None:
    found = compare("classification", Answer(content="refund"), Answer(content="see a manager"), ONE)
    assert found.loss == 1
    assert found.parsed


@pytest.mark.parametrize(
    ("answer", "reference", "loss"),
    [("a, b", "b, a", 0), ("a", "a, b", 0.5), ("a, b", "c", 1), ("a, b, c", "b, c, d", 0.5), ("", "", 0), ("", "a", 1)],
)
def test_several_labels_lose_their_jaccard_distance(answer: str, reference: str, loss: float) -> None:
    assert _loss("classification", answer, reference, SEVERAL) == pytest.approx(loss)


def test_extraction_takes_a_fence_and_does_not_mind_order_or_how_numbers_are_written() -> None:
    wanted = '{"name": "Ada", "total": 3, "tags": ["x", "y"]}'
    assert _loss("extraction", '```json\n{"tags": ["y", "x"], "total": 3.0, "name": "Ada"}\n```', wanted) == 0
    for wrong in (
        '{"name": "ada", "total": 3, "tags": ["x", "y"]}',
        '{"name": "Ada", "total": "3", "tags": ["x", "y"]}',
        '{"name": "Ada", "total": 3, "tags": ["x"]}',
        '{"name": "Ada", "total": 3, "tags": ["x", "y"], "more": null}',
        '{"name": "Ada", "total": true, "tags": ["x", "y"]}',
    ):
        assert _loss("extraction", wrong, wanted) == 1, wrong


def test_extraction_says_which_share_of_the_fields_is_right() -> None:
    found = compare("extraction", Answer(content='{"a": 1, "b": 2}'), Answer(content='{"a": 1, "b": 3, "c": 4}'))
    assert found.field_f1 == pytest.approx(2 * 1 / (2 + 3))
    assert found.parsed


def test_extraction_against_a_reference_that_is_no_json_is_lost_but_parsed() -> None:
    found = compare("extraction", Answer(content="{}"), Answer(content="nothing found"))
    assert found.loss == 1
    assert found.parsed


def test_fields_of_two_objects_in_a_list_may_not_be_swapped() -> None:
    right = [{"item": "pen", "price": 2}, {"item": "desk", "price": 400}]
    swapped = [{"item": "pen", "price": 400}, {"item": "desk", "price": 2}]
    assert _loss("extraction", json.dumps(right[::-1]), json.dumps(right)) == 0
    assert _loss("extraction", json.dumps(swapped), json.dumps(right)) == 1


def test_a_tool_call_with_swapped_fields_is_another_call() -> None:
    right = {"transfers": [{"to": "Ada", "amount": 10}, {"to": "Bob", "amount": 9_000}]}
    swapped = {"transfers": [{"to": "Ada", "amount": 9_000}, {"to": "Bob", "amount": 10}]}
    assert compare("function_calling", calling(("pay", swapped)), calling(("pay", right))).loss == 1


@pytest.mark.parametrize(
    ("answer", "reference"),
    [('{"a.b": 1}', '{"a": {"b": 1}}'), ('{"a[]": 1}', '{"a": [1]}'), ("[[1, 2], [3]]", "[[1], [2, 3]]")],
)
def test_json_of_another_shape_is_another_json(answer: str, reference: str) -> None:
    assert _loss("extraction", answer, reference) == 1


@settings(max_examples=80, deadline=None)
@given(_JSON, st.randoms(use_true_random=False))
def test_fields_do_not_depend_on_the_order_of_keys_and_lists(value: Any, rng: random.Random) -> None:
    def shuffled(inner: Any) -> Any:
        if isinstance(inner, dict):
            keys = list(inner)
            rng.shuffle(keys)
            return {k: shuffled(inner[k]) for k in keys}
        if isinstance(inner, list):
            return rng.sample([shuffled(v) for v in inner], len(inner))
        return inner

    assert json_fields(shuffled(value)) == json_fields(value)


@pytest.mark.parametrize("pair", [(DEEP, "[]"), ("[]", DEEP)])
def test_json_nested_beyond_all_measure_is_lost_and_no_crash(pair: tuple[str, str]) -> None:
    assert _loss("extraction", *pair) == 1
    answer, reference = (calling(("f", p)) for p in pair)
    assert compare("function_calling", answer, reference).loss == 1


def test_tool_calls_are_right_in_any_order_and_with_any_blanks() -> None:
    wanted = calling(("a", {"x": 1, "y": [1, 2]}), ("b", {}))
    assert compare("function_calling", calling(("b", ""), ("a", '{"y":[2,1],"x":1.0}')), wanted).loss == 0
    for wrong in (
        calling(("a", {"x": 1, "y": [1, 2]})),
        calling(("a", {"x": 1, "y": [1, 2]}), ("b", {}), ("b", {})),
        calling(("A", {"x": 1, "y": [1, 2]}), ("b", {})),
        calling(("a", {"x": 2, "y": [1, 2]}), ("b", {})),
        Answer(content="I can't do that"),
    ):
        found = compare("function_calling", wrong, wanted)
        assert found.loss == 1
        assert found.parsed
    broken = compare("function_calling", calling(("a", '{"x": ')), wanted)
    assert broken.loss == 1
    assert not broken.parsed


def test_sql_does_not_mind_case_blanks_fences_and_a_closing_semicolon() -> None:
    wanted = "SELECT name, COUNT(*) FROM users WHERE city = 'Bern' AND age >= 18 GROUP BY name"
    written = "```sql\nselect name,count( * )\n from users\nwhere city='Bern' and age>=18 group by name;\n```"
    assert _loss("sql", written, wanted) == 0
    assert _loss("sql", "with x as (select 1) select * from x", "WITH x AS (SELECT 1) SELECT * FROM x") == 0
    for old, new in (("'Bern'", "'bern'"), (">=", ">"), ("name,", "name"), ("18", "19"), ("users", "user")):
        assert _loss("sql", wanted.replace(old, new), wanted) == 1, new


def test_the_loss_of_free_text_is_one_less_token_f1() -> None:
    assert _loss("generation", "It ships Monday.", "it ships tomorrow .") == pytest.approx(1 - 2 * 3 / 8)
    assert _loss("generation", "yes yes", "yes") == pytest.approx(1 - 2 / 3)
    assert _loss("generation", "yes", "no") == 1
    assert _loss("generation", "yes", "") == 1


class TestFieldF1:
    """Losses in between, where answers have fields."""

    @pytest.mark.parametrize(
        ("answer", "reference", "loss"),
        [
            ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', 0.0),
            ('{"a": 1, "b": 3}', '{"a": 1, "b": 2}', 0.5),
            ('{"a": 1}', '{"a": 1, "b": 2}', 1 - 2 / 3),
            ('{"c": 9}', '{"a": 1}', 1.0),
            ("no json", '{"a": 1}', 1.0),
            ('{"a": 1}', "no json", 1.0),
        ],
    )
    def test_of_json(self, answer: str, reference: str, loss: float) -> None:
        found = loss_of("field-f1", "extraction", Answer(content=answer), Answer(content=reference))
        assert found == pytest.approx(loss)

    def test_of_calls(self) -> None:
        def call(name: str, arguments: str) -> Answer:
            return Answer(tool_calls=(ToolCall(function=FunctionCall(name=name, arguments=arguments)),))

        wanted = call("book", '{"city": "Oslo", "nights": 2}')
        assert loss_of("field-f1", "function_calling", wanted, wanted) == 0.0
        near = call("book", '{"city": "Oslo", "nights": 3}')
        assert loss_of("field-f1", "function_calling", near, wanted) == pytest.approx(1 / 3)
        assert loss_of("field-f1", "function_calling", call("book", "{"), wanted) == 1.0
        assert loss_of("field-f1", "function_calling", Answer(content="none"), wanted) == 1.0

    def test_exact_is_the_tasks_own_loss(self) -> None:
        pair = Answer(content='{"a": 1, "b": 3}'), Answer(content='{"a": 1, "b": 2}')
        assert loss_of("exact", "extraction", *pair) == 1.0
