from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import example
from tests.flows.teacher_server import choice
from tiercel.flows.teacher import Teacher, parse_samples
from tiercel.providers.prices import PriceTable
from tiercel.providers.tokens import estimate_tokens
from tiercel.types import Answer, FunctionCall, ToolCall


def teacher(model: str | None = "gpt-4o", **more: Any) -> Teacher:
    return Teacher("https://host/v1/chat/completions", model, PriceTable(), **{"max_tokens": 10, **more})


class TestParsing:
    def test_all_that_a_choice_may_hold(self) -> None:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        logprobs = {"content": [{"logprob": -1}, {"logprob": None}], "refusal": None}
        told = {"choices": [choice(None, tool_calls=[call], refusal="no", finish_reason="length", logprobs=logprobs)]}
        (sample,) = parse_samples(told)
        wanted = ToolCall(id="1", function=FunctionCall(name="f", arguments="{}"))
        assert sample.answer == Answer(content=None, tool_calls=(wanted,))
        assert (sample.refusal, sample.finish_reason, sample.logprobs) == ("no", "length", [-1.0])

    def test_content_in_parts(self) -> None:
        parts = [{"type": "text", "text": "a"}, {"type": "other"}, {"type": "text", "text": "b"}]
        assert parse_samples({"choices": [{"message": {"content": parts}}]})[0].content == "ab"

    @pytest.mark.parametrize(
        "told",
        [
            {},
            {"choices": None},
            {"choices": {}},
            {"choices": [5]},
            {"choices": [{}]},
            {"choices": [{"message": None}]},
            {"choices": [{"message": {"content": 5}}]},
            {"choices": [{"message": {"tool_calls": [{}]}}]},
            {"choices": [{"message": {"tool_calls": [{"function": {"name": 5}}]}}]},
            {"choices": [choice(), {}]},
        ],
    )
    def test_what_is_no_answer(self, told: dict[str, Any]) -> None:
        assert parse_samples(told) == ()

    @pytest.mark.parametrize("logprobs", [None, [], {}, {"content": None}, {"content": []}, {"content": "x"}])
    def test_no_log_probabilities(self, logprobs: Any) -> None:
        assert parse_samples({"choices": [choice(logprobs=logprobs)]})[0].logprobs is None


class TestKeys:
    def test_the_same_request_has_the_same_key_whatever_its_id(self) -> None:
        one = teacher()
        assert one.key(example("x", id="a")) == one.key(example("x", "an answer", id="b"))
        assert one.key(example("x")) == teacher(logprobs=True).key(example("x"))

    def test_what_changes_the_answer_changes_the_key(self) -> None:
        keys = [
            teacher().key(example("x")),
            teacher().key(example("y")),
            teacher().key(example("x", system="s")),
            teacher().key(example("x", tools=[{"function": {"name": "f"}}])),
            teacher().key(example("x", response_format={"type": "json_object"})),
            teacher("gpt-5").key(example("x")),
            teacher(max_tokens=11).key(example("x")),
            teacher(temperature=0.0).key(example("x")),
        ]
        assert len(set(keys)) == len(keys)


class TestMoney:
    def test_the_bound_holds_for_any_text(self) -> None:
        for text in ("hello there", "\u4f60\u597d" * 50, "12345" * 20, '"' * 30, "\U0001f600" * 9, ""):
            asked = example(text + "x", system="Be short.")
            inputs = estimate_tokens(text) + estimate_tokens("Be short.") + 8
            bytes_of = len((text + "Be short.").encode())
            assert teacher().bound_usd(asked, 1) >= (max(inputs, bytes_of) * 2.5 + 10 * 10) / 1e6

    def test_samples_cost_output_only(self) -> None:
        one, three = (teacher().bound_usd(example("x"), n) for n in (1, 3))
        assert three - one == pytest.approx(2 * 10 * 10 / 1e6)

    def test_a_bill_from_the_providers_count(self) -> None:
        usage = {"prompt_tokens": 100, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 60}}
        told = {"choices": [choice("yes")], "usage": usage}
        bill = teacher().bill(example("x"), told, parse_samples(told))
        assert bill.counted
        assert bill.cost_usd == pytest.approx((40 * 2.5 + 60 * 1.25 + 3 * 10) / 1e6)

    @pytest.mark.parametrize("usage", [None, {}, "x", {"prompt_tokens": 0}])
    def test_a_bill_without_a_count_is_an_estimate(self, usage: Any) -> None:
        told = {"choices": [choice("yes"), choice("no")], "usage": usage}
        bill = teacher().bill(example("hello there"), told, parse_samples(told))
        assert not bill.counted
        assert (bill.usage.input_tokens, bill.usage.output_tokens) == (6, 2)

    def test_no_price_no_cost(self, tmp_path: Path) -> None:
        unknown = teacher("my-own-model")
        assert unknown.bound_usd(example("x"), 1) == 0.0
        assert unknown.bill(example("x"), {}, ()).cost_usd is None
