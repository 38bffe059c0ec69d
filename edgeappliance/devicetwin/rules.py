"""The merge rules of a twin (KubeEdge reference 4.4-4.7): values in, values out.

A device's twin is a mapping from key to `MsgTwin` with versions. Stored values are never changed in place: a rule
returns new ones, and whoever owns the mapping puts them in when they are as safe as they must be.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgeappliance.devicetwin.values import (
    BAD_KEY,
    DEFAULT_TYPE,
    DELETED,
    NOT_A_TYPE,
    TYPES,
    key_allowed,
    type_refused,
    value_refused,
)
from edgeappliance.wire.limits import MAX_TWIN_KEYS
from edgeappliance.wire.twin import MsgTwin, TwinChange, TwinValue, TwinVersion, TypeMeta, ValueMeta

BAD_REQUEST = 400
NOT_FOUND = 404
INTERNAL_ERROR = 500
UNAVAILABLE = 503

PARSE_FAILED = "Unmarshal update request body failed, please check the request"
SYNC_PARSE_FAILED = "unmarshal update request body failed, Please check the request"
NO_TWIN = "Update twin error, key:twin does not exist"
NO_DEVICE = "update rejected due to the device is not existed"
NO_VALUE = "Update twin error, expected or actual of key {key} has no value"
NO_SUCH_KEY = "Update twin error, key {key} does not exist"
TOO_MANY_KEYS = f"Update twin error, a device has at most {MAX_TWIN_KEYS} keys"

EARLIEST_SOURCE_TIME_MS = 1_577_836_800_000
"""2020-01-01: a source time before it comes from a clock that was never set."""

SOURCE_TIME_AHEAD_MS = 60_000
"""How far the clock of a source may be ahead of ours."""

MAX_QUALITY = 64
MAX_REASON = 256
"""Characters that are kept of what is said about a value."""

_MAX_VERSION = 2**62
"""No version of a peer comes near what 64 bits hold, so that counting on never leaves them."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was refused as a whole."""

    code: int
    reason: str


@dataclass(slots=True)
class Outcome:
    """What one request does.

    state: the new entries of the twin. result, document: bodies for the app, in key order.
    reported: keys that the cloud must hear about. rejected: for a sync, the stored halves to send back.
    """

    state: dict[str, MsgTwin] = field(default_factory=dict)
    result: dict[str, MsgTwin | None] = field(default_factory=dict)
    document: dict[str, TwinChange] = field(default_factory=dict)
    reported: list[str] = field(default_factory=list)
    rejected: dict[str, MsgTwin] = field(default_factory=dict)


def shape_refused(update: Mapping[str, MsgTwin | None] | None, *, strict: bool) -> Refusal | None:
    """Check a request before its device is looked up; what fails here is answered on the topic without an id."""
    if update is None:
        return Refusal(BAD_REQUEST, NO_TWIN)
    if len(update) > MAX_TWIN_KEYS:
        return Refusal(BAD_REQUEST, TOO_MANY_KEYS)
    for key, item in update.items():
        if not key_allowed(key):
            return Refusal(BAD_REQUEST, BAD_KEY)
        if item is None:
            continue
        for half in (item.expected, item.actual):
            if half is not None and half.value:
                reason = value_refused(half.value, strict=strict)
                if reason:
                    return Refusal(BAD_REQUEST, reason)
    return None


def public(twin: MsgTwin) -> MsgTwin:
    """The entry as apps see it: without versions."""
    return MsgTwin(twin.expected, twin.actual, twin.optional, twin.metadata)


def is_tombstone(twin: MsgTwin) -> bool:
    """Whether the key was deleted."""
    return twin.metadata is not None and twin.metadata.type == DELETED


def apply_local(
    twins: Mapping[str, MsgTwin],
    update: Mapping[str, MsgTwin | None],
    *,
    now_ms: int,
    types: Mapping[str, str] | None = None,
) -> Outcome | Refusal:
    """A request of an app or a mapper (KubeEdge reference 4.6). The first error refuses the whole request.

    `types` gives the type of new keys that come without one (from the device model).
    """
    outcome = Outcome()
    added = 0
    for key in sorted(update):
        item, stored = update[key], twins.get(key)
        if item is None:
            if stored is None:
                return Refusal(BAD_REQUEST, NO_SUCH_KEY.format(key=key))
            _delete(outcome, key, stored)
            continue
        if stored is None:
            added += 1
        reason = _write(outcome, key, stored, item, now_ms, (types or {}).get(key, DEFAULT_TYPE))
        if reason:
            return Refusal(BAD_REQUEST, reason)
    if added and len(twins) + added > MAX_TWIN_KEYS:
        return Refusal(BAD_REQUEST, TOO_MANY_KEYS)
    return outcome


def _delete(outcome: Outcome, key: str, stored: MsgTwin) -> None:
    if is_tombstone(stored):
        # Upstream shows the deletion of a tombstone in the document and tells the cloud, but not in the result.
        outcome.document[key] = TwinChange(public(stored), None)
        outcome.reported.append(key)
        return
    if stored.optional is False:
        return
    outcome.state[key] = MsgTwin(
        _emptied(stored.expected),
        _emptied(stored.actual),
        stored.optional,
        TypeMeta(DELETED),
        _next(stored.expected_version) if stored.expected_version else None,
        _next(stored.actual_version) if stored.actual_version else None,
    )
    outcome.result[key] = None
    outcome.document[key] = TwinChange(public(stored), None)
    outcome.reported.append(key)


def _write(outcome: Outcome, key: str, stored: MsgTwin | None, item: MsgTwin, now_ms: int, default_type: str) -> str:
    fresh = stored is None or is_tombstone(stored)
    wanted = item.metadata.type if item.metadata is not None and item.metadata.type else ""
    if stored is None or fresh:
        type_name = wanted or default_type
        if type_name not in TYPES:
            return NOT_A_TYPE
    else:
        type_name = stored.metadata.type if stored.metadata is not None else DEFAULT_TYPE
    before = stored or MsgTwin()
    optional = item.optional is not False and before.optional is not False
    expected, expected_version = before.expected, before.expected_version
    actual, actual_version = before.actual, before.actual_version
    if item.expected is not None:
        if item.expected.value is None:
            return NO_VALUE.format(key=key)
        reason = type_refused(item.expected.value, type_name)
        if reason:
            return reason
        expected = TwinValue(item.expected.value, _value_meta(item.expected.metadata, now_ms, reported=False))
        expected_version = _next(expected_version)
    if item.actual is not None:
        if item.actual.value is None:
            return NO_VALUE.format(key=key)
        reason = type_refused(item.actual.value, type_name)
        if reason:
            return reason
        actual = TwinValue(item.actual.value, _value_meta(item.actual.metadata, now_ms, reported=True))
        actual_version = _next(actual_version)
    type_meta = TypeMeta(type_name)
    current = MsgTwin(expected, actual, optional, type_meta, expected_version, actual_version)
    outcome.result[key] = MsgTwin(
        expected if item.expected is not None else None,
        actual if item.actual is not None else None,
        optional,
        type_meta,
    )
    if fresh or item.expected is not None or item.actual is not None or optional is not before.optional:
        outcome.state[key] = current
        outcome.document[key] = TwinChange(None if fresh else public(before), public(current))
        outcome.reported.append(key)
    return ""


def _value_meta(given: ValueMeta | None, now_ms: int, *, reported: bool) -> ValueMeta:
    if given is None:
        return ValueMeta(now_ms)
    time_ms = now_ms
    if reported and EARLIEST_SOURCE_TIME_MS <= given.timestamp <= now_ms + SOURCE_TIME_AHEAD_MS:
        time_ms = given.timestamp
    return ValueMeta(time_ms, given.quality[:MAX_QUALITY], given.reason[:MAX_REASON])


def _emptied(half: TwinValue | None) -> TwinValue | None:
    return None if half is None else TwinValue()


def _next(version: TwinVersion | None) -> TwinVersion:
    return TwinVersion(0, 1) if version is None else TwinVersion(version.cloud, version.edge + 1)


def retyped(twins: Mapping[str, MsgTwin], types: Mapping[str, str]) -> dict[str, MsgTwin]:
    """The live entries whose type is not the one of the device model, with the model's type.

    Values stay, fit or not, until they are written again: a type that an app or an earlier model chose must not
    refuse every value of the present one. (Upstream knows no model here; there the first type stays for ever.)
    """
    changed: dict[str, MsgTwin] = {}
    for key, type_name in types.items():
        entry = twins.get(key)
        if entry is None or is_tombstone(entry) or (entry.metadata and entry.metadata.type == type_name):
            continue
        changed[key] = MsgTwin(
            entry.expected,
            entry.actual,
            entry.optional,
            TypeMeta(type_name),
            entry.expected_version,
            entry.actual_version,
        )
    return changed


def apply_sync(twins: Mapping[str, MsgTwin], update: Mapping[str, MsgTwin | None], *, now_ms: int) -> Outcome | Refusal:
    """A request with versions, `cloud_updated` (KubeEdge reference 4.7).

    A half whose version is missing or older than the stored one is not written; the stored half with its version
    comes back in `rejected`. A key without `metadata` keeps its type (upstream crashes on it).
    """
    outcome = Outcome()
    added = 0
    for key in sorted(update):
        item, stored = update[key], twins.get(key)
        if item is None:
            continue
        if not (_in_range(item.expected_version) and _in_range(item.actual_version)):
            return Refusal(BAD_REQUEST, SYNC_PARSE_FAILED)
        if item.metadata is not None and item.metadata.type == DELETED:
            if stored is not None and not is_tombstone(stored):
                _sync_delete(outcome, key, stored, item)
            continue
        if stored is None:
            added += 1
        reason = _sync_write(outcome, key, stored, item, now_ms)
        if reason:
            return Refusal(BAD_REQUEST, reason)
    if added and len(twins) + added > MAX_TWIN_KEYS:
        return Refusal(BAD_REQUEST, TOO_MANY_KEYS)
    return outcome


def _in_range(version: TwinVersion | None) -> bool:
    return version is None or (0 <= version.cloud < _MAX_VERSION and 0 <= version.edge < _MAX_VERSION)


def _sync_delete(outcome: Outcome, key: str, stored: MsgTwin, item: MsgTwin) -> None:
    halves = (
        (stored.expected_version, item.expected_version),
        (stored.actual_version, item.actual_version),
    )
    if any(mine and theirs and _older(theirs, mine) for mine, theirs in halves):
        outcome.rejected[key] = stored
        return
    outcome.state[key] = MsgTwin(
        _emptied(stored.expected),
        _emptied(stored.actual),
        stored.optional,
        TypeMeta(DELETED),
        _adopt(stored.expected_version, item.expected_version),
        _adopt(stored.actual_version, item.actual_version),
    )
    outcome.document[key] = TwinChange(public(stored), None)


def _adopt(mine: TwinVersion | None, theirs: TwinVersion | None) -> TwinVersion | None:
    return theirs if mine is not None and theirs is not None else mine


def _older(theirs: TwinVersion, mine: TwinVersion) -> bool:
    return mine.cloud > theirs.cloud or mine.edge > theirs.edge


def _sync_write(outcome: Outcome, key: str, stored: MsgTwin | None, item: MsgTwin, now_ms: int) -> str:
    fresh = stored is None or is_tombstone(stored)
    before = stored or MsgTwin()
    wanted = item.metadata.type if item.metadata is not None and item.metadata.type else DEFAULT_TYPE
    type_name = wanted if fresh or before.metadata is None else before.metadata.type
    written = MsgTwin(
        before.expected,
        before.actual,
        item.optional is not False and before.optional is not False,
        TypeMeta(type_name),
        before.expected_version,
        before.actual_version,
    )
    rejected = MsgTwin(None, None, before.optional, before.metadata)
    changed = False
    for half, theirs, mine in (
        (item.expected, item.expected_version, before.expected_version),
        (item.actual, item.actual_version, before.actual_version),
    ):
        if half is None:
            continue
        is_expected = half is item.expected
        if theirs is None or (mine is not None and _older(theirs, mine)):
            if stored is not None and is_expected:
                rejected.expected, rejected.expected_version = before.expected, mine
            elif stored is not None:
                rejected.actual, rejected.actual_version = before.actual, mine
            continue
        if half.value is None:
            return NO_VALUE.format(key=key)
        reason = type_refused(half.value, type_name)
        if reason:
            return reason
        value = TwinValue(half.value, _value_meta(half.metadata, now_ms, reported=not is_expected))
        changed = True
        if is_expected:
            written.expected, written.expected_version = value, theirs
        else:
            written.actual, written.actual_version = value, theirs
    if rejected.expected_version is not None or rejected.actual_version is not None:
        outcome.rejected[key] = rejected
    if changed:
        outcome.state[key] = written
        outcome.document[key] = TwinChange(None if fresh else public(before), public(written))
    return ""


def delta(twins: Mapping[str, MsgTwin], expecting: Iterable[str]) -> tuple[dict[str, MsgTwin], dict[str, str]] | None:
    """`twin` and `delta` of a delta body; None when nothing differs.

    `expecting` names the keys with an expected value that is not empty; all of them are shown, and those whose
    actual value differs (a missing one counts as empty) are listed.
    """
    shown: dict[str, MsgTwin] = {}
    differing: dict[str, str] = {}
    for key in sorted(expecting):
        twin = twins[key]
        wanted = twin.expected.value if twin.expected is not None else None
        if not wanted:
            continue
        shown[key] = public(twin)
        if wanted != ((twin.actual.value if twin.actual is not None else None) or ""):
            differing[key] = wanted
    return (shown, differing) if differing else None


def report(
    twins: Mapping[str, MsgTwin], keys: Iterable[str], acknowledged: Mapping[str, tuple[int, int]]
) -> dict[str, MsgTwin | None]:
    """The `twin` of an edge_updated: of each key the halves that are newer than (expected, actual) acknowledged."""
    body: dict[str, MsgTwin | None] = {}
    for key in sorted(keys):
        twin = twins[key]
        expected_seen, actual_seen = acknowledged.get(key, (0, 0))
        new_expected = twin.expected_version is not None and twin.expected_version.edge > expected_seen
        new_actual = twin.actual_version is not None and twin.actual_version.edge > actual_seen
        if is_tombstone(twin):
            body[key] = _report_deletion(twin) if new_expected or new_actual else MsgTwin()
            continue
        body[key] = MsgTwin(
            twin.expected if new_expected else None,
            twin.actual if new_actual else None,
            twin.optional,
            twin.metadata,
            twin.expected_version if new_expected else None,
            twin.actual_version if new_actual else None,
        )
    return body


def _report_deletion(twin: MsgTwin) -> MsgTwin:
    return MsgTwin(
        twin.expected,
        twin.actual,
        twin.optional,
        twin.metadata,
        twin.expected_version or TwinVersion(),
        twin.actual_version or TwinVersion(),
    )
