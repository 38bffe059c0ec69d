"""Reports become a DeviceStatus patch (KubeEdge reference 6.3)."""

from hypothesis import given
from hypothesis import strategies as st

from cloudgateway.devicecontroller.twins import PendingStatus, load_twins, status_patch
from edgeappliance.wire.twin import DeviceState, MsgTwin, TwinUpdate, TwinValue, TypeMeta, ValueMeta


def actual(value: str, *, timestamp: int = 0, kind: str = "int") -> MsgTwin:
    return MsgTwin(actual=TwinValue(value, ValueMeta(timestamp=timestamp)), metadata=TypeMeta(kind))


def report(**twins: MsgTwin | None) -> TwinUpdate:
    return TwinUpdate(twin=dict(twins))


def pending(*updates: TwinUpdate) -> PendingStatus:
    made = PendingStatus()
    for update in updates:
        made.add_twins(update)
    return made


def test_a_status_that_somebody_wrote_by_hand_is_read_as_far_as_it_is_one() -> None:
    by_hand = [{"reported": {"value": "1"}}, "x", {"propertyName": "a", "reported": "x", "observedDesired": {}}]
    empty = {"reported": {"value": ""}, "observedDesired": {"value": ""}}
    assert load_twins({"status": {"twins": by_hand}}) == {"a": empty}


def test_a_first_report_is_written_with_its_value() -> None:
    twins, patch = status_patch({}, pending(report(t=actual("9", timestamp=5))), {"t"})
    entry = {
        "reported": {"value": "9", "metadata": {"timestamp": "5", "type": "int"}},
        "observedDesired": {"value": ""},
    }
    assert twins == {"t": entry}
    assert patch == {"status": {"twins": [{"propertyName": "t", **entry}]}}


def test_the_list_is_written_whole_and_in_order() -> None:
    before = load_twins(
        {"status": {"twins": [{"propertyName": "b", "reported": {"value": "1"}}, {"propertyName": "a"}]}}
    )
    twins, patch = status_patch(before, pending(report(a=actual("2"), c=actual("3"))), {"a", "b", "c"})
    assert list(twins) == ["b", "a", "c"]
    assert patch is not None
    assert [entry["propertyName"] for entry in patch["status"]["twins"]] == ["b", "a", "c"]
    assert patch["status"]["twins"][0] == {
        "propertyName": "b",
        "reported": {"value": "1"},
        "observedDesired": {"value": ""},
    }


def test_a_property_that_the_device_does_not_have_is_not_written() -> None:
    twins, patch = status_patch({}, pending(report(ghost=actual("1"))), {"t"})
    assert (twins, patch) == ({}, None)


def test_a_deleted_twin_leaves_the_list() -> None:
    before, _ = status_patch({}, pending(report(t=actual("1"), u=actual("2"))), {"t", "u"})
    gone = MsgTwin(actual=TwinValue(), metadata=TypeMeta("deleted"))
    twins, patch = status_patch(before, pending(report(t=gone)), {"t", "u"})
    assert list(twins) == ["u"]
    assert patch is not None
    assert [entry["propertyName"] for entry in patch["status"]["twins"]] == ["u"]
    back, _ = status_patch(before, pending(report(t=gone), report(t=actual("3"))), {"t", "u"})
    assert back["t"]["reported"]["value"] == "3"


def test_a_state_alone_leaves_the_twins_alone() -> None:
    made = PendingStatus()
    made.add_state(DeviceState(name="d", state="offline"))
    _, patch = status_patch({"t": {"reported": {"value": "1"}, "observedDesired": {"value": ""}}}, made, {"t"})
    assert patch == {"status": {"state": "offline"}}


def test_going_offline_before_the_write_keeps_the_last_online_time() -> None:
    made = PendingStatus()
    assert made.add_state(DeviceState(state="online", last_online_time="2026-01-01T00:00:00Z")) == 0
    assert made.add_state(DeviceState(state="offline")) == 1
    _, patch = status_patch({}, made, ())
    assert patch == {"status": {"state": "offline", "lastOnlineTime": "2026-01-01T00:00:00Z"}}


def test_values_replaced_before_they_are_written_are_counted() -> None:
    made = PendingStatus()
    assert made.add_twins(report(a=actual("1"), b=actual("1"))) == 0
    assert made.add_twins(report(a=actual("2"), b=actual("2"))) == 2
    both = MsgTwin(actual=TwinValue("3"), expected=TwinValue("3"))
    assert made.add_twins(report(a=both)) == 1


def test_an_entry_without_values_and_null_are_no_change() -> None:
    made = pending(report(a=MsgTwin(), b=None, c=MsgTwin(actual=TwinValue())))
    twins, patch = status_patch({}, made, {"a", "b", "c"})
    assert twins == {}
    assert patch == {"status": {"twins": []}}


def test_what_could_not_be_written_yields_to_what_came_later() -> None:
    failed = pending(report(a=actual("1"), b=actual("1")))
    failed.add_state(DeviceState(state="online", last_online_time="2026-01-01T00:00:00Z"))
    now = pending(report(a=actual("2")))
    now.add_state(DeviceState(state="offline"))
    now.restore(failed)
    twins, patch = status_patch({}, now, {"a", "b"})
    assert {name: halves["reported"]["value"] for name, halves in twins.items()} == {"a": "2", "b": "1"}
    assert patch is not None
    assert (patch["status"]["state"], patch["status"]["lastOnlineTime"]) == ("offline", "2026-01-01T00:00:00Z")


_reports = st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), max_size=3), max_size=12)


@given(_reports, st.lists(st.booleans(), min_size=12, max_size=12))
def test_however_reports_are_batched_the_newest_values_end_in_the_status(
    reports: list[dict[str, int]], failures: list[bool]
) -> None:
    """Writes after any report, some of which fail, give the same twins as all reports applied one by one."""
    expected: dict[str, str] = {}
    twins: dict[str, dict[str, dict[str, object]]] = {}
    waiting = PendingStatus()
    for entry, fails in zip(reports, failures, strict=False):
        waiting.add_twins(report(**{name: actual(str(value)) for name, value in entry.items()}))
        expected.update({name: str(value) for name, value in entry.items()})
        taken, waiting = waiting, PendingStatus()
        if fails:
            waiting.restore(taken)
        else:
            twins, _ = status_patch(twins, taken, set("abc"))
    twins, _ = status_patch(twins, waiting, set("abc"))
    assert {name: halves["reported"]["value"] for name, halves in twins.items()} == expected
