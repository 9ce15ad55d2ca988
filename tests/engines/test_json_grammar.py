from __future__ import annotations

import json
import re

import pytest

from tests.engines.conftest import asked
from tiercel.engines.json_grammar import literal, schema_grammar
from tiercel.engines.llamacpp import LlamaCppEngine
from tiercel.errors import ConfigurationError, EngineError


def as_pattern(grammar: str) -> re.Pattern[str]:
    """A grammar without recursion as a regular expression, so that membership can be tested without a model."""
    rules = dict(line.split(" ::= ", 1) for line in grammar.strip().split("\n"))
    piece = re.compile(r'"((?:[^"\\]|\\.)*)"|(\[(?:[^\]\\]|\\.)*\])|([a-z][\w-]*)|(\{\d*,?\d*\}|[()|?*+])')

    def expanded(rule: str) -> str:
        made = []
        for text, chars, name, mark in piece.findall(rule):
            if name:
                made.append(f"(?:{expanded(rules[name])})")
            elif chars:
                made.append(chars)
            elif mark:
                made.append(mark)
            else:
                made.append(re.escape(re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), text)))
        return "".join(
            f"(?:{m})" if len(m) > 1 and m.startswith("\\") is False and m[0] not in "([{" else m for m in made
        )

    return re.compile(expanded(rules["root"]))


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 0), (0, 9), (1, 99), (-3, 120), (-120, -7), (95, 1234), (7, 7), (199, 201), (-1, 1), (10, 100)],
)
def test_whole_numbers_in_a_range_and_no_others(low: int, high: int) -> None:
    pattern = as_pattern(schema_grammar({"type": "integer", "minimum": low, "maximum": high}))
    for number in range(low - 150, high + 150):
        assert bool(pattern.fullmatch(str(number))) is (low <= number <= high), number
    assert not pattern.fullmatch("01")


def test_exclusive_bounds_and_halves() -> None:
    pattern = as_pattern(schema_grammar({"type": "integer", "exclusiveMinimum": 2, "exclusiveMaximum": 6}))
    assert [n for n in range(10) if pattern.fullmatch(str(n))] == [3, 4, 5]
    pattern = as_pattern(schema_grammar({"type": "integer", "minimum": 1.5, "maximum": 3.5}))
    assert [n for n in range(10) if pattern.fullmatch(str(n))] == [2, 3]


@pytest.mark.parametrize("spaced", [(", ", ": "), (",", ":")])
def test_optional_properties_may_be_left_out_and_commas_fit(spaced: tuple[str, str]) -> None:
    schema = {"type": "object", "properties": {k: {"const": k} for k in "abcd"}, "required": ["b"]}
    pattern = as_pattern(schema_grammar(schema))
    for bits in range(16):
        chosen = {k: k for i, k in enumerate("abcd") if bits >> i & 1}
        text = json.dumps(chosen, separators=spaced)
        assert bool(pattern.fullmatch(text)) is ("b" in chosen), text
    assert not pattern.fullmatch('{"b":"b",}')
    assert not pattern.fullmatch('{,"b":"b"}')


def test_nothing_needed_and_nothing_given_is_an_empty_object() -> None:
    pattern = as_pattern(schema_grammar({"type": "object", "properties": {"a": {"const": 1}}}))
    assert pattern.fullmatch("{}")
    assert pattern.fullmatch('{"a": 1}')
    assert as_pattern(schema_grammar({"type": "object", "additionalProperties": False})).fullmatch("{ }")


@pytest.mark.parametrize(("least", "most"), [(0, 0), (0, 2), (1, 3), (2, 2)])
def test_arrays_have_as_many_items_as_they_may(least: int, most: int) -> None:
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": least, "maxItems": most}
    pattern = as_pattern(schema_grammar(schema))
    for n in range(5):
        assert bool(pattern.fullmatch(json.dumps([True] * n))) is (least <= n <= most)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"enum": ["a b", 'q"', 3, None]}, ['"a b"', '"q\\""', "3", "null"], ['"a"', "4"]),
        ({"type": ["null", "boolean"]}, ["null", "true"], ["1", '"x"']),
        (
            {"type": "string", "minLength": 1, "maxLength": 2},
            ['"a"', '"éa"', '"\\n"'],
            ['""', '"abc"', '"\n"', '"\\ud800"'],
        ),
        ({"type": "string", "maxLength": 0}, ['""'], ['"a"']),
        ({"type": "string", "format": "date"}, ['"2024-05-28"'], ['"2024-13-01"', '"2024-02-30"']),
        ({"anyOf": [{"type": "integer"}, {"const": "x"}]}, ["-7", '"x"'], ["1.5"]),
        ({"type": "number", "minimum": 0}, ["0", "2.5", "1e3"], ["-1", "01"]),
        ({"allOf": [{"properties": {"a": {"const": 1}}}, {"required": ["a"]}]}, ['{"a":1}'], ["{}"]),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"enum": [1]}}}, ["1"], ["2"]),
        (
            {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False},
            ["[1, 2]"],
            ["[1]", "[1,2,3]"],
        ),
        (
            {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 1},
            ['{"k":true}', "{}"],
            ['{"k":1}'],
        ),
    ],
)
def test_what_is_valid_is_in_the_grammar_and_what_is_not_is_not(schema: dict, good: list[str], bad: list[str]) -> None:
    pattern = as_pattern(schema_grammar(schema))
    assert [t for t in good if not pattern.fullmatch(t)] == []
    assert [t for t in bad if pattern.fullmatch(t)] == []


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"not": {}}, "not at #"),
        ({"type": "array", "items": {"pattern": "a"}}, "pattern at #/items"),
        ({"type": "number", "maximum": 2}, "maximum at #"),
        ({"$ref": "other.json"}, "leaves the schema"),
        ({"$ref": "#/$defs/gone"}, "points to nothing"),
        ({"enum": []}, "empty enum"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no integer lies"),
        ({"type": "text"}, "type 'text'"),
        ({"oneOf": [{"type": "object"}, {"type": "object"}]}, "may hold at once"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "differ on type"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "required but no property"),
        ({"properties": 3}, "no JSON Schema"),
        (False, "nothing or no schema"),
    ],
)
def test_what_can_not_be_held_is_refused(schema: object, says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says) if "#" in says else says):
        schema_grammar(schema)  # type: ignore[arg-type]


def test_branches_told_apart_by_a_constant_are_one_of() -> None:
    branch = lambda kind: {"properties": {"kind": {"const": kind}}, "required": ["kind"]}  # noqa: E731
    pattern = as_pattern(schema_grammar({"oneOf": [branch("a"), branch("b")]}))
    assert pattern.fullmatch('{"kind": "b"}')


def test_a_schema_that_contains_itself_is_written_and_ends(in_process: LlamaCppEngine) -> None:
    node = {"type": "object", "properties": {"of": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}, "required": ["of"]}
    found = in_process.generate(asked(schema=node, temperature=1.0, seed=1, max_tokens=300))
    value = json.loads(found.answer.text)
    while value["of"] is not None:
        value = value["of"]


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"type": "array", "items": {"type": "number"}}])
def test_open_schemas_are_read_by_llama_cpp(in_process: LlamaCppEngine, schema: dict) -> None:
    for seed in range(3):
        try:
            found = in_process.generate(asked(schema=schema, temperature=1.0, seed=seed, max_tokens=300))
        except EngineError:
            continue
        assert found.finish_reason == "length" or json.loads(found.answer.text) is not ...


@pytest.mark.parametrize("text", ["", 'a "b" \\ c', "line\nend\t", "\x01é東"])
def test_a_literal_is_taken_as_it_is(in_process: LlamaCppEngine, text: str) -> None:
    found = in_process.generate(asked(grammar=f"root ::= {literal('<' + text + '>')}", max_tokens=60))
    assert found.answer.text == f"<{text}>"
