"""ObjectSync and ClusterObjectSync: which version of which object each node has acknowledged (reference 2.9).

The book answers from memory at once; the API follows, only ever with the newest version of a record.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cloudgateway.cloudhub.delivery import Subject, parse_version
from cloudgateway.cloudhub.queue import Record
from cloudgateway.kube.errors import ApiError, is_retryable
from cloudgateway.kube.informers import Informers
from cloudgateway.kube.reflector import Reflector, Watched
from cloudgateway.kube.resources import CLUSTER_OBJECT_SYNCS, GVR, OBJECT_SYNCS
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope

_WRITERS = 8
_FLUSH_TIME = 3.0


class RecordApi(Protocol):
    """The part of KubeClient that keeps records."""

    async def create(self, gvr: GVR, body: Mapping[str, Any], *, namespace: str | None = None) -> Any: ...

    async def patch(
        self, gvr: GVR, namespace: str | None, name: str, body: Mapping[str, Any], *, subresource: str = ""
    ) -> Any: ...

    async def delete(self, gvr: GVR, namespace: str | None, name: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One record: the object, and the version that the node acknowledged (0: none yet)."""

    subject: Subject
    version: int
    stored: bool
    """Whether the API has the record already."""


class RecordBook:
    """All records of the site. A component."""

    def __init__(self, *, api: RecordApi, informers: Informers, tasks: TaskScope) -> None:
        self._api = api
        self._informers = informers
        self._tasks = tasks
        self._nodes: dict[str, dict[str, NodeRecord]] = {}
        self._dirty: dict[tuple[str, str], Record] = {}
        self._line: deque[tuple[str, str]] = deque()
        self._writing: set[tuple[str, str]] = set()
        self._work = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._mirrors: tuple[Reflector, ...] = ()
        self._trouble = ""
        self._log = get_logger("cloudhub")

    async def start(self) -> None:
        """Mirror the records and write what changes."""
        self._nodes.clear()
        self._writing.clear()
        self._mirrors = (
            self._informers.of(Watched(OBJECT_SYNCS)),
            self._informers.of(Watched(CLUSTER_OBJECT_SYNCS)),
        )
        for mirror in self._mirrors:
            mirror.subscribe(on_add=self._seen, on_update=lambda _, new: self._seen(new), on_delete=self._gone)
        for number in range(_WRITERS):
            self._tasks.spawn(self._write_all(), name=f"record-writer-{number}")

    async def stop(self) -> None:
        """Give the writers a moment; what is not written is sent to the nodes once more, which is harmless."""
        try:
            async with asyncio.timeout(_FLUSH_TIME):
                await self._quiet.wait()
        except TimeoutError:
            self._log.warning("records not written", count=len(self._dirty))

    def health(self) -> Health:
        details = {"records": sum(map(len, self._nodes.values())), "unwritten": len(self._dirty)}
        if self._trouble:
            return Health(State.DEGRADED, self._trouble, "see whether the API answers", details=details)
        if not all(mirror.synced for mirror in self._mirrors):
            return Health(State.STARTING, "reading the records", details=details)
        return Health(State.RUNNING, details=details)

    async def wait_synced(self) -> None:
        """Return when memory holds what the API holds."""
        for mirror in self._mirrors:
            await mirror.wait_synced()

    def versions(self, node: str) -> dict[str, int]:
        """Acknowledged versions by UID."""
        return {uid: record.version for uid, record in self._nodes.get(node, {}).items()}

    def note(self, node: str, record: Record) -> None:
        """A record changed: remember it now, write it soon. Objects without a kind are not recorded."""
        subject = record.subject
        if not subject.kind and record.version is not None:
            return
        known = self._nodes.setdefault(node, {})
        if record.version is None:
            if known.pop(subject.uid, None) is None and (node, subject.uid) not in self._dirty:
                return
        else:
            before = known.get(subject.uid)
            known[subject.uid] = NodeRecord(subject, record.version, before is not None and before.stored)
        if not known:
            del self._nodes[node]
        self._queue((node, subject.uid), record)

    def _queue(self, key: tuple[str, str], record: Record) -> None:
        if key not in self._dirty and key not in self._writing:
            self._line.append(key)
        self._dirty[key] = record
        self._quiet.clear()
        self._work.set()

    async def _write_all(self) -> None:
        backoff = Backoff(initial=0.5, maximum=15.0)
        while True:
            while not self._line:
                self._work.clear()
                await self._work.wait()
            key = self._line.popleft()
            record = self._dirty.pop(key)
            self._writing.add(key)
            try:
                await self._write(key[0], record)
            except ApplianceError as error:
                if is_retryable(error):
                    self._dirty.setdefault(key, record)
                    self._trouble = f"records cannot be written: {error.message}"
                    await asyncio.sleep(backoff.next_delay())
                else:
                    self._log.warning("record not written", node=key[0], uid=key[1], error=error)
            else:
                self._trouble = ""
                backoff.reset()
            self._writing.discard(key)
            if key in self._dirty:
                self._line.append(key)
            elif not self._dirty and not self._writing:
                self._quiet.set()

    async def _write(self, node: str, record: Record) -> None:
        subject = record.subject
        gvr = OBJECT_SYNCS if subject.namespace else CLUSTER_OBJECT_SYNCS
        namespace = subject.namespace or None
        name = f"{node}.{subject.uid}"
        if record.version is None:
            try:
                await self._api.delete(gvr, namespace, name)
            except ApiError as error:
                if not error.not_found:
                    raise
            return
        known = self._nodes.get(node, {}).get(subject.uid)
        status = {"status": {"objectResourceVersion": str(record.version)}}
        if known is None or not known.stored:
            try:
                await self._api.create(gvr, _body(gvr, name, subject), namespace=namespace)
            except ApiError as error:
                if not error.already_exists:
                    raise
        try:
            await self._api.patch(gvr, namespace, name, status, subresource="status")
        except ApiError as error:
            if not error.not_found:
                raise
            await self._api.create(gvr, _body(gvr, name, subject), namespace=namespace)
            await self._api.patch(gvr, namespace, name, status, subresource="status")
        self._stored(node, subject.uid)

    def _stored(self, node: str, uid: str) -> None:
        known = self._nodes.get(node, {}).get(uid)
        if known is not None and not known.stored:
            self._nodes[node][uid] = NodeRecord(known.subject, known.version, True)

    def _seen(self, obj: dict[str, Any]) -> None:
        metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
        node, _, uid = str(metadata.get("name", "")).rpartition(".")
        if not node:
            return
        key = (node, uid)
        if key in self._dirty or key in self._writing:
            self._stored(node, uid)  # ours is newer
            return
        subject = Subject(
            uid=uid,
            namespace=str(metadata.get("namespace") or ""),
            api_version=str(spec.get("objectAPIVersion", "")),
            kind=str(spec.get("objectKind", "")),
            name=str(spec.get("objectName", "")),
        )
        # An empty version blocks the object for ever at upstream; here it counts as "nothing acknowledged yet".
        version = parse_version(str(status.get("objectResourceVersion") or "")) or 0
        self._nodes.setdefault(node, {})[uid] = NodeRecord(subject, version, True)

    def _gone(self, obj: dict[str, Any]) -> None:
        node, _, uid = str(obj["metadata"].get("name", "")).rpartition(".")
        if (node, uid) in self._dirty or (node, uid) in self._writing:
            return
        known = self._nodes.get(node)
        if known is not None:
            known.pop(uid, None)
            if not known:
                del self._nodes[node]


def _body(gvr: GVR, name: str, subject: Subject) -> dict[str, Any]:
    metadata = {"name": name}
    if subject.namespace:
        metadata["namespace"] = subject.namespace
    return {
        "apiVersion": gvr.api_version,
        "kind": gvr.kind,
        "metadata": metadata,
        "spec": {
            "objectAPIVersion": subject.api_version,
            "objectKind": subject.kind,
            "objectName": subject.name,
        },
    }
