"""Create, update, patch and delete: an object is computed from its newest state and handed to the store at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from cloudgateway.apiserver.bodies import BodyReader, check_depth, decode_json
from cloudgateway.apiserver.kinds import KINDS, Kind
from cloudgateway.apiserver.metadata import carry, metadata_causes
from cloudgateway.apiserver.pods import DEFAULT_ACCOUNT, PRIORITIES
from cloudgateway.apiserver.rules import (
    check_preconditions,
    delete_options,
    deletion_finalizers,
    dry_run,
    finished,
    heartbeat_only,
    name_causes,
    specification,
    unknown_fields,
)
from cloudgateway.apiserver.store import ObjectStore
from edgeappliance.kernel.clock import Clock
from edgeappliance.kubeapi.errors import (
    Cause,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    invalid,
    not_found,
    unsupported_media_type,
)
from edgeappliance.kubeapi.names import generated_name, new_uid
from edgeappliance.kubeapi.patch.json import json_patch
from edgeappliance.kubeapi.patch.merge import merge_patch
from edgeappliance.kubeapi.patch.strategic import strategic_patch
from edgeappliance.kubeapi.request import ApiRequest, Target
from edgeappliance.kubeapi.resources import ResourceType
from edgeappliance.kubeapi.schema import Outcome
from edgeappliance.kubeapi.storage import Entry
from edgeappliance.kubeapi.times import rfc3339

Object = dict[str, Any]
Rules = Callable[[Object, Object | None], list[Cause]]

APPLY_PATCH = "application/apply-patch+yaml"
APPLY_REFUSED = (
    "server-side apply is not supported by the embedded API of cloudgateway: it keeps no managed fields. "
    "Use client-side apply: kubectl apply without --server-side"
)
PERMANENT_NAMESPACES = ("default", "kube-system", "kube-public")
_DEFAULT_KIND = Kind()


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did: the object as it is now, and what the client should be warned of."""

    entry: Entry
    warnings: list[str]
    created: bool = False


class Writer:
    """The writing verbs over a store. `definitions` gives the rules of CustomResourceDefinitions."""

    def __init__(self, store: ObjectStore, clock: Clock, definitions: Kind, bodies: BodyReader) -> None:
        self._store = store
        self._clock = clock
        self._bodies = bodies
        self._kinds = {**KINDS, "customresourcedefinitions.apiextensions.k8s.io": definitions}

    def kind(self, resource: ResourceType) -> Kind:
        """The rules of a resource's kind."""
        return self._kinds.get(resource.key, _DEFAULT_KIND)

    async def create(self, request: ApiRequest, target: Target, resource: ResourceType) -> Written:
        """POST to a collection. The new entry, and warnings."""
        dry = dry_run(request)
        value = self._body(request, resource)
        metadata = value.setdefault("metadata", {})
        self._place(metadata, target, resource)
        for key in ("resourceVersion", "selfLink", "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds"):
            metadata.pop(key, None)
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = self._free_name(resource, target.namespace, metadata["generateName"])
        metadata["uid"] = new_uid()
        metadata["creationTimestamp"] = rfc3339(self._clock.wall_ms())
        metadata.pop("generation", None)
        if resource.custom or resource.generation:
            metadata["generation"] = 1
        if resource.custom and resource.status:
            value.pop("status", None)
        warnings = self._check(resource, value, None, request, create=True)
        name = metadata.get("name", "")
        if resource.namespaced:
            self._check_namespace(resource, target.namespace, name)
        if resource.key == "pods":
            self._admit_pod(value)
        if self._store.head(resource.key, metadata.get("namespace", ""), name) is not None:
            raise already_exists(resource.group, resource.plural, name)
        if dry:
            return Written(self._unsaved(resource, value), warnings, created=True)
        entry = await self._store.write(resource.key, value, base=None, durable=self.kind(resource).durable)
        return Written(entry, warnings, created=True)

    async def update(self, request: ApiRequest, target: Target, resource: ResourceType) -> Written:
        """PUT of an object or its status. Creates it where the kind allows that."""
        value = self._body(request, resource)
        metadata = value.setdefault("metadata", {})
        self._place(metadata, target, resource)
        if not metadata.get("name"):
            metadata["name"] = target.name
        if metadata["name"] != target.name:
            raise bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({target.name})"
            )
        entry = self._store.head(resource.key, target.namespace, target.name)
        if entry is None:
            if resource.upsert and not target.subresource and not metadata.get("uid"):
                return await self.create(request, target, resource)
            raise not_found(resource.group, resource.plural, target.name)
        if resource.custom and not metadata.get("resourceVersion"):
            text = "Invalid value: 0: must be specified for an update"
            cause = Cause("FieldValueInvalid", text, "metadata.resourceVersion")
            raise invalid(resource.group, resource.kind, target.name, [cause])
        if metadata.get("uid") not in (None, "", entry.uid):
            text = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {entry.uid}"
            raise conflict(resource.group, resource.plural, target.name, text)
        return await self._replace(request, target, resource, entry, value)

    async def patch(self, request: ApiRequest, target: Target, resource: ResourceType) -> Written:
        """PATCH of an object or its status, in one of the three formats."""
        media = request.content_type.partition(";")[0].strip()
        if media.startswith("application/apply-patch"):
            raise unsupported_media_type(APPLY_REFUSED)
        entry = self._store.head(resource.key, target.namespace, target.name)
        if entry is None:
            raise not_found(resource.group, resource.plural, target.name)
        current = self.read(entry, resource)
        patch = decode_json(request.body)
        value: Any
        if media == "application/merge-patch+json":
            if not isinstance(patch, dict):
                raise bad_request("a merge patch of an object is an object")
            value = merge_patch(current, patch)
        elif media == "application/json-patch+json":
            value = json_patch(current, patch)
            check_depth(value)  # operations can stack what was flat in the body
        elif media == "application/strategic-merge-patch+json" and not resource.custom:
            if not isinstance(patch, dict):
                raise bad_request("a strategic merge patch is an object")
            value = strategic_patch(current, patch, resource.schema)
        else:
            accepted = ["application/json-patch+json", "application/merge-patch+json"]
            if not resource.custom:
                accepted.append("application/strategic-merge-patch+json")
            raise unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: "
                + ", ".join(accepted)
            )
        if not isinstance(value, dict) or not isinstance(value.get("metadata"), dict):
            raise bad_request("the patch leaves no object with metadata")
        self._same_identity(value, target, resource)
        if value["metadata"].get("uid") != entry.uid:
            text = f'Invalid value: "{value["metadata"].get("uid", "")}": field is immutable'
            cause = Cause("FieldValueInvalid", text, "metadata.uid")
            raise invalid(resource.group, resource.kind, target.name, [cause])
        return await self._replace(request, target, resource, entry, value)

    def read(self, entry: Entry, resource: ResourceType) -> Object:
        """A fresh copy of an object in the version of a resource (no conversion but the apiVersion)."""
        value = entry.object()
        value["apiVersion"] = resource.api_version
        return value

    async def _replace(
        self, request: ApiRequest, target: Target, resource: ResourceType, entry: Entry, value: Object
    ) -> Written:
        """Put a new value in place of an entry, whichever verb made it."""
        dry = dry_run(request)
        old = self.read(entry, resource)
        metadata = value["metadata"]
        asked = metadata.get("resourceVersion")
        if asked and asked != old["metadata"]["resourceVersion"]:
            raise conflict(resource.group, resource.plural, target.name)
        value = self._scoped(resource, value, old, target.subresource)
        carry(value["metadata"], old["metadata"])
        warnings = self._check(resource, value, old, request, create=False)
        if (resource.custom or resource.generation) and specification(value, resource) != specification(old, resource):
            value["metadata"]["generation"] = int(old["metadata"].get("generation", 0)) + 1
        gone = finished(value)
        value["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if value == old and not gone:
            await self._store.settled()  # what is there already may still be on its way to the disk
            return Written(entry, warnings)  # as upstream: nothing changed, no new resourceVersion, no event
        if dry:
            return Written(self._unsaved(resource, value), warnings)
        durable = self.kind(resource).durable and not heartbeat_only(resource, target, value, old)
        return Written(await self._save(resource, value, entry, delete=gone, durable=durable), warnings)

    def _scoped(self, resource: ResourceType, value: Object, old: Object, subresource: str) -> Object:
        """The value with the parts that the addressed (sub)resource may not touch put back."""
        if subresource == "status":
            if resource.custom:
                result = dict(old)
                if "status" in value:
                    result["status"] = value["status"]
                else:
                    result.pop("status", None)
                result["metadata"] = dict(old["metadata"])
                return result
            return {**old, "metadata": value["metadata"], **({"status": value["status"]} if "status" in value else {})}
        if subresource == "approval":
            status = {**old.get("status", {}), "conditions": value.get("status", {}).get("conditions", [])}
            return {**old, "status": status}
        if subresource == "finalize":
            return {**old, "spec": value.get("spec", {})}
        if resource.status:
            value = dict(value)
            value.pop("status", None)
            if "status" in old:
                value["status"] = old["status"]
        if resource.key == "namespaces":
            value["spec"] = old["spec"]  # its finalizers go through /finalize only
        return value

    async def _save(
        self, resource: ResourceType, value: Object, base: Entry, *, delete: bool = False, durable: bool = True
    ) -> Entry:
        stored = resource.api_version if resource.storage else base.api_version
        value["apiVersion"] = stored
        return await self._store.write(resource.key, value, base=base, delete=delete, durable=durable)

    def _unsaved(self, resource: ResourceType, value: Object) -> Entry:
        """What a dry run answers."""
        metadata = value["metadata"]
        return Entry(
            resource=resource.key,
            namespace=metadata.get("namespace", ""),
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            version=int(metadata.get("resourceVersion") or 0),
            value=msgspec.json.encode(value),
            api_version=value["apiVersion"],
            labels={},
            fields={},
        )

    # Checks.

    def _body(self, request: ApiRequest, resource: ResourceType) -> Object:
        value = self._bodies.read(request)
        kind, version = value.get("kind"), value.get("apiVersion")
        if kind not in (None, "", resource.kind):
            raise bad_request(
                f"the kind of the object ({kind}) does not match the kind of the resource ({resource.kind})"
            )
        if version not in (None, "", resource.api_version):
            raise bad_request(
                f"the API version in the data ({version}) does not match the expected API version "
                f"({resource.api_version})"
            )
        metadata = value.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise bad_request("metadata is no object")
        value["apiVersion"], value["kind"] = resource.api_version, resource.kind
        return {**value, "metadata": metadata or {}}

    def _place(self, metadata: Object, target: Target, resource: ResourceType) -> None:
        """Put the namespace of the URL into the metadata; refuse another one."""
        if not resource.namespaced:
            metadata.pop("namespace", None)
            return
        if not target.namespace:
            raise bad_request("an empty namespace may not be set during creation")
        if metadata.get("namespace") not in (None, "", target.namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        metadata["namespace"] = target.namespace

    def _same_identity(self, value: Object, target: Target, resource: ResourceType) -> None:
        metadata = value["metadata"]
        if metadata.get("name") != target.name or metadata.get("namespace", "") != target.namespace:
            raise bad_request("a patch may not change the name or namespace of an object")
        if value.get("kind") != resource.kind or value.get("apiVersion") != resource.api_version:
            raise bad_request("a patch may not change the kind or apiVersion of an object")

    def _free_name(self, resource: ResourceType, namespace: str, prefix: Any) -> str:
        """A generated name that nothing has; chance alone makes a second attempt necessary."""
        while True:
            name = generated_name(str(prefix))
            if self._store.head(resource.key, namespace, name) is None:
                return name

    def _admit_pod(self, pod: Object) -> None:
        """What a pod names must be there; the account of every namespace is made by a controller, so it will."""
        spec, name, namespace = pod.get("spec", {}), pod["metadata"].get("name", ""), pod["metadata"]["namespace"]
        account = spec.get("serviceAccountName", "")
        if account not in ("", DEFAULT_ACCOUNT) and self._store.head("serviceaccounts", namespace, account) is None:
            text = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
            raise forbidden("", "pods", name, text)
        priority = spec.get("priorityClassName", "")
        if priority and priority not in PRIORITIES:
            raise forbidden("", "pods", name, f"no PriorityClass with name {priority} was found")

    def _check_namespace(self, resource: ResourceType, namespace: str, name: str) -> None:
        entry = self._store.head("namespaces", "", namespace)
        if entry is None:
            raise not_found("", "namespaces", namespace)
        if entry.deleting:
            failure = forbidden(
                resource.group,
                resource.plural,
                name,
                f"unable to create new content in namespace {namespace} because it is being terminated",
            )
            failure.details = {
                **(failure.details or {}),
                "causes": [
                    {
                        "reason": "NamespaceTerminating",
                        "message": f"namespace {namespace} is being terminated",
                        "field": "metadata.namespace",
                    }
                ],
            }
            raise failure

    def _check(
        self, resource: ResourceType, value: Object, old: Object | None, request: ApiRequest, *, create: bool
    ) -> list[str]:
        """Schema, defaults and rules; warnings for what was dropped. Raises StatusFailure."""
        out = Outcome()
        if resource.schema is not None:
            resource.schema.apply(value, "", out)
        metadata = value["metadata"]
        name = metadata.get("name", "")
        if not resource.custom:
            _check_types(resource, out, name, patched=request.method == "PATCH")
        warnings = unknown_fields(out.unknown, request)
        kind = self.kind(resource)
        causes = out.causes
        if not any(cause.field.startswith("metadata") for cause in causes):
            causes += metadata_causes(metadata, old["metadata"] if old is not None else None)
        if not causes:
            kind.default(value)
            if create:
                kind.create(value, request.user)
            causes += kind.validate(value, old)
        if create and isinstance(name, str):
            causes += name_causes(name, kind, resource)
        if causes:
            raise invalid(resource.group, resource.kind, name, causes)
        return warnings

    # Deleting.

    async def delete(self, request: ApiRequest, target: Target, resource: ResourceType) -> tuple[Entry, bool]:
        """DELETE of one object. Its last state, and whether it is gone (otherwise its deletion waits)."""
        options = delete_options(request, self._bodies)
        entry = self._store.head(resource.key, target.namespace, target.name)
        if entry is None:
            raise not_found(resource.group, resource.plural, target.name)
        return await self._delete_entry(resource, entry, options, dry=dry_run(request) or bool(options.get("dryRun")))

    async def delete_entry(self, resource: ResourceType, entry: Entry, options: Object) -> tuple[Entry, bool]:
        """Delete an object with metav1.DeleteOptions, as a controller does."""
        head = self._store.head(resource.key, entry.namespace, entry.name)
        if head is None or head.uid != entry.uid:
            raise not_found(resource.group, resource.plural, entry.name)
        return await self._delete_entry(resource, head, options, dry=False)

    async def _delete_entry(
        self, resource: ResourceType, entry: Entry, options: Object, *, dry: bool
    ) -> tuple[Entry, bool]:
        check_preconditions(resource, entry, options.get("preconditions") or {})
        if resource.key == "namespaces" and entry.name in PERMANENT_NAMESPACES:
            raise forbidden("", "namespaces", entry.name, "this namespace may not be deleted")
        value = entry.object()
        metadata = value["metadata"]
        finalizers = deletion_finalizers(metadata.get("finalizers") or [], options)
        asked = options.get("gracePeriodSeconds")
        rule = self.kind(resource).grace
        grace = rule(value, asked if isinstance(asked, int) else None) if rule is not None else 0
        waits = bool(finalizers) or grace > 0 or bool(value.get("spec", {}).get("finalizers") and not resource.custom)
        if not waits:
            if dry:
                return entry, True
            if rule is not None:
                metadata["deletionTimestamp"] = rfc3339(self._clock.wall_ms())
                metadata["deletionGracePeriodSeconds"] = 0
            gone = await self._store.write(
                resource.key, value, base=entry, delete=True, durable=self.kind(resource).durable
            )
            return gone, True
        before = entry.object()
        if "deletionTimestamp" not in metadata or grace < int(metadata.get("deletionGracePeriodSeconds", 0)):
            metadata["deletionTimestamp"] = rfc3339(self._clock.wall_ms() + grace * 1000)
            metadata["deletionGracePeriodSeconds"] = grace
        if finalizers:
            metadata["finalizers"] = finalizers
        if resource.key == "namespaces":
            value["status"] = {**value.get("status", {}), "phase": "Terminating"}
        if value == before or dry:
            await self._store.settled()
            return entry, False
        if resource.custom or resource.generation:
            metadata["generation"] = int(metadata.get("generation", 0)) + 1
        return await self._store.write(resource.key, value, base=entry), False

    async def remove_finalizer(self, resource: ResourceType, entry: Entry, name: str) -> None:
        """Take a finalizer off the newest state; the object goes when it was the last one."""
        head = self._store.head(resource.key, entry.namespace, entry.name)
        if head is None or head.uid != entry.uid:
            return
        value = head.object()
        metadata = value["metadata"]
        left = [item for item in metadata.get("finalizers") or () if item != name]
        if left:
            metadata["finalizers"] = left
        else:
            metadata.pop("finalizers", None)
        await self._store.write(resource.key, value, base=head, delete=finished(value))

    async def modify(self, resource: ResourceType, entry: Entry, change: Callable[[Object], bool]) -> Entry | None:
        """Let a controller change the newest state; `change` returns False to leave it. The entry, or None."""
        head = self._store.head(resource.key, entry.namespace, entry.name)
        if head is None or head.uid != entry.uid:
            return None
        value = head.object()
        if not change(value):
            return head
        return await self._store.write(resource.key, value, base=head, delete=finished(value))


def _check_types(resource: ResourceType, out: Outcome, name: str, *, patched: bool) -> None:
    """Refuse what Go's decoder would not read: 400 for a body, 422 for the outcome of a patch, as upstream does."""
    wrong = next((cause for cause in out.causes if cause.reason == "FieldValueTypeInvalid"), None)
    if wrong is None:
        return
    text = f"{wrong.field}: {wrong.message}"
    if patched:
        raise invalid(resource.group, resource.kind, name, [Cause("FieldValueInvalid", text, "patch")])
    raise bad_request(f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: {text}')
