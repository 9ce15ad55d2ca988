from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.flows.held_form import label_grammar
from tiercel.tasks.gbnf import Grammar
from tiercel.tasks.labels import LabelSet

NAMES = ("refund", 'say "no"', "a\\b", "new\nline", "déjà-vu", "refund later")


@given(st.lists(st.sampled_from(range(len(NAMES))), unique=True))
@pytest.mark.parametrize("separator", [", ", "; ", "json"])
def test_every_answer_with_several_labels_is_in_the_grammar(separator: str, numbers: list[int]) -> None:
    labels = LabelSet(labels=NAMES, multi=True, separator=separator)
    grammar = Grammar(label_grammar(labels))
    text = labels.render(sorted(numbers))
    assert grammar.accepts(text)
    assert not grammar.accepts(text + "x")


def test_one_label_is_one_label() -> None:
    grammar = Grammar(label_grammar(LabelSet(labels=NAMES)))
    assert all(grammar.accepts(name) for name in NAMES)
    assert not any(grammar.accepts(text) for text in ("", "refund, refund", "Refund", "refund ", "other"))
