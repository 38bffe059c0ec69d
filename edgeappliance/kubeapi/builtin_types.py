"""The types of the built-in kinds, from Kubernetes' own OpenAPI definitions (`definitions/core.json`).

`build/kubeapi/definitions.py` makes that file. It is read when it is first needed: some 200 KB of text.
"""

import importlib.resources
from typing import Any

import msgspec

from edgeappliance.kubeapi.schema import Schema, compile_rules

API_VERSION = "1.37.0"
"""The Kubernetes release whose definitions we serve."""

OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_REF = "#/components/schemas/"


def component(group: str, version: str, kind: str) -> str:
    """The definition's name of a built-in kind (`io.k8s.api.core.v1.Pod`)."""
    if group == "apiextensions.k8s.io":
        return f"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}"
    return f"io.k8s.api.{group.split('.')[0] or 'core'}.{version}.{kind}"


class BuiltinTypes:
    """Definitions by name, and the compiled schema of each, made on first use."""

    def __init__(self) -> None:
        text = (importlib.resources.files("edgeappliance.kubeapi") / "definitions" / "core.json").read_bytes()
        self.definitions: dict[str, dict[str, Any]] = msgspec.json.decode(text)
        self._compiled: dict[str, Schema] = {}

    def schema(self, name: str) -> Schema | None:
        """The compiled schema of a definition; None when it is not among ours."""
        if name in self._compiled:
            return self._compiled[name]
        definition = self.definitions.get(name)
        if definition is None:
            return None
        schema = Schema()
        self._compiled[name] = schema  # before its parts: JSONSchemaProps refers to itself
        self._fill(schema, definition)
        return schema

    def _node(self, node: dict[str, Any]) -> Schema:
        reference = node.get("$ref")
        if reference is None and len(node.get("allOf", ())) == 1:
            reference = node["allOf"][0].get("$ref")
        if reference is None:
            schema = Schema()
            self._fill(schema, node)
            return schema
        target = self.schema(reference.removeprefix(_REF))
        return target if target is not None else Schema()

    def _fill(self, schema: Schema, node: dict[str, Any]) -> None:
        schema.builtin = True
        schema.nullable = True
        if "oneOf" in node:  # Quantity, IntOrString: text or number
            schema.type = ""
            schema.int_or_string = any(part.get("type") == "integer" for part in node["oneOf"])
            schema.quantity = not schema.int_or_string
            return
        schema.type = node.get("type", "")
        properties = node.get("properties")
        if properties:
            schema.properties = {name: self._node(child) for name, child in properties.items()}
            schema.closed = True
            required = node.get("required", ())
            schema.omits = frozenset(
                name
                for name, child in properties.items()
                if name not in required and (child.get("type") == "array" or "additionalProperties" in child)
            )
        if isinstance(node.get("additionalProperties"), dict):
            schema.additional = self._node(node["additionalProperties"])
        if isinstance(node.get("items"), dict):
            schema.items = self._node(node["items"])
        strategy = node.get("x-kubernetes-patch-strategy", "")
        schema.merges = "merge" in strategy.split(",")
        schema.merge_key = node.get("x-kubernetes-patch-merge-key", "")
        schema.replaces = schema.type == "object" and strategy == "replace"
        schema.rules = compile_rules(node)
