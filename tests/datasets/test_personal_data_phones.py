from __future__ import annotations

import pytest

from tiercel.datasets.personal_data import find


def phones(text: str) -> list[str]:
    return [text[s.start : s.end] for s in find(text, ["phone"])]


@pytest.mark.parametrize(
    "number",
    [
        "+44 20 7946 0958",
        "+442079460958",
        "+46 (0)8 928 571 38",
        "+1-984-182-0190",
        "001-518-640-0854",
        "541-714-1388",
        "1 541 714 1388",
        "(541) 714-1388",
        "(579)888-3058",
        "930.167.3943",
        "541-714-1388 ext. 12",
        "020 7946 0958",
        "0490 75 40 81",
        "030/1234567",
        "(08) 8747 6301",
        "60-56-85-91",
    ],
)
@pytest.mark.parametrize("around", ["{}", "Try {} today.", "a:{}", "\n{}\n"])
def test_a_plain_form_is_found_by_itself(number: str, around: str) -> None:
    assert phones(around.format(number)) == [number]


@pytest.mark.parametrize("number", ["467 3395", "699 956 915", "3660170548", "99 668472", "21 284 698 2548"])
def test_a_loose_form_is_found_where_words_speak_of_phones(number: str) -> None:
    for text in (
        f"phone: {number}",
        f"Please call me on {number}",
        f"{number} office",
        f"Telefon {number}",
        f"{number}-Fax",
        f"my new number is {number}",
    ):
        assert phones(text) == [number]
    for text in (
        number,
        f"the total is {number}",
        f"call about order {number}",
        f"driver's licence {number}",
        f"the serial number is {number}",
        f"{number} mobile users",
    ):
        assert phones(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "call on 2024-01-31 12:30",
        "phone me 12.03.2024",
        "call 192.168.10.254",
        "ticket 2270-66-1551",
        "1,234,567,890",
        "3.14159265358979",
        "2024-01-31",
        "ISBN 978-3-16-148410-0",
        "released 2023.10.05.01",
        "uuid 123e4567-e89b-12d3-a456-426614174000",
        "src/0490 75 40 81x",
        "from 10:15:30 to 11:45:10",
        "12345-6789",
        "due 2100-12-31",
        "at 12:05:57.105542",
        "2400 - 1200 - 480 = $<<2400-1200-480",
        "100000 + 12201900",
        "call it 150 x 102/100000",
    ],
)
def test_dates_addresses_codes_and_fractions_are_no_phones(text: str) -> None:
    assert phones(text) == []


def test_the_nearest_telling_word_decides() -> None:
    assert phones("my account is closed, call 467 3395") == ["467 3395"]
    assert phones("I called about my account 467 3395") == []
