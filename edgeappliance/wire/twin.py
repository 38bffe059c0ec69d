"""Twin, state and membership payloads (reference 4.4, 4.8, F7-F9).

Structs that are read forbid unknown fields: that sends a payload with foreign or oddly-cased keys to gojson's
lenient reading, which is where "unknown" and "other case" are told apart.
"""

import msgspec


class ValueMeta(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Metadata of one value. `timestamp` Unix ms, left out when 0.

    `quality` and `reason` are our additions: present only when the value is not good; peers ignore them.
    """

    timestamp: int = 0
    quality: str = ""
    reason: str = ""


class TwinValue(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One half of a twin. A deleted half is `{}`."""

    value: str | None = None
    metadata: ValueMeta | None = None


class TypeMeta(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Metadata of a twin: its type word, `deleted` for a tombstone."""

    type: str = ""


class TwinVersion(msgspec.Struct, forbid_unknown_fields=True):
    """Version of one half; both numbers are always present."""

    cloud: int = 0
    edge: int = 0


class MsgTwin(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One property. Every member is left out when absent."""

    expected: TwinValue | None = None
    actual: TwinValue | None = None
    optional: bool | None = None
    metadata: TypeMeta | None = None
    expected_version: TwinVersion | None = None
    actual_version: TwinVersion | None = None


class TwinBase(msgspec.Struct, forbid_unknown_fields=True):
    """What every request carries; both are optional on input."""

    event_id: str = ""
    timestamp: int = 0


class TwinUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """D/twin/update, D/twin/cloud_updated, and edge_updated to the cloud. `twin` None means the key was missing."""

    event_id: str = ""
    timestamp: int = 0
    twin: dict[str, MsgTwin | None] | None = None


class TwinResult(msgspec.Struct):
    """D/twin/update/result and D/twin/get/result: no versions, deleted keys null."""

    event_id: str
    timestamp: int
    twin: dict[str, MsgTwin | None]


class TwinChange(msgspec.Struct):
    """One entry of a document; both keys are always present."""

    last: MsgTwin | None
    current: MsgTwin | None


class TwinDocument(msgspec.Struct):
    """D/twin/update/document."""

    event_id: str
    timestamp: int
    twin: dict[str, TwinChange]


class TwinDelta(msgspec.Struct):
    """D/twin/update/delta: everything with an expected value, and the expected values that differ."""

    event_id: str
    timestamp: int
    twin: dict[str, MsgTwin]
    delta: dict[str, str]


class _Base(msgspec.Struct):
    event_id: str
    timestamp: int


class TwinError(_Base, omit_defaults=True):
    """An error on a result topic."""

    code: int = 0
    reason: str = ""


class StateUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """D/state/update from an app."""

    event_id: str = ""
    timestamp: int = 0
    state: str = ""


class DeviceState(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """State of a device; `lastOnlineTime` only while online or ok."""

    name: str = ""
    state: str = ""
    last_online_time: str = msgspec.field(default="", name="lastOnlineTime")


class StateMessage(msgspec.Struct, forbid_unknown_fields=True):
    """D/state/update/result, and (as a JSON string) the state report to the cloud."""

    event_id: str = ""
    timestamp: int = 0
    device: DeviceState = msgspec.field(default_factory=DeviceState)


class DeviceAttribute(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Attribute of a device."""

    value: str = ""
    optional: bool | None = None
    metadata: TypeMeta | None = None


class MemberDevice(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A device in a membership list."""

    id: str = ""
    name: str = ""
    description: str = ""
    state: str = ""
    last_online: str = ""
    attributes: dict[str, DeviceAttribute] | None = None
    twin: dict[str, MsgTwin | None] | None = None


class MembershipUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """Membership change; both list keys are always present, null when empty (F7)."""

    event_id: str = ""
    timestamp: int = 0
    added_devices: list[MemberDevice] | None = None
    removed_devices: list[MemberDevice] | None = None


class MembershipList(msgspec.Struct):
    """N/membership/get/result; an empty list is `[]` (F8)."""

    event_id: str
    timestamp: int
    devices: list[MemberDevice]


class MembershipDetailRequest(msgspec.Struct):
    """Content (as a JSON string) of the edge's question for its devices (reference 1.4 K)."""

    event_id: str
    group_id: str
    timestamp: int
    event_type: str = "group_membership_event"
    operation: str = "detail"
