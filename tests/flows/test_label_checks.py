from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import example
from tiercel.flows.label_checks import form_of, judge, obvious_fault
from tiercel.flows.teacher import Sample
from tiercel.types import Answer


def samples(*texts: str) -> list[Sample]:
    return [Sample(content=t, finish_reason="stop") for t in texts]


def given(*texts: str) -> list[Answer]:
    return [Answer(content=t) for t in texts]


LABELS = given(*["refund", "delivery"] * 10)


class TestObviousFaults:
    @pytest.mark.parametrize(
        ("fields", "kind"),
        [
            ({"content": "yes"}, None),
            ({"content": "yes", "finish_reason": "stop"}, None),
            ({"content": "yes", "finish_reason": "length"}, "truncated"),
            ({"content": "yes", "finish_reason": "max_tokens"}, "truncated"),
            ({"content": "yes", "finish_reason": "content_filter"}, "refused"),
            ({"content": "yes", "finish_reason": "SAFETY"}, "refused"),
            ({"refusal": "no"}, "refused"),
            ({"content": "I cannot help with that."}, "refused"),
            ({"content": ""}, "unfit"),
            ({}, "unfit"),
        ],
    )
    def test_kinds(self, fields: dict[str, Any], kind: str | None) -> None:
        fault = obvious_fault(Sample(**fields))
        assert (fault and fault.kind) == kind


class TestForms:
    def test_the_files_answers_decide(self) -> None:
        form = form_of(None, LABELS, samples(*["A long text that is different."] * 30))
        assert (form.task, form.binding) == ("classification", True)

    def test_the_teachers_answers_decide_where_the_file_has_few(self) -> None:
        form = form_of(None, [], samples(*(f'{{"a": {i}}}' for i in range(19)), "no json"))
        assert (form.task, form.binding) == ("extraction", True)

    def test_mixed_answers_bind_nobody(self) -> None:
        form = form_of(None, [], samples(*['{"a": 1}'] * 12, *(f"Some text number {i} here" for i in range(8))))
        assert not form.binding

    def test_few_answers_bind_nobody(self) -> None:
        assert not form_of(None, given("refund"), samples("a", "b")).binding
        assert not form_of(None, [], []).binding

    def test_the_user_decides_before_all(self) -> None:
        form = form_of("sql", LABELS, [])
        assert (form.task, form.binding) == ("sql", True)
        assert form_of("classification", [], []).labels is not None

    def test_refusals_are_no_labels(self) -> None:
        form = form_of("classification", [], samples(*["refund", "delivery"] * 5, *["I cannot help with that."] * 9))
        assert form.labels is not None
        assert sorted(form.labels.labels) == ["delivery", "refund"]


class TestJudgement:
    def test_a_label_that_reads_like_a_refusal_is_a_label(self) -> None:
        form = form_of(None, given(*["I cannot help with that.", "refund"] * 10), [])
        assert judge(example("x"), samples("I cannot help with that."), form).answer is not None

    @pytest.mark.parametrize(
        ("texts", "kept", "agreement"),
        [
            (["refund"], "refund", None),
            (["refund", "delivery", "delivery"], "delivery", 2 / 3),
            (["refund", "This is about a long story"], "refund", 1 / 2),
            (["This is about a long story", "This is about another", "refund"], None, None),
        ],
    )
    def test_the_majority_of_what_can_be_used(
        self, texts: list[str], kept: str | None, agreement: float | None
    ) -> None:
        label = judge(example("x"), samples(*texts), form_of(None, LABELS, []))
        assert (label.answer and label.answer.content) == kept
        assert label.agreement == (None if agreement is None else pytest.approx(agreement))
        assert (label.fault is None) == (kept is not None)

    def test_the_most_frequent_fault_is_named(self) -> None:
        told = [Sample(refusal="no"), *samples("", "")]
        fault = judge(example("x"), told, form_of(None, LABELS, [])).fault
        assert fault is not None
        assert fault.kind == "unfit"

    def test_json_object_is_asked_for(self) -> None:
        asked = example("x", response_format={"type": "json_object"})
        form = form_of(None, [], [])
        assert judge(asked, samples("{}"), form).answer is not None
        for text in ("[]", "5", "x"):
            fault = judge(asked, samples(text), form).fault
            assert fault is not None
            assert "response_format" in fault.reason
