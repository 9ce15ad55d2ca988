from __future__ import annotations

import pytest

from tiercel.tasks.refusals import is_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I can\u2019t assist with that request.",
        "Sorry, I cannot comply with this request.",
        "I cannot provide that information.",
        "I am unable to answer this question.",
        "Unfortunately, I won't be able to. I can't continue.\n".replace("I won't be able to. ", ""),
        "I apologize, but I am not able to generate content of this kind.",
        "As an AI language model, I cannot classify this.",
        "As an AI, I don't have opinions.",
        '"I must decline."',
        "**I'm sorry, but as an AI assistant, I can't discuss such topics.**",
        "This request violates our usage policies.",
        "I'm sorry, I'm not comfortable writing this.",
    ],
)
def test_a_refusal(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "delivery",
        "cannot_log_in",
        "I can't log in",
        "I can help with that. Please send your order number.",
        "I'm sorry to hear that your parcel is late. It will arrive tomorrow.",
        "Sorry about that! We can't refund orders after 30 days.",
        "Thank you. Unfortunately I cannot help with that today, please call us.",
        '{"answer": "I cannot help with that"}',
        "SELECT name FROM refusals",
        "We won't help with that",
    ],
)
def test_no_refusal(text: str) -> None:
    assert not is_refusal(text)
