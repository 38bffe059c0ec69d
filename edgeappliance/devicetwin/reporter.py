"""Reports to the cloud: what is newer than the last confirmed version, newest only (KubeEdge reference 1.4 I-K).

Nothing is queued. A device is dirty while it has keys (or a state) that the cloud has not confirmed; per device one
`edge_updated` and one state message are under way at most, matched with the reply by message id.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from edgeappliance.devicetwin import bodies, rules
from edgeappliance.devicetwin.device import Device
from edgeappliance.kernel.clock import Clock
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import Group, Operation, Source
from edgeappliance.wire.twin import MembershipDetailRequest, MsgTwin, TwinUpdate

MAX_KEYS = 512
"""Keys in one report, those that changed first before the others. The next goes when it is acknowledged: a twin with
all keys at their longest would be more than the link takes at once, and would never be reported."""

RESEND_AFTER = 60.0
"""Seconds without a reply after which the newest state is sent again."""


class Cloud(Protocol):
    """What the twin needs of the link."""

    @property
    def connected(self) -> bool:
        """Whether the link is up."""
        ...

    def send(self, message: Message) -> bool:
        """Hand a message to the link; False when there is none."""
        ...


@dataclass(slots=True)
class _Flight:
    """A report under way. keys: the dirty keys it carries with their change numbers; versions: what it tells."""

    message_id: str
    device: Device
    sent_at: float
    keys: dict[str, int]
    versions: dict[str, tuple[int, int]]
    state_version: int = 0


class Reporter:
    """Sends twins and states upward.

    `confirmed` is called when acknowledged versions moved, so that they can be saved.
    """

    def __init__(self, *, cloud: Cloud, clock: Clock, node: str, confirmed: Callable[[], object]) -> None:
        self._cloud = cloud
        self._clock = clock
        self._node = node
        self._confirmed = confirmed
        self._twins: dict[str, _Flight] = {}
        self._states: dict[str, _Flight] = {}
        self._by_message: dict[str, _Flight] = {}
        self.superseded = 0
        """Values that were overtaken by a newer one before they were sent."""
        self.sent = 0

    @property
    def in_flight(self) -> int:
        """Reports without a reply."""
        return len(self._by_message)

    def touch(self, device: Device, keys: list[str]) -> None:
        """These keys changed: the cloud must hear of them."""
        if not keys or device.local:
            return
        if device.dirty:
            flight = self._twins.get(device.id)
            carried = flight.keys if flight is not None else {}
            self.superseded += sum(1 for key in keys if key in device.dirty and carried.get(key) != device.dirty[key])
        device.touch(keys)

    def report(self, device: Device) -> None:
        """Send what the cloud has not confirmed, unless a report of this device is under way."""
        if device.local or not self._cloud.connected:
            return
        if device.dirty and device.id not in self._twins:
            self._send_twin(device)
        if device.state_version > device.state_acked and device.id not in self._states:
            self._send_state(device)

    def _send_twin(self, device: Device) -> None:
        keys = dict(itertools.islice(device.dirty.items(), MAX_KEYS))
        entries = device.twin.entries
        body = rules.report(entries, keys, device.acknowledged)
        versions = {key: (_edge(entries[key], expected=True), _edge(entries[key], expected=False)) for key in keys}
        message = Message.new(
            source=Source.TWIN,
            group=Group.RESOURCE,
            operation=Operation.UPDATE,
            resource=f"device/{device.id}/twin/edge_updated",
            content=TwinUpdate(bodies.event_id(), self._clock.wall_ms(), body),
        )
        if self._cloud.send(message):
            flight = _Flight(message.id, device, self._clock.monotonic(), keys, versions)
            self._twins[device.id] = flight
            self._by_message[message.id] = flight
            self.sent += 1

    def reject(self, device: Device, halves: dict[str, MsgTwin]) -> None:
        """Send stored halves back that a sync wanted to overwrite (KubeEdge reference 4.7)."""
        self._cloud.send(
            Message.new(
                source=Source.TWIN,
                group=Group.RESOURCE,
                operation=Operation.UPDATE,
                resource=f"device/{device.id}/twin/edge_updated",
                content=TwinUpdate(bodies.event_id(), self._clock.wall_ms(), dict(halves)),
            )
        )

    def _send_state(self, device: Device) -> None:
        message = Message.new(
            source=Source.TWIN,
            group=Group.RESOURCE,
            operation=Operation.UPDATE,
            resource=f"device/{device.id}/state/update",
            content=bodies.state_body(device, now_ms=self._clock.wall_ms()).decode(),
        )
        if self._cloud.send(message):
            flight = _Flight(message.id, device, self._clock.monotonic(), {}, {}, device.state_version)
            self._states[device.id] = flight
            self._by_message[message.id] = flight
            self.sent += 1

    def acknowledge(self, message_id: str) -> bool:
        """The cloud confirmed a report; whatever changed meanwhile is sent now. False: no such report."""
        flight = self._by_message.pop(message_id, None)
        if flight is None:
            return False
        device = flight.device
        if flight.state_version:
            del self._states[device.id]
            device.state_acked = max(device.state_acked, flight.state_version)
            device.row_unsaved = True
        else:
            del self._twins[device.id]
            for key, change in flight.keys.items():
                if device.dirty.get(key) == change:
                    del device.dirty[key]
            for key, (expected, actual) in flight.versions.items():
                seen = device.acknowledged.get(key, (0, 0))
                device.acknowledged[key] = (max(seen[0], expected), max(seen[1], actual))
            device.unsaved.update(flight.versions)
        self._confirmed()
        self.report(device)
        return True

    def forget(self, device: Device) -> None:
        """The device is gone: its reports matter no more."""
        for flights in (self._twins, self._states):
            flight = flights.pop(device.id, None)
            if flight is not None:
                del self._by_message[flight.message_id]

    def connected(self, devices: list[Device]) -> None:
        """A link is up: everything not confirmed is sent, and the membership list is asked for."""
        self._forget_all()
        detail = MembershipDetailRequest(bodies.event_id(), self._node, self._clock.wall_ms())
        self._cloud.send(
            Message.new(
                source=Source.TWIN,
                group=Group.RESOURCE,
                operation=Operation.GET,
                resource="membership/detail",
                content=msgspec.json.encode(detail).decode(),
            )
        )
        for device in devices:
            self.report(device)

    def disconnected(self) -> None:
        """The link is gone, and with it the replies."""
        self._forget_all()

    def tick(self, devices: list[Device]) -> None:
        """Send again what got no reply for a minute, and what the link did not take."""
        now = self._clock.monotonic()
        for flight in [item for item in self._by_message.values() if now - item.sent_at >= RESEND_AFTER]:
            del self._by_message[flight.message_id]
            del (self._states if flight.state_version else self._twins)[flight.device.id]
        for device in devices:
            self.report(device)

    def _forget_all(self) -> None:
        self._twins.clear()
        self._states.clear()
        self._by_message.clear()


def _edge(entry: MsgTwin, *, expected: bool) -> int:
    version = entry.expected_version if expected else entry.actual_version
    return version.edge if version is not None else 0
