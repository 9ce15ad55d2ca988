from __future__ import annotations

import pytest

from tests.conftest import calling
from tiercel.tasks.agreement import most_agreed
from tiercel.tasks.labels import LabelSet
from tiercel.types import Answer

LABELS = LabelSet(labels=("refund", "delivery"))
SEVERAL = LabelSet(labels=("a", "b", "c"), multi=True)


def answers(*texts: str) -> list[Answer]:
    return [Answer(content=t) for t in texts]


@pytest.mark.parametrize(
    ("task", "given", "labels", "best", "agreement"),
    [
        ("classification", answers("refund", "Delivery.", "delivery"), LABELS, 1, 2 / 3),
        ("classification", answers("refund", "delivery"), LABELS, 0, 1 / 2),
        ("classification", answers("a, b", "b, a", "a"), SEVERAL, 0, 2 / 3),
        ("extraction", answers('{"a":1}', '{"b":2,"a":1}', '{"a": 1, "b": 2.0}'), None, 1, 2 / 3),
        ("function_calling", [calling(("f", {"x": 1})), calling(("f", '{"x":1}')), calling()], None, 0, 2 / 3),
        ("sql", answers("select 1", "SELECT a FROM b;", "select  a from b"), None, 1, 2 / 3),
        ("generation", answers("x y", "a b c d", "a b c e"), None, 1, (0 + 1 + 0.75) / 3),
        ("generation", answers("only one"), None, 0, 1.0),
    ],
)
def test_the_medoid(task: str, given: list[Answer], labels: LabelSet | None, best: int, agreement: float) -> None:
    assert most_agreed(task, given, labels) == (best, pytest.approx(agreement))


def test_unusable_samples_agree_with_nothing() -> None:
    assert most_agreed("classification", answers("refund", "refund"), LABELS, asked=4) == (0, pytest.approx(0.5))
