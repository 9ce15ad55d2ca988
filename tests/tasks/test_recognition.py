from __future__ import annotations

import json
import random

import pytest

from tests.conftest import calling
from tiercel.tasks.labels import label_key
from tiercel.tasks.recognition import closed_set, recognise
from tiercel.types import Answer


def _answers(texts: list[str]) -> list[Answer]:
    return [Answer(content=t) for t in texts]


def _drawn(names: list[str], n: int, seed: int = 0) -> list[str]:
    return random.Random(seed).choices(names, k=n)


def test_one_label_of_a_closed_set() -> None:
    texts = _drawn(["Refund", "Card lost", "Other"], 100)
    found = recognise(_answers([*texts, "I really can't tell which of these it would be."]))
    assert found.task == "classification"
    assert found.labels is not None
    assert not found.labels.multi
    assert set(found.labels.labels) == {"Refund", "Card lost", "Other"}
    assert found.share == pytest.approx(100 / 101)
    assert found.shape == "one label of 3"


def test_a_label_is_written_as_it_mostly_is_and_the_most_frequent_comes_first() -> None:
    found = closed_set(["b"] * 5 + ["Refund"] * 20 + ["refund."] * 7 + ["REFUND"] * 3)
    assert found is not None
    assert found.labels == ("Refund", "b")


def test_a_label_seen_once_is_a_label_and_a_sentence_is_not() -> None:
    found = closed_set(
        [*_drawn(["positive", "negative"], 60), "neutral", "Sorry, but I would need to see the whole text."]
    )
    assert found is not None
    assert set(found.labels) == {"positive", "negative", "neutral"}


def test_many_labels_are_still_a_closed_set() -> None:
    names = [f"intent_{i}" for i in range(150)]
    found = recognise(_answers(_drawn(names, 3_000)))
    assert found.task == "classification"
    assert found.labels is not None
    assert set(found.labels.labels) == set(names)


@pytest.mark.parametrize("separator", ["json", ", ", "; ", " | ", "\n"])
def test_several_labels_and_their_separator(separator: str) -> None:
    rng = random.Random(1)
    names = ["admiration", "anger", "joy", "fear", "relief", "grief"]
    lists = [rng.sample(names, rng.choice([1, 1, 2, 3])) for _ in range(300)]
    texts = [json.dumps(one) if separator == "json" else separator.join(one) for one in lists]
    found = recognise(_answers(texts))
    assert found.task == "classification"
    assert found.labels is not None
    assert found.labels.multi
    assert found.labels.separator == separator
    assert set(found.labels.labels) == set(names)
    for text, one in zip(texts, lists, strict=True):
        assert {found.labels.labels[i] for i in found.labels.parse(text) or ()} == set(one)


def test_labels_with_a_comma_inside_are_not_taken_for_two() -> None:
    found = closed_set(_drawn(["billing, refunds", "shipping, delays", "other"], 90))
    assert found is not None
    assert not found.multi
    assert set(found.labels) == {"billing, refunds", "shipping, delays", "other"}


def test_tool_calls() -> None:
    answers = [calling(("look_up", {"id": i})) for i in range(8)] + [calling(("stop", {})), Answer(content="hello")]
    found = recognise(answers)
    assert found.task == "function_calling"
    assert found.shape == "calls of 2 functions"
    assert found.share == pytest.approx(0.9)


def test_json_that_differs_from_row_to_row_is_extraction() -> None:
    texts = [json.dumps({"name": f"n{i}", "total": i}) for i in range(40)]
    texts[3] = f"```json\n{texts[3]}\n```"
    found = recognise(_answers([*texts, "no data"]))
    assert found.task == "extraction"
    assert found.share == pytest.approx(40 / 41)


def test_queries_are_sql() -> None:
    texts = [f"SELECT a FROM t WHERE id = {i}" for i in range(20)] + [
        "```sql\nwith x as (select 1) select * from x\n```"
    ]
    found = recognise(_answers(texts))
    assert found.task == "sql"
    assert found.share == 1


def test_prose_is_generation_even_when_it_begins_with_select() -> None:
    texts = [f"Your order {i} has left our house and will arrive on day {i + 2}." for i in range(30)]
    found = recognise(_answers([*texts, "Selected goods are on sale", "Select items"]))
    assert found.task == "generation"
    assert "text of about" in found.shape


def test_no_answers_at_all() -> None:
    assert recognise([]).share == 0


def test_a_user_who_says_classification_gets_labels_whatever_the_answers_look_like() -> None:
    texts = [f"answer {i}" for i in range(10)]
    assert closed_set(texts) is None
    found = closed_set(texts, force=True)
    assert found is not None
    assert set(map(label_key, found.labels)) == set(texts)


def test_a_model_that_ran_away_in_brackets_does_not_stop_recognition() -> None:
    texts = [json.dumps({"name": f"n{i}"}) for i in range(30)]
    found = recognise(_answers([*texts, "[" * 100_000]))
    assert found.task == "extraction"
    assert found.share == pytest.approx(30 / 31)


def test_the_fields_of_small_json_objects_are_no_labels() -> None:
    answers = [Answer(content=json.dumps({"item": f"i{i % 7}", "count": i % 5, "note": f"n{i}"})) for i in range(300)]
    assert recognise(answers).task == "extraction"


def test_sentences_whose_parts_recur_are_text() -> None:
    rng = random.Random(2)
    replies = [f"Hello name{rng.randrange(25)}, your thing{rng.randrange(20)} is on its way." for _ in range(300)]
    assert recognise(_answers(replies)).task == "generation"
