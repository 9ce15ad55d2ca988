from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import calling
from tiercel.providers.tokens import PER_MESSAGE, estimate_tokens, estimate_usage
from tiercel.types import Answer, Message


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("   \n\t", 0),
        ("refund", 1),
        ("Hello, world!", 4),
        ("internationalisation", 3),
        ("sevenlt eightltr", 3),
        ("1234567", 3),
        ("snake_case", 3),
        ("こんにちは", 5),
        ("naïve", 3),
        ("🙂🙂", 2),
    ],
)
def test_words_digits_and_other_scripts_count_as_the_docstring_says(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


def test_english_prose_has_about_four_tokens_for_three_words() -> None:
    text = (
        "My card was charged twice for the same order last Tuesday, and the second charge of 42 dollars has not been "
        "returned yet. Could you please look into this and tell me when I will get the money back? Thank you."
    )
    # cl100k_base and o200k_base give 44 tokens.
    assert 40 <= estimate_tokens(text) <= 48


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_tokens_of_two_texts_add_up(a: str, b: str) -> None:
    assert estimate_tokens(f"{a} {b}") == estimate_tokens(a) + estimate_tokens(b)
    assert 0 <= estimate_tokens(a) <= len(a)


def test_a_request_counts_its_messages_its_markup_and_its_tools() -> None:
    messages = [Message(role="system", content="Be brief."), Message(role="user", content="Hello, world!")]
    plain = estimate_usage(messages, Answer(content="Hi there"))
    assert plain.input_tokens == 2 * PER_MESSAGE + 3 + 4
    assert (plain.output_tokens, plain.cached_input_tokens, plain.reasoning_tokens) == (2, 0, 0)
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    with_tools = estimate_usage(messages, None, tools)
    text = '[{"type":"function","function":{"name":"look_up"}}]'
    assert with_tools.input_tokens == plain.input_tokens + estimate_tokens(text)
    assert with_tools.output_tokens == 0


def test_tool_calls_of_an_answer_count() -> None:
    usage = estimate_usage([], calling(("look_up", {"id": 7}), ("stop", {})))
    assert usage.output_tokens == estimate_tokens('look_up{"id": 7}') + estimate_tokens("stop{}")
