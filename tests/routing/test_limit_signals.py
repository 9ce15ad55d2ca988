"""Signals of what keeps a request from a model: its window, and personal data."""

from __future__ import annotations

import numpy as np
import pytest

from tiercel.routing.exchange import Exchange, Exchanges, Outcomes
from tiercel.routing.limit_signals import ContextFit, PersonalData, holds_personal_data

NONE = Outcomes(weak=np.zeros(0), strong=np.zeros(0))


def _fit(window: int | None, **fields: object) -> dict[str, float]:
    exchanges = Exchanges([Exchange(**{"request": "", **fields})], window=window)  # pyright: ignore
    signal = ContextFit().fit(exchanges, NONE)
    return dict(zip(signal.columns(), signal.transform(exchanges)[0].tolist(), strict=True))


def test_a_request_beyond_the_window_is_seen_wherever_its_text_stands() -> None:
    long = "a word " * 300
    assert _fit(1_000, request=long)["too_long"] == 0
    assert _fit(500, request=long)["too_long"] == _fit(500, request="?", context=long)["too_long"] == 1
    assert _fit(1_200, request=long)["share"] == pytest.approx(0.5, abs=0.01)
    assert _fit(1_200, request=long)["log_tokens"] == pytest.approx(np.log1p(604))


def test_without_a_window_nothing_is_a_share_of_it() -> None:
    found = _fit(None, request="a word " * 300)
    assert found["share"] == found["too_long"] == 0 < found["log_tokens"]


def test_a_stored_window_is_used_whatever_the_exchanges_say() -> None:
    fitted = ContextFit().fit(Exchanges([], window=100), NONE)
    again = ContextFit().restore(fitted.state())
    assert again.transform(Exchanges([Exchange(request="a b c " * 50)], window=9))[0, 1] == pytest.approx(1.54)


def test_personal_data_is_counted_in_the_request_and_in_what_stands_before_it() -> None:
    exchanges = Exchanges(
        [
            Exchange(request="How many pens are there?"),
            Exchange(request="Write to ann@example.com and bob@example.com, card 4111 1111 1111 1111."),
            Exchange(request="Go on.", context="My mail is ann@example.com."),
        ]
    )
    found = PersonalData().transform(exchanges)
    assert found[0].tolist() == [0, 0, 0]
    assert found[1, 0] == pytest.approx(np.log1p(3)) and found[1, 1] == 2
    assert found[2, 1] == 1
    assert holds_personal_data(exchanges).tolist() == [False, True, True]
    assert holds_personal_data(Exchanges([])).shape == (0,)


def test_the_end_of_a_long_request_is_read_too_before_it_may_leave() -> None:
    assert holds_personal_data(Exchanges([Exchange(request="a word " * 50_000 + "ann@example.com")])).tolist() == [True]
