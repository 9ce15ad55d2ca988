from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercel.tasks.json_schema import schema_violation

TREE = {
    "$defs": {
        "node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string"}, ["", "x"], [1, None, []]),
        ({"type": "integer"}, [1, -3, 2.0], [1.5, "1", True]),
        ({"type": "number"}, [1, 1.5], [False, "1"]),
        ({"type": "boolean"}, [True], [1, 0]),
        ({"type": ["string", "null"]}, ["x", None], [1]),
        ({"enum": ["a", 1]}, ["a", 1, 1.0], ["b", True]),
        ({"const": {"a": [1]}}, [{"a": [1]}], [{"a": [True]}, {}]),
        ({"required": ["a"]}, [{"a": 1}, "no object"], [{}, {"b": 1}]),
        ({"properties": {"a": {"type": "string"}}}, [{"a": "x"}, {"b": 1}], [{"a": 1}]),
        ({"properties": {"a": {}}, "additionalProperties": False}, [{"a": 1}, {}], [{"b": 1}]),
        ({"additionalProperties": {"type": "integer"}}, [{"x": 1}], [{"x": "1"}]),
        ({"patternProperties": {"^x-": {}}, "additionalProperties": False}, [{"x-a": 1}], [{"y": 1}]),
        ({"items": {"type": "integer"}}, [[1, 2], []], [[1, "x"]]),
        ({"prefixItems": [{"type": "string"}], "items": False}, [["x"], []], [["x", 1], [1]]),
        ({"minItems": 1, "maxItems": 2, "uniqueItems": True}, [[1], [1, True]], [[], [1, 1], [1, 2, 3]]),
        ({"minLength": 2, "maxLength": 3}, ["ab", 5], ["a", "abcd"]),
        ({"pattern": "^a+$"}, ["aa", 1], ["b"]),
        ({"pattern": "(?<broken"}, ["anything"], []),
        ({"minimum": 1, "exclusiveMaximum": 3}, [1, 2.9, True], [0, 3]),
        ({"multipleOf": 0.1}, [0.3, 1], [0.35]),
        ({"anyOf": [{"type": "string"}, {"minimum": 3}]}, ["x", 4], [2]),
        ({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, [1, 3.5], [4]),
        ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, [4], [2, 3.5]),
        ({"not": {"type": "null"}}, [1], [None]),
        (TREE, [{"next": {"next": None}}, {}], [{"next": {"next": 1}}, 1]),
        (True, [1], []),
        (False, [], [1]),
        ({"unknownKeyword": 5}, [1], []),
    ],
)
def test_fits_or_not(schema: Any, good: list[Any], bad: list[Any]) -> None:
    assert [v for v in good if schema_violation(v, schema) is not None] == []
    assert [v for v in bad if schema_violation(v, schema) is None] == []


def test_the_place_is_named_and_the_value_is_not() -> None:
    schema = {"properties": {"people": {"items": {"properties": {"age": {"type": "integer"}}}}}}
    assert schema_violation({"people": [{"age": 1}, {"age": "secret"}]}, schema) == "$.people[1].age is no integer"
    assert schema_violation({"secret": 1}, {"additionalProperties": False}) == "$.* is not allowed"


def test_a_reference_to_itself_ends() -> None:
    assert schema_violation(1, {"$ref": "#"}) is None
    assert schema_violation(1, {"$ref": "#/nowhere"}) is None
    assert schema_violation(1, {"$ref": "https://elsewhere"}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_a_value_fits_the_schema_that_was_made_from_it(value: Any) -> None:
    def made(v: Any) -> dict[str, Any]:
        if isinstance(v, dict):
            inner = {k: made(x) for k, x in v.items()}
            return {"type": "object", "properties": inner, "required": list(v), "additionalProperties": False}
        if isinstance(v, list):
            return {"type": "array", "prefixItems": [made(x) for x in v], "maxItems": len(v)}
        return {"const": v}

    assert schema_violation(value, made(value)) is None
    assert schema_violation(value, {"not": made(value)}) is not None


@pytest.mark.parametrize(
    "schema",
    [{"type": 3}, {"enum": 1}, {"minimum": "x"}, {"allOf": True}, {"patternProperties": {"(": {}}}, {"multipleOf": []}],
)
@pytest.mark.parametrize("value", [1, {"a": 1}])
def test_a_malformed_schema_restricts_nothing(schema: Any, value: Any) -> None:
    assert schema_violation(value, schema) is None


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "^(a+)+$"},
        {"pattern": "(a|a)*$"},
        {"pattern": r"^(a*)\1\1\1b"},
        {"pattern": "a*a*a*a*a*a*a*b"},
        {"pattern": "(?:a{1,40}){1,40}b"},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"allOf": [{"not": {"$ref": "#"}}, {"anyOf": [{"$ref": "#"}] * 20}]},
    ],
)
def test_a_schema_that_would_never_end_restricts_nothing(schema: dict[str, Any]) -> None:
    assert schema_violation("a" * 60 + "c", schema) is None


@pytest.mark.parametrize(
    ("pattern", "wrong"),
    [(r"^\d{4}-\d{2}-\d{2}$", "x"), (r"^[A-Z]{2}[0-9]+$", "de1"), (r"^(eur|usd)$", "gbp"), (r"^\S+@\S+\.[a-z]+$", "@")],
)
def test_usual_patterns_are_still_checked(pattern: str, wrong: str) -> None:
    assert schema_violation(wrong, {"pattern": pattern}) is not None
