from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.cli.times import moment
from tiercel.errors import ConfigurationError

NOW = dt.datetime(2026, 3, 10, 12, tzinfo=dt.UTC).timestamp()
SPANS = {"30m": 1_800, "12h": 43_200, "7d": 604_800, " 8w ": 4_838_400, "0m": 0}


@pytest.mark.parametrize(("value", "seconds"), SPANS.items())
def test_a_span_leads_back_or_ahead(value: str, seconds: int) -> None:
    assert moment(value, "--since", NOW) == NOW - seconds
    assert moment(value, "--expires", NOW, ahead=True) == NOW + seconds


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize(
    ("value", "found"),
    [(None, None), ("2026-03-10", NOW - 12 * 3_600), ("2026-03-10T12:00:00+01:00", NOW - 3_600)],
)
def test_a_date_is_in_utc_unless_it_says_otherwise(value: str | None, found: float | None, ahead: bool) -> None:
    assert moment(value, "--since", NOW, ahead=ahead) == found


@pytest.mark.parametrize("value", ["", "7", "d", "7 d", "-7d", "7y", "123456d", "soon", "2026-13-01", "\u0667d"])
def test_what_is_no_time_is_told_with_its_option_and_what_to_give(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--until '.*' is no time; give a span such as 30m, .* or a date"):
        moment(value, "--until", NOW)


@given(st.text(max_size=12) | st.from_regex(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:]{5}[+-][0-9:]{5})?\Z"))
def test_nothing_else_is_raised(value: str) -> None:
    try:
        assert isinstance(moment(value, "--since", NOW), float)
    except ConfigurationError as error:
        assert "\n" not in str(error)
