"""Bytes of any kind against the reader of event streams and the translators of requests and answers.

python benchmarks/fuzz_dialects.py [SECONDS]

Guided by coverage (atheris, which has to be installed). Whatever is not a result, a `DataError` for a request or an
`UnreadableAnswerError` for an answer ends the run with the input that did it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed; run: pip install atheris")

with atheris.instrument_imports(include=["tiercel"]):
    from tiercel.errors import DataError, UnreadableAnswerError
    from tiercel.providers.chunks import assemble, chunks_of
    from tiercel.providers.completions_form import CompletionTexts, chat_from_completions, text_from_completion
    from tiercel.providers.messages_form import (
        CompletionChunks,
        MessageEvents,
        anthropic_error,
        chat_from_messages,
        completion_from_message,
        message_from_completion,
        messages_from_chat,
        openai_error,
    )
    from tiercel.providers.responses_form import ResponseEvents, chat_from_responses, response_from_completion
    from tiercel.providers.sse import EventReader, encode_event
    from tiercel.providers.strict_chat import strict_chat

SECONDS = 60
OUT = Path(__file__).parent / "out"
"""Where an input goes that ended a run."""
LIMIT = 1000
CALL = b'{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}'
SEEDS = (
    b'event: x\r\ndata: {"a":1}\r\n\r\ndata: [DONE]\n\n: ping\rid: 1\r\r',
    b'{"model":"m","max_tokens":5,"system":[{"type":"text","text":"s"}],"messages":[{"role":"user","content":"u"},'
    b'{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{}},{"type":"thinking","thinking":"t",'
    b'"signature":"s"}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":[{"type":"image",'
    b'"source":{"type":"base64","media_type":"image/png","data":"AA=="}}]},{"type":"document","source":{"type":"text",'
    b'"media_type":"text/plain","data":"d"}}]}],"tools":[{"name":"f","input_schema":{}}],"tool_choice":{"type":"any"}}',
    b'{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"image_url","image_url":'
    b'{"url":"data:image/png;base64,AA=="}},{"type":"file","file":{"filename":"a","file_data":"data:text/plain;base64,"}}'
    b']},{"role":"assistant","content":null,"tool_calls":['
    + CALL
    + b']},{"role":"tool","tool_call_id":"a","content":"r"}],'
    b'"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"tool_choice":"required","stop":["x"]}',
    b'{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"a"}]},{"type":"function_call","call_id":'
    b'"a","name":"f","arguments":"{}"},{"type":"function_call_output","call_id":"a","output":"b"},{"type":"reasoning",'
    b'"summary":[{"text":"c"}]}],"tools":[{"type":"function","name":"f"}],"text":{"format":{"type":"json_object"}}}',
    b'{"model":"m","prompt":"p","max_tokens":5,"logprobs":2,"n":1,"best_of":1}',
    b'{"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"a","reasoning_content":"b","tool_calls":['
    + CALL
    + b']},"message":{"content":"a","tool_calls":['
    + CALL
    + b']},"logprobs":{"content":[{"token":"a","logprob":-1,"top_logprobs":[]}]},"finish_reason":"stop"}],"usage":'
    b'{"prompt_tokens":1,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}',
    b'{"type":"message_start","message":{"id":"m","model":"m","usage":{"input_tokens":1}},"content":[{"type":"text","text":'
    b'"a"}],"stop_reason":"end_turn","index":0,"content_block":{"type":"tool_use","id":"a","name":"f","input":{}},'
    b'"delta":{"type":"input_json_delta","partial_json":"{}","stop_reason":"tool_use"},"usage":{"output_tokens":2}}',
)
REQUESTS: tuple[Callable[[Any], object], ...] = (
    chat_from_messages,
    lambda body: messages_from_chat(body, default_max_tokens=5),
    chat_from_responses,
    chat_from_completions,
    strict_chat,
)
ANSWERS: tuple[Callable[[Any], object], ...] = (
    message_from_completion,
    completion_from_message,
    response_from_completion,
    text_from_completion,
    lambda answer: list(chunks_of(answer)),
    lambda answer: assemble([answer, answer]),
    lambda answer: (anthropic_error(answer), openai_error(answer)),
)
STREAMS = (MessageEvents, CompletionChunks, ResponseEvents, CompletionTexts)
EVENTS = (
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
)


def read_stream(data: bytes) -> None:
    """However the bytes are cut, the events are the same, and can be written and read again."""
    with suppress(UnreadableAnswerError):
        whole = EventReader(LIMIT)
        events = whole.feed(data) + whole.end()
        step = 1 + len(data) % 7
        cut = EventReader(LIMIT)
        again = [event for i in range(0, len(data), step) for event in cut.feed(data[i : i + step])] + cut.end()
        assert events == again
        raw = b"".join(encode_event(event.data, event.event) for event in events)
        assert EventReader(2 * LIMIT).feed(raw) == events


def translate(body: Any) -> None:
    """Every translator takes the body or says what is wrong."""
    for request in REQUESTS:
        with suppress(DataError):
            request(body)
    for answer in ANSWERS:
        with suppress(UnreadableAnswerError):
            answer(body)
    for stream in STREAMS:
        form = stream()
        with suppress(UnreadableAnswerError):
            for kind in EVENTS if isinstance(body, dict) else ():
                form.feed(body | {"type": kind})
            form.feed(body)
        form.end()


def one(data: bytes) -> None:
    """One input of the fuzzer."""
    read_stream(data)
    with suppress(ValueError, RecursionError):
        body = msgspec.json.decode(data)
        try:
            translate(body)
        except (ValueError, RecursionError) as error:  # those of the decoder are no finding, these are
            raise AssertionError(repr(error)) from error


def main() -> None:
    """Fuzz for so many seconds."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for i, seed in enumerate(SEEDS):
            (Path(folder) / str(i)).write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-max_len=4096", f"-artifact_prefix={OUT}/"]
        atheris.Setup([sys.argv[0], *options, folder], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
