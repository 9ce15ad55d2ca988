from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.students.prompting import (
    ExampleIndex,
    Prompt,
    Prompter,
    Shot,
    choose_pool,
    describe_functions,
    describe_schema,
    shorten,
)
from tiercel.types import Message

TEXTS = ["the parcel is late", "my invoice is wrong", "reset the password", "the parcel was lost", "a wrong invoice"]
POOL = tuple(Shot(text, text.split()[-1]) for text in TEXTS)
LABELS = [f"label_{i}" for i in range(12)]


def words(messages: Sequence[Message]) -> int:
    return sum(len(m.text.split()) for m in messages)


def test_the_most_similar_texts_come_first() -> None:
    index = ExampleIndex(TEXTS)
    assert set(index.nearest("where is the parcel", 2)) == {0, 3}
    assert set(index.nearest("invoice!", 2)) == {1, 4}
    assert index.nearest("nothing alike", 3) == [0, 1, 2]


def test_vectors_of_the_caller_are_compared_by_their_cosine() -> None:
    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.array([[len(t), 1.0 if "password" in t else 0.0] for t in texts])

    assert ExampleIndex(TEXTS, embed).nearest("password", 1) == [2]
    assert ExampleIndex([], embed).nearest("password", 1) == []


@given(st.lists(st.text(max_size=30), max_size=8), st.text(max_size=30), st.integers(0, 10))
def test_any_texts_are_ranked_once_each(texts: list[str], text: str, k: int) -> None:
    found = ExampleIndex(texts).nearest(text, k)
    assert len(found) == len(set(found)) == min(k, len(texts))
    assert found == ExampleIndex(texts).nearest(text, k)


def test_examples_stand_before_the_request_the_most_similar_last() -> None:
    prompt = Prompt(system="Answer.", pool=POOL, shots=2, before="<", after=">")
    found = Prompter(prompt, words, 100).messages("a late parcel")
    assert [m.role for m in found] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [m.text for m in found[3:]] == ["<the parcel is late>", "late", "<a late parcel>"]


@pytest.mark.parametrize("room", range(0, 40, 3))
def test_no_prompt_is_longer_than_its_room_unless_the_request_alone_is(room: int) -> None:
    prompt = Prompt(system="Answer in one word.", pool=POOL, shots=5)
    found = Prompter(prompt, words, room).messages("where is the parcel")
    alone = 8
    assert words(found) <= max(room, alone)
    assert found[0].text == "Answer in one word."
    assert found[-1].text == "where is the parcel"
    assert (len(found) > 2) == (room >= alone + min(len(t.split()) for t in TEXTS) + 1)


def test_a_shorter_example_takes_the_place_of_one_that_does_not_fit() -> None:
    pool = (Shot("parcel " + "very " * 50 + "late", "x"), Shot("parcel", "y"))
    found = Prompter(Prompt(pool=pool, shots=2), words, 10).messages("parcel late")
    assert [m.text for m in found] == ["parcel", "y", "parcel late"]


def test_instructions_go_into_the_first_turn_where_there_is_no_place_for_them() -> None:
    prompt = Prompt(system="Answer.", system_role=False, pool=POOL, shots=1)
    found = Prompter(prompt, words, 100).messages("parcel")
    assert [m.role for m in found] == ["user", "assistant", "user"]
    assert found[0].text.startswith("Answer.\n\n")
    assert found[2].text == "parcel"


def test_a_prompt_is_stored_as_json() -> None:
    prompt = Prompt(system="a", pool=POOL, shots=3)
    assert msgspec.json.decode(msgspec.json.encode(prompt), type=Prompt) == prompt


@pytest.mark.parametrize(
    "listed",
    [
        ", ".join(LABELS),
        "\n".join(f"- {name}" for name in LABELS),
        "\n".join(f"{i}. `{name}`" for i, name in enumerate(LABELS)),
        "; ".join(LABELS[:-1]) + " or " + LABELS[-1],
        '["' + '", "'.join(LABELS) + '"]',
    ],
)
def test_a_long_list_of_labels_is_dropped_and_the_rest_kept(listed: str) -> None:
    found = shorten(f"Classify the text.\n\nLabels: {listed}\n\nIf unsure, say label_3.", LABELS)
    assert found.startswith("Classify the text.\n\nLabels: ")
    assert found.endswith("If unsure, say label_3.")
    assert "12 known labels" in found
    assert "label_7" not in found


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Say refund, delivery or praise.", ["refund", "delivery", "praise"]),
        ("label_0 is for a, label_1 is for b, label_2 for c", LABELS),
        ("Answer.", []),
        ("", LABELS),
    ],
)
def test_short_lists_and_explanations_stay(text: str, labels: list[str]) -> None:
    assert shorten(text, labels) == text


def test_a_pool_has_every_answer_and_no_long_row() -> None:
    rows = [Shot(f"request {i}", "often" if i % 10 else f"rare {i}") for i in range(100)] + [Shot("x" * 500, "long")]
    pool = choose_pool(rows, 20, longest=100, seed=3)
    assert len(pool) == 20
    assert sum(shot.answer.startswith("rare") for shot in pool) == 10
    assert "long" not in {shot.answer for shot in pool}
    assert pool == choose_pool(rows, 20, longest=100, seed=3) != choose_pool(rows, 20, longest=100, seed=4)


def test_functions_are_described_whole_or_by_their_names() -> None:
    city = {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}}}
    functions = [
        {"name": "weather", "description": "How hot it is.", "parameters": city, "strict": True},
        {"name": "x"},
    ]
    first, weather, stop = describe_functions(functions, several=False, whole=True).splitlines()
    assert first.endswith('as JSON, {"name": ..., "arguments": {...}}:')
    assert json.loads(weather) == {k: v for k, v in functions[0].items() if k != "strict"}
    assert json.loads(stop) == {"name": "x"}
    lines = describe_functions(functions, several=True, whole=False).splitlines()
    assert lines[0].endswith("or a list of calls:")
    assert lines[1:] == ["weather(city, unit)", "x()"]


def test_a_schema_is_described_as_it_is() -> None:
    assert json.loads(describe_schema({"type": "object"}).partition(": ")[2]) == {"type": "object"}
