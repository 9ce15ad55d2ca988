"""Rows as real exports look, each with the fields that its system writes beside those that are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_lines
from tiercel.datasets.contract import example_from
from tiercel.datasets.formats import BatchJoiner, detect_format, to_contract
from tiercel.datasets.importing import ImportCounts, read_traffic
from tiercel.errors import DataError
from tiercel.flows.rejects import RejectFile
from tiercel.types import Answer, Example, Usage

Row = dict[str, Any]

TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "order", "schema": {"type": "object"}}}
PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is order 7?"}]
USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 40,
    "total_tokens": 140,
    "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 8, "audio_tokens": 0},
}
COUNTED = Usage(input_tokens=100, cached_input_tokens=64, output_tokens=40, reasoning_tokens=8)


def _completion(content: str | None = "On its way.", finish: str = "stop", **message: Any) -> Row:
    return {
        "id": "chatcmpl-9x",
        "object": "chat.completion",
        "created": 1_740_832_200,
        "model": "gpt-4o-2024-11-20",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "logprobs": None,
                "message": {"role": "assistant", "content": content, "refusal": None, "annotations": [], **message},
            }
        ],
        "usage": USAGE,
        "system_fingerprint": "fp_1",
    }


CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"order": 7}'}}


def _read(row: Row) -> Example:
    return example_from(to_contract(row, detect_format(row)))


def _refused(row: Row, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        _read(row)


def litellm_payload(**changes: Any) -> Row:
    """LiteLLM's StandardLoggingPayload, as its S3, GCS and file loggers write it."""
    return {
        "id": "chatcmpl-9x",
        "trace_id": "t-1",
        "call_type": "acompletion",
        "stream": False,
        "response_cost": 0.00065,
        "status": "success",
        "total_tokens": 140,
        "prompt_tokens": 100,
        "completion_tokens": 40,
        "startTime": 1740832200.25,
        "endTime": 1740832201.5,
        "completionStartTime": 1740832201.5,
        "model": "gpt-4o",
        "model_id": "m",
        "model_group": "gpt-4o",
        "api_base": "https://api.openai.com",
        "metadata": {"user_api_key_hash": "h", "usage_object": USAGE},
        "cache_hit": None,
        "request_tags": [],
        "end_user": "",
        "messages": PROMPT,
        "response": _completion(),
        "error_str": None,
        "model_parameters": {"temperature": 0, "tools": TOOLS, "response_format": SCHEMA},
        "hidden_params": {},
        **changes,
    }


def litellm_spend(**changes: Any) -> Row:
    """A row of LiteLLM_SpendLogs: JSON columns come out as text."""
    body = {"model": "gpt-4o", "messages": PROMPT, "tools": TOOLS, "response_format": SCHEMA}
    return {
        "request_id": "chatcmpl-9x",
        "call_type": "acompletion",
        "api_key": "88dc",
        "spend": 0.00065,
        "total_tokens": 140,
        "prompt_tokens": 100,
        "completion_tokens": 40,
        "startTime": "2025-03-01T12:30:00.250000",
        "endTime": "2025-03-01T12:30:01.500000",
        "model": "gpt-4o",
        "metadata": json.dumps(
            {"status": "success", "additional_usage_values": {k: USAGE[k] for k in list(USAGE)[3:]}}
        ),
        "cache_hit": "False",
        "messages": "{}",
        "response": json.dumps(_completion()),
        "proxy_server_request": json.dumps(body),
        "status": "success",
        **changes,
    }


@pytest.mark.parametrize("row", [litellm_payload(), litellm_spend()], ids=["payload", "spend log"])
def test_litellm_rows_keep_request_answer_tools_format_usage_and_time(row: Row) -> None:
    assert detect_format(row) == "litellm"
    found = _read(row)
    assert [(m.role, m.text) for m in found.messages] == [(m["role"], m["content"]) for m in PROMPT]
    assert found.answer == Answer(content="On its way.")
    assert found.tools == TOOLS
    assert found.response_format == SCHEMA
    assert found.usage == COUNTED
    assert (found.id, found.model, found.created) == ("chatcmpl-9x", "gpt-4o", 1740832200.25)


def test_a_spend_log_may_hold_its_messages_itself_and_its_request_under_body() -> None:
    request = {"url": "http://proxy/chat/completions", "method": "POST", "body": {"tools": TOOLS, "messages": PROMPT}}
    found = _read(litellm_spend(messages=json.dumps(PROMPT), proxy_server_request=json.dumps(request)))
    assert found.tools == TOOLS
    assert len(found.messages) == 2
    assert len(_read(litellm_spend(proxy_server_request=request)).messages) == 2


@pytest.mark.parametrize("made", [litellm_payload, litellm_spend])
def test_tool_calls_of_litellm_are_an_answer(made: Callable[..., Row]) -> None:
    response = _completion(None, "tool_calls", tool_calls=[CALL])
    found = _read(made(response=response if made is litellm_payload else json.dumps(response)))
    assert found.answer is not None
    assert found.answer.content is None
    assert [(c.id, c.function.name, c.function.arguments) for c in found.answer.tool_calls] == [
        ("call_1", "look_up", '{"order": 7}')
    ]


TRUNCATED = (
    "Where is ... (litellm_truncated skipped 90210 chars. Set MAX_STRING_LENGTH_PROMPT_IN_DB to raise the limit) ... 7?"
)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (litellm_payload(status="failure", response=None, error_str="RateLimitError"), "failed call"),
        (litellm_payload(status="failure"), "failed call"),
        (litellm_payload(error_str="Timeout"), "failed call"),
        (litellm_spend(status="failure", response="{}"), "failed call"),
        (litellm_payload(messages=[{"role": "user", "content": TRUNCATED}]), "truncated"),
        (litellm_payload(response=_completion(TRUNCATED)), "truncated"),
        (litellm_spend(messages=json.dumps([{"role": "user", "content": TRUNCATED}])), "truncated"),
        (litellm_payload(messages=[{"role": "user", "content": "redacted-by-litellm"}]), "redacted"),
        (litellm_payload(response=_completion("redacted-by-litellm")), "redacted"),
        (litellm_spend(response="{}"), "did not store prompts and responses"),
        (litellm_payload(response=None), "did not store prompts and responses"),
        (litellm_spend(proxy_server_request="{}"), "no prompt"),
        (litellm_payload(call_type="aembedding"), "aembedding call is not a chat"),
        (litellm_payload(response=_completion(finish="length")), "not whole: finish_reason is 'length'"),
        (litellm_payload(response=_completion(finish="content_filter")), "content_filter"),
        (litellm_payload(response=_completion(None, refusal="I can't help with that.")), "refused"),
        (litellm_payload(response={**_completion(), "choices": []}), "no choices"),
        (litellm_payload(response="just text"), "no choices"),
    ],
)
def test_litellm_rows_that_are_no_whole_chat_are_rejected(row: Row, reason: str) -> None:
    _refused(row, reason)


def langfuse_api(**changes: Any) -> Row:
    """An observation of Langfuse's public API and of its interface's JSON export."""
    return {
        "id": "obs-1",
        "traceId": "tr-1",
        "type": "GENERATION",
        "name": "answer",
        "startTime": "2025-03-01T12:30:00.250Z",
        "endTime": "2025-03-01T12:30:01.500Z",
        "level": "DEFAULT",
        "statusMessage": None,
        "parentObservationId": None,
        "model": "gpt-4o",
        "modelParameters": {"temperature": "0"},
        "input": {"messages": PROMPT, "tools": TOOLS},
        "output": {"role": "assistant", "content": "On its way."},
        "usage": {"unit": "TOKENS", "input": 36, "output": 40, "total": 140},
        "usageDetails": {"input": 36, "input_cached_tokens": 64, "output": 40, "total": 140},
        "costDetails": {"total": 0.00065},
        "metadata": {},
        **changes,
    }


def langfuse_blob(**changes: Any) -> Row:
    """An observation of Langfuse's blob storage export: snake case, JSON in text."""
    return {
        "id": "obs-1",
        "trace_id": "tr-1",
        "project_id": "p",
        "environment": "default",
        "type": "GENERATION",
        "start_time": "2025-03-01 12:30:00.250000",
        "end_time": "2025-03-01 12:30:01.500000",
        "name": "answer",
        "level": "DEFAULT",
        "provided_model_name": "gpt-4o",
        "model_parameters": json.dumps({"response_format": json.dumps(SCHEMA)}),
        "input": json.dumps(PROMPT),
        "output": json.dumps({"role": "assistant", "content": "On its way."}),
        "usage_details": {"input": 36, "input_cached_tokens": 64, "output": 40, "total": 140},
        "cost_details": {"total": 0.00065},
        **changes,
    }


def test_a_langfuse_observation_of_the_api() -> None:
    row = langfuse_api()
    assert detect_format(row) == "langfuse"
    found = _read(row)
    assert [m.text for m in found.messages] == ["Be brief.", "Where is order 7?"]
    assert found.answer == Answer(content="On its way.")
    assert found.tools == TOOLS
    assert found.usage == Usage(input_tokens=100, cached_input_tokens=64, output_tokens=40)
    assert (found.id, found.model, found.created) == ("obs-1", "gpt-4o", 1740832200.25)


def test_a_langfuse_observation_of_the_blob_export() -> None:
    row = langfuse_blob()
    assert detect_format(row) == "langfuse"
    found = _read(row)
    assert [m.text for m in found.messages] == ["Be brief.", "Where is order 7?"]
    assert found.answer == Answer(content="On its way.")
    assert found.response_format == SCHEMA
    assert found.usage == Usage(input_tokens=100, cached_input_tokens=64, output_tokens=40)
    assert (found.id, found.model, found.created) == ("obs-1", "gpt-4o", 1740832200.25)
    as_text = langfuse_blob(usage_details=json.dumps(row["usage_details"]))
    assert _read(as_text).usage == found.usage


@pytest.mark.parametrize(
    ("output", "content"),
    [
        ("On its way.", "On its way."),
        ({"order": 7, "état": "là"}, '{"order": 7, "état": "là"}'),
        (_completion("From choices."), "From choices."),
        ("[not json", "[not json"),
    ],
)
def test_an_output_of_langfuse_is_text_a_message_a_completion_or_json(output: Any, content: str) -> None:
    assert _read(langfuse_api(output=output)).answer == Answer(content=content)


def test_an_input_of_langfuse_may_be_plain_text() -> None:
    found = _read(langfuse_api(input="Where is order 7?"))
    assert [(m.role, m.text) for m in found.messages] == [("user", "Where is order 7?")]


def test_tool_calls_of_langfuse() -> None:
    inside = _read(langfuse_api(output={"role": "assistant", "content": None, "tool_calls": [CALL]}))
    beside = _read(langfuse_blob(output=None, tool_calls=[json.dumps(CALL)], tool_definitions=[json.dumps(TOOLS[0])]))
    for found in (inside, beside):
        assert found.answer is not None
        assert [(c.function.name, c.function.arguments) for c in found.answer.tool_calls] == [
            ("look_up", '{"order": 7}')
        ]
        assert found.tools == TOOLS


@pytest.mark.parametrize("made", [langfuse_api, langfuse_blob])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "SPAN"}, "Langfuse SPAN is not a generation"),
        ({"type": "EVENT"}, "EVENT is not"),
        ({"level": "ERROR"}, "failed generation"),
        ({"output": None}, "no output"),
        ({"output": ""}, "no output"),
        ({"input": None}, "no prompt"),
        ({"input": []}, "no prompt"),
        ({"input": ["hello"]}, "not an object"),
        ({"output": _completion(finish="length")}, "not whole"),
    ],
)
def test_langfuse_rows_that_are_no_whole_chat_are_rejected(made: Callable[..., Row], changes: Row, reason: str) -> None:
    _refused(made(**changes), reason)


def test_a_stored_completion_with_its_prompt_merged_under_messages() -> None:
    listed = {"object": "list", "data": [{"id": "m-0", "content_parts": None, "name": None, **m} for m in PROMPT]}
    for messages in (PROMPT, listed, listed["data"]):
        row = {**_completion(), "messages": messages, "tools": TOOLS, "response_format": SCHEMA, "metadata": {"a": "b"}}
        assert detect_format(row) == "openai-stored"
        found = _read(row)
        assert [(m.role, m.text, m.name) for m in found.messages] == [(m["role"], m["content"], None) for m in PROMPT]
        assert found.answer == Answer(content="On its way.")
        assert (found.tools, found.response_format, found.usage) == (TOOLS, SCHEMA, COUNTED)
        assert (found.model, found.created, found.metadata) == ("gpt-4o-2024-11-20", 1_740_832_200, {"a": "b"})


def test_content_parts_of_a_stored_prompt_are_its_content() -> None:
    parts = [{"type": "text", "text": "Where is it?"}]
    found = _read({**_completion(), "messages": [{"role": "user", "content": None, "content_parts": parts}]})
    assert found.messages[0].text == "Where is it?"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (_completion(), "no prompt: put the list from its /messages"),
        ({**_completion(finish="length"), "messages": PROMPT}, "not whole"),
        ({**_completion(None, refusal="no"), "messages": PROMPT}, "refused"),
        ({**_completion(""), "messages": PROMPT}, "neither text nor tool calls"),
    ],
)
def test_stored_completions_that_are_no_whole_chat_are_rejected(row: Row, reason: str) -> None:
    _refused(row, reason)


def eval_item(**sample: Any) -> Row:
    return {
        "object": "eval.run.output_item",
        "id": "outputitem_1",
        "created_at": 1_740_832_200,
        "run_id": "evalrun_1",
        "eval_id": "eval_1",
        "status": "pass",
        "datasource_item_id": 5,
        "datasource_item": {"input": "x"},
        "results": [{"name": "s", "passed": True, "score": 1.0}],
        "sample": {
            "input": PROMPT,
            "output": [{"role": "assistant", "content": "On its way."}],
            "finish_reason": "stop",
            "model": "gpt-4o-2024-11-20",
            "usage": {"total_tokens": 140, "completion_tokens": 40, "prompt_tokens": 100, "cached_tokens": 64},
            "error": {"code": "", "message": ""},
            **sample,
        },
    }


def test_an_item_of_an_evaluation() -> None:
    row = eval_item()
    assert detect_format(row) == "openai-eval"
    found = _read(row)
    assert len(found.messages) == 2
    assert found.answer == Answer(content="On its way.")
    assert found.usage == Usage(input_tokens=100, cached_input_tokens=64, output_tokens=40)
    assert (found.id, found.model, found.created) == ("outputitem_1", "gpt-4o-2024-11-20", 1_740_832_200)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**eval_item(), "sample": None}, "no sample"),
        (eval_item(output=[]), "no sample"),
        (eval_item(error={"code": "server_error", "message": "x"}), "failed"),
        (eval_item(input=[]), "no prompt"),
        (eval_item(finish_reason="length"), "not whole"),
    ],
)
def test_items_of_an_evaluation_that_are_no_whole_chat_are_rejected(row: Row, reason: str) -> None:
    _refused(row, reason)


def batch_request(key: str, asked: str = "Where is it?") -> Row:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": asked}], "tools": TOOLS}
    return {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}


def batch_result(key: str, answered: str = "On its way.", status: int = 200) -> Row:
    body = _completion(answered) if status == 200 else {"error": {"message": "bad", "type": "invalid_request_error"}}
    return {
        "id": "batch_req_1",
        "custom_id": key,
        "response": {"status_code": status, "request_id": "r", "body": body},
        "error": None,
    }


def batch_expired(key: str) -> Row:
    return {"id": "batch_req_1", "custom_id": key, "response": None, "error": {"code": "batch_expired", "message": "x"}}


ORDERS = {
    "requests first": (["q1", "q2", "q3", "q4"], ["a1", "a2", "a3", "a4"]),
    "results first, in another order": (["a3", "a4", "a1", "a2"], ["q1", "q2", "q3", "q4"]),
    "one file, mixed": (["a3", "q1", "q3", "a1", "q2", "a2"], ["a4", "q4"]),
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_halves_of_a_batch_join_in_any_order_and_failed_ones_are_rejected(tmp_path: Path, order: str) -> None:
    rows = {f"q{i}": batch_request(f"k{i}", f"question {i}") for i in range(1, 5)}
    rows |= {f"a{i}": batch_result(f"k{i}", f"answer {i}") for i in (1, 3)}
    rows |= {"a2": batch_result("k2", status=400), "a4": batch_expired("k4")}
    paths = [write_lines(tmp_path / f"{i}.jsonl", *(rows[n] for n in names)) for i, names in enumerate(ORDERS[order])]
    counts = ImportCounts()
    with RejectFile(tmp_path / "rejects.jsonl") as rejects:
        found = {e.id: e for e in read_traffic(paths, counts, rejects)}
    assert {k: (e.messages[0].text, e.answer and e.answer.text) for k, e in found.items()} == {
        "k1": ("question 1", "answer 1"),
        "k3": ("question 3", "answer 3"),
    }
    assert found["k1"].tools == TOOLS
    assert found["k1"].usage == COUNTED
    assert found["k1"].model == "gpt-4o-2024-11-20"
    assert (counts.read, counts.kept, counts.rejected, counts.unmatched) == (8, 2, 2, 0)


def test_halves_without_the_other_are_counted(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "b.jsonl", batch_request("a"), batch_request("b"), batch_result("b"), batch_result("c")
    )
    counts = ImportCounts()
    assert [e.id for e in read_traffic([path], counts, RejectFile(None))] == ["b"]
    assert counts.unmatched == 2


def test_a_half_that_comes_twice_is_rejected_and_the_first_still_joins() -> None:
    joiner = BatchJoiner()
    assert joiner.join(batch_request("a", "first")) is None
    with pytest.raises(DataError, match="custom_id stands twice among the requests"):
        joiner.join(batch_request("a", "second"))
    joined = joiner.join(batch_result("a"))
    assert joined is not None
    assert joined["messages"][0]["content"] == "first"


def test_a_batch_of_embeddings_is_rejected() -> None:
    joiner = BatchJoiner()
    joiner.join({"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"input": "x", "model": "m"}})
    with pytest.raises(DataError, match="no prompt"):
        joiner.join(batch_result("a"))


def test_what_is_not_known_is_read_as_the_contract() -> None:
    for row in (None, 5, [], {}, {"messages": PROMPT}, {"input": "a", "output": "b"}):
        assert detect_format(row) == "tiercel"


def test_files_of_all_formats_mix(tmp_path: Path) -> None:
    answers = (f"answer {i}" for i in range(9))
    rows = [
        litellm_payload(response=_completion(next(answers))),
        langfuse_api(output=next(answers)),
        {**_completion(next(answers)), "messages": PROMPT},
        eval_item(output=[{"role": "assistant", "content": next(answers)}]),
        batch_request("k"),
        batch_result("k", next(answers)),
        {"messages": [*PROMPT, {"role": "assistant", "content": next(answers)}]},
    ]
    counts = ImportCounts()
    found = list(read_traffic([write_lines(tmp_path / "all.jsonl", *rows)], counts, RejectFile(None)))
    assert [e.answer and e.answer.text for e in found] == [f"answer {i}" for i in range(6)]
    assert counts.formats == {
        "litellm": 1,
        "langfuse": 1,
        "openai-stored": 1,
        "openai-eval": 1,
        "openai-batch": 2,
        "tiercel": 1,
    }
