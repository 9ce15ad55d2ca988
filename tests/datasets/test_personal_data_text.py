from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from tiercel.datasets.personal_data_text import NEAR, fold, words_before


def test_digits_of_every_script_become_plain() -> None:
    digits = [c for c in map(chr, range(0x110000)) if unicodedata.decimal(c, None) is not None]
    assert len(digits) >= 650
    assert fold("".join(digits)).text == "".join(str(unicodedata.decimal(c)) for c in digits)


def test_full_width_forms_dashes_and_blanks_become_plain() -> None:
    assert fold("\uff21\uff20\uff0b\u2013\u2212\u00a0\u3000\u2009").text == "A@+--   "


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("\u200b\u00ad\ufeff\u2060\uff11\u0661"), max_size=40))
def test_a_place_in_the_folded_text_leads_back_to_the_same_characters(text: str) -> None:
    reading = fold(text)
    hidden = len(text) - len(reading.text)
    assert hidden >= 0
    for start in range(len(reading.text)):
        first, last = reading.place(start, start + 1)
        assert last == first + 1
        assert fold(text[first:last]).text == reading.text[start]
    if reading.text:
        first, last = reading.place(0, len(reading.text))
        assert fold(text[first:last]).text == reading.text


def test_words_before_a_place_come_nearest_first_and_no_further_than_near() -> None:
    text = "Call MY phone_number: 5"
    assert words_before(text, len(text) - 1) == ["number", "phone", "my", "call"]
    assert words_before("phone" + " " * NEAR + "5", NEAR + 5) == []
    assert words_before("<PHONE_1>, or 5", 14) == ["or"]
