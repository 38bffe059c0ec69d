"""Subresources that do something to a pod: binding places it on a node, eviction deletes it."""

from typing import Any

import msgspec

from cloudgateway.apiserver import binding
from cloudgateway.apiserver.bodies import BodyReader
from cloudgateway.apiserver.rules import check_preconditions, dry_run, options_of
from cloudgateway.apiserver.store import ObjectStore
from cloudgateway.apiserver.writing import Writer
from edgeappliance.kernel.clock import Clock
from edgeappliance.kubeapi.errors import Cause, bad_request, conflict, invalid, not_found
from edgeappliance.kubeapi.request import ApiRequest, ApiResponse, Target
from edgeappliance.kubeapi.resources import ResourceType
from edgeappliance.kubeapi.storage import Entry
from edgeappliance.kubeapi.times import rfc3339

Object = dict[str, Any]

_ENDED = ("Succeeded", "Failed")


class PodActions:
    """POST of pods/binding and pods/eviction."""

    def __init__(self, *, store: ObjectStore, writer: Writer, clock: Clock, bodies: BodyReader) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._bodies = bodies

    async def bind(self, request: ApiRequest, target: Target, resource: ResourceType) -> ApiResponse:
        """core/v1 Binding: what a scheduler sends. Raises StatusFailure 409 for a pod that has a node."""
        body = self._body(request, target, "Binding", ("v1",))
        node = _node(body, target.name)
        entry = self._entry(target, resource)
        metadata = body["metadata"]
        if metadata.get("uid") not in (None, "", entry.uid):
            text = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {entry.uid}"
            raise conflict("", "pods/binding", target.name, text)
        pod = entry.object()
        _check_unbound(pod, target.name)
        if not dry_run(request):
            time = rfc3339(self._clock.wall_ms())

            def change(value: Object) -> bool:
                binding.bind(value, node, time=time)
                if metadata.get("annotations"):
                    value["metadata"].setdefault("annotations", {}).update(metadata["annotations"])
                return True

            # Nothing is awaited between the check and this: the newest state is the one that was checked.
            await self._writer.modify(resource, entry, change)
        return _success(201)

    async def evict(self, request: ApiRequest, target: Target, resource: ResourceType) -> ApiResponse:
        """policy/v1 Eviction: what `kubectl drain` sends. No disruption budget is kept here, so nothing forbids it."""
        body = self._body(request, target, "Eviction", ("policy/v1", "policy/v1beta1"))
        given = body.get("deleteOptions")
        if given is not None and not isinstance(given, dict):
            raise bad_request("Eviction.deleteOptions must be an object")
        options = options_of(dict(given or {}))
        entry = self._entry(target, resource)
        check_preconditions(resource, entry, options.pop("preconditions", None) or {})
        dry = dry_run(request) or bool(options.get("dryRun"))
        phase = (entry.object().get("status") or {}).get("phase")
        if not dry and not entry.deleting and phase not in _ENDED:
            time = rfc3339(self._clock.wall_ms())
            await self._writer.modify(resource, entry, lambda pod: binding.set_condition(pod, _DISRUPTED, time=time))
        if not dry:
            await self._writer.delete_entry(resource, entry, options)
        return _success(201)

    def _body(self, request: ApiRequest, target: Target, kind: str, versions: tuple[str, ...]) -> Object:
        body = self._bodies.read(request)
        if body.get("kind", kind) != kind or body.get("apiVersion", versions[0]) not in versions:
            raise bad_request(f"{body.get('apiVersion')} {body.get('kind')} is no {kind} of {' or '.join(versions)}")
        metadata = body.setdefault("metadata", {})
        if metadata is None:
            metadata = body["metadata"] = {}
        if not isinstance(metadata, dict):
            raise bad_request(f"{kind}.metadata must be an object")
        for key, kind_of in (("name", str), ("namespace", str), ("uid", str), ("annotations", dict)):
            if metadata.get(key) is not None and not isinstance(metadata[key], kind_of):
                raise bad_request(f"{kind}.metadata.{key} has the wrong type")
        if any(not isinstance(value, str) for value in (metadata.get("annotations") or {}).values()):
            raise bad_request(f"{kind}.metadata.annotations must be texts")
        if metadata.get("name") not in (None, "", target.name):
            raise bad_request(f"name in URL does not match name in {kind} object")
        if metadata.get("namespace") not in (None, "", target.namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        return body

    def _entry(self, target: Target, resource: ResourceType) -> Entry:
        entry = self._store.head(resource.key, target.namespace, target.name)
        if entry is None:
            raise not_found("", "pods", target.name)
        return entry


_DISRUPTED = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "EvictionByEvictionAPI",
    "message": "Eviction API: evicting",
}


def _node(body: Object, name: str) -> str:
    """The node of a Binding."""
    target = body.get("target")
    if not isinstance(target, dict):
        target = {}
    causes = []
    kind = target.get("kind")
    if kind not in (None, "", "Node"):
        text = f'Unsupported value: "{kind}": supported values: "Node", "<empty>"'
        causes.append(Cause("FieldValueNotSupported", text, "target.kind"))
    node = target.get("name")
    if not isinstance(node, str) or not node:
        causes.append(Cause("FieldValueRequired", "Required value", "target.name"))
    if causes or not isinstance(node, str):
        raise invalid("", "Binding", name, causes)
    return node


def _check_unbound(pod: Object, name: str) -> None:
    """Refuse what upstream's binding refuses, in its words."""
    spec = pod.get("spec") or {}
    text = ""
    if "deletionTimestamp" in pod["metadata"]:
        text = f"pod {name} is being deleted, cannot be assigned to a host"
    elif spec.get("nodeName"):
        text = f'pod {name} is already assigned to node "{spec["nodeName"]}"'
    elif spec.get("schedulingGates"):
        text = f"pod {name} has non-empty .spec.schedulingGates"
    if text:
        raise conflict("", "pods/binding", name, text)


def _success(code: int) -> ApiResponse:
    value = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code}
    return ApiResponse(code, msgspec.json.encode(value))
