"""Schemas compiled once and walked fast: prune, default and validate an object in one pass.

Two dialects share the walk. *Structural* schemas of CustomResourceDefinitions (Kubernetes docs, "Extend the
Kubernetes API with CustomResourceDefinitions"): nulls and missing required fields are errors. *Built-in* kinds, as
Go's decoder and encoder have it: a null is an absent field, an empty list or map is not written, and required fields
are the business of the kind's own rules.
"""

import base64
import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeappliance.kubeapi.errors import Cause
from edgeappliance.kubeapi.quantity import canonical
from edgeappliance.kubeapi.times import parse_time

CAUSES_LIMIT = 100
"""Field errors collected for one object; the walk goes on but remembers no more."""

_INT_RANGES = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


@dataclass(slots=True)
class Outcome:
    """What a walk found: field errors, and unknown fields that were dropped."""

    causes: list[Cause] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def fail(self, reason: str, message: str, path: str) -> None:
        """Remember a field error."""
        if len(self.causes) < CAUSES_LIMIT:
            self.causes.append(Cause(reason, message, path))


class Schema:
    """One compiled node. Also the `Shape` that a strategic merge patch asks for."""

    __slots__ = (
        "additional",
        "builtin",
        "closed",
        "default",
        "embedded",
        "has_default",
        "inserts",
        "int_or_string",
        "items",
        "list_keys",
        "list_type",
        "merge_key",
        "merges",
        "nullable",
        "omits",
        "preserve",
        "properties",
        "quantity",
        "replaces",
        "required",
        "rules",
        "type",
    )

    def __init__(self) -> None:
        self.type = ""
        self.properties: dict[str, Schema] = {}
        self.additional: Schema | None = None
        self.items: Schema | None = None
        self.closed = False
        self.preserve = False
        self.nullable = False
        self.embedded = False
        self.int_or_string = False
        self.builtin = False
        self.quantity = False
        self.has_default = False
        self.default: Any = None
        self.inserts: tuple[tuple[str, Any], ...] = ()
        self.required: tuple[str, ...] = ()
        self.omits: frozenset[str] = frozenset()
        self.rules: tuple[Callable[[Any, str, Outcome], None], ...] = ()
        self.list_type = ""
        self.list_keys: tuple[str, ...] = ()
        self.merges = False
        self.merge_key = ""
        self.replaces = False

    # The view of strategic merge.

    def child(self, name: str) -> "Schema | None":
        """The schema of a property or of a map's values."""
        return self.properties.get(name) or self.additional

    def item(self) -> "Schema | None":
        """The schema of a list's items."""
        return self.items

    # The walk.

    def apply(self, value: Any, path: str, out: Outcome) -> Any:
        """The value pruned and defaulted; containers are changed in place. Errors go to `out`."""
        if self.quantity:
            return _quantity(value, path, out)
        kind = type(value)
        wanted = self.type
        if kind is str:
            if wanted not in ("string", "") and not self.int_or_string:
                _wrong_type(value, wanted, path, out)
                return value
        elif kind is dict:
            if wanted not in ("object", "") or self.int_or_string:
                _wrong_type(value, wanted, path, out)
                return value
            self._apply_object(value, path, out)
        elif kind is list:
            if wanted not in ("array", "") or self.int_or_string:
                _wrong_type(value, wanted, path, out)
                return value
            self._apply_array(value, path, out)
        elif value is None:
            if not self.nullable and wanted:
                _wrong_type(value, wanted, path, out)
            return value
        elif kind is bool:
            if wanted not in ("boolean", "") or self.int_or_string:
                _wrong_type(value, wanted, path, out)
                return value
        elif not self._number_fits(value, kind):
            _wrong_type(value, wanted, path, out)
            return value
        for rule in self.rules:
            rule(value, path, out)
        return value

    def zero(self) -> Any:
        """What Go reads where a list or map holds a null."""
        if self.quantity:
            return "0"
        return 0 if self.int_or_string else _ZERO.get(self.type, dict)()

    def _number_fits(self, value: Any, kind: type) -> bool:
        if self.int_or_string:
            return kind is int
        if self.type == "integer":
            return kind is int or (kind is float and value.is_integer())
        return self.type in ("number", "")

    def _apply_object(self, value: dict[str, Any], path: str, out: Outcome) -> None:
        properties, additional = self.properties, self.additional
        for name, default in self.inserts:
            if name not in value or (value[name] is None and not properties[name].nullable):
                value[name] = copy.deepcopy(default)
        dropped: list[str] | None = None
        prefix = f"{path}." if path else ""
        for name, item in value.items():
            node = properties.get(name)
            if node is None:
                if additional is not None:
                    if item is None and self.builtin:  # as in a list: Go reads the zero value
                        item = additional.zero()
                    value[name] = additional.apply(item, f"{prefix}{name}", out)
                    continue
                if self.preserve or not self.closed or (self.embedded and name in _EMBEDDED):
                    continue
                out.unknown.append(f"{prefix}{name}")
            elif item is None and self.builtin:
                pass
            else:
                result = node.apply(item, f"{prefix}{name}", out)
                if result or name not in self.omits or not isinstance(result, list | dict):
                    value[name] = result
                    continue
            if dropped is None:
                dropped = []
            dropped.append(name)
        if dropped:
            for name in dropped:
                del value[name]
        for name in self.required:
            if name not in value:
                out.fail("FieldValueRequired", "Required value", f"{prefix}{name}")
        if self.embedded:
            for name in ("apiVersion", "kind"):
                if not isinstance(value.get(name), str) or not value[name]:
                    out.fail("FieldValueRequired", "Required value: must not be empty", f"{prefix}{name}")

    def _apply_array(self, value: list[Any], path: str, out: Outcome) -> None:
        items = self.items
        if items is not None:
            for index, item in enumerate(value):
                if item is None and self.builtin:  # Go reads a null in a list as the zero value of its type
                    item = items.zero()
                value[index] = items.apply(item, f"{path}[{index}]", out)
        if self.list_type == "set":
            _check_unique(value, lambda item: item, path, out)
        elif self.list_type == "map" and not self.builtin:
            keys = self.list_keys
            _check_unique(
                value, lambda item: {key: item.get(key) for key in keys} if isinstance(item, dict) else item, path, out
            )


_ZERO: dict[str, Callable[[], Any]] = {"string": str, "integer": int, "number": int, "boolean": bool, "array": list}
_EMBEDDED = frozenset(("apiVersion", "kind", "metadata"))


def shown(value: Any) -> str:
    """A value as error messages quote it (Go's style)."""
    if isinstance(value, str):
        text = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return text if len(text) <= 200 else text[:197] + '..."'
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return "object" if isinstance(value, dict) else "array"
    return str(value)


def json_type(value: Any) -> str:
    """The JSON schema name of a value's type."""
    if isinstance(value, bool):
        return "boolean"
    names: dict[type, str] = {str: "string", int: "integer", float: "number", dict: "object", list: "array"}
    return names.get(type(value), "null")


def _wrong_type(value: Any, wanted: str, path: str, out: Outcome) -> None:
    found = json_type(value)
    wanted = wanted or "integer or string"
    out.fail(
        "FieldValueTypeInvalid",
        f'Invalid value: "{found}": {path or "the object"} in body must be of type {wanted}: "{found}"',
        path,
    )


def _check_unique(value: list[Any], identity: Callable[[Any], Any], path: str, out: Outcome) -> None:
    seen: set[str] = set()
    for index, item in enumerate(value):
        mark = repr(identity(item))
        if mark in seen:
            out.fail("FieldValueDuplicate", f"Duplicate value: {shown(identity(item))}", f"{path}[{index}]")
        seen.add(mark)


def compile_rules(node: Mapping[str, Any]) -> tuple[Callable[[Any, str, Outcome], None], ...]:
    """The value checks of one schema node. Raises ValueError for a pattern that is none."""
    rules: list[Callable[[Any, str, Outcome], None]] = []
    if node.get("enum"):
        rules.append(_enum_rule(node["enum"]))
    if node.get("pattern"):
        rules.append(_pattern_rule(str(node["pattern"])))
    if node.get("format") in _INT_RANGES:
        rules.append(_range_rule(*_INT_RANGES[node["format"]]))
    elif node.get("format") == "date-time":
        rules.append(_time_rule)
    elif node.get("format") == "byte":
        rules.append(_byte_rule)
    for key, test, text in _BOUNDS:
        if node.get(key) is not None:
            rules.append(_bound_rule(key, node[key], test, text, node))
    if node.get("uniqueItems"):
        rules.append(lambda value, path, out: _check_unique(value, lambda item: item, path, out))
    return tuple(rules)


def _enum_rule(allowed: list[Any]) -> Callable[[Any, str, Outcome], None]:
    text = ", ".join(map(shown, allowed))

    def rule(value: Any, path: str, out: Outcome) -> None:
        if value not in allowed:
            out.fail("FieldValueNotSupported", f"Unsupported value: {shown(value)}: supported values: {text}", path)

    return rule


def _pattern_rule(pattern: str) -> Callable[[Any, str, Outcome], None]:
    # Go's $ means the end of the text; Python's also accepts a newline before it.
    exact = re.sub(r"(?<!\\)\$$", r"\\Z", pattern)
    try:
        compiled = re.compile(exact)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r}: {error}") from None

    def rule(value: Any, path: str, out: Outcome) -> None:
        if isinstance(value, str) and not compiled.search(value):
            out.fail(
                "FieldValueInvalid", f"Invalid value: {shown(value)}: {path} in body should match '{pattern}'", path
            )

    return rule


def _range_rule(low: int, high: int) -> Callable[[Any, str, Outcome], None]:
    def rule(value: Any, path: str, out: Outcome) -> None:
        if isinstance(value, int | float) and not low <= value <= high:
            out.fail("FieldValueInvalid", f"Invalid value: {value}: must be between {low} and {high}", path)

    return rule


def _time_rule(value: Any, path: str, out: Outcome) -> None:
    if parse_time(value) is None:
        out.fail("FieldValueInvalid", f"Invalid value: {shown(value)}: {path} in body must be of type date-time", path)


def _quantity(value: Any, path: str, out: Outcome) -> Any:
    """A resource quantity, text or number, in its canonical text."""
    if value is None:
        return None
    try:
        if isinstance(value, bool | dict | list):
            raise ValueError("a quantity is a text or a number")
        return canonical(str(value))
    except ValueError as error:
        out.fail("FieldValueTypeInvalid", f"Invalid value: {shown(value)}: {error}", path)
        return value


def _byte_rule(value: Any, path: str, out: Outcome) -> None:
    try:
        base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        out.fail("FieldValueTypeInvalid", f"Invalid value: {shown(value)}: {path} in body must be base64", path)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_BOUNDS: tuple[tuple[str, Callable[[Any, Any, Mapping[str, Any]], bool], str], ...] = (
    (
        "minimum",
        lambda value, bound, node: (
            not _number(value) or (value > bound if node.get("exclusiveMinimum") else value >= bound)
        ),
        "should be greater than or equal to",
    ),
    (
        "maximum",
        lambda value, bound, node: (
            not _number(value) or (value < bound if node.get("exclusiveMaximum") else value <= bound)
        ),
        "should be less than or equal to",
    ),
    (
        "multipleOf",
        lambda value, bound, node: not _number(value) or not bound or abs(value / bound - round(value / bound)) < 1e-9,
        "should be a multiple of",
    ),
    ("minLength", lambda value, bound, node: not isinstance(value, str) or len(value) >= bound, "should be at least"),
    ("maxLength", lambda value, bound, node: not isinstance(value, str) or len(value) <= bound, "should be at most"),
    (
        "minItems",
        lambda value, bound, node: not isinstance(value, list) or len(value) >= bound,
        "should have at least",
    ),
    ("maxItems", lambda value, bound, node: not isinstance(value, list) or len(value) <= bound, "should have at most"),
    (
        "minProperties",
        lambda value, bound, node: not isinstance(value, dict) or len(value) >= bound,
        "should have at least",
    ),
    (
        "maxProperties",
        lambda value, bound, node: not isinstance(value, dict) or len(value) <= bound,
        "should have at most",
    ),
)
_UNITS = {"Length": " chars long", "Items": " items", "Properties": " properties"}


def _bound_rule(
    key: str, bound: Any, test: Callable[[Any, Any, Mapping[str, Any]], bool], text: str, node: Mapping[str, Any]
) -> Callable[[Any, str, Outcome], None]:
    unit = _UNITS.get(key[3:], "")

    def rule(value: Any, path: str, out: Outcome) -> None:
        if not test(value, bound, node):
            out.fail("FieldValueInvalid", f"Invalid value: {shown(value)}: {path} in body {text} {bound}{unit}", path)

    return rule
