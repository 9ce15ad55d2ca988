from __future__ import annotations

from collections import Counter

import pytest

from tiercel.errors import ConfigurationError
from tiercel.providers import faults
from tiercel.providers.faults import FaultDraw, parse_faults


def test_faults_are_read_from_texts() -> None:
    assert parse_faults([]) == {}
    assert parse_faults(["429=0.1", "half=1e-2"]) == {"429": 0.1, "half": 0.01}


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["flood=0.1"], "429, 500, timeout, half, garbage, slow, reset"),
        (["429"], "429=0.1"),
        (["429=often"], "429=0.1"),
        (["429=-0.1"], "0 to 1"),
        (["429=nan"], "0 to 1"),
        (["429=1.1"], "0 to 1"),
        (["429=0.1", "429=0.2"], "twice"),
        (["429=0.7", "500=0.7"], "1.4"),
    ],
)
def test_what_can_not_be_is_one_clear_line(texts: list[str], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_faults(texts)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_faults_are_drawn_as_often_as_asked() -> None:
    chosen = {"429": 0.1, "slow": 0.3, "reset": 0.0}
    draw = FaultDraw(chosen, seed=5)
    found = Counter(draw.draw() for _ in range(20_000))
    assert set(found) == {"429", "slow", None}
    for name, share in chosen.items():
        assert found[name] / 20_000 == pytest.approx(share, abs=0.01)


def test_a_fault_that_is_certain_always_comes_and_none_never() -> None:
    assert {FaultDraw({"500": 1.0}).draw() for _ in range(100)} == {"500"}
    assert FaultDraw({}).draw() is None


def test_the_public_names() -> None:
    assert faults.__all__ == ["FAULTS", "FaultDraw", "parse_faults"]
