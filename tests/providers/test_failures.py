from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from tiercel.providers import addresses, failures
from tiercel.providers.failures import Attempt, UpstreamError, error_detail

FIRST = Attempt(provider="one", outcome="refused", status=500, seconds=0.1)
SECOND = Attempt(provider="two", outcome="timed out", seconds=5.0)


def test_an_error_names_what_was_tried_and_keeps_the_rest() -> None:
    error = UpstreamError(
        "m", provider="two", failure="timed out", retry_after=2.0, detail={"message": "x"}, billable=True
    )
    found = error.after((FIRST, SECOND))
    assert str(found) == "m; tried: one (500), two (timed out)"
    assert {**vars(found), "tried": ()} == vars(error)
    assert found.tried == (FIRST, SECOND)
    assert str(error.after((SECOND,))) == "m", "one attempt is no list"


@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_what_was_tried_survives_pickling_and_copying(copied: Any) -> None:
    error = UpstreamError("m", provider="two", failure="timed out").after((FIRST, SECOND))
    again = copied(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_secrets_are_taken_out_of_every_field() -> None:
    raw = b'{"error": {"message": "key-1 and key-2", "type": "key-1", "param": null, "code": "key-2"}}'
    assert error_detail(raw, ("key-1", "key-2")) == {
        "message": "[key] and [key]",
        "type": "[key]",
        "param": None,
        "code": "[key]",
    }


def test_the_public_names() -> None:
    assert failures.__all__ == ["Attempt", "Failure", "Outcome", "UpstreamError", "error_detail", "retry_after"]
    assert addresses.__all__ == ["base_url", "fixed_headers", "header_key"]
