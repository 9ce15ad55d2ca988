from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import calling
from tiercel.providers.tokens import (
    IMAGE_TOKENS,
    LOW_DETAIL_TOKENS,
    PER_MESSAGE,
    Image,
    estimate_tokens,
    estimate_usage,
    images_in,
)
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


URL = "data:image/png;base64," + "A" * 4_000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": URL}},
        {"type": "image_url", "image_url": {"url": URL, "detail": "high"}},
        {"type": "input_image", "image_url": URL, "detail": "auto"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": URL}},
        {"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": URL}}]},
        {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": URL}},
    ],
)
def test_an_image_of_any_dialect_counts_alike_whatever_its_bytes(part: dict[str, object]) -> None:
    assert list(images_in([{"role": "user", "content": [part, {"type": "text", "text": URL}]}])) == [
        Image(IMAGE_TOKENS, len(URL))
    ]


def test_low_detail_counts_less() -> None:
    for part in (
        {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
        {"type": "input_image", "image_url": URL, "detail": "low"},
    ):
        assert [image.tokens for image in images_in(part)] == [LOW_DETAIL_TOKENS]


@pytest.mark.parametrize(
    "part", [{"type": "image_url"}, {"type": "image", "source": 3}, {"type": ["image"]}, None, "x"]
)
def test_what_is_no_image_in_its_right_form_breaks_nothing(part: object) -> None:
    assert all(image.size == 0 for image in images_in([part, [part]]))


def test_a_request_counts_its_images() -> None:
    text = Message(role="user", content=[{"type": "text", "text": "Hello"}])
    seen = Message(
        role="user", content=[{"type": "text", "text": "Hello"}, {"type": "image_url", "image_url": {"url": URL}}]
    )
    more = estimate_usage([seen], None).input_tokens - estimate_usage([text], None).input_tokens
    assert more == IMAGE_TOKENS
