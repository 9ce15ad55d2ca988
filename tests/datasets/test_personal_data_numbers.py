from __future__ import annotations

import pytest

from tiercel.datasets.personal_data import KINDS, find


def found(text: str) -> list[tuple[str, str]]:
    return [(s.kind, text[s.start : s.end]) for s in find(text, KINDS) if s.kind != "phone"]


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("card", "4111111111111111"),
        ("card", "4111 1111 1111 1111"),
        ("card", "4111-1111-1111-1111"),
        ("card", "3782 822463 10005"),
        ("iban", "DE89370400440532013000"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("iban", "gb29nwbk60161331926819"),
        ("iban", "NO93 8601 1117 947"),
        ("us_ssn", "460-89-9847"),
        ("uk_nino", "AA123456C"),
        ("uk_nino", "AA 12 34 56 C"),
        ("de_steuer_id", "86095742719"),
        ("de_steuer_id", "86 095 742 719"),
        ("fr_nir", "255081416802538"),
        ("fr_nir", "2 55 08 14 168 025 38"),
        ("es_nif", "12345678Z"),
        ("es_nif", "12.345.678-Z"),
        ("es_nif", "X1234567L"),
        ("es_nif", "X-1234567-L"),
        ("it_codice_fiscale", "RSSMRA85T10A562S"),
        ("it_codice_fiscale", "rssmra85t10a562s"),
        ("in_aadhaar", "9999 4105 7058"),
        ("br_cpf", "111.444.777-35"),
        ("ch_ahv", "756.9217.0769.85"),
        ("be_nn", "85.07.30-033.28"),
        ("fi_hetu", "131052-308T"),
        ("se_personnummer", "811228-9874"),
        ("se_personnummer", "19811228-9874"),
    ],
)
@pytest.mark.parametrize("around", ["{}", "It is {}.", "({})", "x={}, y", "\n{}\n"])
def test_a_number_is_found_by_itself_in_each_of_its_forms(kind: str, number: str, around: str) -> None:
    assert found(around.format(number)) == [(kind, number)]


@pytest.mark.parametrize(
    ("kind", "cue", "number"),
    [
        ("us_ssn", "social security number", "460899847"),
        ("us_ssn", "SSN", "460 89 9847"),
        ("nl_bsn", "BSN", "111222333"),
        ("in_aadhaar", "aadhaar", "999941057058"),
        ("br_cpf", "CPF", "11144477735"),
        ("pl_pesel", "PESEL", "44051401359"),
        ("ca_sin", "SIN", "193 456 787"),
        ("card", "my card", "501864667909"),
    ],
)
def test_a_form_that_strays_into_text_needs_a_word_near(kind: str, cue: str, number: str) -> None:
    assert found(f"{cue}: {number}") == [(kind, number)]
    assert found(f"the value {number}") == []
    assert found(f"{cue} {'and much else ' * 8}{number}") == []


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112",
        "41111111111111111111",
        "a4111111111111111",
        "4111111111111111b",
        "0.4111111111111111",
        "DE89370400440532013001",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "1460-89-98471",
        "QQ123456C",
        "12345678A",
        "RSSMRA85T10A562T",
        "9999 4105 7059",
        "111.444.777-36",
        "131052-308U",
        "811328-9874",
        "order 1700000000000 at 1700000000",
        "d41d8cd98f00b204e9800998ecf8427e",
        "123e4567-e89b-12d3-a456-426614174000",
        "1,234,567,890.12",
    ],
)
def test_a_number_that_breaks_its_rule_or_is_part_of_another_is_left(text: str) -> None:
    assert found(text) == []


def test_two_numbers_side_by_side_are_two() -> None:
    assert found("4111 1111 1111 1111 460-89-9847") == [("card", "4111 1111 1111 1111"), ("us_ssn", "460-89-9847")]
    assert found("DE89 3704 0044 0532 0130 00 NL91ABNA0417164300") == [
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("iban", "NL91ABNA0417164300"),
    ]
