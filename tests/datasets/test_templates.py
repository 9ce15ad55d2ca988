from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import example
from tiercel.datasets.templates import (
    RequestReader,
    Template,
    TemplateIndex,
    WorkloadKey,
    common_affixes,
    signature_of,
    system_text,
)
from tiercel.types import Message

BASE = "You sort messages of a bank. Answer with one label only. Today is {}. The customer is called {}.\nBe brief, please."
_WORDS = st.lists(st.sampled_from([*"abcdefgh", " ", "\n", ".", ", ", "  ", "é", "(", "*", "\\"]), max_size=14).map(
    "".join
)


def _tool(name: str) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "parameters": {}}}


def _leftmost(pieces: tuple[str, ...], text: str) -> tuple[str, ...] | None:
    """The shortest values from left to right, by plain searching."""
    if len(pieces) == 1:
        return () if text == pieces[0] else None
    first, last = pieces[0], pieces[-1]
    if not text.startswith(first) or len(text) < len(first) + len(last) or not text.endswith(last):
        return None
    at, end, values = len(first), len(text) - len(last), []
    for piece in pieces[1:-1]:
        found = text.find(piece, at, end)
        if found < 0:
            return None
        values.append(text[at:found])
        at = found + len(piece)
    return (*values, text[at:end])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text("ab.* \n", max_size=3), min_size=1, max_size=5), st.text("ab.* \n", max_size=12), st.booleans())
def test_match_gives_the_shortest_values_from_left_to_right(pieces: list[str], text: str, filled: bool) -> None:
    if filled:
        text = "".join(p + text[i : i + 2] * (i + 1 < len(pieces)) for i, p in enumerate(pieces))
    found = Template(pieces=tuple(pieces)).match(text)
    assert found == _leftmost(tuple(pieces), text)
    if found is not None:
        assert "".join(a + b for a, b in zip(pieces, (*found, ""), strict=True)) == text


@settings(max_examples=150, deadline=None)
@given(_WORDS, st.lists(_WORDS, min_size=1, max_size=4))
def test_a_template_matches_every_text_it_was_generalised_from(first: str, others: list[str]) -> None:
    template, seen = Template(pieces=(first,)), [first]
    for text in others:
        wider = template.generalised(text)
        if wider is None:
            continue
        template = wider
        seen.append(text)
        assert all(template.match(t) is not None for t in seen)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.text("abcxyz0189-", min_size=1, max_size=8)] * 2), min_size=2, max_size=5))
def test_a_prompt_with_values_put_in_is_learned_with_its_values(values: list[tuple[str, str]]) -> None:
    template = Template(pieces=(BASE.format(*values[0]),))
    for pair in values[1:]:
        if template.match(BASE.format(*pair)) is None:
            wider = template.generalised(BASE.format(*pair))
            assert wider is not None
            template = wider
    for pair in values:
        found = template.match(BASE.format(*pair))
        assert found is not None
        assert all(v in BASE.format(*pair) for v in found)
    assert len("".join(template.pieces)) >= len(BASE.format("", ""))


def test_the_values_of_variables_and_the_template_for_people() -> None:
    template = Template(pieces=(BASE.format("Monday", "Ada Lovelace"),)).generalised(BASE.format("Friday", "Bob"))
    assert template is not None
    assert template.shown == BASE.format("{…}", "{…}")
    assert template.match(BASE.format("Sunday", "Zoë\nof Bern")) == ("Sunday", "Zoë\nof Bern")
    assert template.match(BASE.format("Sunday", "Zoë") + " And more.") is None


def test_texts_with_too_little_in_common_share_no_template() -> None:
    template = Template(pieces=("You sort messages of a bank into labels.",))
    assert template.generalised("Translate what the user says into French, word for word.") is None
    assert template.generalised("") is None
    assert Template(pieces=("",)).generalised("") is None
    long = [f"word{i} " for i in range(5_000)]
    assert Template(pieces=("".join(long),)).generalised("".join(long[::-1])) is None, (
        "the same words otherwise ordered"
    )


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            " ".join(f"Rule {i}: sort what concerns subject {i * 7}." for i in range(600)), id="distinct words"
        ),
        pytest.param("Sort the message into one of the queues. " * 500, id="one sentence again and again"),
    ],
)
def test_variables_of_a_prompt_of_thousands_of_words_are_recognised_wherever_they_stand(body: str) -> None:
    half = body.index(" ", len(body) // 2)
    index, prompts = TemplateIndex(), list[str]()
    for i in range(60):
        day, queue, number = f"2026-11-{i % 28 + 1:02d}", f"q{i % 7}", i * 37
        prompts.append(f"Today is {day}. {body[:half]} (now {queue}) {body[half:]} There are {number} tickets.")
    numbers = [index.add(example("q", "a", prompt)) for prompt in prompts]
    assert set(numbers) == {0}
    values = [index.keys[0].template.match(prompt) for prompt in prompts]
    assert [(v[-2], v[-1]) for v in values if v] == [(f"q{i % 7}", str(i * 37)) for i in range(60)]


@pytest.mark.timeout(5)
def test_a_prompt_that_repeats_itself_is_matched_in_no_time() -> None:
    """A price list in the system prompt: 20 variables between equal pieces, and a text that fails at its very end."""
    pieces = ("Stock:\n- widget: ", *[" units\n- widget: "] * 19, " units\nAnswer in one word.")
    template = Template(pieces=pieces)
    stock = "".join(f"- widget: {i} units\n" for i in range(60))
    assert template.match(f"Stock:\n{stock}Answer in one word.") is not None
    assert template.match(f"Stock:\n{stock}Answer in two words.") is None


def test_the_system_text_is_of_leading_system_and_developer_messages() -> None:
    roles = [("system", "a"), ("developer", "b"), ("user", "c"), ("system", "d")]
    assert system_text([Message(role=r, content=c) for r, c in roles]) == "a\n\nb"
    assert system_text([Message(role="user", content="c")]) == ""


def test_the_signature_does_not_depend_on_the_order_of_tools_and_keys() -> None:
    one, two = {"type": "json_object", "x": 1}, {"x": 1, "type": "json_object"}
    assert signature_of([_tool("a"), _tool("b")], one) == signature_of([_tool("b"), {"name": "a"}], two)
    different = [signature_of(t, f) for t in (None, [_tool("a")], [_tool("b")]) for f in (None, one)]
    assert len(set(different)) == 6
    assert signature_of([], None) == signature_of(None, None)


def test_requests_are_parted_by_prompt_tools_and_response_format() -> None:
    index = TemplateIndex()
    other = "Translate into French what the user writes, and nothing else at all."
    requests = [
        example("q", "a", BASE.format("Monday", "Ada")),
        example("q", "a", BASE.format("Tuesday", "Bob")),
        example("q", "a", other),
        example("q", "a", other, tools=[_tool("a")]),
        example("q", "a", other, response_format={"type": "json_object"}),
        example("q", "a"),
        example("r", "b"),
        example("q", "a", BASE.format("Friday", "Eve")),
        example("q", "a", other, tools=[_tool("a")]),
    ]
    assert [index.add(r) for r in requests] == [0, 0, 1, 2, 3, 4, 4, 0, 2]
    assert index.keys[0].template.shown == BASE.format("{…}", "{…}")
    assert index.keys[2].tools == ("a",)
    assert [bool(k.response_format) for k in index.keys] == [False, False, False, True, False]
    assert len({k.fingerprint for k in index.keys}) == 5


def test_every_request_matches_the_template_of_its_workload() -> None:
    rng, index = random.Random(71), TemplateIndex()
    prompts = [BASE.format(rng.choice(["Mon", "Tue", "1 May"]), rng.choice(["Ada", "Bob", ""])) for _ in range(40)]
    prompts += [
        f"Translate into {rng.choice(['French', 'Swiss German'])} what the user writes, nothing else." for _ in prompts
    ]
    numbers = [index.add(example("q", "a", p)) for p in prompts]
    keys = index.keys
    assert len(keys) == 2
    assert all(keys[n].template.match(p) is not None for n, p in zip(numbers, prompts, strict=True))


def test_a_new_tool_set_with_each_request_is_one_workload() -> None:
    index = TemplateIndex(most_tool_sets=5)
    numbers = [index.add(example("q", "a", "Use a tool.", tools=[_tool(f"t{i}")])) for i in range(30)]
    assert len(set(numbers[5:])) == 1
    assert index.keys[numbers[-1]].tools == ("*",)
    assert index.add(example("q", "a", "Use a tool.", tools=[_tool("t0")])) == numbers[0]


def test_a_fingerprint_names_the_same_workload_everywhere() -> None:
    key = WorkloadKey(template=Template(pieces=("a", "b")), tools=("t",))
    assert key.fingerprint == WorkloadKey(template=Template(pieces=("a", "b")), tools=("t",)).fingerprint
    assert len(key.fingerprint) == 12
    assert key.fingerprint != WorkloadKey(template=Template(pieces=("ab",)), tools=("t",)).fingerprint


READER = RequestReader(
    key=WorkloadKey(template=Template(pieces=("Today is ", ".\nSort: ", ""))), prefix="Message: ", suffix="\nLabel:"
)


def _system(day: str = "Monday", rest: str = " ") -> Message:
    return Message(role="system", content=f"Today is {day}.\nSort: {rest}")


def test_a_reader_leaves_only_what_varies() -> None:
    asked = Message(role="user", content="Message: Where is it?\nLabel:")
    assert READER.read([_system(), asked]) == "Monday\nWhere is it?"
    assert READER.read([_system("", ""), Message(role="user", content="bare")]) == "bare"


def test_a_reader_tells_the_turns_of_a_conversation_apart() -> None:
    turns = [
        _system("Monday", "now"),
        Message(role="user", content="Message: a\nLabel:"),
        Message(role="assistant", content="Message: b"),
        Message(role="user", content=[{"type": "text", "text": "c"}]),
    ]
    assert READER.read(turns) == "Monday\nnow\nuser: a\nassistant: Message: b\nuser: c"


def test_a_reader_knows_what_is_not_of_its_workload() -> None:
    assert READER.read([Message(role="user", content="Where is it?")]) is None
    assert READER.read([Message(role="system", content="Translate."), Message(role="user", content="x")]) is None
    image = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": "u"}}]
    assert READER.read([_system(), Message(role="user", content=image)]) is None


def test_what_nearly_all_texts_begin_and_end_with_is_found_and_cut_back_to_a_blank() -> None:
    texts = [f"Classify this message: card {i} is lost\nAnswer with a label" for i in range(200)]
    prefix, suffix = common_affixes([*texts, "an outlier", "zzz"])
    assert prefix == "Classify this message: card "
    assert suffix == " is lost\nAnswer with a label"
    assert common_affixes(texts[:19]) == ("", "")
    assert common_affixes([f"{i} on Monday" for i in range(100)]) == ("", "")
    mixed = texts[:100] + [f"{i} something else entirely" for i in range(100)]
    assert common_affixes(mixed) == ("", "")
