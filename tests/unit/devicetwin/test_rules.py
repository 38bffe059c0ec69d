"""Properties of the merge rules."""

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.devicetwin import rules
from edgeappliance.devicetwin.requests import Address, Request, parse, parse_topic
from edgeappliance.devicetwin.values import TYPES, type_refused
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.limits import MAX_TWIN_KEYS
from edgeappliance.wire.twin import MsgTwin, TwinUpdate, TwinValue, TwinVersion, TypeMeta

NOW = 1_700_000_000_000
DECODER = msgspec.json.Decoder(TwinUpdate)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["twin", "expected", "actual", "value", "metadata", "type", "optional", "Twin", "a", "b c"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=16,
)
values = st.sampled_from(["1", "2.5", "true", "x", "", "größe", "x" * 1025])
versions = st.none() | st.builds(TwinVersion, cloud=st.integers(-1, 3), edge=st.integers(0, 4) | st.just(2**63))
halves = st.none() | st.builds(TwinValue, value=st.none() | values)
entries = st.none() | st.builds(
    MsgTwin,
    expected=halves,
    actual=halves,
    optional=st.none() | st.booleans(),
    metadata=st.none()
    | st.builds(TypeMeta, type=st.sampled_from(["", "int", "float", "boolean", "string", "deleted", "x"])),
    expected_version=versions,
    actual_version=versions,
)
updates = st.dictionaries(st.sampled_from(["a", "b", "c", "not a key"]), entries, max_size=3)


def apply(twins: dict[str, MsgTwin], update: dict[str, MsgTwin | None], *, sync: bool) -> rules.Outcome | rules.Refusal:
    refused = rules.shape_refused(update, strict=False)
    if refused is not None:
        return refused
    if sync:
        return rules.apply_sync(twins, update, now_ms=NOW)
    return rules.apply_local(twins, update, now_ms=NOW)


@given(document=json_values)
def test_any_json_is_understood_or_refused(document: Any):
    try:
        update = parse(json.dumps(document).encode(), DECODER)
    except WireError:
        return
    refused = rules.shape_refused(update.twin, strict=False)
    if refused is None and update.twin is not None:
        answer = rules.apply_local({}, update.twin, now_ms=NOW)
        assert isinstance(answer, rules.Outcome) or answer.code == 400


@given(payload=st.binary(max_size=64))
def test_any_bytes_are_understood_or_refused(payload: bytes):
    try:
        assert isinstance(parse(payload, DECODER), TwinUpdate)
    except WireError as error:
        assert error.reason


def edge(version: TwinVersion | None) -> int:
    return version.edge if version is not None else -1


@given(steps=st.lists(st.tuples(st.booleans(), updates), max_size=12))
def test_versions_never_go_back_and_values_fit_their_types(steps: list[tuple[bool, dict[str, MsgTwin | None]]]):
    twins: dict[str, MsgTwin] = {}
    for sync, update in steps:
        before = {key: msgspec.json.encode(entry) for key, entry in twins.items()}
        answer = apply(twins, update, sync=sync)
        assert {key: msgspec.json.encode(entry) for key, entry in twins.items()} == before
        if isinstance(answer, rules.Refusal):
            assert answer.code == 400
            assert answer.reason
            continue
        for key, entry in answer.state.items():
            old = twins.get(key, MsgTwin())
            for mine, theirs in (
                (entry.expected_version, old.expected_version),
                (entry.actual_version, old.actual_version),
            ):
                assert edge(mine) >= edge(theirs)
                assert (mine.cloud if mine else 0) >= (theirs.cloud if theirs else 0)
            assert entry.optional is False or old.optional is not False
            assert entry.metadata is not None
            for half in (entry.expected, entry.actual):
                if half is None or half.value is None:
                    continue
                assert entry.metadata.type in TYPES
                assert not rules.is_tombstone(entry)
            written = [
                half for half, new in ((entry.expected, old.expected), (entry.actual, old.actual)) if half is not new
            ]
            assert all(
                half.value is None or not type_refused(half.value, entry.metadata.type) for half in written if half
            )
        assert set(answer.result) <= set(update)
        twins.update(answer.state)
        shown = rules.delta(twins, [key for key, entry in twins.items() if entry.expected and entry.expected.value])
        if shown is not None:
            assert set(shown[1]) <= set(shown[0])
        body = rules.report(twins, twins, {})
        assert set(body) == set(twins)


def test_sync_adopts_newer_versions_and_sends_rejected_halves_back():
    twins = {"k": MsgTwin(TwinValue("1"), TwinValue("2"), True, TypeMeta("int"), TwinVersion(1, 4), TwinVersion(0, 7))}
    update: dict[str, MsgTwin | None] = {
        "k": MsgTwin(TwinValue("10"), TwinValue("20"), None, TypeMeta("int"), TwinVersion(2, 4), TwinVersion(0, 6))
    }
    answer = rules.apply_sync(twins, update, now_ms=NOW)
    assert isinstance(answer, rules.Outcome)
    assert answer.state["k"].expected.value == "10"
    assert answer.state["k"].expected_version == TwinVersion(2, 4)
    assert answer.state["k"].actual.value == "2"
    assert answer.rejected["k"] == MsgTwin(None, TwinValue("2"), True, TypeMeta("int"), None, TwinVersion(0, 7))
    assert list(answer.document) == ["k"]
    assert answer.result == {}


def test_sync_without_a_version_writes_nothing():
    twins = {"k": MsgTwin(TwinValue("1"), None, True, TypeMeta("int"), TwinVersion(0, 1))}
    answer = rules.apply_sync(twins, {"k": MsgTwin(TwinValue("2")), "new": MsgTwin(TwinValue("3"))}, now_ms=NOW)
    assert isinstance(answer, rules.Outcome)
    assert answer.state == {}
    assert list(answer.rejected) == ["k"]


def test_sync_deletes_by_type():
    twins = {"k": MsgTwin(None, TwinValue("1"), False, TypeMeta("int"), None, TwinVersion(0, 2))}
    stale = {"k": MsgTwin(metadata=TypeMeta("deleted"), actual_version=TwinVersion(0, 1))}
    answer = rules.apply_sync(twins, stale, now_ms=NOW)
    assert isinstance(answer, rules.Outcome)
    assert (answer.state, list(answer.rejected)) == ({}, ["k"])
    answer = rules.apply_sync(twins, {"k": MsgTwin(metadata=TypeMeta("deleted"))}, now_ms=NOW)
    assert isinstance(answer, rules.Outcome)
    assert rules.is_tombstone(answer.state["k"])
    assert answer.document["k"].current is None


def test_a_device_has_a_bounded_number_of_keys():
    value = MsgTwin(actual=TwinValue("1"))
    full = {f"k{number}": value for number in range(MAX_TWIN_KEYS)}
    assert rules.shape_refused({**full, "one": value}, strict=False) is not None
    answer = rules.apply_local(full, {"one": value}, now_ms=NOW)
    assert isinstance(answer, rules.Refusal)
    assert isinstance(rules.apply_local(full, {"k1": value}, now_ms=NOW), rules.Outcome)


def test_topics():
    assert parse_topic("$hw/events/device/a/b/twin/update") == Address(Request.TWIN_UPDATE, "a/b")
    assert parse_topic("$hw/events/device/device/hw/state/update") == Address(Request.STATE_UPDATE, "device/hw")
    assert parse_topic("$hw/events/node/n/membership/get") == Address(Request.MEMBERSHIP_GET, "n")
    for other in ("", "$hw/events/device/b/twin/update", "$hw/events/device/a/b/twin/x", "a/b/c/d/e/twin/update"):
        assert parse_topic(other) is None
