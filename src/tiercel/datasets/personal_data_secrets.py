"""Keys, tokens and passwords: forms that providers give them, and values that a text itself calls a secret."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from tiercel.datasets.personal_data_text import Reading

__all__ = ["find_secrets"]

# The literal that must be in the text for a form to be looked for, and the form.
_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (literal, re.compile(r"(?<![A-Za-z0-9_])" + form))
    for literal, form in (
        ("sk-", r"sk-(?:[A-Za-z]+-)?[A-Za-z0-9_-]{16,300}+"),  # OpenAI, Anthropic, OpenRouter, DeepSeek
        ("k_live_", r"[spr]k_live_[A-Za-z0-9]{10,200}+"),  # Stripe
        ("k_test_", r"[spr]k_test_[A-Za-z0-9]{10,200}+"),
        ("whsec_", r"whsec_[A-Za-z0-9+/=]{16,200}+"),
        ("AKIA", r"AKIA[A-Z0-9]{16}(?![A-Za-z0-9])"),  # AWS
        ("ASIA", r"ASIA[A-Z0-9]{16}(?![A-Za-z0-9])"),
        *((f"gh{c}_", rf"gh{c}_[A-Za-z0-9]{{30,255}}+") for c in "pousr"),  # GitHub
        ("github_pat_", r"github_pat_[A-Za-z0-9_]{22,255}+"),
        ("glpat-", r"glpat-[A-Za-z0-9_.-]{20,100}+"),  # GitLab
        ("xox", r"xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,300}+"),  # Slack
        ("xapp-", r"xapp-[A-Za-z0-9-]{10,300}+"),
        ("AIza", r"AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),  # Google
        ("ya29.", r"ya29\.[A-Za-z0-9_-]{20,400}+"),
        ("GOCSPX-", r"GOCSPX-[A-Za-z0-9_-]{20,60}+"),
        ("hf_", r"hf_[A-Za-z0-9]{30,60}+"),  # Hugging Face
        ("gsk_", r"gsk_[A-Za-z0-9]{30,80}+"),  # Groq
        ("r8_", r"r8_[A-Za-z0-9]{30,60}+"),  # Replicate
        ("xai-", r"xai-[A-Za-z0-9]{30,120}+"),
        ("pplx-", r"pplx-[A-Za-z0-9]{30,80}+"),  # Perplexity
        ("tvly-", r"tvly-[A-Za-z0-9-]{20,80}+"),
        ("npm_", r"npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
        ("pypi-", r"pypi-[A-Za-z0-9_-]{50,300}+"),
        ("SG.", r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{30,64}"),  # SendGrid
        ("dop_v1_", r"dop_v1_[a-f0-9]{64}"),  # DigitalOcean
        *((f"shp{c}_", rf"shp{c}_[a-fA-F0-9]{{32}}") for c in ("at", "ca", "pa", "ss")),  # Shopify
        (":AA", r"\d{8,10}:AA[A-Za-z0-9_-]{33}"),  # Telegram
        ("hooks.slack.com/", r"hooks\.slack\.com/services/[A-Za-z0-9/]{20,100}+"),
        ("eyJ", r"eyJ[A-Za-z0-9_-]{8,4096}+\.eyJ[A-Za-z0-9_-]{4,8192}+(?:\.[A-Za-z0-9_-]{0,2048})?+"),  # JWT
    )
)
_BY_MARK = {
    "_": [f for f in _FORMS if "_" in f[0]],
    "-": [f for f in _FORMS if "-" in f[0]],
    "": [f for f in _FORMS if not {"_", "-"}.intersection(f[0])],
}
"""Forms by a character that they can't be without: most texts have no underscore and ask half of them."""
_BEARER = re.compile(r"(?a)(?<!\w)(?:Bearer|Basic)[ ]{1,3}(?P<value>[A-Za-z0-9._~+/-]{16,4096}+=*+)", re.IGNORECASE)
_USER_INFO = re.compile(r"://[^\s/:@<>\"']{0,128}:(?P<value>[^\s/@<>\"']{1,256})@")
_NAMES = ("passw", "passphrase", "pwd", "mot de passe", "contrase", "secret", "token", "credential", "key")
"""What the name of a secret has in it; a text without any is read no further."""
_NAMED = re.compile(
    r"(?:passwor[dt]|passwd|passphrase|pwd|mot de passe|contraseñas?|secret|token|credential|key)s?"
    r"(?:[ _-]?id)?[\"'`*]{0,3}(?:[ ]{0,3}(?::=|=>|[:=])[ ]{0,3}|[ ](?:is|ist|was|es|est):?[ ])[\"'`*]{0,3}"
    r"(?P<value>[^\s\"'`<>,;(){}\[\]$*]{6,512}+)",
    re.IGNORECASE,
)
_WHOSE_KEY = re.compile(r"(?:api|access|account|auth|private|secret|signing|encryption|master)[ _-]?$", re.IGNORECASE)
_PEM = re.compile(r"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_LINE_END = r"(?:\s|\\[nr])"
_PEM_BODY = re.compile(
    rf"{_LINE_END}*+(?:[A-Z][A-Za-z-]{{2,20}}: [^\n]{{0,200}}\n){{0,8}}+(?:{_LINE_END}*+[A-Za-z0-9+/=]{{24,}}+)*+"
    rf"(?:{_LINE_END}*+[A-Za-z0-9+/=]{{1,23}}+(?=\s*?(?:\n|-----|$)|\\[nr]))*+{_LINE_END}*+"
)
"""Lines of base64; the last may be short, as no word of a sentence is: it ends its line."""
_PEM_END = re.compile(r"-----END (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----")


def find_secrets(reading: Reading) -> Iterator[tuple[int, int, str, float]]:
    """Secrets, as start and end in the folded text, kind and score; of an assignment, the value alone."""
    text, lower = reading.text, reading.lower
    for mark, forms in _BY_MARK.items():
        if mark not in text:
            continue
        for literal, form in forms:
            if literal in text:
                for m in form.finditer(text):
                    if literal != "sk-" or any(c.isdigit() for c in m.group()):
                        yield m.start(), m.end(), "secret", 1.0
    if "bearer " in lower or "basic " in lower:
        for m in _BEARER.finditer(text):
            if any(not c.isalpha() for c in m["value"]) and entropy(m["value"]) >= 2.5:
                yield *m.span("value"), "secret", 1.0
    if "://" in text and "@" in text:
        for m in _USER_INFO.finditer(text):
            if not m["value"].startswith(("$", "{")):
                yield *m.span("value"), "secret", 1.0
    if "private key" in lower:
        yield from _private_keys(text)
    yield from _named(text, lower)


def _named(text: str, lower: str) -> Iterator[tuple[int, int, str, float]]:
    """Values that the text calls a password, a token or a key."""
    if len(lower) != len(text):
        lower = "".join(c.lower() if c.isascii() else c for c in text)  # A few letters grow: İ becomes two.
    for name in _NAMES:
        at = lower.find(name)
        while at >= 0:
            after = at + 1
            if (name != "key" or _WHOSE_KEY.search(text, max(0, at - 12), at)) and (m := _NAMED.match(text, at)):
                after = m.end()
                value = m["value"].rstrip(".,:")
                part_of_word = at and lower[at - 1].isalpha() and text[at].islower()
                called = text[m.end() : m.end() + 1] in ("(", "[")
                if not (part_of_word or called) and _looks_secret(
                    value, is_password=name not in ("secret", "token", "key")
                ):
                    yield m.start("value"), m.start("value") + len(value), "secret", 0.8
            at = lower.find(name, after)


def entropy(value: str) -> float:
    """Shannon entropy of the characters of a text, in bits a character."""
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts)


def _looks_secret(value: str, *, is_password: bool) -> bool:
    """Whether what a text calls a secret is one, rather than a word about it or a place where one goes."""
    lower = value.lower()
    if len(set(lower)) < 4 or lower.startswith(("os.environ", "process.env", "env.", "xxx", "http:", "https:", "your")):
        return False
    has_digit, has_alpha = any(c.isdigit() for c in value), any(c.isalpha() for c in value)
    has_mark = any(not (c.isalnum() or c in "._-") for c in value)
    mixed = value != lower and value != value.upper() and not value.istitle()
    if is_password:
        return (has_digit and has_alpha) or (has_mark and (has_digit or has_alpha))
    if not (has_digit and has_alpha) and not (mixed and len(value) >= 20):
        return False
    return len(value) >= 8 and entropy(value) >= 2.5


def _private_keys(text: str) -> Iterator[tuple[int, int, str, float]]:
    """PEM blocks of private keys, up to their end mark or, where that is missing, as far as they read like one."""
    at = 0
    while m := _PEM.search(text, at):
        body = _PEM_BODY.match(text, m.end())
        at = body.end() if body else m.end()
        if end := _PEM_END.match(text, at):
            at = end.end()
        while text[at - 1].isspace():
            at -= 1
        yield m.start(), at, "secret", 1.0
