"""A mirror of one resource, kept true by list and watch."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from cloudgateway.kube.client import KubeClient, KubeObject, WatchEvent
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.resources import GVR
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.errors import TransientError
from edgeappliance.kernel.log import get_logger

__all__ = ["Key", "Reflector", "Watched", "key_of", "slim"]

_log = get_logger("kube.reflector")

_NEWBORN = 6.0
"""Seconds for which a resource may be missing before that is trouble: its definition may just be on its way."""

Key = tuple[str, str]
"""Namespace ("" for cluster-scoped objects) and name."""


@dataclass(frozen=True, slots=True)
class Watched:
    """Which objects a reflector mirrors. `metadata_only` keeps bodies (secrets!) out of memory and off the wire."""

    gvr: GVR
    namespace: str | None = None
    label_selector: str = ""
    field_selector: str = ""
    metadata_only: bool = False


def key_of(obj: Mapping[str, object]) -> Key:
    """The key of an object by its metadata."""
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict):
        return ("", "")
    return (str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))


def slim(obj: KubeObject) -> KubeObject:
    """Removes ``managedFields``: half of a small object's size, and of no use to a controller or an edge."""
    metadata = obj.get("metadata")
    if isinstance(metadata, dict):
        metadata.pop("managedFields", None)
    return obj


@dataclass(slots=True, eq=False)
class _Subscriber:
    on_add: Callable[[KubeObject], None] | None
    on_update: Callable[[KubeObject, KubeObject], None] | None
    on_delete: Callable[[KubeObject], None] | None


class Reflector:
    """Keeps a mapping of objects and tells subscribers about each change.

    `run()` never ends and never fails for reasons outside this process: a lost connection is repeated with
    back-off, an expired version is listed anew and the differences are told as if they had been watched.
    Callbacks run in the event loop, one after the other, and must not block. Objects belong to the mirror:
    subscribers must not change them.
    """

    def __init__(
        self,
        client: KubeClient,
        watched: Watched,
        *,
        transform: Callable[[KubeObject], KubeObject] = slim,
        resync: float = 0.0,
        backoff: Backoff | None = None,
    ) -> None:
        """`resync` seconds after the last list everything is listed again and compared (0 = never)."""
        self.gvr = watched.gvr
        self._client = client
        self._watched = watched
        self._transform = transform
        self._resync = resync
        self._backoff = backoff or Backoff(initial=0.5, maximum=30.0)
        self._objects: dict[Key, KubeObject] = {}
        self._subscribers: list[_Subscriber] = []
        self._synced = asyncio.Event()
        self._version = ""
        self._missing_since: float | None = None
        self.last_error = ""

    @property
    def synced(self) -> bool:
        """Whether the first list is complete (and told to the subscribers)."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        await self._synced.wait()

    @property
    def resource_version(self) -> str:
        """The newest version seen, bookmarks included."""
        return self._version

    def get(self, namespace: str, name: str) -> KubeObject | None:
        return self._objects.get((namespace, name))

    def __iter__(self) -> Iterator[KubeObject]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def subscribe(
        self,
        *,
        on_add: Callable[[KubeObject], None] | None = None,
        on_update: Callable[[KubeObject, KubeObject], None] | None = None,
        on_delete: Callable[[KubeObject], None] | None = None,
    ) -> Callable[[], None]:
        """Calls back for every change from now on; what is mirrored already is told at once as additions.

        Calling the result ends it.
        """
        subscriber = _Subscriber(on_add, on_update, on_delete)
        self._subscribers.append(subscriber)
        if on_add is not None:
            for obj in list(self._objects.values()):
                _call(self.gvr, on_add, obj)

        def unsubscribe() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

        return unsubscribe

    async def run(self) -> None:
        """Lists and watches forever."""
        loop = asyncio.get_running_loop()
        listed_at = float("-inf")
        while True:
            started = loop.time()
            try:
                if not self._version or (self._resync and started - listed_at > self._resync):
                    await self._relist()
                    listed_at = started = loop.time()
                await self._watch()
                self._backoff.succeeded(loop.time() - started)
                # A watch that the server ends at once must not become a busy loop.
                if loop.time() - started >= 1.0:
                    continue
            except ApiError as error:
                if error.gone:
                    _log.info("version expired, listing again", resource=self.gvr.group_resource)
                    self._version = ""
                    if loop.time() - started >= 1.0:
                        continue
                elif error.not_found:
                    self._missing(loop.time())
                else:
                    self._report(error.message)
            except TransientError as error:
                # Every mirror says the same when a server is away; `Mirrors.health` says it once for all of them.
                _log.debug("cannot watch", resource=self.gvr.group_resource, error=error.message)
                self.last_error = error.message
            await asyncio.sleep(self._backoff.next_delay())

    def _missing(self, now: float) -> None:
        """The API has no such resource. Its text is a bare "404 page not found", which says nothing to anybody."""
        if self._missing_since is None:
            self._missing_since = now
        if now - self._missing_since >= _NEWBORN:
            self._report("the API does not serve this resource")

    def _report(self, text: str) -> None:
        if text != self.last_error:  # once per kind of trouble, not once per attempt
            _log.warning("cannot watch", resource=self.gvr.group_resource, error=text)
        self.last_error = text

    async def _relist(self) -> None:
        watched = self._watched
        listed = await self._client.list(
            watched.gvr,
            watched.namespace,
            label_selector=watched.label_selector,
            field_selector=watched.field_selector,
            metadata_only=watched.metadata_only,
        )
        fresh = {key_of(item): item for item in listed.items}
        for key in [key for key in self._objects if key not in fresh]:
            self._remove(key, None)
        for key, item in fresh.items():
            self._put(key, item)
        self._version = listed.resource_version
        self._missing_since = None
        self.last_error = ""
        self._synced.set()

    async def _watch(self) -> None:
        watched = self._watched
        # Short, so that an API server which hangs with its connections open is noticed in two minutes; spread, so
        # that a hundred watches do not end in the same second.
        timeout = random.randint(90, 130)  # noqa: S311  - no secret
        if self._resync:
            timeout = min(timeout, max(1, int(self._resync)))
        async for events in self._client.watch(
            watched.gvr,
            watched.namespace,
            resource_version=self._version,
            label_selector=watched.label_selector,
            field_selector=watched.field_selector,
            metadata_only=watched.metadata_only,
            timeout=timeout,
        ):
            self.last_error = ""
            for event in events:
                self._apply(event)

    def _apply(self, event: WatchEvent) -> None:
        version = event.object.get("metadata", {}).get("resourceVersion", "")
        if event.type == "DELETED":
            self._remove(key_of(event.object), event.object)
        elif event.type in ("ADDED", "MODIFIED"):
            self._put(key_of(event.object), event.object)
        if version:
            self._version = version

    def _put(self, key: Key, obj: KubeObject) -> None:
        old = self._objects.get(key)
        obj = self._transform(obj)
        if old is None:
            self._objects[key] = obj
            self._added(obj)
            return
        old_metadata, metadata = old["metadata"], obj["metadata"]
        if old_metadata.get("uid") != metadata.get("uid"):
            # Deleted and created anew while nobody looked: two events, not one.
            self._remove(key, None)
            self._objects[key] = obj
            self._added(obj)
        elif old_metadata.get("resourceVersion") != metadata.get("resourceVersion"):
            self._objects[key] = obj
            for subscriber in self._subscribers:
                if subscriber.on_update is not None:
                    _call(self.gvr, subscriber.on_update, old, obj)

    def _added(self, obj: KubeObject) -> None:
        for subscriber in self._subscribers:
            if subscriber.on_add is not None:
                _call(self.gvr, subscriber.on_add, obj)

    def _remove(self, key: Key, last: KubeObject | None) -> None:
        old = self._objects.pop(key, None)
        if old is None:
            return
        obj = old if last is None else self._transform(last)
        for subscriber in self._subscribers:
            if subscriber.on_delete is not None:
                _call(self.gvr, subscriber.on_delete, obj)


def _call(gvr: GVR, callback: Callable[..., None], *objects: KubeObject) -> None:
    try:
        callback(*objects)
    except Exception as error:  # noqa: BLE001  - one object that a subscriber cannot stand must not stop the mirror
        namespace, name = key_of(objects[-1])
        _log.error(
            "a subscriber failed",
            resource=gvr.group_resource,
            namespace=namespace,
            name=name,
            error=f"{type(error).__name__}: {error}",
        )
