"""Field values as MQTT messages of the twin interface (KubeEdge reference 4.3, 4.4), and set-points out of them.

Keeps the last value of every property, so that all can be said again when the broker was away. No I/O but the
bus it is given.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

import msgspec

from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.log import get_logger
from edgeappliance.mappers.points import Point, PointKey, Quality, Reachable, Sample, Written
from edgeappliance.mappers.setpoint_book import SetPointBook
from edgeappliance.wire.twin import MsgTwin, StateUpdate, TwinBase, TwinUpdate, TwinValue, TypeMeta, ValueMeta

_PREFIX = "$hw/events/device/"
_DELTA = "/twin/update/delta"
_RESULT = "/twin/get/result"
_MEMBERSHIP = "$hw/events/node/+/membership/updated"

_log = get_logger("mappers.twin")


class Bus(Protocol):
    """The MQTT side, given by eventbus."""

    @property
    def connected(self) -> bool: ...

    def publish(self, topic: str, payload: bytes) -> bool: ...

    def subscribe(self, topic_filter: str, callback: Callable[[str, bytes], None]) -> None: ...

    def on_connection(self, callback: Callable[[bool], None]) -> None: ...


class _Delta(msgspec.Struct):
    delta: dict[str, str] = msgspec.field(default_factory=dict)


class _Meta(msgspec.Struct):
    timestamp: int = 0
    type: str = ""


class _Value(msgspec.Struct):
    value: str | None = None
    metadata: _Meta | None = None


class _Halves(msgspec.Struct):
    expected: _Value | None = None
    actual: _Value | None = None
    metadata: _Meta | None = None


class _GetResult(msgspec.Struct):
    twin: dict[str, _Halves | None] | None = None


class _Member(msgspec.Struct):
    id: str = ""


class _Membership(msgspec.Struct):
    added_devices: list[_Member] | None = None


class TwinRoad:
    """All calls on the event loop. `write` is called with each set-point that must reach the field now."""

    def __init__(self, bus: Bus, *, clock: Clock, write: Callable[[PointKey, str], None]) -> None:
        self._bus = bus
        self._clock = clock
        self._write = write
        self._book = SetPointBook()
        self._points: dict[str, dict[str, Point]] = {}
        self._samples: dict[PointKey, Sample] = {}
        self._remembered: dict[PointKey, tuple[str, int]] = {}
        self._states: dict[str, Reachable] = {}
        self._pending: dict[str, set[str]] = {}
        self._pending_states: set[str] = set()
        self._state_cycles: dict[str, float] = {}
        self._state_said: dict[str, float] = {}
        self.published = 0
        self.refused = 0

    def attach(self) -> None:
        """Subscribe; once in the life of the bus."""
        self._bus.subscribe(f"{_PREFIX}+/+{_DELTA}", self._on_delta)
        self._bus.subscribe(f"{_PREFIX}+/+{_RESULT}", self._on_get_result)
        self._bus.subscribe(_MEMBERSHIP, self._on_membership)
        self._bus.on_connection(self._on_connection)

    def set_device(self, device: str, points: Iterable[Point], *, state_cycle: float) -> None:
        """Know a device; `state_cycle` in seconds, 0 when its state goes out on change only."""
        new = {point.name: point for point in points}
        known = self._points.get(device)
        self._points[device] = new
        self._state_cycles[device] = state_cycle
        for name in (known or {}).keys() - new.keys():
            self._samples.pop((device, name), None)
            self._remembered.pop((device, name), None)
        self.lost(device)

    def lost(self, device: str) -> None:
        """What is on its way to the device may not arrive."""
        self._book.lost(device)

    def ask(self, device: str) -> None:
        """Ask the twin for everything; its answer says which set-points differ."""
        if self._bus.connected:
            base = TwinBase(event_id=str(uuid.uuid4()), timestamp=self._clock.wall_ms())
            self._publish(f"{_PREFIX}{device}/twin/get", base)

    def remove_device(self, device: str) -> None:
        """Forget a device."""
        for name in self._points.pop(device, {}):
            self._samples.pop((device, name), None)
            self._remembered.pop((device, name), None)
        for table in (self._states, self._pending, self._state_cycles, self._state_said):
            table.pop(device, None)
        self._pending_states.discard(device)
        self._book.forget(device)

    def take(self, events: Iterable[Sample | Written | Reachable]) -> None:
        """What lines report; one message per device goes out for all of it."""
        for event in events:
            if isinstance(event, Sample):
                if event.key[0] in self._points:
                    if event.value is None and event.key in self._remembered:
                        value, time_ms = self._remembered[event.key]
                        event = replace(event, value=value, time_ms=time_ms)
                    self._samples[event.key] = event
                    self._pending.setdefault(event.key[0], set()).add(event.key[1])
            elif isinstance(event, Written):
                self._take_written(event)
            elif event.device in self._points:
                self._take_reachable(event)
        self._flush()

    def state(self, device: str) -> dict[str, str]:
        """``state`` online, offline or unknown, and ``reason`` when it is not online."""
        known = self._states.get(device)
        if known is None:
            return {"state": "unknown", "reason": "not asked yet"}
        return {"state": "online" if known.reachable else "offline", "reason": known.reason}

    def tick(self, now: float) -> None:
        """Once a second or so: repeat states, and ask whether failed set-points are still wanted."""
        for device, cycle in self._state_cycles.items():
            if cycle and device in self._states and now - self._state_said.get(device, now - cycle) >= cycle:
                self._pending_states.add(device)
        for device in self._book.due(now):
            self.ask(device)
        self._flush()

    def _take_reachable(self, event: Reachable) -> None:
        known = self._states.get(event.device)
        self._states[event.device] = event
        if event.reachable:
            self._book.hurry(event.device)
        if known == event:
            return
        if known is None or known.reachable is not event.reachable:
            self._pending_states.add(event.device)
        if event.reachable:
            _log.info("device answers", device=event.device)
        else:
            _log.warning("device does not answer", device=event.device, reason=event.reason)

    def _take_written(self, event: Written) -> None:
        device, name = event.key
        if event.reason:
            _log.warning("set-point not reached", device=device, property=name, value=event.text, reason=event.reason)
        else:
            _log.info("set-point written", device=device, property=name, value=event.text)
        if self._book.written(event.key, event.text, event.reason, self._clock.monotonic()):
            self._pending.setdefault(device, set()).add(name)

    def _flush(self) -> None:
        if not self._bus.connected:
            return  # everything is said again at the next connection
        pending, self._pending = self._pending, {}
        for device, names in pending.items():
            self._publish_twin(device, names)
        states, self._pending_states = self._pending_states, set()
        for device in states:
            self._publish_state(device)

    def _publish_twin(self, device: str, names: Iterable[str]) -> None:
        now_ms = self._clock.wall_ms()
        twin: dict[str, MsgTwin | None] = {}
        for name in names:
            sample = self._samples.get((device, name))
            point = self._points.get(device, {}).get(name)
            # A value that was never read cannot be said: an actual without value is an error of the interface.
            if sample is not None and sample.value is not None and point is not None:
                twin[name] = self._twin_of(sample, point)
        if twin:
            update = TwinUpdate(event_id=str(uuid.uuid4()), timestamp=now_ms, twin=twin)
            if not self._publish(f"{_PREFIX}{device}/twin/update", update):
                self._pending.setdefault(device, set()).update(twin)

    def _twin_of(self, sample: Sample, point: Point) -> MsgTwin:
        quality, reason = sample.quality, sample.reason
        failure = self._book.failure(sample.key)
        if quality is Quality.GOOD and failure:
            quality, reason = Quality.WRITE_FAILED, failure
        meta = ValueMeta(timestamp=sample.time_ms)
        if quality is not Quality.GOOD:
            meta = ValueMeta(timestamp=sample.time_ms, quality=quality, reason=reason)
        return MsgTwin(
            actual=TwinValue(value=sample.value, metadata=meta), metadata=TypeMeta(type=str(point.codec.shown))
        )

    def _publish_state(self, device: str) -> None:
        state = self._states.get(device)
        if state is None:
            return
        word = "online" if state.reachable else "offline"
        update = StateUpdate(event_id=str(uuid.uuid4()), timestamp=self._clock.wall_ms(), state=word)
        if self._publish(f"{_PREFIX}{device}/state/update", update):
            self._state_said[device] = self._clock.monotonic()
        else:
            self._pending_states.add(device)

    def _publish(self, topic: str, payload: msgspec.Struct) -> bool:
        """False when the bus has no room: the next tick tries again with what is newest then."""
        sent = self._bus.publish(topic, msgspec.json.encode(payload))
        if sent:
            self.published += 1
        else:
            self.refused += 1
        return sent

    def _say_all(self, device: str) -> None:
        self._pending[device] = set(self._points[device])
        self._pending_states.add(device)
        self.ask(device)

    def _on_connection(self, connected: bool) -> None:
        if not connected:
            return
        for device in self._points:
            self._say_all(device)
        self._flush()

    def _on_membership(self, _topic: str, payload: bytes) -> None:
        """The twin side did not know these devices until now: what was said of them before is lost."""
        try:
            added = msgspec.json.decode(payload, type=_Membership).added_devices or []
        except msgspec.MsgspecError:
            return
        for member in added:
            if member.id in self._points:
                self._say_all(member.id)
        self._flush()

    def _on_delta(self, topic: str, payload: bytes) -> None:
        device = topic[len(_PREFIX) : -len(_DELTA)]
        try:
            delta = msgspec.json.decode(payload, type=_Delta).delta
        except msgspec.MsgspecError as error:
            _log.warning("delta is not understood", topic=topic, error=error)
            return
        self._differs(device, delta)

    def _on_get_result(self, topic: str, payload: bytes) -> None:
        device = topic[len(_PREFIX) : -len(_RESULT)]
        try:
            twin = msgspec.json.decode(payload, type=_GetResult).twin
        except msgspec.MsgspecError as error:
            _log.warning("twin is not understood", topic=topic, error=error)
            return
        if twin is None:
            return  # an error: the device is not known yet, or no longer
        self._remember(device, twin)
        expected = {name: _different(halves) for name, halves in twin.items() if halves is not None}
        self._differs(device, {name: text for name, text in expected.items() if text})

    def _remember(self, device: str, twin: Mapping[str, _Halves | None]) -> None:
        """What was read before this process began: the value that is not good when none can be read now."""
        points = self._points.get(device, {})
        for name, halves in twin.items():
            point, sample = points.get(name), self._samples.get((device, name))
            if halves is None or halves.actual is None or halves.actual.value is None or point is None:
                continue
            if halves.metadata is None or halves.metadata.type != point.codec.shown:
                continue
            time_ms = halves.actual.metadata.timestamp if halves.actual.metadata is not None else 0
            self._remembered[(device, name)] = (halves.actual.value, time_ms)
            if sample is not None and sample.value is None:
                self.take([sample])

    def _differs(self, device: str, expected: Mapping[str, str]) -> None:
        points = self._points.get(device)
        if points is None:
            return
        failed_before = {name for name in points if self._book.failure((device, name))}
        ours = {name: text for name, text in expected.items() if name in points}
        for key, text in self._book.differs(device, ours, self._clock.monotonic()):
            self._write(key, text)
        settled = {name for name in failed_before if not self._book.failure((device, name))}
        if settled:
            self._pending.setdefault(device, set()).update(settled)
            self._flush()


def _different(halves: _Halves) -> str:
    """The expected value when it differs from the actual one, else nothing."""
    wanted = halves.expected.value if halves.expected is not None else None
    actual = halves.actual.value if halves.actual is not None else None
    return wanted if wanted and wanted != (actual or "") else ""
