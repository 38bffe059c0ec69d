"""Pruning, defaulting and validation by structural schemas and by the built-in types."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.kubeapi.builtin_types import BuiltinTypes, component
from edgeappliance.kubeapi.schema import Outcome
from edgeappliance.kubeapi.structural import SchemaError, compile_structural
from tests.support.embedded_api import widget_definition

WIDGET = widget_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def applied(schema: dict[str, Any], value: Any) -> tuple[Any, Outcome]:
    out = Outcome()
    return compile_structural(schema, path="s").apply(copy.deepcopy(value), "", out), out


def errors(schema: dict[str, Any], value: Any) -> dict[str, str]:
    return {cause.field: cause.message for cause in applied(schema, value)[1].causes}


def field(**node: Any) -> dict[str, Any]:
    """A schema with one field `f`."""
    return {"type": "object", "properties": {"f": node}}


def test_unknown_fields_are_dropped_and_named() -> None:
    value = {"spec": {"size": 1, "weight": 2, "free": {"a": {"b": 1}}, "labels": {"x": "y"}}, "extra": 1}
    result, out = applied(WIDGET, value)
    assert result == {"spec": {"size": 1, "color": "red", "free": {"a": {"b": 1}}, "labels": {"x": "y"}}}
    assert sorted(out.unknown) == ["extra", "spec.weight"]
    assert out.causes == []


def test_defaults_reach_into_lists_and_replace_nulls() -> None:
    result, _ = applied(
        WIDGET, {"spec": {"size": 1, "color": None, "parts": [{"name": "a"}, {"name": "b", "count": 2}]}}
    )
    assert result["spec"]["color"] == "red"
    assert [part["count"] for part in result["spec"]["parts"]] == [1, 2]


def test_a_default_object_is_completed_and_never_shared() -> None:
    schema = field(
        type="object", default={}, properties={"n": {"type": "array", "items": {"type": "integer"}, "default": [1]}}
    )
    first, _ = applied(schema, {})
    compiled = compile_structural(schema, path="s")
    first = compiled.apply({}, "", Outcome())
    first["f"]["n"].append(2)
    assert compiled.apply({}, "", Outcome()) == {"f": {"n": [1]}}


@pytest.mark.parametrize(
    ("node", "value", "text"),
    [
        ({"type": "integer"}, "x", "must be of type integer"),
        ({"type": "integer"}, 1.5, "must be of type integer"),
        ({"type": "integer"}, True, "must be of type integer"),
        ({"type": "string"}, None, "must be of type string"),
        ({"type": "boolean"}, 1, "must be of type boolean"),
        ({"type": "object", "properties": {}}, [], "must be of type object"),
        ({"type": "array", "items": {"type": "string"}}, {}, "must be of type array"),
        ({"type": "integer", "minimum": 3}, 2, "greater than or equal to 3"),
        ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, 3, "greater than or equal to 3"),
        ({"type": "number", "maximum": 3}, 3.5, "less than or equal to 3"),
        ({"type": "integer", "format": "int32"}, 2**31, "must be between"),
        ({"type": "number", "multipleOf": 0.5}, 0.7, "multiple of 0.5"),
        ({"type": "string", "pattern": "^a+$"}, "aab", "should match '^a+$'"),
        ({"type": "string", "pattern": "^a+$"}, "aa\n", "should match"),
        ({"type": "string", "minLength": 2}, "a", "at least 2 chars"),
        ({"type": "string", "maxLength": 2}, "abc", "at most 2 chars"),
        ({"type": "string", "enum": ["a"]}, "b", 'supported values: "a"'),
        ({"type": "string", "format": "date-time"}, "yesterday", "date-time"),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 1}, ["a", "b"], "at most 1 items"),
        ({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}, ["a", "a"], "Duplicate"),
        (
            {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1},
            {},
            "at least 1 properties",
        ),
        ({"x-kubernetes-int-or-string": True}, 1.5, "integer or string"),
        ({"type": "string", "not": {"enum": ["a"]}}, "a", "must not validate"),
        ({"type": "integer", "oneOf": [{"minimum": 1}, {"maximum": 3}]}, 2, "one and only one"),
        ({"type": "integer", "anyOf": [{"minimum": 5}, {"maximum": 1}]}, 3, "at least one"),
        ({"type": "integer", "allOf": [{"minimum": 5}]}, 3, "greater than or equal to 5"),
    ],
)
def test_rules(node: dict[str, Any], value: Any, text: str) -> None:
    found = errors(field(**node), {"f": value})
    assert any(key.startswith("f") and text in message for key, message in found.items()), found


@pytest.mark.parametrize(
    ("node", "value"),
    [
        ({"type": "integer"}, 2.0),
        ({"type": "string", "nullable": True}, None),
        ({"x-kubernetes-int-or-string": True}, "80%"),
        ({"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}, 80),
        ({"type": "string", "format": "date-time"}, "2026-01-01T00:00:00.5+02:00"),
        ({"type": "object", "additionalProperties": True}, {"any": [1, {"x": None}]}),
        ({"x-kubernetes-preserve-unknown-fields": True}, [1, "a", {"b": 2}]),
    ],
)
def test_what_passes(node: dict[str, Any], value: Any) -> None:
    result, out = applied(field(**node), {"f": value})
    assert (result, out.causes, out.unknown) == ({"f": value}, [], [])


def test_required_fields_and_paths_in_lists() -> None:
    found = errors(WIDGET, {"spec": {"parts": [{"name": "a"}, {"count": 1}, {"name": "a"}]}})
    assert found["spec.size"] == "Required value"
    assert found["spec.parts[1].name"] == "Required value"
    assert "Duplicate" in found["spec.parts[2]"]


def test_embedded_resources_keep_their_identity() -> None:
    schema = field(type="object", **{"x-kubernetes-embedded-resource": True}, properties={"spec": {"type": "object"}})
    result, out = applied(schema, {"f": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "status": {}}})
    assert result["f"] == {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
    assert out.causes == []
    assert errors(schema, {"f": {"kind": "Pod"}}) == {"f.apiVersion": "Required value: must not be empty"}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string"}, "must be object at the root"),
        (field(), "must not be empty"),
        (field(type="string", pattern="("), "pattern"),
        (field(type="string", default=1), "must be of type string"),
        ({"type": "object", "properties": {"f": {"type": "object", "$ref": "#/x"}}}, "$ref"),
    ],
)
def test_schemas_that_cannot_be_served(schema: dict[str, Any], text: str) -> None:
    with pytest.raises(SchemaError) as failure:
        compile_structural(schema, path="root")
    assert text in str(failure.value)


def test_builtin_kinds_drop_nulls_and_unknown_fields() -> None:
    schema = BuiltinTypes().schema(component("", "v1", "Pod"))
    assert schema is not None
    out = Outcome()
    value = {
        "metadata": {"name": "p", "creationTimestamp": None, "labels": {"a": "b"}},
        "spec": {
            "containers": [{"name": "c", "image": None, "ports": [{"containerPort": 1}], "colour": "red"}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": 5}}],
        },
    }
    result = schema.apply(value, "", out)
    assert out.unknown == ["spec.containers[0].colour"]
    assert out.causes == []
    assert result["metadata"] == {"name": "p", "labels": {"a": "b"}}
    assert result["spec"]["containers"] == [{"name": "c", "ports": [{"containerPort": 1}]}]
    schema.apply({"spec": {"containers": "x", "hostNetwork": "yes"}}, "", out)
    assert {cause.field for cause in out.causes} == {"spec.containers", "spec.hostNetwork"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["spec", "size", "parts", "name", "x"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["spec", "status", "x"]), json_values, max_size=3))
def test_any_object_is_pruned_once_and_for_all(value: dict[str, Any]) -> None:
    schema = compile_structural(WIDGET, path="")
    once = schema.apply(copy.deepcopy(value), "", Outcome())
    again = Outcome()
    assert schema.apply(copy.deepcopy(once), "", again) == once
    assert again.unknown == []
