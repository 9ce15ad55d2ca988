from __future__ import annotations

import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.errors import DataError, ProviderError, UnreadableAnswerError
from tiercel.providers.sse import Event, EventReader, encode_event

ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
lines = st.one_of(
    st.sampled_from(
        [b"", b"", b"data", b"data:", b"data: ", b":", b": ping", b"event: x", b"event:", b"id: 7", b"retry: 9"]
    ),
    st.binary(max_size=8).filter(lambda b: b"\n" not in b and b"\r" not in b).map(lambda b: b"data: " + b),
    st.binary(max_size=8).filter(lambda b: b"\n" not in b and b"\r" not in b),
)
streams = st.builds(
    lambda mark, parts: mark + b"".join(line + end for line, end in parts),
    st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef\xbb"]),
    st.lists(st.tuples(lines, ends), max_size=30),
)


def read(*pieces: bytes, limit: int = 1000) -> list[Event]:
    reader = EventReader(limit)
    return [event for piece in pieces for event in reader.feed(piece)] + reader.end()


def by_the_book(stream: bytes) -> list[Event]:
    """The standard's algorithm, line by line; what the end cuts off is handed out."""
    stream = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found, data, name = list[Event](), list[bytes](), ""
    for line in [*stream.split(b"\n"), b""]:
        field, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if not line:
            if data:
                found.append(Event(b"\n".join(data), name or None))
            data, name = [], ""
        elif field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return found


@given(streams)
def test_a_stream_is_read_as_the_standard_says(stream: bytes) -> None:
    assert read(stream) == by_the_book(stream)


@given(streams, st.lists(st.integers(0, 200)))
def test_where_a_stream_is_cut_makes_no_difference(stream: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(stream), *(c for c in cuts if c < len(stream))})
    pieces = [stream[a:b] for a, b in itertools.pairwise(places)]
    assert read(*pieces) == read(stream)
    assert read(*(stream[i : i + 1] for i in range(len(stream)))) == read(stream)


@given(st.lists(st.tuples(st.binary(max_size=40), st.none() | st.from_regex(r"[\w.]{1,12}", fullmatch=True))))
def test_what_is_written_is_read_again(events: list[tuple[bytes, str | None]]) -> None:
    stream = b"".join(encode_event(data, event) for data, event in events)
    lf = [Event(d.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), e) for d, e in events]
    assert read(stream) == lf


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: {}\n\ndata: [DONE]\n\n", [Event(b"{}"), Event(b"[DONE]")]),
        (b"event: ping\ndata: {}\n\n", [Event(b"{}", "ping")]),
        (b"data:{}\ndata: 2\n\n", [Event(b"{}\n2")]),
        (b": hello\r\n\r\ndata: a\r\rdata: b\r\n\r\n", [Event(b"a"), Event(b"b")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event(b"a")]),
        (b"event: lonely\n\ndata: a\n\n", [Event(b"a")]),
        (b"data:  two blanks\n\n", [Event(b" two blanks")]),
        (b"data: cut off", [Event(b"cut off")]),
        (b"data: cut off\n", [Event(b"cut off")]),
        (b"", []),
        (b"\n\n\n\n", []),
    ],
)
def test_examples(stream: bytes, events: list[Event]) -> None:
    assert read(stream) == events


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_an_event_that_is_too_large_is_an_error(piece: int) -> None:
    fits = b"data: " + b"x" * 94 + b"\n\n"
    assert read(*(fits[i : i + piece] for i in range(0, len(fits), piece)), limit=101) == [Event(b"x" * 94)]
    for stream in (b"data: " + b"x" * 200 + b"\n\n", b"data: " + b"x" * 5000):
        with pytest.raises(UnreadableAnswerError, match="larger than 101 bytes") as caught:
            read(*(stream[i : i + piece] for i in range(0, len(stream), piece)), limit=101)
        assert isinstance(caught.value, ProviderError)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_many_small_pieces_of_one_event_take_linear_work() -> None:
    """Quadratic work on 2 MB that come byte by byte would outlast the suite's time limit."""
    reader = EventReader()
    stream = b"data: " + b"x" * 2_000_000 + b"\n\n"
    found = [event for i in range(len(stream)) for event in reader.feed(stream[i : i + 1])]
    assert [len(event.data) for event in found] == [2_000_000]


def test_a_name_of_two_lines_is_refused() -> None:
    with pytest.raises(DataError, match="more than one line"):
        encode_event(b"", "a\ndata: forged")
