"""What every engine has to do: this suite runs on each of them, with one random model."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
import pytest

from tests.engines.conftest import CONTEXT, asked
from tests.engines.tiny_llama import TOOLS
from tiercel.engines.llamacpp import LlamaCppEngine
from tiercel.engines.protocol import Delta, Engine, Generated, collect
from tiercel.errors import ConfigurationError, ContextOverflowError, EngineError
from tiercel.types import FunctionCall, Message, ToolCall

ENDLESS = "root ::= [a-z ] root"
TOO_LONG = "the clerk opened the account twice " * 400


class Line(msgspec.Struct, forbid_unknown_fields=True):
    kind: Literal["parcel", "coat", 'a "quoted" \\ name']
    count: Annotated[int, msgspec.Meta(ge=-3, le=120)]
    note: Annotated[str, msgspec.Meta(max_length=5)] | None = None


class Order(msgspec.Struct, forbid_unknown_fields=True):
    paid: bool
    lines: Annotated[list[Line], msgspec.Meta(min_length=1, max_length=2)]
    code: Annotated[str, msgspec.Meta(min_length=2, max_length=4)]


def strict_schema(kind: type) -> dict[str, object]:
    schema = msgspec.json.schema(kind)
    for part in schema["$defs"].values():
        part["additionalProperties"] = False
    return schema


def test_the_engine_keeps_to_the_protocol(engine: Engine) -> None:
    assert isinstance(engine, Engine)
    assert engine.context == CONTEXT
    assert engine.counts_exactly


def test_a_chat_is_answered_and_counted(engine: Engine) -> None:
    found = engine.generate(asked())
    assert found.answer.content
    assert found.answer.tool_calls == ()
    assert found.finish_reason == "length"
    assert found.output_tokens == 24
    assert found.input_tokens == engine.count_tokens(asked().messages)
    assert not found.estimated
    assert found.tokens == ()


def test_a_count_is_that_of_the_rendered_prompt(engine: Engine) -> None:
    messages = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="a café <|over|> 東京"),
        Message(role="assistant", tool_calls=(ToolCall(id="a1", function=FunctionCall(name="ring")),)),
        Message(role="tool", content="rang", tool_call_id="a1"),
    )
    for tools in (None, TOOLS):
        rendered = engine.render(messages, tools)
        assert rendered.endswith("<|tool|>rang<|over|><|assistant|>")
        assert ('"look_up"' in rendered) is bool(tools)
        assert engine.count_tokens(messages, tools) == len(engine.tokenize(rendered))


def test_a_stream_adds_up_to_the_answer(engine: Engine) -> None:
    request = asked(logprobs=2)
    deltas = list(engine.stream(request))
    assert len([d for d in deltas if d.text]) > 5
    streamed, whole = collect(deltas), engine.generate(request)
    assert streamed.answer == whole.answer
    assert streamed.finish_reason == whole.finish_reason
    assert (streamed.input_tokens, streamed.output_tokens) == (whole.input_tokens, whole.output_tokens)


def test_a_stop_string_ends_the_answer_and_is_left_out(engine: Engine) -> None:
    text = engine.generate(asked()).answer.text
    stop = re.findall(r"[a-z]{3}", text)[1]
    found = engine.generate(asked(stop=(stop,)))
    assert found.finish_reason == "stop"
    assert found.answer.text == text[: text.index(stop)]
    assert collect(engine.stream(asked(stop=(stop,)))).answer == found.answer


@pytest.mark.parametrize("alternatives", [0, 5])
def test_logprobs_are_those_of_the_model(engine: Engine, alternatives: int) -> None:
    found = engine.generate(asked(grammar='root ::= "lost" | "found"', logprobs=alternatives))
    assert found.answer.content in ("lost", "found")
    assert found.tokens
    for token in found.tokens:
        assert token.logprob < 0
        assert token.id is not None
        assert len(token.alternatives) == alternatives
        others = [t.logprob for t in token.alternatives]
        assert others == sorted(others, reverse=True)
        assert sum(math.exp(p) for p in others) <= 1 + 1e-6


def test_all_of_the_vocabulary_may_be_asked_for_and_sums_to_one(engine: Engine) -> None:
    token = engine.generate(asked(max_tokens=1, logprobs=1000, grammar='root ::= "l"')).tokens[0]
    assert len(token.alternatives) == 480
    assert math.isclose(sum(math.exp(t.logprob) for t in token.alternatives), 1, rel_tol=1e-4)


def test_an_answer_with_a_schema_is_valid_json_for_it(engine: Engine) -> None:
    valid = 0
    for seed in range(8):
        request = asked(schema=strict_schema(Order), temperature=1.0, seed=seed, max_tokens=500)
        try:
            found = engine.generate(request)
        except EngineError as error:
            # A random model writes bytes that are no UTF-8 now and then; no answer is made of them.
            assert "no text" in str(error)
            continue
        assert found.finish_reason == "stop"
        assert msgspec.json.decode(found.answer.text, type=Order)
        assert collect(engine.stream(request)).answer == found.answer
        valid += 1
    assert valid >= 4


def test_a_schema_that_no_grammar_can_hold_is_refused_by_name(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match=r"uniqueItems at #/properties/a"):
        engine.generate(asked(schema={"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}))


def test_an_answer_with_a_grammar_keeps_to_it(engine: Engine) -> None:
    assert engine.generate(asked(grammar='root ::= "ab" [0-9]{3}')).answer.text.startswith("ab")


def test_a_broken_grammar_is_the_requests_fault(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match="grammar"):
        engine.generate(asked(grammar="root ::= nowhere"))
    if isinstance(engine, LlamaCppEngine):
        assert capfd.readouterr().err == ""


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look_up"}}])
def test_a_tool_call_is_forced_and_comes_in_openais_form(engine: Engine, choice: object) -> None:
    for seed in range(4):
        found = engine.generate(asked(tools=TOOLS, tool_choice=choice, temperature=1.0, seed=seed, max_tokens=200))
        (call,) = found.answer.tool_calls
        assert found.answer.content is None
        assert found.finish_reason == "tool_calls"
        assert call.id
        arguments = json.loads(call.function.arguments)
        if call.function.name == "look_up":
            assert set(arguments) == {"order", "by"}
            assert 1 <= arguments["order"] <= 99
            assert arguments["by"] in ("id", "name")
        else:
            assert (call.function.name, choice) == ("ring", "required")
            assert arguments == {}


def test_a_forced_call_can_be_streamed(engine: Engine) -> None:
    request = asked(tools=TOOLS, tool_choice="required", max_tokens=200)
    whole, streamed = engine.generate(request), collect(engine.stream(request))
    assert [c.function for c in streamed.answer.tool_calls] == [c.function for c in whole.answer.tool_calls]
    assert streamed.finish_reason == "tool_calls"
    assert streamed.answer.content is None


def test_a_call_that_breaks_off_is_no_call(engine: Engine) -> None:
    request = asked(tools=TOOLS, tool_choice="required", max_tokens=8)
    for found in (engine.generate(request), collect(engine.stream(request))):
        assert found.finish_reason == "length"
        assert found.answer.tool_calls == ()


def test_tools_that_need_not_be_called_stand_in_the_prompt(engine: Engine) -> None:
    found = engine.generate(asked(tools=TOOLS, tool_choice="auto"))
    assert found.input_tokens == engine.count_tokens(asked().messages, TOOLS)
    assert found.input_tokens > engine.count_tokens(asked().messages) + 50


def test_a_seed_makes_a_draw_repeatable(engine: Engine) -> None:
    texts = [engine.generate(asked(temperature=1.0, seed=seed)).answer.text for seed in (1, 2, 1, 2)]
    assert texts[0] == texts[2] != texts[1] == texts[3]


def test_an_adapter_is_chosen_by_each_request(engine: Engine) -> None:
    texts = {name: engine.generate(asked(adapter=name)).answer.text for name in (None, "brief", "formal")}
    assert len(set(texts.values())) == 3
    again = {name: engine.generate(asked(adapter=name)).answer.text for name in ("formal", None, "brief")}
    assert again == texts


def test_an_unknown_adapter_is_named(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match=r"no adapter 'rude'.*brief, formal"):
        engine.generate(asked(adapter="rude"))


def test_closing_a_stream_frees_its_slot(engine: Engine, busy: Callable[[], int]) -> None:
    stream = engine.stream(asked(max_tokens=900, grammar=ENDLESS))
    next(stream)
    assert busy() == 1
    stream.close()
    _until(lambda: busy() == 0)
    stream.close()
    assert list(stream) == []


def test_a_stream_that_is_dropped_frees_its_slot(engine: Engine, busy: Callable[[], int]) -> None:
    stream = engine.stream(asked(max_tokens=900, grammar=ENDLESS))
    next(stream)
    del stream
    _until(lambda: busy() == 0)


def test_another_thread_may_close_a_stream_that_is_waited_for(engine: Engine) -> None:
    stream = engine.stream(asked(max_tokens=900, grammar=ENDLESS))
    timer = threading.Timer(0.02, stream.close)
    timer.start()
    assert sum(1 for _ in stream) < 900
    timer.join()


def test_what_does_not_fit_is_refused_before_it_is_sent(engine: Engine, busy: Callable[[], int]) -> None:
    for ask in (engine.generate, engine.stream):
        with pytest.raises(ContextOverflowError) as caught:
            ask(asked(TOO_LONG))
        assert caught.value.input_tokens == engine.count_tokens(asked(TOO_LONG).messages)
        assert caught.value.context == CONTEXT
        assert isinstance(caught.value, ValueError)
    assert busy() == 0


def test_the_answers_tokens_count_too(engine: Engine) -> None:
    inputs = engine.count_tokens(asked().messages)
    whole = engine.generate(asked(max_tokens=CONTEXT - inputs, grammar='root ::= "yes"'))
    assert whole.answer.text == "yes"
    with pytest.raises(ContextOverflowError):
        engine.generate(asked(max_tokens=CONTEXT - inputs + 1, grammar='root ::= "yes"'))


def test_two_requests_are_worked_on_at_once(engine: Engine, busy: Callable[[], int]) -> None:
    streams = [engine.stream(asked(text, max_tokens=900, grammar=ENDLESS)) for text in ("the parcel", "a receipt")]
    for stream in streams:
        next(stream)
    assert busy() == 2
    for stream in streams:
        stream.close()
    _until(lambda: busy() == 0)


def test_two_requests_at_once_are_answered_as_alone(engine: Engine) -> None:
    requests = [asked(text, max_tokens=60) for text in ("a customer lost the parcel", "our driver opened an invoice")]
    alone = [engine.generate(request) for request in requests]
    assert engine.generate_many(requests * 2) == alone * 2


def test_many_are_answered_in_order_and_a_bad_one_leaves_its_error(engine: Engine) -> None:
    words = ["one", "two", "three", "four", "five"]
    requests = [asked(grammar=f'root ::= "{word}"') for word in words]
    requests[2] = asked(TOO_LONG)
    found = engine.generate_many(requests)
    assert isinstance(found[2], ContextOverflowError)
    assert [f.answer.text for f in found if isinstance(f, Generated)] == ["one", "two", "four", "five"]
    assert engine.generate_many([]) == []


def test_a_delta_says_only_what_is_new(engine: Engine) -> None:
    deltas = list(engine.stream(asked()))
    assert all(isinstance(d, Delta) and d != Delta() for d in deltas)
    assert [d.finish_reason for d in deltas if d.finish_reason] == ["length"]
    assert sum(d.output_tokens is not None for d in deltas) == 1


def _until(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)
