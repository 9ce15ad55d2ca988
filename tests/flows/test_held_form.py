from __future__ import annotations

import pytest

from tiercel.flows.held_form import label_grammar
from tiercel.tasks.gbnf import Grammar
from tiercel.tasks.labels import LabelSet


def test_placeholder() -> None:
    assert label_grammar(LabelSet(labels=("a", "b"))) and Grammar and pytest
