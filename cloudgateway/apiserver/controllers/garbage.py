"""Owner references: dependents go when their owners are gone; foreground and orphan deletion are carried out."""

import asyncio
from typing import Any

from cloudgateway.apiserver.metadata import FOREGROUND, ORPHAN
from cloudgateway.apiserver.store import ObjectStore
from cloudgateway.apiserver.writing import Writer
from edgeappliance.kernel.database import StorageError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kubeapi.errors import StatusFailure
from edgeappliance.kubeapi.resources import Registry
from edgeappliance.kubeapi.storage import Change, ChangeType, Entry

RETRY_SECONDS = 5.0


class GarbageCollector:
    """Follows the store; work is a set of uids whose owners or dependents must be looked at."""

    def __init__(self, *, store: ObjectStore, writer: Writer, registry: Registry) -> None:
        self._store = store
        self._writer = writer
        self._registry = registry
        self._dependents: dict[str, set[str]] = {}
        self._work: set[str] = set()
        self._wake = asyncio.Event()
        self._log = get_logger("garbage")
        for resource in store.resources():
            for entry in store.entries(resource):
                self._remember(entry)
                if entry.owners or entry.deleting:
                    self._work.add(entry.uid)
        store.listen(self._listen)
        self._wake.set()

    def _remember(self, entry: Entry) -> None:
        for owner in entry.owners:
            self._dependents.setdefault(owner, set()).add(entry.uid)

    def _listen(self, change: Change) -> None:
        entry, previous = change.entry, change.previous
        if previous is not None and (change.type is ChangeType.DELETED or previous.owners != entry.owners):
            for owner in previous.owners:
                dependents = self._dependents.get(owner)
                if dependents is not None:
                    dependents.discard(entry.uid)
                    if not dependents:
                        del self._dependents[owner]
                self._look_at(owner)
        if change.type is ChangeType.DELETED:
            for uid in self._dependents.get(entry.uid, ()):
                self._look_at(uid)
            return
        self._remember(entry)
        if entry.deleting or (entry.owners and (previous is None or previous.owners != entry.owners)):
            self._look_at(entry.uid)
            for owner in entry.owners:
                self._look_at(owner)

    def _look_at(self, uid: str) -> None:
        self._work.add(uid)
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._work:
                entry = self._store.by_uid(self._work.pop())
                if entry is not None:
                    await self._attempt(entry)

    async def _attempt(self, entry: Entry) -> None:
        try:
            await self._examine(entry)
        except StatusFailure as failure:
            if failure.reason != "NotFound":  # gone already is what was wanted
                self._log.warning("object not collected", resource=entry.resource, name=entry.name, error=failure)
        except StorageError as error:
            self._log.warning("collection waits for the disk", error=error)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._look_at, entry.uid)

    async def _examine(self, entry: Entry) -> None:
        resource = self._registry.stored(entry.resource)
        if resource is None:
            return
        if entry.deleting:
            finalizers = entry.object()["metadata"].get("finalizers") or ()
            if ORPHAN in finalizers:
                await self._orphan(entry)
                await self._writer.remove_finalizer(resource, entry, ORPHAN)
                return
            if FOREGROUND in finalizers and not await self._delete_dependents(entry):
                await self._writer.remove_finalizer(resource, entry, FOREGROUND)
                return
        if entry.owners:
            await self._examine_owners(entry)

    async def _examine_owners(self, entry: Entry) -> None:
        resource = self._registry.stored(entry.resource)
        if resource is None:
            return
        owners = [self._owner(uid, entry) for uid in entry.owners]
        solid = [owner for owner in owners if owner is not None and not _foreground(owner)]
        if solid:
            if len(solid) < len(owners) and any(owner is None for owner in owners):
                gone = {uid for uid, owner in zip(entry.owners, owners, strict=True) if owner is None}
                await self._writer.modify(resource, entry, lambda value: _drop_owners(value, gone))
            return
        if entry.deleting:
            return
        waiting = any(owner is not None for owner in owners)
        policy = "Foreground" if waiting and self._dependents.get(entry.uid) else None
        options: dict[str, Any] = {"preconditions": {"uid": entry.uid}}
        if policy:
            options["propagationPolicy"] = policy
        await self._writer.delete_entry(resource, entry, options)

    def _owner(self, uid: str, entry: Entry) -> Entry | None:
        """The owner if it is there: cluster-scoped or of the same namespace, as upstream demands."""
        owner = self._store.by_uid(uid)
        return owner if owner is not None and owner.namespace in ("", entry.namespace) else None

    async def _delete_dependents(self, entry: Entry) -> bool:
        """Start the deletion of what hangs on an owner; whether something that blocks it is still there."""
        blocked = False
        for uid in tuple(self._dependents.get(entry.uid, ())):
            dependent = self._store.by_uid(uid)
            if dependent is None:
                continue
            for owner in dependent.object()["metadata"].get("ownerReferences") or ():
                if owner.get("uid") == entry.uid and owner.get("blockOwnerDeletion"):
                    blocked = True
            await self._examine_owners(dependent)
        return blocked

    async def _orphan(self, entry: Entry) -> None:
        for uid in tuple(self._dependents.get(entry.uid, ())):
            dependent = self._store.by_uid(uid)
            resource = self._registry.stored(dependent.resource) if dependent is not None else None
            if dependent is not None and resource is not None:
                await self._writer.modify(resource, dependent, lambda value: _drop_owners(value, {entry.uid}))


def _foreground(entry: Entry) -> bool:
    return entry.deleting and FOREGROUND in (entry.object()["metadata"].get("finalizers") or ())


def _drop_owners(value: dict[str, Any], uids: set[str]) -> bool:
    metadata = value["metadata"]
    before = metadata.get("ownerReferences") or []
    left = [owner for owner in before if owner.get("uid") not in uids]
    if left:
        metadata["ownerReferences"] = left
    else:
        metadata.pop("ownerReferences", None)
    return len(left) != len(before)
