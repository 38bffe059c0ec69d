"""OpenAPI v3 and v2 documents: enough for kubectl's explain, apply, edit and its choice of server-side validation.

Paths carry only what clients read from them: which kind a path serves, with which verbs, whether it takes
`fieldValidation` and `dryRun`, and which patch types it takes. Types are Kubernetes' own definitions and the
schemas of the installed CustomResourceDefinitions.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from edgeappliance.kubeapi.builtin_types import OBJECT_META, BuiltinTypes
from edgeappliance.kubeapi.openapi_protobuf import encode_document
from edgeappliance.kubeapi.resources import Registry, ResourceType

TITLE = "Kubernetes"
DOCUMENT_VERSION = "unversioned"
REF = "#/components/schemas/"
LIST_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"
DELETE_OPTIONS = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"
STATUS = "io.k8s.apimachinery.pkg.apis.meta.v1.Status"

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

_WRITE_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation")


def custom_component(group: str, version: str, kind: str) -> str:
    """The definition's name of a custom kind: `io.kubeedge.devices.v1beta1.Device`."""
    return ".".join([*reversed(group.split(".")), version, kind])


def custom_definition(schema: Mapping[str, Any], *, group: str, version: str, kind: str) -> dict[str, Any]:
    """The published definition of a custom kind: its own schema with the common fields filled in."""
    properties = dict(schema.get("properties") or {})
    properties["apiVersion"] = {
        "type": "string",
        "description": "APIVersion defines the versioned schema of this representation of an object.",
    }
    properties["kind"] = {
        "type": "string",
        "description": "Kind is a string value representing the REST resource this object represents.",
    }
    properties["metadata"] = {
        "description": "Standard object's metadata. More info: "
        "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
        "allOf": [{"$ref": REF + OBJECT_META}],
    }
    definition = {**schema, "properties": properties}
    definition["x-kubernetes-group-version-kind"] = [{"group": group, "version": version, "kind": kind}]
    return definition


class OpenApi:
    """The documents of a registry, made when asked for and kept until the registry changes."""

    def __init__(self, registry: Registry, types: BuiltinTypes) -> None:
        self._registry = registry
        self._types = types
        self._custom: dict[str, dict[str, Any]] = {}
        self._revision = -1
        self._cache: dict[str, bytes] = {}

    def set_custom(self, name: str, definition: dict[str, Any] | None) -> None:
        """Publish the definition of a custom kind, or withdraw it (None)."""
        self._cache.clear()
        if definition is None:
            self._custom.pop(name, None)
        else:
            self._custom[name] = definition

    def index(self) -> bytes:
        """`/openapi/v3`: where the document of each group version is, with its hash."""
        return self._cached("index", self._index)

    def _index(self) -> dict[str, Any]:
        paths = {}
        for group, versions in self._registry.group_versions().items():
            for version in versions:
                path = f"apis/{group}/{version}" if group else f"api/{version}"
                document = self.document(group, version)
                if document is not None:
                    digest = hashlib.sha256(document).hexdigest().upper()
                    paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
        return {"paths": paths}

    def document(self, group: str, version: str) -> bytes | None:
        """`/openapi/v3/apis/<group>/<version>`; None when nothing is served there."""
        resources = [
            item
            for item in self._registry
            if item.group == group and item.version == version and item.component and not item.refusal
        ]
        if not resources:
            return None
        return self._cached(f"v3/{group}/{version}", lambda: self._document(resources, three=True))

    def version_two(self) -> bytes:
        """`/openapi/v2` with all resources, as JSON."""
        resources = [item for item in self._registry if item.component and not item.refusal]
        return self._cached("v2", lambda: self._document(resources, three=False))

    def version_two_protobuf(self) -> bytes:
        """`/openapi/v2` in the protobuf that kubectl asks for."""
        resources = [item for item in self._registry if item.component and not item.refusal]

        def make() -> bytes:
            definitions = self._document(resources, three=False)["definitions"]
            return encode_document(definitions, title=TITLE, version=DOCUMENT_VERSION)

        return self._kept("v2pb", make)

    def _cached(self, key: str, make: Callable[[], Any]) -> bytes:
        return self._kept(key, lambda: msgspec.json.encode(make()))

    def _kept(self, key: str, make: Callable[[], bytes]) -> bytes:
        if self._revision != self._registry.revision:
            self._cache.clear()
            self._revision = self._registry.revision
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def _document(self, resources: list[ResourceType], *, three: bool) -> dict[str, Any]:
        schemas: dict[str, Any] = {}
        paths: dict[str, Any] = {}
        for resource in resources:
            self._collect(resource.component, schemas)
            list_name = f"{resource.component}List"
            schemas[list_name] = _list_definition(resource)
            self._collect(LIST_META, schemas)
            self._collect(DELETE_OPTIONS, schemas)
            self._collect(STATUS, schemas)
            paths.update(_paths(resource, list_name, three=three))
        info = {"title": TITLE, "version": DOCUMENT_VERSION}
        if three:
            return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}
        document = {"swagger": "2.0", "info": info, "paths": paths, "definitions": schemas}
        result: dict[str, Any] = _to_version_two(document)
        return result

    def _collect(self, name: str, schemas: dict[str, Any]) -> None:
        if name in schemas:
            return
        definition = self._custom.get(name) or self._types.definitions.get(name)
        if definition is None:
            return
        schemas[name] = definition
        for reference in _references(definition):
            self._collect(reference, schemas)


def _references(node: Any) -> list[str]:
    found: list[str] = []
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            reference = current.get("$ref")
            if isinstance(reference, str):
                found.append(reference.removeprefix(REF))
            waiting.extend(current.values())
        elif isinstance(current, list):
            waiting.extend(current)
    return found


def _gvk(resource: ResourceType, kind: str = "") -> dict[str, str]:
    return {"group": resource.group, "version": resource.version, "kind": kind or resource.kind}


def _list_definition(resource: ResourceType) -> dict[str, Any]:
    return {
        "type": "object",
        "description": f"{resource.list_kind} is a list of {resource.kind}.",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"allOf": [{"$ref": REF + LIST_META}]},
            "items": {"type": "array", "items": {"allOf": [{"$ref": REF + resource.component}]}},
        },
        "x-kubernetes-group-version-kind": [_gvk(resource, resource.list_kind)],
    }


def _paths(resource: ResourceType, list_name: str, *, three: bool) -> dict[str, Any]:
    base = f"{resource.path}/namespaces/{{namespace}}" if resource.namespaced else resource.path
    common = [_parameter("namespace", "path", three=three)] if resource.namespaced else []
    collection = f"{base}/{resource.plural}"
    named = [*common, _parameter("name", "path", three=three)]
    paths: dict[str, Any] = {
        collection: {
            "parameters": common,
            "get": _operation(resource, "list", list_name, three=three),
            "post": _operation(resource, "post", resource.component, three=three),
            "delete": _operation(resource, "deletecollection", STATUS, three=three),
        },
        f"{collection}/{{name}}": {
            "parameters": named,
            "get": _operation(resource, "get", resource.component, three=three),
            "put": _operation(resource, "put", resource.component, three=three),
            "patch": _operation(resource, "patch", resource.component, three=three),
            "delete": _operation(resource, "delete", STATUS, three=three),
        },
    }
    if resource.namespaced:
        paths[f"{resource.path}/{resource.plural}"] = {"get": _operation(resource, "list", list_name, three=three)}
    if resource.status:
        paths[f"{collection}/{{name}}/status"] = {
            "parameters": named,
            "get": _operation(resource, "get", resource.component, three=three),
            "put": _operation(resource, "put", resource.component, three=three),
            "patch": _operation(resource, "patch", resource.component, three=three),
        }
    return paths


def _parameter(name: str, place: str, *, three: bool) -> dict[str, Any]:
    parameter: dict[str, Any] = {"name": name, "in": place}
    if place == "path":
        parameter["required"] = True
    if three:
        return {**parameter, "schema": {"type": "string", "uniqueItems": True}}
    return {**parameter, "type": "string", "uniqueItems": True}


def _operation(resource: ResourceType, action: str, answer: str, *, three: bool) -> dict[str, Any]:
    parameters = []
    if action in ("post", "put", "patch"):
        parameters = [_parameter(name, "query", three=three) for name in _WRITE_PARAMETERS]
    elif action == "delete":
        parameters = [_parameter(name, "query", three=three) for name in ("dryRun", "propagationPolicy")]
    operation: dict[str, Any] = {
        "operationId": f"{action}{resource.group.replace('.', '')}{resource.version}{resource.kind}",
        "parameters": parameters,
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(resource),
    }
    reference = {"$ref": REF + answer}
    body = {"$ref": REF + resource.component}
    if action == "patch":
        media = [JSON_PATCH, MERGE_PATCH] + ([] if resource.custom else [STRATEGIC_PATCH])
        body = {"type": "object"}
    else:
        media = ["application/json"]
    if three:
        operation["responses"] = {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}}
        if action in ("post", "put", "patch"):
            operation["requestBody"] = {"content": {name: {"schema": body} for name in media}, "required": True}
    else:
        operation["responses"] = {"200": {"description": "OK", "schema": reference}}
        operation["consumes"] = media
        operation["produces"] = ["application/json"]
        if action in ("post", "put", "patch"):
            parameters.append({"name": "body", "in": "body", "required": True, "schema": body})
    return operation


_ONLY_IN_THREE = ("oneOf", "anyOf", "not", "nullable")


def _to_version_two(node: Any) -> Any:
    """OpenAPI v3 schemas as v2 says them: references move, and what v2 cannot say is left out."""
    if isinstance(node, list):
        return [_to_version_two(item) for item in node]
    if not isinstance(node, dict):
        return node
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key == "$ref" and isinstance(value, str):
            result[key] = value.replace(REF, "#/definitions/")
        elif key == "allOf" and isinstance(value, list) and len(value) == 1 and "$ref" in value[0]:
            result["$ref"] = value[0]["$ref"].replace(REF, "#/definitions/")
        elif key == "properties" and isinstance(value, dict):
            result[key] = {name: _to_version_two(item) for name, item in value.items()}
        elif key in _ONLY_IN_THREE:
            continue
        else:
            result[key] = _to_version_two(value)
    return result
