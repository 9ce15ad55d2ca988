# ruff: noqa: RUF001 - letters of many alphabets that look alike are what this file is about

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.datasets.languages import LANGUAGES, UNKNOWN, language_of

TEXTS = {
    "en": "Where is my parcel? I have been waiting for three days.",
    "de": "Wo ist mein Paket? Ich warte seit drei Tagen darauf.",
    "fr": "Où est mon colis ? J'attends depuis trois jours.",
    "es": "¿Dónde está mi paquete? Lo espero desde hace tres días.",
    "it": "Dove è il mio pacco? Lo aspetto da tre giorni.",
    "pt": "Onde está a minha encomenda? Estou à espera há três dias.",
    "nl": "Waar is mijn pakket? Ik wacht er al drie dagen op.",
    "sv": "Var är mitt paket? Jag har väntat i tre dagar.",
    "da": "Hvor er min pakke? Jeg har ikke fået noget i tre dage.",
    "no": "Hvor er pakken min? Jeg har ikke fått noe på tre dager.",
    "fi": "Missä minun pakettini on? Olen odottanut kolme päivää.",
    "pl": "Gdzie jest moja paczka? Czekam na nią od trzech dni.",
    "cs": "Kde je můj balík? Čekám na něj už tři dny.",
    "ro": "Unde este coletul meu? Îl aștept de trei zile.",
    "hu": "Hol van a csomagom? Már három napja várok rá.",
    "tr": "Paketim nerede? Üç gündür bekliyorum ve bir cevap yok.",
    "id": "Di mana paket saya? Saya sudah menunggu tiga hari.",
    "vi": "Gói hàng của tôi ở đâu? Tôi đã đợi ba ngày.",
    "ru": "Где моя посылка? Я жду её уже три дня.",
    "uk": "Де моя посилка? Я чекаю на неї вже три дні.",
    "bg": "Къде е моята пратка? Чакам я от три дни, какво да правя?",
    "zh": "我的包裹在哪里？我已经等了三天了。",
    "ja": "荷物はどこですか。三日間待っています。",
    "ko": "제 소포는 어디에 있나요? 사흘째 기다리고 있어요.",
    "ar": "أين طردي؟ أنا أنتظر منذ ثلاثة أيام ولم يصل.",
    "fa": "بسته من کجا است؟ سه روز است که منتظر هستم.",
    "el": "Πού είναι το δέμα μου;",
    "he": "איפה החבילה שלי?",
    "hi": "मेरा पार्सल कहाँ है?",
    "th": "พัสดุของฉันอยู่ที่ไหน",
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_plain_request_is_told(language: str) -> None:
    assert language_of(TEXTS[language]) == language


@pytest.mark.parametrize("text", ["", "12345 !?", "🙂", "xq zzv", "Muggle Quaffle Snitch"])
def test_what_can_not_be_told_is_said_to_be_unknown(text: str) -> None:
    assert language_of(text) == UNKNOWN


@given(st.text(max_size=300))
def test_every_text_has_one_language_and_always_the_same(text: str) -> None:
    found = language_of(text)
    assert found in {*LANGUAGES, UNKNOWN}
    assert language_of(text) == found
