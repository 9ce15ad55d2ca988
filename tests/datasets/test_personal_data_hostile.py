"""Work on hostile texts grows as their length: eight times the text may take a few times eight times the work, not 64."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tiercel.datasets.personal_data import KINDS, find
from tiercel.datasets.redaction import Redactor, StreamRestorer

SHORT, TIMES, MOST = 5_000, 8, 30

REPEATED = [
    "1",
    "1 ",
    "1.",
    "1-",
    "12-",
    "01 ",
    "(1",
    "+1 ",
    "1234567 ",
    "123456782 ",
    "4111111111111111 ",
    "DE89370400440532013000 ",
    "AB12",
    "AB12 ",
    "a",
    "A",
    "A_",
    "я",
    "я@",
    "a@",
    "@",
    "a@a.",
    "a@b.co ",
    "a:",
    "::",
    "a-",
    "-",
    "\n",
    "http://",
    "://a:",
    "www.",
    "sk-",
    "eyJ",
    "eyJaaaaaaaaaaaa.",
    "Bearer ",
    "password:",
    "password: a1",
    "api key is ",
    "key",
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN A B C D ",
    "AAAA: b\n",
    "phone 1234567 ",
    "born ",
    "born 1",
    "\uff11",
    "1\u200b",
    "<A_1",
    "<EMAIL_1>",
    "EMAIL_1",
]


def work(do: Callable[[], object]) -> float:
    """CPU seconds of the quickest of three runs."""
    taken = []
    for _ in range(3):
        started = time.process_time()
        do()
        taken.append(time.process_time() - started)
    return min(taken)


def growth(do: Callable[[str], object], text: Callable[[int], str]) -> float:
    short, long = text(SHORT), text(SHORT * TIMES)
    # A floor of a millisecond: below it the clock, not the text, decides.
    return work(lambda: do(long)) / max(work(lambda: do(short)), 0.001)


@pytest.mark.parametrize("piece", REPEATED)
def test_finding_and_redacting_take_work_in_proportion_to_the_text(piece: str) -> None:
    def text(length: int) -> str:
        return (piece * (length // len(piece) + 1))[:length]

    kinds = frozenset(KINDS)
    assert growth(lambda t: find(t, kinds), text) < MOST
    assert growth(lambda t: Redactor(KINDS).session().redact(t), text) < MOST


@pytest.mark.parametrize(
    "form", ["a{}@b.co ", "phone 1 {:07} ", "card {} ", "password: x{:07} ", "EMAIL_{0} a{0}@b.co "]
)
def test_many_distinct_values_take_work_in_proportion_to_their_number(form: str) -> None:
    def text(length: int) -> str:
        return "".join(form.format(i) for i in range(length // 16))

    assert growth(lambda t: Redactor().session().redact(t), text) < MOST


@pytest.mark.parametrize("piece", ["<", "\\", "<EMAIL_", "<EMAIL_1", "\\u003c", "\\\\"])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_stream_holds_little_whatever_comes(piece: str, as_json: bool) -> None:
    session = Redactor().session()
    session.redact("ada@example.org")
    restorer = StreamRestorer(session, json=as_json)
    text, passed = piece * 2_000, 0
    for i, c in enumerate(text):
        passed += len(restorer.feed(c))
        assert i + 1 - passed <= len("\\u003cEMAIL_1\\u003e")
