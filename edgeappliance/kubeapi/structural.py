"""CustomResourceDefinition schemas (`openAPIV3Schema`, structural) compiled into `Schema` nodes."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from edgeappliance.kubeapi.errors import Cause
from edgeappliance.kubeapi.schema import Outcome, Schema, compile_rules

_ROOT_FIELDS = ("apiVersion", "kind", "metadata")
DEPTH_LIMIT = 64


class SchemaError(ValueError):
    """A schema that cannot be served; `causes` names every offending node."""

    def __init__(self, causes: list[Cause]) -> None:
        super().__init__("; ".join(f"{cause.field}: {cause.message}" for cause in causes))
        self.causes = causes


def compile_structural(root: Mapping[str, Any], *, path: str) -> Schema:
    """The compiled schema of a custom resource's whole object.

    `path` is where the schema stands in the definition, for errors. `apiVersion`, `kind` and `metadata` are
    left to the common rules of all objects. Raises SchemaError with all errors.
    """
    causes: list[Cause] = []
    if root.get("type") != "object":
        causes.append(Cause("FieldValueInvalid", "Invalid value: must be object at the root", f"{path}.type"))
    schema = _compile(root, path, causes, depth=0)
    if causes:
        raise SchemaError(causes)
    for name in _ROOT_FIELDS:
        schema.properties[name] = Schema()
    schema.embedded = False
    schema.inserts = tuple((name, value) for name, value in schema.inserts if name not in _ROOT_FIELDS)
    _check_defaults(schema, path, causes)
    if causes:
        raise SchemaError(causes)
    return schema


def _compile(node: Mapping[str, Any], path: str, causes: list[Cause], *, depth: int) -> Schema:
    schema = Schema()
    if depth > DEPTH_LIMIT:
        causes.append(Cause("FieldValueInvalid", f"Invalid value: deeper than {DEPTH_LIMIT} levels", path))
        return schema
    schema.int_or_string = bool(node.get("x-kubernetes-int-or-string"))
    schema.preserve = bool(node.get("x-kubernetes-preserve-unknown-fields"))
    schema.embedded = bool(node.get("x-kubernetes-embedded-resource"))
    schema.nullable = bool(node.get("nullable"))
    schema.type = "" if schema.int_or_string else str(node.get("type") or "")
    if not schema.type and not schema.int_or_string and not schema.preserve:
        causes.append(
            Cause("FieldValueRequired", "Required value: must not be empty for specified object fields", f"{path}.type")
        )
    if "$ref" in node:
        causes.append(Cause("FieldValueForbidden", "Forbidden: $ref is not supported", f"{path}.$ref"))
    schema.required = tuple(map(str, node.get("required") or ()))
    schema.list_type = str(node.get("x-kubernetes-list-type") or "")
    schema.list_keys = tuple(map(str, node.get("x-kubernetes-list-map-keys") or ()))
    if "default" in node:
        schema.has_default, schema.default = True, node["default"]
    for name, child in (node.get("properties") or {}).items():
        schema.properties[name] = _compile(child, f"{path}.properties[{name}]", causes, depth=depth + 1)
    additional = node.get("additionalProperties")
    if isinstance(additional, Mapping):
        schema.additional = _compile(additional, f"{path}.additionalProperties", causes, depth=depth + 1)
    if isinstance(node.get("items"), Mapping):
        schema.items = _compile(node["items"], f"{path}.items", causes, depth=depth + 1)
    schema.closed = schema.type == "object" and additional is not True
    schema.inserts = tuple((name, child.default) for name, child in schema.properties.items() if child.has_default)
    try:
        schema.rules = (*compile_rules(node), *_junctors(node, path, causes))
    except ValueError as error:
        causes.append(Cause("FieldValueInvalid", f"Invalid value: {error}", path))
    return schema


def _junctors(node: Mapping[str, Any], path: str, causes: list[Cause]) -> list[Callable[[Any, str, Outcome], None]]:
    """allOf, anyOf, oneOf and not: they only validate, they neither prune nor default."""
    rules: list[Callable[[Any, str, Outcome], None]] = []
    if node.get("x-kubernetes-int-or-string"):
        return rules  # its anyOf of integer and string says again what the marker says
    for word in ("allOf", "anyOf", "oneOf"):
        if node.get(word):
            rules.append(_junctor(word, [_validation(part) for part in node[word]]))
    if isinstance(node.get("not"), Mapping):
        rules.append(_junctor("not", [_validation(node["not"])]))
    return rules


def _validation(node: Mapping[str, Any]) -> Schema:
    """A node inside a junctor: open, without defaults."""
    schema = Schema()
    schema.type = str(node.get("type") or "")
    schema.preserve = True
    schema.nullable = True
    schema.required = tuple(map(str, node.get("required") or ()))
    schema.properties = {name: _validation(child) for name, child in (node.get("properties") or {}).items()}
    if isinstance(node.get("additionalProperties"), Mapping):
        schema.additional = _validation(node["additionalProperties"])
    if isinstance(node.get("items"), Mapping):
        schema.items = _validation(node["items"])
    schema.rules = (*compile_rules(node), *_junctors(node, "", []))
    return schema


def _junctor(word: str, parts: list[Schema]) -> Callable[[Any, str, Outcome], None]:
    def rule(value: Any, path: str, out: Outcome) -> None:
        outcomes = [Outcome() for _ in parts]
        for part, outcome in zip(parts, outcomes, strict=True):
            part.apply(value, path, outcome)
        passed = sum(not outcome.causes for outcome in outcomes)
        if word == "allOf":
            for outcome in outcomes:
                out.causes.extend(outcome.causes)
        elif word == "anyOf" and not passed:
            out.fail("FieldValueInvalid", f'Invalid value: "": {path} must validate at least one schema (anyOf)', path)
        elif word == "oneOf" and passed != 1:
            text = f'Invalid value: "": {path} must validate one and only one schema (oneOf)'
            out.fail("FieldValueInvalid", text, path)
        elif word == "not" and passed:
            out.fail("FieldValueInvalid", f'Invalid value: "": {path} must not validate the schema (not)', path)

    return rule


def _check_defaults(schema: Schema, path: str, causes: list[Cause]) -> None:
    """Defaults must pass their own schema, or every object would be refused for what its author did not write."""
    for name, child in schema.properties.items():
        here = f"{path}.properties[{name}]"
        if child.has_default:
            outcome = Outcome()
            child.apply(copy.deepcopy(child.default), f"{here}.default", outcome)
            causes.extend(outcome.causes)
        _check_defaults(child, here, causes)
    for nested, word in ((schema.items, "items"), (schema.additional, "additionalProperties")):
        if nested is not None:
            _check_defaults(nested, f"{path}.{word}", causes)
