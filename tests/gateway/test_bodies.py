from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.gateway.conftest import SURE, Frontier, body, send
from tiercel.errors import DataError
from tiercel.gateway.bodies import MOST_BRACKETS, decode_body

NAMES = st.sampled_from(["model", "a", 'a"b', "\\", "u0022", ""])
TEXTS = st.text(st.sampled_from('a"\\u02:{}[],\n\u00e9'), max_size=6)


@st.composite
def json_texts(draw: st.DrawFn, depth: int = 3) -> str:
    """JSON as a client may write it: names repeated, quotation marks written in either way."""

    def text(value: str) -> str:
        written = json.dumps(value, ensure_ascii=draw(st.booleans()))
        return written.replace('\\"', "\\u0022") if draw(st.booleans()) and "\\\\" not in written else written

    kind = draw(st.integers(0, 3 if depth else 1))
    if kind == 0:
        return text(draw(TEXTS))
    if kind == 1:
        return draw(st.sampled_from(["1", "-2.50", "1e3", "true", "null", "12345678901234567890123"]))
    inner = [draw(json_texts(depth=depth - 1)) for _ in range(draw(st.integers(0, 3)))]
    if kind == 2:
        return f"[{','.join(inner)}]"
    return "{" + ", ".join(f"{text(draw(NAMES))}: {value}" for value in inner) + "}"


def repeats(text: str) -> bool:
    """Whether a name stands twice in one object, told object by object."""
    found = [False]

    def look(pairs: list[tuple[str, Any]]) -> None:
        found[0] |= len(dict(pairs)) < len(pairs)

    json.loads(text, object_pairs_hook=look)
    return found[0]


@given(json_texts())
@example('"\\u0022"')
@example('{"a": 1, "a": "\\u0022\\u0022"}')  # as many quotation marks as if nothing had been dropped
@example('{"a": "\\u0022"}')
def test_a_body_is_refused_where_a_name_stands_twice_and_only_there(value: str) -> None:
    raw = f'{{"value": {value}}}'.encode()
    if repeats(raw.decode()):
        with pytest.raises(DataError, match="twice in one object; keep one of them"):
            decode_body(raw, 64)
    else:
        assert decode_body(raw, 64) == json.loads(raw)


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        (b'{"model": "a", "messages": [], "model": "b"}', '"model"'),
        (b'{"messages": [{"role": "user", "content": "x", "content": "y"}]}', '"content"'),
        (b'{"mod\\u0065l": "a", "model": "b"}', '"model"'),
        (b'{"a secret of the caller": 1, "a secret of the caller": 2}', "a name"),
    ],
)
def test_the_error_names_what_is_repeated_where_it_can_be_no_content(raw: bytes, named: str) -> None:
    with pytest.raises(DataError, match=f"^the body holds {named} twice in one object"):
        decode_body(raw, 64)


def test_more_objects_than_anybody_needs_are_refused() -> None:
    with pytest.raises(DataError, match="more than 250,000 objects and lists"):
        decode_body(b'{"x": [' + b"[]," * MOST_BRACKETS + b"1]}", 64)


@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/messages", "/completions", "/embeddings"])
def test_no_api_passes_on_what_it_may_have_read_otherwise(path: str, server: str, frontier: Frontier) -> None:
    raw = json.dumps(body(SURE)).encode()[:-1] + b', "model": "another"}'
    status, _, told = send(server, raw, path)
    assert (status, json.loads(told)["error"]["message"]) == (
        400,
        'the body holds "model" twice in one object; keep one of them',
    )
    assert not frontier.requests
