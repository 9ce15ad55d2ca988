"""The language of a request, from its script and its commonest words; small enough to ask on every request.

Scripts that one language (of those listed) uses settle it. Among languages in Latin, Cyrillic or Arabic letters the one
whose function words cover most of the text wins. What can't be told is `und`, as ISO 639 has it: too short, no letters,
two languages alike. The same text always gets the same language.
"""

# ruff: noqa: RUF001 - letters of many alphabets that look alike are what this file is about

from __future__ import annotations

import re
from functools import lru_cache

from tiercel.datasets.outliers import main_script

__all__ = ["LANGUAGES", "UNKNOWN", "language_of"]

UNKNOWN = "und"
_LONGEST = 2_000
"""Characters that are looked at."""
_LEAST = 0.06
"""Share of words that must be function words of a language, counted by their weight."""

_SCRIPTS = {
    "HANGUL": "ko",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "CJK": "zh",
    "GREEK": "el",
    "HEBREW": "he",
    "THAI": "th",
    "DEVANAGARI": "hi",
    "BENGALI": "bn",
    "TAMIL": "ta",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
}

_WORDS = {
    "en": "the and is are was were of to in that it for you with this have has not be my your i me can do did "
    "does how what when where why will would could please at on from but they we there been an as if "
    "which who am",
    "de": "der die das und ist nicht ich du sie wir ihr ein eine einen mein meine mit für auf von zu dem den im "
    "wie was wann wo warum kann bitte habe hat sind war wird aber auch wenn noch nur oder über bei nach "
    "aus es sich mir",
    "fr": "le la les et est pas je tu il elle nous vous un une des du de dans pour que qui avec sur mon ma mes "
    "ce cette comment quand où pourquoi peux puis ai été sont mais ou plus ne se au aux par être votre "
    "j'ai c'est",
    "es": "el la los las y es no yo tú que de en un una por para con mi mis su como cómo cuándo dónde qué "
    "quiero puedo está están pero más muy hay ha he fue lo le se del al este esta mi cuenta ayuda",
    "it": "il lo la gli le e è non io che di in un una per con mio mia come quando dove perché posso sono ho ha "
    "del della dei nel alla questo questa ma più anche si vorrei mi ci se da al cosa",
    "pt": "o a os as e é não eu que de em um uma por para com meu minha como quando onde porque posso está são "
    "mas mais muito do da dos das no na ao você foi tem quero isso este esta meus já",
    "nl": "de het een en is niet ik je jij wij we van in op voor met mijn dat dit wat hoe wanneer waar waarom "
    "kan heb heeft zijn was maar ook als nog naar bij aan er te om uit wordt hij zij",
    "sv": "och är inte jag du det den en ett som på för med mitt min vad hur när var varför kan har de vi till "
    "av att om men också från så skulle mig ni",
    "da": "og er ikke jeg du det den en et som på for med mit min hvad hvordan hvornår hvor hvorfor kan har de "
    "vi til af at om men også fra så mig hvis jer fået af noget nogen blev mange hvem",
    "no": "og er ikke jeg du det den en et som på for med mitt min hva hvordan når hvor hvorfor kan har de vi "
    "til av å om men også fra så meg hvis dere fått av noe noen ble mange hvem",
    "fi": "ja on ei minä sinä se että en mitä miten milloin missä miksi voin olen oli mutta myös kun tai minun "
    "tämä ovat jos niin voi kanssa",
    "pl": "i jest nie ja ty to że w na z do się mój moja co jak kiedy gdzie dlaczego mogę mam są był ale też "
    "jeśli dla po od czy proszę moje przez",
    "cs": "a je ne není já ty to že v na s do se můj moje co jak kdy kde proč mohu mám jsou byl ale také pro po "
    "od jsem prosím který když",
    "ro": "și este nu eu tu că de în un o pe cu la mea meu ce cum când unde pot am sunt dar mai din pentru să "
    "cont vă se",
    "hu": "és a az nem én te hogy egy van mit hogyan mikor hol miért tudom volt de is meg ez ki be már kérem lehet",
    "tr": "ve bir bu ben sen için ile de da ne nasıl zaman nerede neden var yok değil mi çok ama benim olarak "
    "daha gibi",
    "id": "dan yang di ke dari ini itu saya anda tidak untuk dengan apa bagaimana kapan mana mengapa bisa ada "
    "sudah akan tapi juga atau",
    "vi": "và là không tôi bạn của có cho với được này đó gì như thế nào khi ở đâu tại sao một những các đã sẽ nhưng",
    "ru": "и не в на я ты что это с по как мой моя когда где почему могу есть был но от за для у меня вы мы он "
    "она к же бы так или до о",
    "uk": "і не в на я ти що це з по як мій моя коли де чому можу є був але від за для у мене ви ми він вона та до про",
    "bg": "и не в на аз ти че това с по как мой моя кога къде защо мога е беше но от за да съм ме ви ние той тя се до",
    "ar": "من في على إلى أن هذا هذه ما لا هل كيف متى أين لماذا مع عن كان هو هي لم أنا التي الذي",
    "fa": "از در به که این است را با من تو چه چگونه کجا چرا برای نیست یک آن شما می و",
}
LANGUAGES = tuple(sorted({*_WORDS, *_SCRIPTS.values()}))
"""Codes that `language_of` may give, but for `UNKNOWN`."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_KANA = re.compile(r"[぀-ヿ]")


def _weights() -> dict[str, dict[str, float]]:
    """For each word the languages that have it; a word of many languages tells little of each."""
    owners: dict[str, list[str]] = {}
    for language, words in _WORDS.items():
        for word in set(words.split()):
            owners.setdefault(word, []).append(language)
    return {word: dict.fromkeys(found, 1 / len(found)) for word, found in owners.items()}


_BY_WORD = _weights()


@lru_cache(maxsize=1024)
def language_of(text: str) -> str:
    """The ISO 639-1 code of the language of `text`, or `und` where it can't be told."""
    text = text[:_LONGEST]
    script = main_script(text)
    if script in ("CJK", "HIRAGANA", "KATAKANA"):
        return "ja" if _KANA.search(text) else "zh"
    if script in _SCRIPTS:
        return _SCRIPTS[script]
    words = _WORD.findall(text.lower().replace("’", "'"))
    scores: dict[str, float] = {}
    for word in words:
        for language, weight in _BY_WORD.get(word, {}).items():
            scores[language] = scores.get(language, 0.0) + weight
    if not scores:
        return UNKNOWN
    ranked = sorted(scores, key=lambda name: (-scores[name], name))
    best = scores[ranked[0]]
    if best < _LEAST * len(words) or (len(ranked) > 1 and scores[ranked[1]] == best):
        return UNKNOWN
    return ranked[0]
