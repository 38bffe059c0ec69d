"""CustomResourceDefinitions: checked, completed, and turned into served resources."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from cloudgateway.apiserver.kinds import Kind
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.log import get_logger
from edgeappliance.kubeapi.builtin_types import OBJECT_META, BuiltinTypes
from edgeappliance.kubeapi.columns import AGE, NAME, Column, path_column
from edgeappliance.kubeapi.errors import Cause
from edgeappliance.kubeapi.names import label_error, subdomain_error
from edgeappliance.kubeapi.openapi import OpenApi, custom_component, custom_definition
from edgeappliance.kubeapi.request import User
from edgeappliance.kubeapi.resources import Registry, ResourceType
from edgeappliance.kubeapi.schema import Schema
from edgeappliance.kubeapi.storage import Change, ChangeType
from edgeappliance.kubeapi.structural import SchemaError, compile_structural
from edgeappliance.kubeapi.times import rfc3339

Object = dict[str, Any]
CRD_KEY = "customresourcedefinitions.apiextensions.k8s.io"
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"


class Definitions:
    """Keeps the registry and the published schemas in step with the stored CustomResourceDefinitions."""

    def __init__(self, registry: Registry, types: BuiltinTypes, openapi: OpenApi, clock: Clock) -> None:
        self._registry = registry
        self._types = types
        self._openapi = openapi
        self._clock = clock
        self._published: dict[str, list[str]] = {}
        self._log = get_logger("apiserver")
        self.kind = Kind(default=self._default, create=self._create, validate=self._causes)

    def listen(self, change: Change) -> None:
        """Follow the store."""
        if change.entry.resource != CRD_KEY:
            return
        value = change.entry.object()
        if change.type is ChangeType.DELETED:
            self._withdraw(value)
        else:
            self.serve(value)

    def load(self, values: Iterable[Object]) -> None:
        """Serve all stored definitions at a start."""
        for value in values:
            try:
                self.serve(value)
            except (KeyError, TypeError, ValueError) as error:
                # Written by another version of this program, say: its objects wait, the site's API comes up.
                name = value.get("metadata", {}).get("name", "")
                self._log.error("definition cannot be served", definition=name, error=error)

    def serve(self, value: Object) -> None:
        """Serve what a stored definition defines, in place of what it defined before."""
        self._withdraw(value)
        spec = value["spec"]
        names = []
        for version in spec["versions"]:
            if not version.get("served"):
                continue
            resource = self._resource(spec, version)
            self._registry.add(resource)
            names.append(resource.component)
            document = custom_definition(
                (version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"},
                group=spec["group"],
                version=version["name"],
                kind=resource.kind,
            )
            self._openapi.set_custom(resource.component, document)
        self._published[value["metadata"]["name"]] = names

    def _withdraw(self, value: Object) -> None:
        spec = value["spec"]
        self._registry.remove(spec["group"], spec["names"]["plural"])
        for name in self._published.pop(value["metadata"]["name"], ()):
            self._openapi.set_custom(name, None)

    def _resource(self, spec: Object, version: Object) -> ResourceType:
        names = spec["names"]
        schema = compile_structural(_schema_of(version), path="")
        metadata = self._types.schema(OBJECT_META)
        if metadata is not None:
            schema.properties["metadata"] = metadata
        return ResourceType(
            group=spec["group"],
            version=version["name"],
            plural=names["plural"],
            kind=names["kind"],
            namespaced=spec["scope"] == "Namespaced",
            singular=names.get("singular") or names["kind"].lower(),
            list_kind=names.get("listKind") or f"{names['kind']}List",
            short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
            status="status" in (version.get("subresources") or {}),
            custom=True,
            storage=bool(version.get("storage")),
            generation=True,
            fields=tuple(item["jsonPath"].lstrip(".") for item in version.get("selectableFields") or ()),
            schema=schema,
            columns=_columns(version),
            component=custom_component(spec["group"], version["name"], names["kind"]),
            deprecation=_deprecation(spec, version),
        )

    # Rules of the definitions themselves.

    def _default(self, value: Object) -> None:
        spec = value.setdefault("spec", {})
        names = spec.setdefault("names", {})
        kind = str(names.get("kind", ""))
        if kind:
            names.setdefault("singular", kind.lower())
            names.setdefault("listKind", f"{kind}List")
        spec.setdefault("conversion", {}).setdefault("strategy", "None")

    def _create(self, value: Object, user: User | None) -> None:
        """A definition is established at once: nothing else can take its names in between."""
        now = rfc3339(self._clock.wall_ms())
        names = value["spec"].get("names", {})
        value["status"] = {
            "acceptedNames": dict(names),
            "conditions": [
                _condition("NamesAccepted", "NoConflicts", "no conflicts found", now),
                _condition("Established", "InitialNamesAccepted", "the initial names have been accepted", now),
            ],
            "storedVersions": [item["name"] for item in value["spec"].get("versions") or () if item.get("storage")],
        }
        finalizers = value["metadata"].setdefault("finalizers", [])
        if CLEANUP not in finalizers:
            finalizers.append(CLEANUP)

    def _causes(self, value: Object, old: Object | None) -> list[Cause]:
        spec = value["spec"]
        causes = _name_causes(value, spec)
        if causes:
            return causes
        if (spec.get("conversion") or {}).get("strategy") != "None":
            text = 'Unsupported value: conversion webhooks are not called by the embedded API: supported values: "None"'
            causes.append(Cause("FieldValueNotSupported", text, "spec.conversion.strategy"))
        causes += self._conflicts(value, spec)
        versions = spec["versions"]
        if sum(bool(item.get("storage")) for item in versions) != 1:
            text = "Invalid value: must have exactly one version marked as storage version"
            causes.append(Cause("FieldValueInvalid", text, "spec.versions"))
        if len({item.get("name") for item in versions}) != len(versions):
            causes.append(Cause("FieldValueDuplicate", "Duplicate value: version names must differ", "spec.versions"))
        for index, version in enumerate(versions):
            causes += _version_causes(version, f"spec.versions[{index}]")
        if old is not None:
            causes += _change_causes(spec, old["spec"])
            if not causes and "deletionTimestamp" not in value["metadata"]:
                _remember_stored(value, spec)
        return causes

    def _conflicts(self, value: Object, spec: Object) -> list[Cause]:
        """A kind or plural that another resource of the group has already."""
        causes = []
        for resource in self._registry:
            if resource.group != spec["group"]:
                continue
            if not resource.custom:
                return [Cause("FieldValueForbidden", f"Forbidden: {resource.group} is a built-in group", "spec.group")]
            if resource.plural != spec["names"]["plural"] and resource.kind == spec["names"]["kind"]:
                text = f'Invalid value: "{resource.kind}": is already in use by {resource.key}'
                causes.append(Cause("FieldValueInvalid", text, "spec.names.kind"))
        return causes[:1]


def _schema_of(version: Mapping[str, Any]) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = (version.get("schema") or {}).get("openAPIV3Schema") or {}
    return schema


def _condition(kind: str, reason: str, message: str, now: str) -> Object:
    return {"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message}


def _name_causes(value: Object, spec: Object) -> list[Cause]:
    names = spec.get("names") or {}
    causes = []
    for path, item in (
        ("spec.group", spec.get("group")),
        ("spec.scope", spec.get("scope")),
        ("spec.names.plural", names.get("plural")),
        ("spec.names.kind", names.get("kind")),
        ("spec.versions", spec.get("versions")),
    ):
        if not item:
            causes.append(Cause("FieldValueRequired", "Required value", path))
    if causes:
        return causes
    if spec["scope"] not in ("Namespaced", "Cluster"):
        text = f'Unsupported value: "{spec["scope"]}": supported values: "Cluster", "Namespaced"'
        causes.append(Cause("FieldValueNotSupported", text, "spec.scope"))
    if "." not in spec["group"] or subdomain_error(spec["group"]):
        text = f'Invalid value: "{spec["group"]}": should be a domain with at least one dot'
        causes.append(Cause("FieldValueInvalid", text, "spec.group"))
    expected = f"{names['plural']}.{spec['group']}"
    if value["metadata"].get("name") != expected:
        text = f'Invalid value: "{value["metadata"].get("name")}": must be spec.names.plural+"."+spec.group'
        causes.append(Cause("FieldValueInvalid", text, "metadata.name"))
    for key in ("plural", "singular"):
        if names.get(key) and (error := label_error(names[key])):
            causes.append(Cause("FieldValueInvalid", f'Invalid value: "{names[key]}": {error}', f"spec.names.{key}"))
    return causes


def _version_causes(version: Object, path: str) -> list[Cause]:
    causes = []
    if not version.get("name") or label_error(version["name"]):
        causes.append(Cause("FieldValueInvalid", f'Invalid value: "{version.get("name", "")}"', f"{path}.name"))
    schema = _schema_of(version)
    if not schema:
        causes.append(
            Cause("FieldValueRequired", "Required value: schemas are required", f"{path}.schema.openAPIV3Schema")
        )
        return causes
    try:
        _compiled(schema, f"{path}.schema.openAPIV3Schema")
    except SchemaError as error:
        causes += error.causes
    for index, column in enumerate(version.get("additionalPrinterColumns") or ()):
        try:
            path_column(str(column.get("name", "")), str(column.get("jsonPath", "")))
        except ValueError as error:
            text = f"Invalid value: {error}"
            causes.append(Cause("FieldValueInvalid", text, f"{path}.additionalPrinterColumns[{index}].jsonPath"))
    return causes


def _compiled(schema: Mapping[str, Any], path: str) -> Schema:
    # A copy, because a default that is checked is also completed.
    return compile_structural(msgspec.json.decode(msgspec.json.encode(schema)), path=path)


def _change_causes(spec: Object, old: Object) -> list[Cause]:
    causes = []
    for path, new_item, old_item in (
        ("spec.group", spec["group"], old["group"]),
        ("spec.scope", spec["scope"], old["scope"]),
        ("spec.names.plural", spec["names"]["plural"], old["names"]["plural"]),
        ("spec.names.kind", spec["names"]["kind"], old["names"]["kind"]),
    ):
        if new_item != old_item:
            causes.append(Cause("FieldValueInvalid", f'Invalid value: "{new_item}": field is immutable', path))
    return causes


def _remember_stored(value: Object, spec: Object) -> None:
    """Objects may be stored in every version that ever was the storage version."""
    status = value.setdefault("status", {})
    stored = status.setdefault("storedVersions", [])
    for version in spec["versions"]:
        if version.get("storage") and version["name"] not in stored:
            stored.append(version["name"])
    status["acceptedNames"] = dict(spec["names"])


def _columns(version: Object) -> tuple[Column, ...]:
    listed = version.get("additionalPrinterColumns")
    if not listed:
        return (NAME, AGE)
    return (
        NAME,
        *(
            path_column(
                item["name"],
                item["jsonPath"],
                type=item.get("type", "string"),
                format=item.get("format", ""),
                priority=int(item.get("priority", 0)),
                description=item.get("description", ""),
            )
            for item in listed
        ),
    )


def _deprecation(spec: Object, version: Object) -> str:
    if not version.get("deprecated"):
        return ""
    text = f"{spec['group']}/{version['name']} {spec['names']['kind']} is deprecated"
    return str(version.get("deprecationWarning") or text)
