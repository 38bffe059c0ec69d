"""Events of the embedded API's own controllers."""

import itertools
from collections import OrderedDict
from typing import Any

import msgspec

from cloudgateway.apiserver.store import ObjectStore
from cloudgateway.apiserver.writing import Writer
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.database import StorageError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kubeapi.errors import StatusFailure
from edgeappliance.kubeapi.request import ApiRequest, Target
from edgeappliance.kubeapi.resources import Registry
from edgeappliance.kubeapi.storage import Entry
from edgeappliance.kubeapi.times import rfc3339

EVENTS = "events"
REMEMBERED = 1024
"""Events whose repetition is counted instead of written anew."""


class Recorder:
    """Writes events in the name of one component; what repeats itself becomes a count."""

    def __init__(self, *, store: ObjectStore, writer: Writer, registry: Registry, clock: Clock, component: str) -> None:
        self._store = store
        self._writer = writer
        self._registry = registry
        self._clock = clock
        self._component = component
        self._known: OrderedDict[tuple[str, str, str], tuple[str, str]] = OrderedDict()
        self._numbers = itertools.count()
        self._log = get_logger("apiserver.events")

    async def event(self, about: Entry, *, kind: str, type: str, reason: str, message: str) -> None:
        """Record an event about an object of `kind`; `type` is Normal or Warning. Never raises: it is only news."""
        resource = self._registry.stored(EVENTS)
        if resource is None:
            return
        mark = (about.uid, reason, message)
        time = rfc3339(self._clock.wall_ms())
        try:
            place = self._known.get(mark)
            known = self._store.get(EVENTS, *place) if place is not None else None
            if known is not None and await self._writer.modify(resource, known, lambda value: _again(value, time)):
                self._known.move_to_end(mark)
                return
            value = self._new(about, kind, type, time)
            value["reason"], value["message"] = reason, message
            namespace = value["metadata"]["namespace"]
            request = ApiRequest(method="POST", path="", body=msgspec.json.encode(value))
            written = await self._writer.create(request, Target("", "v1", EVENTS, namespace), resource)
        except (StatusFailure, StorageError) as error:  # a namespace that is going, a disk that is full
            self._log.debug("event not written", reason=reason, object=about.name, error=error)
            return
        self._known[mark] = written.entry.key
        self._known.move_to_end(mark)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def _new(self, about: Entry, kind: str, type: str, time: str) -> dict[str, Any]:
        involved = {"kind": kind, "apiVersion": about.api_version, "name": about.name, "uid": about.uid}
        if about.namespace:
            involved["namespace"] = about.namespace
            involved["resourceVersion"] = str(about.version)
        stamp = self._clock.wall_ms() * 1_000_000 + next(self._numbers) % 1_000_000
        return {
            "metadata": {"name": f"{about.name}.{stamp:x}", "namespace": about.namespace or "default"},
            "involvedObject": involved,
            "type": type,
            "source": {"component": self._component},
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        }


def _again(value: dict[str, Any], time: str) -> bool:
    value["count"] = int(value.get("count") or 1) + 1
    value["lastTimestamp"] = time
    return True
