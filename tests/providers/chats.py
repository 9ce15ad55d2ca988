"""Chat requests, completions and JSON of any shape, for property tests of the dialects."""

from __future__ import annotations

import base64
import copy
import itertools
import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

Json = dict[str, Any]

few = settings(max_examples=40)
"""For tests whose examples take long to draw."""

texts = st.text(max_size=12)
words = st.from_regex(r"[a-zA-Z0-9_-]{1,12}", fullmatch=True)
said = st.text(min_size=1, max_size=12)
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
objects = st.dictionaries(words, anything, max_size=3)
schemas = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(words, st.just({"type": "string"}), max_size=3)}
)

data = st.binary(max_size=9).map(lambda raw: base64.b64encode(raw).decode())
text_parts = st.builds(lambda text: {"type": "text", "text": text}, said)
images = st.one_of(
    st.builds(
        lambda d, t: {"type": "image_url", "image_url": {"url": f"data:image/{t};base64,{d}"}},
        data,
        st.sampled_from(["png", "jpeg"]),
    ),
    st.builds(lambda name: {"type": "image_url", "image_url": {"url": f"https://example.com/{name}.png"}}, words),
)
files = st.one_of(
    st.builds(
        lambda d, n: {"type": "file", "file": {"filename": n, "file_data": f"data:application/pdf;base64,{d}"}},
        data,
        words,
    ),
    st.builds(
        lambda t, n: {
            "type": "file",
            "file": {"filename": n, "file_data": f"data:text/plain;base64,{base64.b64encode(t.encode()).decode()}"},
        },
        texts,
        words,
    ),
    st.builds(lambda i: {"type": "file", "file": {"file_id": i}}, words),
)
marks = st.just({}) | st.just({"cache_control": {"type": "ephemeral"}})
marked = st.builds(lambda part, mark: part | mark, text_parts | images | files, marks)
calls = st.builds(
    lambda id, name, arguments: {
        "id": id,
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    },
    words,
    words,
    objects,
)


def _turn(user: Any, answer: Any, tool_calls: list[Json], results: list[Any]) -> list[Json]:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    if tool_calls:
        messages[1]["tool_calls"] = tool_calls
        for call, result in zip(tool_calls, results, strict=False):
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    return messages


turns = st.builds(
    _turn,
    said | st.lists(marked, min_size=1, max_size=3),
    said | st.none(),
    st.lists(calls, max_size=3),
    st.lists(said | st.lists(text_parts | images, min_size=1, max_size=2), min_size=3, max_size=3),
)
tools = st.builds(
    lambda name, schema, more, outer: (
        {"type": "function", "function": {"name": name, "parameters": schema} | more} | outer
    ),
    words,
    schemas,
    st.fixed_dictionaries({}, optional={"description": texts, "strict": st.booleans()}),
    marks,
)
chats = st.builds(
    lambda system, turned, last, fields: (
        {
            "messages": [
                *({"role": "system", "content": s} for s in system),
                *(m for t in turned for m in t),
                {"role": "user", "content": last},
            ]
        }
        | fields
    ),
    st.lists(said, max_size=2),
    st.lists(turns, max_size=3),
    said,
    st.fixed_dictionaries(
        {"model": words},
        optional={
            "tools": st.lists(tools, min_size=1, max_size=3),
            "tool_choice": st.sampled_from(
                ["auto", "none", "required", {"type": "function", "function": {"name": "f"}}]
            ),
            "max_completion_tokens": st.integers(1, 9999),
            "temperature": st.floats(0, 1),
            "top_p": st.floats(0, 1),
            "top_k": st.integers(1, 50),
            "stop": st.lists(said, min_size=1, max_size=3),
            "user": words,
            "reasoning_effort": st.sampled_from(["low", "medium", "high", "xhigh", "max"]),
        },
    ),
)
"""Requests that Anthropic's API can say as well."""

logprobs = st.lists(
    st.builds(
        lambda token, p, top: {"token": token, "bytes": list(token.encode()), "logprob": p, "top_logprobs": top},
        said,
        st.floats(-20, 0),
        st.lists(st.builds(lambda t: {"token": t, "bytes": None, "logprob": -1.5}, said), max_size=2),
    ),
    max_size=3,
)
counts = st.builds(
    lambda fresh, cached, written, output, thought: {
        "prompt_tokens": fresh + cached + written,
        "completion_tokens": output + thought,
        "total_tokens": fresh + cached + written + output + thought,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": thought},
    },
    *[st.integers(0, 9999)] * 5,
)
answers = st.builds(
    lambda content, refusal, thought, tool_calls, more: (
        {"role": "assistant", "content": content, "refusal": refusal}
        | ({"reasoning_content": thought} if thought else {})
        | ({"tool_calls": tool_calls} if tool_calls else {})
        | more
    ),
    texts | st.none(),
    said | st.none(),
    texts,
    st.lists(calls, max_size=3),
    st.fixed_dictionaries({}, optional={"annotations": st.just([]), "x_own": anything.filter(lambda v: v is not None)}),
)


def completions(choices: int = 1, *, refusals: bool = True) -> st.SearchStrategy[Json]:
    """Chat completions as a provider sends them."""

    def built(id: str, messages: list[Json], told: list[Any], reasons: list[str], usage: Json, more: Json) -> Json:
        whole = []
        for i, drawn in enumerate(messages):
            message = copy.deepcopy(drawn) if refusals else copy.deepcopy(drawn) | {"refusal": None}
            whole.append({"index": i, "message": message, "logprobs": told[i], "finish_reason": reasons[i]})
        head = {"id": id, "object": "chat.completion", "created": 1_700_000_000, "model": "m"}
        return head | {"choices": whole, "usage": usage} | more

    return st.builds(
        built,
        words,
        st.lists(answers, min_size=1, max_size=choices),
        st.lists(
            st.none() | st.builds(lambda t: {"content": t, "refusal": None}, logprobs),
            min_size=choices,
            max_size=choices,
        ),
        st.lists(
            st.sampled_from(["stop", "length", "tool_calls", "content_filter"]), min_size=choices, max_size=choices
        ),
        counts,
        st.fixed_dictionaries(
            {}, optional={"system_fingerprint": words, "service_tier": st.just("default"), "x_own": objects}
        ),
    )


@st.composite
def broken(draw: st.DrawFn, whole: st.SearchStrategy[Json]) -> Any:
    """JSON that nearly has the right form: some places of it hold anything, or are gone."""
    value = copy.deepcopy(draw(whole))
    for _ in range(draw(st.integers(1, 3))):
        at: Any = value
        while isinstance(at, dict | list) and at:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = draw(st.sampled_from(keys))
            if not isinstance(at[key], dict | list) or not at[key] or draw(st.integers(0, 3)) == 0:
                if isinstance(at, dict) and draw(st.booleans()):
                    del at[key]
                else:
                    at[key] = draw(anything)
                break
            at = at[key]
    return value


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    """A text cut at some places."""
    places = sorted({0, len(text), *(c % (len(text) + 1) for c in cuts)})
    return [text[a:b] for a, b in itertools.pairwise(places)]
