from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiercel.errors import ConfigurationError
from tiercel.tasks.gbnf import Grammar


@pytest.mark.parametrize(
    ("source", "yes", "no"),
    [
        ('root ::= "a" | "bc"', ["a", "bc"], ["", "b", "ab", "abc"]),
        ('root ::= "a"*', ["", "a", "aaaa"], ["b", "ab"]),
        ('root ::= "ab"+', ["ab", "abab"], ["", "a", "abb"]),
        ('root ::= ("ab")+ "c"?', ["ab", "ababc"], ["", "abb", "abcc"]),
        ('root ::= "x"{2,3} [0-9]{2} "y"{1,}', ["xx12y", "xxx00yyy"], ["x12y", "xxxx12y", "xx1y", "xx12"]),
        ("root ::= [^a-c\\n]+", ["xyz", "é"], ["a", "x\n", ""]),
        ("root ::= [-a\\]\\\\] .", ["-x", "]x", "\\\n", "ax"], ["bx", "-"]),
        ('root ::= "\\"\\x41\\u00e9\\n"', ['"Aé\n'], ['"A']),
        ('root ::= "(" root ")" | ""  # balanced\n', ["", "()", "((()))"], ["(", ")(", "(()"]),
        ('root ::= word (", " word)*\nword ::= [a-z]+\n\n', ["a", "ab, c"], ["ab,c", "a, "]),
    ],
)
def test_which_texts_follow_a_grammar(source: str, yes: list[str], no: list[str]) -> None:
    grammar = Grammar(source)
    assert [text for text in yes if not grammar.accepts(text)] == []
    assert [text for text in no if grammar.accepts(text)] == []


def test_how_far_a_text_can_go() -> None:
    grammar = Grammar('root ::= "SELECT " [a-z]+ (", " [a-z]+)*')
    assert grammar.reached("SELECT ab, c") == 12
    assert grammar.reached("SELECT ab; DROP") == 9
    assert grammar.reached("DROP") == 0
    assert not grammar.accepts("SELECT ")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('start ::= "a"', "no rule root"),
        ("root ::= missing", "missing, which is not there"),
        ('root ::= root "a" | "a"', "begins with itself"),
        ('root ::= a\na ::= "x"? b\nb ::= root', "begins with itself"),
        ('root ::= ("a"', "add a )"),
        ("root ::= *", "nothing can be repeated"),
        ("root ::= 'a'", "line 1"),
        ('root "a"', "where a define is needed"),
    ],
)
def test_a_broken_grammar_says_where(source: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Grammar(source)


def test_a_grammar_can_be_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "g.gbnf").write_text('root ::= "é"', encoding="utf-8")
    assert Grammar.of_file(tmp_path / "g.gbnf").accepts("é")


_PATTERN = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "[^a]"]),
    lambda inner: (
        st.builds("({}|{})".format, inner, inner)
        | st.builds("({}{})".format, inner, inner)
        | st.builds("({}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{2,}"]))
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(_PATTERN, st.lists(st.text("abc", max_size=6), max_size=8))
def test_a_regular_grammar_agrees_with_a_regular_expression(pattern: str, texts: list[str]) -> None:
    source = "root ::= " + "".join(
        p if p[0] in "[({" or p in "|)*+?" else f' "{p}" ' for p in re.findall(r"\[[^\]]*\]|\{[^}]*\}|.", pattern)
    )
    try:
        grammar = Grammar(source)
    except ConfigurationError as error:
        # A repetition of what may be empty begins with itself.
        assert "begins with itself" in str(error)
        return
    for text in texts:
        assert grammar.accepts(text) == bool(re.fullmatch(pattern, text)), (source, text)
