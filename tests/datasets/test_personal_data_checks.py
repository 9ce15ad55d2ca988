from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.datasets import personal_data_checks as checks

VALID = {
    checks.luhn: ["79927398713", "4111111111111111"],
    checks.card_valid: [
        "4111111111111111",
        "4222222222222",
        "5555555555554444",
        "2223003122003222",
        "378282246310005",
        "30569309025904",
        "6011111111111117",
        "3530111333300000",
    ],
    checks.iban_valid: [
        "DE89370400440532013000",
        "GB29NWBK60161331926819",
        "FR1420041010050500013M02606",
        "NL91ABNA0417164300",
        "NO9386011117947",
        "MT84MALT011000012345MTLCAST001S",
    ],
    checks.ssn_valid: ["219099999", "001010001", "665990001"],
    checks.nino_valid: ["AA123456C", "JG103759A"],
    checks.steuer_id_valid: ["86095742719", "47036892816", "65929970489"],
    checks.nir_valid: ["255081416802538", "151024610204325"],
    checks.nif_valid: ["12345678Z", "X1234567L", "Y1234567X", "Z1234567R"],
    checks.codice_fiscale_valid: ["RSSMRA85T10A562S", "MRTMTT25D09F205Z"],
    checks.bsn_valid: ["111222333", "123456782"],
    checks.verhoeff: ["2363", "999941057058"],
    checks.cpf_valid: ["11144477735", "52998224725"],
    checks.ahv_valid: ["7569217076985"],
    checks.belgian_number_valid: ["85073003328", "17073003384"],
    checks.pesel_valid: ["44051401359", "02070803628"],
    checks.hetu_valid: ["131052-308T"],
    checks.personnummer_valid: ["8112289874", "198112289874", "6408233234"],
    checks.sin_valid: ["193456787"],
}
INVALID = {
    checks.card_valid: ["4111111111111112", "411111111111111", "1234567812345670", "41111111111111111111"],
    checks.iban_valid: [
        "DE89370400440532013001",
        "DE8937040044053201300",
        "ZZ89370400440532013000",
        "DEXX370400440532013000",
    ],
    checks.ssn_valid: ["000123456", "666123456", "900123456", "999999999", "123004567", "123450000"],
    checks.nino_valid: ["QQ123456C", "BG123456A", "DA123456A", "AO123456A", "AA123456E", "AAX23456A"],
    checks.steuer_id_valid: ["86095742710", "06095742719", "12345678903", "11111111111"],
    checks.nir_valid: ["255081416802539", "455081416802538", "255131416802538"],
    checks.nif_valid: ["12345678A", "X1234567A"],
    checks.codice_fiscale_valid: ["RSSMRA85T10A562T", "RSSMRA85T35A562S"],
    checks.bsn_valid: ["111222334", "000000000"],
    checks.cpf_valid: ["11144477736", "11111111111"],
    checks.ahv_valid: ["7569217076986", "7559217076988"],
    checks.belgian_number_valid: ["85073003329", "85153003328"],
    checks.pesel_valid: ["44051401358", "44133201359"],
    checks.hetu_valid: ["131052-308U", "321352-308T"],
    checks.personnummer_valid: ["8112289875", "8113289874"],
    checks.sin_valid: ["193456788", "046454286", "812345676"],
}


@pytest.mark.parametrize(("check", "number"), [(c, n) for c, numbers in VALID.items() for n in numbers])
def test_a_known_number_passes(check, number: str) -> None:
    assert check(number)


@pytest.mark.parametrize(("check", "number"), [(c, n) for c, numbers in INVALID.items() for n in numbers])
def test_a_number_that_nobody_can_have_fails(check, number: str) -> None:
    assert not check(number)


def test_a_corsican_number_counts_its_department_as_19_or_18() -> None:
    for department, counted in (("2A", "19"), ("2B", "18")):
        key = 97 - int(f"18412{counted}004011") % 97
        assert checks.nir_valid(f"18412{department}004011{key:02}")
        assert not checks.nir_valid(f"18412{department}004011{(key + 1) % 97:02}")


def test_letters_stand_for_digits_in_a_codice_fiscale_that_two_people_would_share() -> None:
    valid = [f"RSSMRA85T10A56N{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    assert sum(map(checks.codice_fiscale_valid, valid)) == 1
    assert checks.codice_fiscale_valid("RSSMRA85T10A56NH")


@given(st.text("0123456789", min_size=1, max_size=20), st.integers(0, 19), st.integers(1, 9))
def test_luhn_and_verhoeff_have_one_check_digit_and_notice_a_changed_one(body: str, place: int, change: int) -> None:
    for check in (checks.luhn, checks.verhoeff):
        passing = [body + d for d in "0123456789" if check(body + d)]
        assert len(passing) == 1
        number, i = passing[0], place % (len(body) + 1)
        changed = number[:i] + str((int(number[i]) + change) % 10) + number[i + 1 :]
        assert not check(changed)


@given(st.text("0123456789", min_size=2, max_size=20), st.data())
def test_verhoeff_notices_two_neighbours_that_changed_places(body: str, data: st.DataObject) -> None:
    number = next(body + d for d in "0123456789" if checks.verhoeff(body + d))
    i = data.draw(st.integers(0, len(number) - 2))
    if number[i] != number[i + 1]:
        assert not checks.verhoeff(number[:i] + number[i + 1] + number[i] + number[i + 2 :])
