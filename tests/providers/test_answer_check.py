from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.providers import answer_check
from tiercel.providers.answer_check import FirstEvent, check_object, status_of


@pytest.mark.parametrize(
    ("raw", "verdict"),
    [
        (b"{}", "sound"),
        (b' {"choices": [1, {"a": "\\u00e4"}]}\n', "sound"),
        (b'{"error": null, "status": "completed"}', "sound"),
        (b'{"output": {"error": {"message": "x"}}}', "sound"),
        (b'{"error": {"message": "x"}}', "error"),
        (b'{"error": "x"}', "error"),
        (b'{"error": {}}', "error"),
        (b"", "broken"),
        (b"[]", "broken"),
        (b'"text"', "broken"),
        (b"null", "broken"),
        (b"<html>", "broken"),
        (b'{"choices": [1,}', "broken"),
        (b'{"choices": tru}', "broken"),
        (b'{"choices": "\xff"}', "broken"),
        (b'{"choices": []', "broken"),
        (b'{"choices": []} x', "broken"),
        (b'{"a":' * 100_000, "broken"),
    ],
)
def test_what_a_body_is(raw: bytes, verdict: str) -> None:
    assert check_object(raw) == verdict


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_objects_without_an_error_are_sound_and_nothing_else_is(value: object) -> None:
    raw = json.dumps(value).encode()
    expected = "broken" if not isinstance(value, dict) else "sound" if value.get("error") is None else "error"
    found = check_object(raw)
    # A lone half of a surrogate pair is JSON to Python's parser alone.
    assert found == expected or (found == "broken" and b"\\ud" in raw)


EVENT = b'data: {"id": "1"}'
STREAMS = [
    b'data: {"id": "1"}\n\ndata: {"id": "2"}\n\n',
    b'data: {"id": "1"}\r\n\r\ndata: {"id": "2"}\r\n\r\n',
    b'data: {"id": "1"}\r\rdata: {"id": "2"}\r\r',
    b': ping\n\n\n\nevent: a\nid: 7\ndata: {"id": "1"}\n\nrest',
    b': ping\r\n\r\n: ping\r\n\r\ndata: {\r\ndata:  "id": 1}\r\n\r\nrest',
    b'\xef\xbb\xbfdata:{"id": "1"}\n\n',
]


class TestFirstEvent:
    @pytest.mark.parametrize("raw", STREAMS)
    def test_a_stream_begins_with_its_first_whole_event_however_it_is_cut(self, raw: bytes) -> None:
        for size in (1, 2, 3, 7, len(raw)):
            first = FirstEvent()
            verdicts = []
            for i in range(0, len(raw), size):
                verdicts.append(first.feed(raw[i : i + size]))
                if verdicts[-1] is not None:
                    break
            assert verdicts[-1] == "sound"
            assert json.loads(first.data)["id"] in ("1", 1)
            assert raw.startswith(first.held), "nothing is lost or changed"

    @given(st.binary(max_size=200), st.integers(1, 9))
    def test_nothing_breaks_it_and_cutting_changes_nothing(self, raw: bytes, size: int) -> None:
        whole = FirstEvent()
        verdict = whole.feed(raw)
        cut, found = FirstEvent(), None
        for i in range(0, len(raw), size):
            found = cut.feed(raw[i : i + size])
            if found is not None:
                break
        assert (found, cut.data) == (verdict, whole.data)

    @pytest.mark.parametrize(
        ("raw", "verdict"),
        [
            (b'data: {"error": {"message": "x"}}\n\n', "error"),
            (b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}\n\n', "error"),
            (b"data: [DONE]\n\n", "broken"),
            (b"data: {cut\n\n", "broken"),
            (b"data: \n\n", "broken"),
            (b"<html></html>\n\n", None),
            (EVENT, None),
            (EVENT + b"\n", None),
            (b": ping\n\n" * 5, None),
        ],
    )
    def test_what_a_beginning_is(self, raw: bytes, verdict: str | None) -> None:
        assert FirstEvent().feed(raw) == verdict

    def test_a_beginning_that_never_ends_is_broken(self) -> None:
        first = FirstEvent()
        found = None
        for _ in range(20):
            found = found or first.feed(b"x" * 100_000)
        assert found == "broken"


@pytest.mark.parametrize(
    ("detail", "status"),
    [
        (None, 500),
        ({"type": "overloaded_error"}, 529),
        ({"type": "odd", "code": "rate_limit_exceeded"}, 429),
        ({"type": "invalid_request_error", "code": None}, 400),
        ({"code": 503}, 503),
        ({"code": "502"}, 502),
        ({"code": 7, "type": None}, 500),
        ({"code": "9999"}, 500),
    ],
)
def test_the_status_that_an_error_stands_for(detail: dict[str, object] | None, status: int) -> None:
    assert status_of(detail) == status


def test_the_public_names() -> None:
    assert answer_check.__all__ == ["FirstEvent", "Verdict", "check_object", "status_of"]
