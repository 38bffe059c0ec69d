"""Kubernetes events of this node: made, counted when they repeat, and sent while there is a link.

An event is `insert <ns>/event/<name>` with the object, then `patch` with `{"event", "patchData"}` for each repetition
(reference 1.4, "Events"). Nobody answers and nobody retries: what is lost on the way is lost.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from edgeappliance.edged.pods.observed import ObservedContainer
from edgeappliance.edged.pods.spec import Pod
from edgeappliance.kernel.clock import Clock
from edgeappliance.kubeapi.times import rfc3339
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import Group, Operation, ResourceType, Source
from edgeappliance.wire.resource import ResourceName

COMPONENT = "kubelet"
MAX_MESSAGE = 1024
"""Bytes of a message that the API takes."""

WAITING = 500
"""Events that wait for a link; the oldest make room."""

REMEMBERED = 512
"""Events whose repetitions are counted."""

LIFETIME = 3000.0
"""Seconds without a repetition after which an event is made anew: the API keeps one for an hour."""

BURST = 25
REFILL = 300.0
"""Each object may have BURST events at once and one more in REFILL seconds, as in Kubernetes' client library."""


class EventType(StrEnum):
    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Regarding:
    """The object that an event is about; field_path `spec.containers{web}` names a part of it."""

    kind: str
    name: str
    namespace: str = ""
    uid: str = ""
    field_path: str = ""

    @classmethod
    def pod(cls, pod: Pod) -> "Regarding":
        metadata = pod.metadata
        return cls(kind="Pod", name=metadata.name, namespace=metadata.namespace, uid=metadata.uid)

    @classmethod
    def part(cls, pod: Pod, container: str) -> "Regarding":
        """A container of a pod, by its name."""
        init = any(item.name == container for item in pod.spec.init_containers)
        metadata = pod.metadata
        path = _path(container, init)
        return cls(kind="Pod", name=metadata.name, namespace=metadata.namespace, uid=metadata.uid, field_path=path)

    @classmethod
    def container(cls, seen: ObservedContainer, name: str, *, init: bool) -> "Regarding":
        """A container of a pod, as it is on the engine."""
        path = _path(name, init)
        return cls(kind="Pod", name=seen.pod_name, namespace=seen.namespace, uid=seen.pod_uid, field_path=path)

    @classmethod
    def node(cls, name: str) -> "Regarding":
        """A kubelet gives the node's name in place of its UID."""
        return cls(kind="Node", name=name, uid=name)


def _path(container: str, init: bool) -> str:
    return f"spec.{'initContainers' if init else 'containers'}{{{container}}}"


class Cloud(Protocol):
    """What the recorder needs of edgehub."""

    @property
    def connected(self) -> bool: ...

    def send(self, message: Message) -> bool:
        """False when there is no link or it is overloaded; nothing is kept."""
        ...

    def on_connection(self, callback: Callable[[bool], None]) -> None: ...


@dataclass(slots=True)
class _Known:
    """One event and its repetitions. sent: the count that the cloud has been told, 0 before the first."""

    name: str
    regarding: Regarding
    type: str
    reason: str
    message: str
    first_ms: int
    last_ms: int
    last_at: float
    count: int = 1
    sent: int = 0


_Key = tuple[Regarding, str, str, str]


class EventRecorder:
    """Makes events. Works from the event loop's thread only and never waits."""

    def __init__(self, *, cloud: Cloud, node: str, clock: Clock, enabled: bool = True) -> None:
        self._cloud = cloud
        self._node = node
        self._clock = clock
        self._enabled = enabled
        self._known: OrderedDict[_Key, _Known] = OrderedDict()
        self._waiting: OrderedDict[str, _Known] = OrderedDict()
        """By name: an event that repeats while it waits is one message."""
        self._buckets: OrderedDict[Regarding, tuple[float, float]] = OrderedDict()
        """Object -> (tokens, when they were counted)."""
        self._last_ns = 0
        self.dropped = 0
        """Events that never went up: too many of one object, or no link for too long."""
        cloud.on_connection(self._link_changed)

    @property
    def waiting(self) -> int:
        """Events that have not been sent."""
        return len(self._waiting)

    def pod(self, pod: Pod, type: str, reason: str, message: str, *, container: str = "") -> None:
        """An event of a pod, or of one of its containers."""
        regarding = Regarding.part(pod, container) if container else Regarding.pod(pod)
        self.event(regarding, type, reason, message)

    def event(self, regarding: Regarding, type: str, reason: str, message: str) -> None:
        """Report that something happened; told at once while there is a link."""
        if not self._enabled:
            return
        now = self._clock.monotonic()
        if not self._admit(regarding, now):
            self.dropped += 1
            return
        message = message.encode("utf-8", "replace")[:MAX_MESSAGE].decode("utf-8", "ignore")
        key = (regarding, type, reason, message)
        known = self._known.get(key)
        wall_ms = self._clock.wall_ms()
        if known is None or now - known.last_at > LIFETIME:
            known = _Known(
                name=self._name(regarding, wall_ms),
                regarding=regarding,
                type=type,
                reason=reason,
                message=message,
                first_ms=wall_ms,
                last_ms=wall_ms,
                last_at=now,
            )
            self._known[key] = known
        else:
            known.count += 1
            known.last_ms, known.last_at = wall_ms, now
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        self._waiting.setdefault(known.name, known)
        while len(self._waiting) > WAITING:
            self._waiting.popitem(last=False)
            self.dropped += 1
        self.flush()

    def _link_changed(self, connected: bool) -> None:
        if connected:
            self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the link takes it. Called now and then for what an overloaded link refused."""
        while self._waiting and self._cloud.connected:
            name, known = next(iter(self._waiting.items()))
            if not self._cloud.send(self._message(known)):
                return
            known.sent = known.count
            del self._waiting[name]

    def _admit(self, regarding: Regarding, now: float) -> bool:
        tokens, counted = self._buckets.pop(regarding, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - counted) / REFILL)
        admitted = tokens >= 1.0
        self._buckets[regarding] = (tokens - 1.0 if admitted else tokens, now)
        while len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return admitted

    def _name(self, regarding: Regarding, wall_ms: int) -> str:
        """`<object>.<hexadecimal nanoseconds>`, unique on this node."""
        self._last_ns = max(self._last_ns + 1, wall_ms * 1_000_000)
        return f"{regarding.name[:230]}.{self._last_ns:x}"

    def _message(self, known: _Known) -> Message:
        resource = ResourceName(known.regarding.namespace or "default", ResourceType.EVENT, known.name)
        event = self._object(known, resource)
        operation, content = Operation.INSERT, event
        if known.sent:
            patch = {"count": known.count, "lastTimestamp": event["lastTimestamp"], "message": known.message}
            operation = Operation.PATCH
            content = {"event": event, "patchData": msgspec.json.encode(patch).decode()}
        return Message.new(
            source=Source.EDGED, group=Group.META, operation=operation, resource=str(resource), content=content
        )

    def _object(self, known: _Known, resource: ResourceName) -> dict[str, Any]:
        regarding = known.regarding
        involved = {
            "kind": regarding.kind,
            "namespace": regarding.namespace,
            "name": regarding.name,
            "uid": regarding.uid,
            "apiVersion": "v1",
            "fieldPath": regarding.field_path,
        }
        return {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {"name": known.name, "namespace": resource.namespace},
            "involvedObject": {key: value for key, value in involved.items() if value},
            "reason": known.reason,
            "message": known.message,
            "source": {"component": COMPONENT, "host": self._node},
            "firstTimestamp": rfc3339(known.first_ms),
            "lastTimestamp": rfc3339(known.last_ms),
            "count": known.count,
            "type": str(known.type),
            "reportingComponent": COMPONENT,
            "reportingInstance": self._node,
        }
