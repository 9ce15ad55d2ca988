from __future__ import annotations

import pytest
from multidict import CIMultiDict

from tiercel.providers.reply_headers import passed_on, request_id

KEY = "sk-test-0123456789abcdef"


@pytest.mark.parametrize(
    "name",
    [
        "X-RateLimit-Remaining-Requests",
        "x-ratelimit-of-tomorrow",
        "anthropic-ratelimit-input-tokens-reset",
        "Retry-After",
        "retry-after-ms",
        "openai-processing-ms",
    ],
)
def test_limits_and_times_are_passed_on_in_lower_case(name: str) -> None:
    assert passed_on({name: "2026-01-31T12:00:00Z"}) == {name.lower(): "2026-01-31T12:00:00Z"}


@pytest.mark.parametrize(
    "name",
    ["Set-Cookie", "Authorization", "x-tiercel-tier", "openai-organization", "ratelimit-limit", "Content-Length"],
)
def test_nothing_else_is(name: str) -> None:
    assert passed_on({name: "1"}) == {}


@pytest.mark.parametrize("value", ["x" * 201, "caf\xe9", "a\r\nset-cookie: b", f"of {KEY}", "of another secret"])
def test_values_that_are_odd_or_hold_a_secret_are_left_out(value: str) -> None:
    assert passed_on({"x-ratelimit-limit": value, "x-request-id": "1"}, (KEY, "another secret")) == {
        "x-request-id": "1"
    }


def test_a_provider_can_not_fill_the_head_of_an_answer() -> None:
    many = {f"x-ratelimit-{i}": "1" for i in range(1_000)}
    assert 15 < len(passed_on(many)) < 100
    assert passed_on({f"x-ratelimit-{'x' * 5_000}": "1"}) == {}


def test_the_id_is_that_of_whichever_name_the_provider_has_for_it() -> None:
    azure = CIMultiDict({"Apim-Request-Id": "a"})
    assert request_id(passed_on(azure)) == "a"
    assert request_id(passed_on({**azure, "request-id": "b"})) == "b"
    assert request_id(passed_on({**azure, "request-id": "b", "X-Request-ID": "c"})) == "c"
    assert request_id({}) is None
