"""The JSON that apps receive (KubeEdge reference 4.4), written as Go writes it."""

import uuid
from typing import Any

import msgspec

from edgeappliance.devicetwin import rules
from edgeappliance.devicetwin.device import Device, TwinSet
from edgeappliance.wire.gojson import escape
from edgeappliance.wire.twin import (
    DeviceState,
    MemberDevice,
    MembershipList,
    MembershipUpdate,
    StateMessage,
    TwinDelta,
    TwinDocument,
    TwinError,
    TwinResult,
)

Publication = tuple[str, bytes]
"""Topic and payload."""

_encode = msgspec.json.Encoder().encode


def _dump(value: Any) -> bytes:
    return escape(_encode(value))


def event_id() -> str:
    """A fresh event id."""
    return str(uuid.uuid4())


def error(topic: str, *, event_id: str, now_ms: int, code: int, reason: str) -> Publication:
    """An error on a result topic."""
    return topic, _dump(TwinError(event_id, now_ms, code, reason))


def update_answers(
    device: Device, twin: TwinSet, outcome: rules.Outcome, *, request_id: str | None, now_ms: int
) -> list[Publication]:
    """Result, document and delta of one update, in this order; `twin` already holds it.

    `request_id` None: nobody asked (a sync, or a desired value of the Device object), so there is no result.
    """
    answers: list[Publication] = []
    if request_id is not None:
        answers.append((device.topics.result, _dump(TwinResult(request_id, now_ms, outcome.result))))
    if outcome.document:
        body = TwinDocument(request_id or event_id(), now_ms, outcome.document)
        answers.append((device.topics.document, _dump(body)))
    difference = rules.delta(twin.entries, twin.expecting) if twin.expecting else None
    if difference is not None:
        answers.append((device.topics.delta, _dump(TwinDelta(event_id(), now_ms, *difference))))
    return answers


def get_answer(device: Device, twin: TwinSet, *, request_id: str, now_ms: int) -> Publication:
    """Everything that the twin holds, without versions and tombstones."""
    shown = {key: rules.public(entry) for key, entry in sorted(twin.entries.items()) if not rules.is_tombstone(entry)}
    return device.topics.get_result, _dump(TwinResult(request_id, now_ms, dict(shown)))


def state_body(device: Device, *, now_ms: int) -> bytes:
    """State of the device, as apps get it and (as text) the cloud."""
    return _dump(StateMessage(event_id(), now_ms, DeviceState(device.name, device.state, device.last_online)))


def member(device: Device) -> MemberDevice:
    """The device in a membership list (no twin)."""
    return MemberDevice(
        id=device.id,
        name=device.name,
        description=device.description,
        state=device.state,
        last_online=device.last_online,
    )


def membership_list(devices: list[Device], *, request_id: str, now_ms: int) -> bytes:
    """Answer to `membership/get`."""
    return _dump(MembershipList(request_id, now_ms, [member(device) for device in devices]))


def membership_changed(
    *, added: list[MemberDevice] | None = None, removed: list[MemberDevice] | None = None, now_ms: int
) -> bytes:
    """The `membership/updated` notice; an empty side is null."""
    return _dump(MembershipUpdate(event_id(), now_ms, added, removed))
