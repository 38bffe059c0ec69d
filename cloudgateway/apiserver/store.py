"""Objects in SQLite behind a complete copy in memory.

Reads and watches never touch the database. A write computes its object from the newest *pending* state, gets its
resourceVersion at once, and becomes visible, in the order of resourceVersions, when it is on disk. Writes that
need no durability (leases, events, heartbeats) are visible at once and reach the disk together with the next
durable write, or after `LAZY_INTERVAL`.
"""

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from edgeappliance.kernel.database import Database, StorageError, Transaction
from edgeappliance.kernel.log import get_logger
from edgeappliance.kubeapi.errors import StatusFailure
from edgeappliance.kubeapi.history import History
from edgeappliance.kubeapi.storage import Change, ChangeType, Entry

LAZY_INTERVAL = 1.0
"""Seconds after which changes that need no durability are written."""
RETRY_INTERVAL = 5.0
"""Seconds between attempts to write them when the disk refuses."""
RESERVE = 100_000
"""resourceVersions reserved on disk ahead of use, so that none is given out twice after a crash."""
OBJECT_LIMIT = 1536 * 1024
"""Bytes of one object, as etcd has it by default: patches could grow one without end."""

FieldPaths = Callable[[str], tuple[str, ...]]
Row = tuple[str, str, str, int, bytes | None]


@dataclass(slots=True, eq=False)
class _Write:
    change: Change
    durable: bool
    done: asyncio.Future[Entry]


def field_text(value: Any) -> str:
    """A selectable field's text: absent is empty, booleans are Go's."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def make_entry(resource: str, value: dict[str, Any], *, fields: tuple[str, ...], encoded: bytes) -> Entry:
    """The entry of an object with what selectors and indexes need."""
    metadata = value["metadata"]
    selectable = {}
    for path in fields:
        item: Any = value
        for key in path.split("."):
            item = item.get(key) if isinstance(item, dict) else None
        if item is None and path in ("spec.unschedulable", "spec.hostNetwork"):
            item = False
        selectable[path] = field_text(item)
    return Entry(
        resource=resource,
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        version=int(metadata["resourceVersion"]),
        value=encoded,
        api_version=value.get("apiVersion", ""),
        labels=metadata.get("labels") or {},
        fields=selectable,
        owners=tuple(owner.get("uid", "") for owner in metadata.get("ownerReferences") or ()),
        deleting="deletionTimestamp" in metadata,
    )


class ObjectStore:
    """The storage of the embedded API. Build it with `await ObjectStore.open(...)`; `run` must run beside it."""

    def __init__(self, database: Database, fields: FieldPaths, reserved: int) -> None:
        self.virgin = False
        """Whether the database has never been written to."""
        self._database = database
        self._fields = fields
        self._issued = reserved
        self._visible = reserved
        self._reserved = reserved
        self._floor = reserved
        self._objects: dict[str, dict[tuple[str, str], Entry]] = {}
        self._order: dict[str, list[tuple[str, str]] | None] = {}
        self._histories: dict[str, History] = {}
        # Where histories begin: at the start (every change since then makes one), or where the last one was ended.
        self._floors: dict[str, int] = {}
        self._uids: dict[str, Entry] = {}
        self._pending: dict[tuple[str, str, str], Change] = {}
        self._queue: deque[_Write] = deque()
        self._batch: list[_Write] = []
        self._writing = False
        self._lazy: dict[tuple[str, str, str], Row] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._listeners: list[Callable[[Change], None]] = []
        self._log = get_logger("apiserver")

    @classmethod
    async def open(
        cls, database: Database, *, fields: FieldPaths, first: Callable[[Iterable[dict[str, Any]]], None]
    ) -> "ObjectStore":
        """Load everything. `first` is given the definitions of custom resources before the rest is read."""

        def load(transaction: Transaction) -> tuple[int, list[tuple[Any, ...]]]:
            row = transaction.one("SELECT reserved FROM revision")
            rows = transaction.execute("SELECT resource, value FROM objects")
            return (int(row[0]) if row else 1), rows

        reserved, rows = await database.read(load)
        decoded = [(resource, bytes(value), msgspec.json.decode(value)) for resource, value in rows]
        first(value for resource, _, value in decoded if resource == "customresourcedefinitions.apiextensions.k8s.io")
        store = cls(database, fields, reserved)
        store.virgin = reserved <= 1
        for resource, encoded, value in decoded:
            entry = make_entry(resource, value, fields=fields(resource), encoded=encoded)
            store._objects.setdefault(resource, {})[entry.key] = entry
            store._uids[entry.uid] = entry
        return store

    # Reading: what is visible.

    @property
    def version(self) -> int:
        """The newest visible resourceVersion."""
        return self._visible

    def get(self, resource: str, namespace: str, name: str) -> Entry | None:
        """One visible object, or None."""
        return self._objects.get(resource, {}).get((namespace, name))

    def entries(self, resource: str, namespace: str = "") -> list[Entry]:
        """All visible objects of a collection (of one namespace), ordered by namespace and name."""
        objects = self._objects.get(resource)
        if not objects:
            return []
        order = self._order.get(resource)
        if order is None:
            order = self._order[resource] = sorted(objects)
        if namespace:
            low = bisect_left(order, (namespace, ""))
            high = bisect_left(order, (namespace + "\0", ""))
            order = order[low:high]
        return [objects[key] for key in order]

    def by_uid(self, uid: str) -> Entry | None:
        """The visible object with a uid, or None."""
        return self._uids.get(uid)

    def resources(self) -> list[str]:
        """Names of all collections that hold something."""
        return [resource for resource, objects in self._objects.items() if objects]

    def history(self, resource: str) -> History:
        """The recent changes of a collection."""
        history = self._histories.get(resource)
        if history is None:
            floor = self._floors.pop(resource, self._floor)
            history = self._histories[resource] = History(floor)
        return history

    def forget(self, resource: str) -> None:
        """End the watches of a collection that is served no more."""
        history = self._histories.pop(resource, None)
        if history is not None:
            history.close()
        self._floors[resource] = self._visible

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` with every change when it becomes visible. It must not block."""
        self._listeners.append(listener)

    # Writing.

    def head(self, resource: str, namespace: str, name: str) -> Entry | None:
        """The object as the newest write leaves it, visible or not: what a further write starts from."""
        pending = self._pending.get((resource, namespace, name))
        if pending is not None:
            return None if pending.type is ChangeType.DELETED else pending.entry
        return self.get(resource, namespace, name)

    def write(
        self, resource: str, value: dict[str, Any], *, base: Entry | None, delete: bool = False, durable: bool = True
    ) -> "asyncio.Future[Entry]":
        """Put an object (or its deletion) after `base`, its head; gets its resourceVersion now.

        No await may stand between reading the head and this call. The future gives the entry when it is visible;
        StorageError when the disk refuses, and then nothing has changed. Raises StatusFailure 413 for an object
        above OBJECT_LIMIT.
        """
        self._issued += 1
        if self._issued + RESERVE // 2 > self._reserved:
            durable = True  # the reservation travels with a durable write
        version = self._issued
        value["metadata"]["resourceVersion"] = str(version)
        encoded = msgspec.json.encode(value)
        if not delete and len(encoded) > max(OBJECT_LIMIT, len(base.value) if base is not None else 0):
            raise StatusFailure(
                413, "RequestEntityTooLarge", f"the object would be larger than {OBJECT_LIMIT} bytes ({len(encoded)})"
            )
        entry = make_entry(resource, value, fields=self._fields(resource), encoded=encoded)
        kind = ChangeType.DELETED if delete else ChangeType.MODIFIED if base is not None else ChangeType.ADDED
        change = Change(kind, entry, base, version)
        done: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        place = (resource, entry.namespace, entry.name)
        write = _Write(change, durable, done)
        if not durable and not self._queue and not self._writing:
            self._apply(write, keep=True)
            return done
        self._pending[place] = change
        self._queue.append(write)
        self._wake.set()
        return done

    async def settled(self) -> None:
        """Return when every write that `head` shows now is visible.

        An answer that rests on a head (AlreadyExists, Conflict, "nothing to change") is told only then: it must
        neither run ahead of what a read shows nor promise what is not on disk. Raises StorageError when the disk
        refused a write that was waited for.
        """
        if self._queue:
            await asyncio.shield(self._queue[-1].done)
        elif self._batch:
            await asyncio.shield(self._batch[-1].done)

    def _apply(self, write: _Write, *, keep: bool) -> None:
        """Make a write visible; `keep` remembers it for the next batch because it is not on disk yet."""
        change, entry = write.change, write.change.entry
        objects = self._objects.setdefault(entry.resource, {})
        old = objects.get(entry.key)
        if change.type is ChangeType.DELETED:
            objects.pop(entry.key, None)
            self._order[entry.resource] = None
            self._uids.pop(entry.uid, None)
        else:
            if old is None:
                self._order[entry.resource] = None
            objects[entry.key] = entry
            self._uids[entry.uid] = entry
        place = (entry.resource, entry.namespace, entry.name)
        if self._pending.get(place) is change:
            del self._pending[place]
        if keep:
            self._lazy[place] = _row(change)
            self._wake.set()
        self._visible = change.version
        self.history(entry.resource).append(change)
        for listener in self._listeners:
            try:
                listener(change)
            except Exception as error:  # noqa: BLE001 - a listener's fault must not stop every later write
                self._log.error("listener failed", resource=entry.resource, error=error, exc_info=error)
        if not write.done.done():
            write.done.set_result(entry)

    # The pump: one batch at a time, so that order and failure are simple.

    async def run(self) -> None:
        """Write batches until `stop`."""
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            if not self._queue and self._lazy:
                await self._linger(LAZY_INTERVAL)
            try:
                await self._flush()
            except StorageError as error:
                self._log.error("changes could not be written", error=error)
                if self._lazy:
                    await self._linger(RETRY_INTERVAL)
                    self._wake.set()  # whatever ended the pause: what waits is tried again

    async def _linger(self, seconds: float) -> None:
        """Let changes that are in no hurry gather until a durable write comes."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not self._queue and not self._stopping and (left := end - loop.time()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
                    self._wake.clear()
            except TimeoutError:
                break

    async def _flush(self) -> None:
        while self._queue:
            while self._queue and not self._queue[0].durable and not self._any_durable():
                self._apply(self._queue.popleft(), keep=True)
            batch = list(self._queue)
            self._queue.clear()
            if batch:
                await self._write_batch(batch)
        if self._lazy:
            await self._write_batch([])

    def _any_durable(self) -> bool:
        return any(write.durable for write in self._queue)

    async def _write_batch(self, batch: list[_Write]) -> None:
        lazy, self._lazy = self._lazy, {}
        rows = [*lazy.values(), *(_row(write.change) for write in batch)]
        reserve = self._issued + RESERVE if self._issued + RESERVE // 2 > self._reserved else 0

        def work(transaction: Transaction) -> None:
            _put(transaction, rows)
            if reserve:
                transaction.execute("UPDATE revision SET reserved = ?", (reserve,))

        self._writing, self._batch = True, batch
        try:
            await self._database.write(work, durable=bool(batch) or bool(reserve))
        except StorageError as error:
            self._lazy = {**lazy, **self._lazy}
            self._fail(batch, error)
            raise
        finally:
            self._writing, self._batch = False, []
        self._reserved = max(self._reserved, reserve)
        for write in batch:
            self._apply(write, keep=False)

    def _fail(self, batch: list[_Write], error: StorageError) -> None:
        """Undo a batch that the disk refused, and what came after it.

        A later write may rest on a lost one in ways that nobody can list: on the same object, on its namespace,
        on the definition of its kind.
        """
        lost = [*batch, *self._queue]
        self._queue.clear()
        self._pending.clear()
        for write in lost:
            if not write.done.done():
                write.done.set_exception(error)
                write.done.exception()  # its client may have left; the failure is in the log

    def stop(self) -> None:
        """Let `run` finish the batch at hand and return."""
        self._stopping = True
        self._wake.set()

    async def close(self) -> None:
        """Write what waits. `run` must have returned; the database is closed by its owner."""
        await self._flush()
        issued = self._issued
        await self._database.write(
            lambda transaction: transaction.execute("UPDATE revision SET reserved = ?", (issued,)), durable=True
        )


def _row(change: Change) -> Row:
    entry = change.entry
    value = None if change.type is ChangeType.DELETED else entry.value
    return (entry.resource, entry.namespace, entry.name, entry.version, value)


def _put(transaction: Transaction, rows: list[Row]) -> None:
    for row in rows:
        if row[4] is None:
            transaction.execute("DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?", row[:3])
        else:
            transaction.execute(
                "INSERT INTO objects (resource, namespace, name, version, value) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (resource, namespace, name) "
                "DO UPDATE SET version = excluded.version, value = excluded.value",
                row,
            )
