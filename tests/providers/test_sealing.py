from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tiercel.providers.sealing import Seal, sealed_texts

SECRET = b"sk-aab-aabc-0123456789"


def passed(pieces: list[bytes], *texts: bytes) -> bytes:
    seal = Seal(texts or (SECRET,))
    return b"".join([*map(seal.feed, pieces), seal.end()])


@given(st.binary(max_size=30), st.binary(max_size=30), st.lists(st.integers(0, 90), max_size=12))
def test_a_secret_is_found_however_the_bytes_are_cut(before: bytes, after: bytes, cuts: list[int]) -> None:
    whole = before + SECRET + after
    bounds = [0, *sorted(min(c, len(whole)) for c in cuts), len(whole)]
    pieces = [whole[a:b] for a, b in pairwise(bounds)]
    assert passed(pieces) == whole.replace(SECRET, b"[key]")


@given(st.lists(st.text("sk-ab0123", max_size=12).map(str.encode), max_size=12))
def test_other_bytes_pass_unchanged(pieces: list[bytes]) -> None:
    assert passed(pieces) == b"".join(pieces).replace(SECRET, b"[key]")


def test_an_event_is_passed_on_at_once() -> None:
    assert Seal((SECRET,)).feed(b'data: {"content": "sk-"}\n\n') == b'data: {"content": "sk-"}\n\n'


def test_the_key_and_headers_that_carry_secrets_are_looked_for() -> None:
    headers = {"x-auth": "Bearer abcdefghijklmnop1", "HTTP-Referer": "https://example.com/page"}
    assert sealed_texts("k" * 20, headers) == (b"k" * 20, b"abcdefghijklmnop1")


def test_words_that_stand_for_no_key_are_left_in_answers() -> None:
    assert sealed_texts("ollama", {"x-token": "none"}) == ()
