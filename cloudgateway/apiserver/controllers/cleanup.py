"""Emptying what is being deleted: the contents of a namespace, the objects of a CustomResourceDefinition."""

import asyncio
from typing import Any

from cloudgateway.apiserver.definitions import CLEANUP, CRD_KEY
from cloudgateway.apiserver.store import ObjectStore
from cloudgateway.apiserver.writing import Writer
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.database import StorageError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kubeapi.errors import StatusFailure
from edgeappliance.kubeapi.resources import Registry, ResourceType
from edgeappliance.kubeapi.storage import Change, Entry
from edgeappliance.kubeapi.times import rfc3339

NAMESPACES = "namespaces"
DELETED_AT_ONCE = 256
"""Objects whose deletions share a commit."""
RETRY_SECONDS = 5.0
"""Contents with finalizers, or pods that their node still ends, are looked at again this often."""


class Cleanup:
    """Deletes the contents of terminating namespaces and definitions, then lets these go."""

    def __init__(self, *, store: ObjectStore, writer: Writer, registry: Registry, clock: Clock) -> None:
        self._store = store
        self._writer = writer
        self._registry = registry
        self._clock = clock
        self._work: set[tuple[str, str]] = set()
        self._wake = asyncio.Event()
        self._log = get_logger("cleanup")
        for resource in (NAMESPACES, CRD_KEY):
            for entry in store.entries(resource):
                if entry.deleting:
                    self._look_at(resource, entry.name)
        store.listen(self._listen)

    def _listen(self, change: Change) -> None:
        entry = change.entry
        if entry.resource in (NAMESPACES, CRD_KEY):
            if entry.deleting:
                self._look_at(entry.resource, entry.name)
            return
        # The last object of what is being deleted may just have gone.
        if entry.namespace:
            self._wake_for(NAMESPACES, entry.namespace)
        self._wake_for(CRD_KEY, entry.resource)

    def _wake_for(self, resource: str, name: str) -> None:
        owner = self._store.get(resource, "", name)
        if owner is not None and owner.deleting:
            self._look_at(resource, name)

    def _look_at(self, resource: str, name: str) -> None:
        self._work.add((resource, name))
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._work:
                resource, name = self._work.pop()
                entry = self._store.get(resource, "", name)
                if entry is None or not entry.deleting:
                    continue
                try:
                    done = await (self._namespace(entry) if resource == NAMESPACES else self._definition(entry))
                except (StatusFailure, StorageError) as error:
                    self._log.warning("cleanup is tried again", resource=resource, name=name, error=error)
                    done = False
                if not done:
                    asyncio.get_running_loop().call_later(RETRY_SECONDS, self._look_at, resource, name)

    async def _namespace(self, entry: Entry) -> bool:
        resource = self._registry.stored(NAMESPACES)
        value = entry.object()
        if resource is None or "kubernetes" not in (value.get("spec", {}).get("finalizers") or ()):
            return True
        left = 0
        for key in self._store.resources():
            stored = self._registry.stored(key)
            if stored is not None and stored.namespaced:
                left += await self._delete_all(stored, self._store.entries(key, entry.name))
        if left:
            await self._writer.modify(resource, entry, lambda item: self._note_remaining(item, left))
            return False
        await self._writer.modify(resource, entry, _finalize)
        return True

    def _note_remaining(self, value: dict[str, Any], count: int) -> bool:
        """Say in the namespace's status why it is still there."""
        message = f"Some content in the namespace has finalizers or is being ended by its node: {count} objects"
        conditions = value.setdefault("status", {}).setdefault("conditions", [])
        for condition in conditions:
            if condition.get("type") == "NamespaceContentRemaining":
                if condition.get("message") == message:
                    return False
                condition["message"] = message
                return True
        conditions.append(
            {
                "type": "NamespaceContentRemaining",
                "status": "True",
                "reason": "SomeResourcesRemain",
                "message": message,
                "lastTransitionTime": rfc3339(self._clock.wall_ms()),
            }
        )
        return True

    async def _definition(self, entry: Entry) -> bool:
        resource = self._registry.stored(CRD_KEY)
        stored = self._registry.stored(entry.name)
        if resource is None:
            return True
        if stored is not None and await self._delete_all(stored, self._store.entries(entry.name)):
            return False
        await self._writer.remove_finalizer(resource, entry, CLEANUP)
        return True

    async def _delete_all(self, resource: ResourceType, entries: list[Entry]) -> int:
        """Delete objects; how many are still there because their deletion waits for somebody."""
        left = 0
        for start in range(0, len(entries), DELETED_AT_ONCE):
            some = entries[start : start + DELETED_AT_ONCE]
            left += sum(await asyncio.gather(*(self._delete(resource, entry) for entry in some)))
        return left

    async def _delete(self, resource: ResourceType, entry: Entry) -> bool:
        """Delete an object; whether it is still there."""
        try:
            return not (await self._writer.delete_entry(resource, entry, {}))[1]
        except StatusFailure as failure:
            if failure.reason != "NotFound":
                raise
            return False


def _finalize(value: dict[str, Any]) -> bool:
    value["spec"]["finalizers"] = [name for name in value["spec"]["finalizers"] if name != "kubernetes"]
    return True
