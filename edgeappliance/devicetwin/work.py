"""Work on one device's twin: what a request does to it and what is answered, before anything is made durable."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeappliance.devicetwin import bodies, rules
from edgeappliance.devicetwin.device import Device, TwinSet
from edgeappliance.devicetwin.values import DELETED
from edgeappliance.wire.twin import MsgTwin, TwinValue, TypeMeta


@dataclass(frozen=True, slots=True)
class Update:
    """`twin/update`."""

    event_id: str
    twin: Mapping[str, MsgTwin | None]


@dataclass(frozen=True, slots=True)
class Sync:
    """`twin/cloud_updated`: an update with versions."""

    twin: Mapping[str, MsgTwin | None]


@dataclass(frozen=True, slots=True)
class Get:
    """`twin/get`."""

    event_id: str


@dataclass(frozen=True, slots=True)
class Desire:
    """What a Device object says: new desired values by property, after the types of its model are taken over.

    withdrawn: properties whose desired value was taken away; expected stays, and the same value is new next time.
    """

    values: Mapping[str, str]
    withdrawn: frozenset[str] = frozenset()


Work = Update | Sync | Get | Desire


@dataclass(slots=True)
class Done:
    """What a piece of work came to; `entries` are to be installed, the rest is sent once they are safe.

    applied: desired values of the Device object that are taken over with it, None for a withdrawn one.
    """

    entries: dict[str, MsgTwin] = field(default_factory=dict)
    answers: list[bodies.Publication] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)
    rejected: dict[str, MsgTwin] = field(default_factory=dict)
    applied: dict[str, str | None] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def needs_disk(item: Work) -> bool:
    """Whether the work may change an expected value, so that its answer has to wait for the disk."""
    if isinstance(item, Update | Sync):
        return any(
            entry is None
            or entry.expected is not None
            or (entry.metadata is not None and entry.metadata.type == DELETED)
            for entry in item.twin.values()
        )
    return isinstance(item, Desire)


def perform(device: Device, twin: TwinSet, item: Work, *, now_ms: int) -> Done:
    """Do the work on `twin`, which holds the new entries afterwards."""
    if isinstance(item, Get):
        return Done(answers=[bodies.get_answer(device, twin, request_id=item.event_id, now_ms=now_ms)])
    if isinstance(item, Desire):
        return _desire(device, twin, item, now_ms)
    if isinstance(item, Sync):
        outcome = rules.apply_sync(twin.entries, item.twin, now_ms=now_ms)
        request_id = None
    else:
        outcome = rules.apply_local(twin.entries, item.twin, now_ms=now_ms, types=device.types)
        request_id = item.event_id
    if isinstance(outcome, rules.Refusal):
        return Done(answers=[refusal(device, request_id or "", outcome, now_ms=now_ms)])
    return _done(device, twin, outcome, request_id, now_ms)


def refusal(device: Device, event_id: str, why: rules.Refusal, *, now_ms: int) -> bodies.Publication:
    """The error answer on the device's own topic."""
    return bodies.error(device.topics.result, event_id=event_id, now_ms=now_ms, code=why.code, reason=why.reason)


def _done(device: Device, twin: TwinSet, outcome: rules.Outcome, request_id: str | None, now_ms: int) -> Done:
    twin.install(outcome.state)
    return Done(
        entries=outcome.state,
        answers=bodies.update_answers(device, twin, outcome, request_id=request_id, now_ms=now_ms),
        reported=outcome.reported,
        rejected=outcome.rejected,
    )


def _desire(device: Device, twin: TwinSet, desire: Desire, now_ms: int) -> Done:
    """Each value on its own: one that its type refuses does not hold up the others."""
    merged = rules.Outcome(state=rules.retyped(twin.entries, device.types))
    merged.reported += merged.state
    twin.install(merged.state)
    applied: dict[str, str | None] = dict.fromkeys(desire.withdrawn)
    refused: dict[str, str] = {}
    for key, value in sorted(desire.values.items()):
        update = {key: MsgTwin(expected=TwinValue(value), metadata=TypeMeta(device.types.get(key, "")))}
        outcome = rules.shape_refused(update, strict=False) or rules.apply_local(
            twin.entries, update, now_ms=now_ms, types=device.types
        )
        if isinstance(outcome, rules.Refusal):
            refused[key] = outcome.reason
            continue
        merged.state.update(outcome.state)
        merged.document.update(outcome.document)
        merged.reported += outcome.reported
        applied[key] = value
    done = _done(device, twin, merged, None, now_ms) if merged.state else Done()
    done.applied, done.refused = applied, refused
    return done
