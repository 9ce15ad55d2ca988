"""A list is split as a whole reader would split it, wherever the bytes are cut into chunks."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tiercel.datasets.json_items import JsonItem, JsonItems

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('ab"\\[]{},: \n', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["data", "a", "]"]), inner, max_size=3),
    max_leaves=8,
)


def split(content: bytes, size: int = 7, longest: int = 10_000) -> list[JsonItem]:
    items = JsonItems(longest)
    found = [i for at in range(0, len(content), size) for i in items.feed(content[at : at + size])]
    return found + list(items.end())


@settings(max_examples=200, deadline=None)
@given(st.lists(VALUES, max_size=5), st.sampled_from([None, 1]), st.integers(1, 40), st.booleans())
def test_items_are_those_that_json_reads(values: list[Any], indent: int | None, size: int, wrapped: bool) -> None:
    whole = {"a": [{"data": [7]}], "b": "data", "data": values, "c": [1, "]"]} if wrapped else values
    found = split(json.dumps(whole, indent=indent).encode(), size)
    assert [i.error for i in found] == [None] * len(values)
    assert [json.loads(i.raw) for i in found] == values
    assert [i.number for i in found] == list(range(1, len(values) + 1))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "Data"]), VALUES, max_size=3), st.integers(1, 40))
def test_an_object_without_a_list_of_data_is_one_item(value: dict[str, Any], size: int) -> None:
    (item,) = split(json.dumps(value, indent=1).encode(), size)
    assert json.loads(item.raw) == value


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=4), st.data(), st.integers(1, 40))
@example([1, 2], None, 3)
def test_what_json_refuses_has_an_item_that_is_refused(values: list[Any], data: Any, size: int) -> None:
    content = bytearray(json.dumps(values).encode())
    at, piece = (2, b",,") if data is None else (data.draw(st.integers(1, len(content))), data.draw(MUTATIONS))
    content[at : at + len(piece)] = piece
    found = split(bytes(content), size)
    refused = [i for i in found if i.error is not None or not is_json(i.raw)]
    assert bool(refused) == (not is_json(bytes(content)))
    if not refused:
        assert [json.loads(i.raw) for i in found] == json.loads(bytes(content))


MUTATIONS = st.sampled_from([b"", b",", b"]", b"[", b"{", b"}", b'"', b"\\", b"NaN", b" ", b"1", b'", "', b"],["])


def is_json(content: bytes) -> bool:
    try:
        msgspec.json.decode(content)
    except msgspec.DecodeError:
        return False
    return True


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_lines_are_counted_wherever_chunks_end(size: int) -> None:
    content = b'\n[\n{"a":\n1},\n\n2,3,\n"x\\\\\\"", 4\n]'
    assert [(i.line, i.raw) for i in split(content, size)] == [
        (3, b'{"a":\n1}'),
        (6, b"2"),
        (6, b"3"),
        (7, b'"x\\\\\\""'),
        (7, b"4"),
    ]


def test_an_item_too_long_keeps_its_beginning_and_spoils_no_other() -> None:
    found = split(b'[1, "' + b"x" * 500 + b'", 2]', size=64, longest=100)
    assert [i.raw for i in found] == [b"1", b'"' + b"x" * 98, b"2"]
    assert [i.error is None for i in found] == [True, False, True]
