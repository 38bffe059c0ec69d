"""Config maps and secrets for pods: from this node's store, and from the cloud for those that it does not have yet."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.errors import PermanentError, TransientError
from edgeappliance.wire.operations import ResourceType
from edgeappliance.wire.resource import ResourceName

KINDS = (ResourceType.CONFIGMAP, ResourceType.SECRET)

QUERY_TIMEOUT = 15.0
"""Seconds for an answer: a pod with an optional object waits this long at most on a link that is silent."""

RETRY_INITIAL, RETRY_MAXIMUM = 2.0, 60.0
"""Seconds until the cloud is asked again for what it did not have."""

FORGOTTEN_AFTER = 600.0
"""Seconds after which nobody has asked for a missing object any more."""

Key = tuple[str, str, str]
"""Kind (`configmap`, `secret`), namespace, name."""

Listener = Callable[[str, str, str], None]


class Change(Protocol):
    """A change of a stored object, as metamanager tells it."""

    @property
    def operation(self) -> str: ...

    @property
    def resource(self) -> ResourceName: ...

    @property
    def value(self) -> dict[str, Any] | None: ...


class Source(Protocol):
    """What this needs of metamanager."""

    def subscribe(self, resource_type: str, callback: Callable[[Change], Awaitable[None]]) -> None: ...

    async def query(self, resource: str, *, timeout: float) -> Any:
        """From the store, else from the cloud. PermanentError: neither has it; TransientError: nobody could say."""
        ...


class Link(Protocol):
    """What this needs of edgehub."""

    def on_connection(self, callback: Callable[[bool], None]) -> None: ...


@dataclass(slots=True)
class _Missing:
    """An object that was asked for and not given."""

    trouble: str = ""
    ask_at: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(initial=RETRY_INITIAL, maximum=RETRY_MAXIMUM))


class Objects:
    """Answers from the store, offline too. Only what is missing is remembered, so that the cloud is not asked for it
    again and again; a push of it, and a new link, end that at once."""

    def __init__(self, *, source: Source, link: Link, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._missing: dict[Key, _Missing] = {}
        self._asking: weakref.WeakValueDictionary[Key, asyncio.Lock] = weakref.WeakValueDictionary()
        self._changes = 0
        self._listeners: list[Listener] = []
        for kind in KINDS:
            source.subscribe(kind, self._changed)
        link.on_connection(self._link_changed)

    def on_change(self, callback: Listener) -> None:
        """Call `callback(kind, namespace, name)` when an object is new, different or gone, and when it is worth asking
        again for one that was missing."""
        self._listeners.append(callback)

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """The object; None when there is none, or none is known and the cloud cannot say (see `trouble`)."""
        key = (str(kind), namespace, name)
        if not name or "/" in namespace or "/" in name:
            return None  # never the name of an object, and it would be another resource's
        lock = self._asking.setdefault(key, asyncio.Lock())
        async with lock:  # many pods may wait for one object: it is asked for once
            missing = self._missing.get(key)
            if missing is not None and self._clock.monotonic() < missing.ask_at:
                return None
            return await self._ask(key)

    def trouble(self, kind: str, namespace: str, name: str) -> str:
        """Why the cloud could not be asked for a missing object; "" when it said that there is none."""
        missing = self._missing.get((str(kind), namespace, name))
        return missing.trouble if missing is not None else ""

    async def _ask(self, key: Key) -> dict[str, Any] | None:
        changes = self._changes
        trouble = ""
        try:
            value = await self._source.query(str(ResourceName(key[1], key[0], key[2])), timeout=QUERY_TIMEOUT)
        except PermanentError:
            pass  # neither here nor in the cloud
        except TransientError as error:
            trouble = error.message
        else:
            if isinstance(value, dict):
                self._missing.pop(key, None)
                return value
            trouble = "what came is no object"
        self._forget_old()
        missing = self._missing.setdefault(key, _Missing())
        missing.trouble = trouble
        # What was pushed while the answer was on its way is worth a look at once.
        wait = missing.backoff.next_delay() if changes == self._changes else 0.0
        missing.ask_at = self._clock.monotonic() + wait
        return None

    def _forget_old(self) -> None:
        limit = self._clock.monotonic() - FORGOTTEN_AFTER
        for key in [key for key, missing in self._missing.items() if missing.ask_at < limit]:
            del self._missing[key]

    async def _changed(self, change: Change) -> None:
        resource = change.resource
        self._changes += 1
        self._missing.pop((str(resource.type), resource.namespace, resource.name), None)
        self._tell(str(resource.type), resource.namespace, resource.name)

    def _link_changed(self, connected: bool) -> None:
        if not connected:
            return
        self._changes += 1
        for key, missing in list(self._missing.items()):
            missing.ask_at = self._clock.monotonic()
            missing.backoff.reset()
            self._tell(*key)

    def _tell(self, kind: str, namespace: str, name: str) -> None:
        for listener in self._listeners:
            listener(kind, namespace, name)
