from __future__ import annotations

import pytest

from tiercel.datasets.personal_data import KINDS, find


def found(text: str) -> list[tuple[str, str]]:
    return [(s.kind, text[s.start : s.end]) for s in find(text, KINDS)]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("email", "ada.lovelace+x@mail.example.co.uk"),
        ("email", "a@b.co"),
        ("email", "ada@bücher.example"),
        ("email", "ada@xn--bcher-kva.xn--p1ai"),
        ("ip", "81.2.69.142"),
        ("ip", "10.0.0.1"),
        ("ip", "2001:db8:85a3::8a2e:370:7334"),
        ("ip", "6e40:4041:c617:e898:c11:40d2:c669:2eb4"),
        ("ip", "fe80::1ff:fe23:4567:890a"),
        ("mac", "00:1A:2b:3C:4d:5E"),
        ("mac", "00-1A-2B-3C-4D-5E"),
        ("url", "https://example.org/a/b?c=d#e"),
        ("url", "http://www.Example.se/"),
        ("url", "www.example.org/page"),
        ("url", "https://en.example.org/wiki/Hobby_(falcon)"),
    ],
)
@pytest.mark.parametrize("around", ["{}", "See {}.", "<{}>", "({}, x)", '"{}"', "\n{}\n"])
def test_an_address_is_found_without_the_punctuation_around_it(kind: str, value: str, around: str) -> None:
    assert found(around.format(value)) == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "ada@localhost",
        "@ada said",
        "a @ b.co",
        "user@",
        "version 1.2.3.4.5",
        "v 1.2.3.4",
        "v1.2.3.4",
        "300.1.2.3",
        "127.0.0.1",
        "255.255.255.0",
        "0.0.0.0",
        "::1",
        "std::cout",
        "a::b",
        "dead::beef",
        "12:34:56",
        "00:1A:2B:3C:4D",
        "https://",
        "www.",
        "A::B::C",
    ],
)
def test_what_only_resembles_an_address_is_left(text: str) -> None:
    assert found(text) == []
