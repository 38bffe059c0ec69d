"""What an app on MQTT and the cloud see of the twin service (KubeEdge reference 4 and F7-F9)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edgeappliance.edgehub.session import MAX_QUEUED_BYTES
from edgeappliance.wire.message import Message, encode
from tests.unit.devicetwin.parts import D1, NOW, Rig, slow_store, twin_rig

EMPTY_ID_RESULT = "$hw/events/device//twin/update/result"
MEMBERSHIP = "$hw/events/node/edge-1/membership"


def value(text: str, timestamp: int = NOW, **more: str) -> dict[str, Any]:
    return {"value": text, "metadata": {"timestamp": timestamp, **more}}


async def ready(rig: Rig) -> Rig:
    await rig.member("default/d1")
    rig.bus.take()
    rig.cloud.take()
    return rig


async def test_membership_is_announced_once(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await rig.member("default/d1")
        ((topic, body),) = rig.bus.take()
        assert topic == f"{MEMBERSHIP}/updated"
        assert body.pop("event_id") not in ("", "e1")
        assert body == {
            "timestamp": NOW,
            "added_devices": [{"id": "default/d1", "name": "d1"}],
            "removed_devices": None,
        }
        await rig.member("default/d1")
        assert rig.bus.take() == []


async def test_round_trip_of_f8(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        rig.mqtt(
            f"{D1}/twin/update",
            {
                "event_id": "e1",
                "timestamp": 1700000000000,
                "twin": {"temp": {"expected": {"value": "10"}, "actual": {"value": "9"}}},
            },
        )
        (result, document, delta) = await rig.bus.wait(3)

        halves = {"expected": value("10"), "actual": value("9")}
        full = {**halves, "optional": True, "metadata": {"type": "string"}}
        assert result == (f"{D1}/twin/update/result", {"event_id": "e1", "timestamp": NOW, "twin": {"temp": full}})
        assert document == (
            f"{D1}/twin/update/document",
            {"event_id": "e1", "timestamp": NOW, "twin": {"temp": {"last": None, "current": full}}},
        )
        assert delta[0] == f"{D1}/twin/update/delta"
        assert delta[1].pop("event_id") not in ("", "e1")
        assert delta[1] == {"timestamp": NOW, "twin": {"temp": full}, "delta": {"temp": "10"}}

        (report,) = rig.cloud.take()
        assert (report.source, report.group, report.operation) == ("twin", "resource", "update")
        assert report.resource == "device/default/d1/twin/edge_updated"
        content = report.content_value()
        assert content.pop("event_id") not in ("", "e1")
        assert content == {
            "timestamp": NOW,
            "twin": {
                "temp": {
                    **full,
                    "expected_version": {"cloud": 0, "edge": 1},
                    "actual_version": {"cloud": 0, "edge": 1},
                }
            },
        }


async def test_bytes_of_the_answers(tmp_path: Path):
    """Key order, HTML escapes, sorted maps and missing white space are Go's."""
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        rig.mqtt(f"{D1}/twin/update", {"event_id": "<&>", "twin": {"b": {"actual": {"value": "x<y"}}, "a": {}}})
        assert rig.bus.published[0] == (
            f"{D1}/twin/update/result",
            b'{"event_id":"\\u003c\\u0026\\u003e","timestamp":1700000000123,"twin":{"a":{"optional":true,'
            b'"metadata":{"type":"string"}},"b":{"actual":{"value":"x\\u003cy","metadata":{"timestamp":1700000000123}},'
            b'"optional":true,"metadata":{"type":"string"}}}}',
        )


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "Unmarshal update request body failed, please check the request"),
        (b"{", "Unmarshal update request body failed, please check the request"),
        (b'{"twin":{}} x', "Unmarshal update request body failed, please check the request"),
        (b'{"twin":{"t":{"actual":{"value":5}}}}', "Unmarshal update request body failed, please check the request"),
        (b'{"event_id":5,"twin":{}}', "Unmarshal update request body failed, please check the request"),
        (
            b'{"twin":{"t":{"actual":{"value":"\xff"}}}}',
            "Unmarshal update request body failed, please check the request",
        ),
        (b"{}", "Update twin error, key:twin does not exist"),
        (b'{"twin":null}', "Update twin error, key:twin does not exist"),
    ],
)
async def test_what_does_not_parse_is_answered_without_an_id(tmp_path: Path, payload: bytes, reason: str):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        rig.mqtt(f"{D1}/twin/update", payload)
        ((topic, body),) = rig.bus.take()
        assert topic == EMPTY_ID_RESULT
        assert body == {"event_id": "", "timestamp": NOW, "code": 400, "reason": reason}


async def test_bad_keys_and_values(tmp_path: Path):
    async with twin_rig(tmp_path, strict=True) as rig:
        await ready(rig)
        for twin in ({"a b": {}}, {"a": {"actual": {"value": "a b"}}}, {"a": {"expected": {"value": "50%\n"}}}):
            rig.mqtt(f"{D1}/twin/update", {"event_id": "e", "twin": twin})
            ((topic, body),) = rig.bus.take()
            assert topic == EMPTY_ID_RESULT
            assert (body["code"], body["event_id"]) == (400, "")
            assert "- _ . , : / @ #" in body["reason"]


async def test_any_case_of_keys_is_understood(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        rig.mqtt(f"{D1}/twin/update", b'{"Event_ID":"e","TWIN":{"t":{"Actual":{"VALUE":"1","more":2}}},"x":[]}')
        ((topic, body), _) = rig.bus.take()
        assert topic == f"{D1}/twin/update/result"
        assert body["twin"]["t"]["actual"]["value"] == "1"


@pytest.mark.parametrize(
    ("twin", "reason"),
    [
        ({"k": {"actual": {"value": "x"}, "metadata": {"type": "int"}}}, "the value is not int or integer"),
        ({"k": {"actual": {"value": "x"}, "metadata": {"type": "float"}}}, "the value is not float"),
        ({"k": {"actual": {"value": "x"}, "metadata": {"type": "boolean"}}}, "the bool value must be true or false"),
        ({"k": {"actual": {"value": "x"}, "metadata": {"type": "double"}}}, "the value type is not allowed"),
        ({"k": {"actual": {}}}, "Update twin error, expected or actual of key k has no value"),
        ({"k": {"expected": {}}}, "Update twin error, expected or actual of key k has no value"),
        ({"k": None}, "Update twin error, key k does not exist"),
    ],
)
async def test_refused_updates_change_nothing(tmp_path: Path, twin: dict[str, Any], reason: str):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        rig.mqtt(f"{D1}/twin/update", {"event_id": "e", "twin": {"a": {"actual": {"value": "1"}}, **twin}})
        ((topic, body),) = await rig.bus.wait(1)
        assert topic == f"{D1}/twin/update/result"
        assert body == {"event_id": "e", "timestamp": NOW, "code": 400, "reason": reason}
        rig.mqtt(f"{D1}/twin/get", {"event_id": "g"})
        assert rig.bus.take()[0][1]["twin"] == {}
        assert rig.cloud.take() == []


async def test_unknown_devices(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        other = "$hw/events/device/default/ghost"
        rig.mqtt(f"{other}/twin/update", {"event_id": "e", "twin": {}})
        rig.mqtt(f"{other}/twin/get", {"event_id": "g"})
        rig.mqtt(f"{other}/state/update", {"state": "online"})
        rig.mqtt(f"{other}/twin/cloud_updated", {"twin": {}})
        rig.mqtt(f"{other}/twin/whatever", {"twin": {}})
        assert rig.bus.take() == [
            (
                f"{other}/twin/update/result",
                {
                    "event_id": "e",
                    "timestamp": NOW,
                    "code": 404,
                    "reason": "update rejected due to the device is not existed",
                },
            ),
            (
                f"{other}/twin/get/result",
                {
                    "event_id": "g",
                    "timestamp": NOW,
                    "code": 404,
                    "reason": "Device default/ghost not found while getting twin",
                },
            ),
        ]


async def test_get_and_its_errors(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        rig.mqtt(f"{D1}/twin/update", {"twin": {"z": {"actual": {"value": "1"}}, "a": {"actual": {"value": "2"}}}})
        rig.bus.take()
        rig.mqtt(f"{D1}/twin/get", {"event_id": "g", "timestamp": 1})
        ((topic, body),) = rig.bus.take()
        assert topic == f"{D1}/twin/get/result"
        assert list(body["twin"]) == ["a", "z"]
        assert body["twin"]["a"] == {"actual": value("2"), "optional": True, "metadata": {"type": "string"}}
        rig.mqtt(f"{D1}/twin/get", b"nonsense")
        ((topic, body),) = rig.bus.take()
        assert (topic, body["code"], body["event_id"]) == (f"{D1}/twin/get/result", 400, "")
        assert body["reason"].startswith("Unmarshal twin info nonsense failed , err: ")


async def test_get_waits_for_an_update_before_it(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        rig.mqtt(f"{D1}/twin/update", {"event_id": "1", "twin": {"k": {"expected": {"value": "1"}}}})
        rig.mqtt(f"{D1}/twin/get", {"event_id": "2"})
        rig.mqtt(f"{D1}/twin/update", {"event_id": "3", "twin": {"k": {"actual": {"value": "1"}}}})
        published = await rig.bus.wait(6)
        assert [topic.removeprefix(f"{D1}/twin/") for topic, _ in published] == [
            "update/result",
            "update/document",
            "update/delta",
            "get/result",
            "update/result",
            "update/document",
        ]


async def test_deletion_and_revival(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        topic = f"{D1}/twin/update"
        rig.mqtt(topic, {"twin": {"gone": {"actual": {"value": "1"}}, "kept": {"optional": False}}})
        rig.bus.take()
        await rig.acknowledge(rig.cloud.take()[0])

        rig.mqtt(topic, {"event_id": "e", "twin": {"gone": None, "kept": None}})
        result, document = await rig.bus.wait(2)
        assert result[1]["twin"] == {"gone": None}
        assert document[1]["twin"]["gone"]["current"] is None
        assert document[1]["twin"]["gone"]["last"]["actual"]["value"] == "1"
        (report,) = rig.cloud.take()
        assert report.content_value()["twin"] == {
            "gone": {
                "actual": {},
                "optional": True,
                "metadata": {"type": "deleted"},
                "expected_version": {"cloud": 0, "edge": 0},
                "actual_version": {"cloud": 0, "edge": 2},
            }
        }
        await rig.acknowledge(report)

        rig.mqtt(topic, {"event_id": "e", "twin": {"gone": None}})
        result, document = await rig.bus.wait(2)
        assert result[1]["twin"] == {}
        assert document[1]["twin"]["gone"] == {
            "last": {"actual": {}, "optional": True, "metadata": {"type": "deleted"}},
            "current": None,
        }
        (report,) = rig.cloud.take()
        assert report.content_value()["twin"] == {"gone": {}}
        await rig.acknowledge(report)

        rig.mqtt(topic, {"twin": {"gone": {"expected": {"value": "7"}, "metadata": {"type": "int"}}}})
        _, document, _ = await rig.bus.wait(3)
        assert document[1]["twin"]["gone"]["last"] is None
        assert document[1]["twin"]["gone"]["current"]["actual"] == {}
        rig.cloud.take()
        rig.mqtt(topic, {"twin": {"kept": None}})
        assert (await rig.bus.wait(2))[0][1]["twin"] == {}


async def test_same_value_counts_and_optional_only_falls(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        for body in ({"actual": {"value": "1"}}, {"actual": {"value": "1"}, "optional": False}, {"optional": True}):
            rig.mqtt(f"{D1}/twin/update", {"twin": {"k": body}})
        rig.bus.take()
        rig.mqtt(f"{D1}/twin/update", {"twin": {"k": {"actual": {"value": "1"}, "metadata": {"type": "int"}}}})
        result, _document = rig.bus.take()
        assert result[1]["twin"]["k"]["optional"] is False
        assert result[1]["twin"]["k"]["metadata"] == {"type": "string"}
        first = rig.cloud.take()[0]
        await rig.acknowledge(first)
        (second,) = rig.cloud.take()
        assert second.content_value()["twin"]["k"]["actual_version"] == {"cloud": 0, "edge": 3}


async def test_delta_depends_on_the_whole_device(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        topic = f"{D1}/twin/update"
        twin = {"a": {"expected": {"value": "1"}, "actual": {"value": "1"}}, "b": {"expected": {"value": "2"}}}
        rig.mqtt(topic, {"twin": {**twin, "c": {"actual": {"value": "3"}}}})
        await rig.bus.wait(3)
        rig.mqtt(topic, {"event_id": "e", "twin": {}})
        (result, delta) = await rig.bus.wait(2)
        assert result[1]["twin"] == {}
        assert list(delta[1]["twin"]) == ["a", "b"]
        assert delta[1]["delta"] == {"b": "2"}


async def test_source_time_and_quality(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        earlier = NOW - 5000
        metadata = {"timestamp": earlier, "quality": "bad", "reason": "time-out", "other": 1}
        twin = {
            "kept": {"actual": {"value": "1", "metadata": metadata}},
            "ahead": {"actual": {"value": "1", "metadata": {"timestamp": NOW + 3_600_000}}},
            "long": {"actual": {"value": "1", "metadata": {"quality": "q" * 1000, "reason": "r" * 1000}}},
            "never": {"actual": {"value": "1", "metadata": {"timestamp": 12345}}},
        }
        rig.mqtt(f"{D1}/twin/update", {"twin": twin})
        (_, result), _ = rig.bus.take()
        assert result["twin"]["kept"]["actual"] == value("1", earlier, quality="bad", reason="time-out")
        assert result["twin"]["ahead"]["actual"] == value("1")
        assert result["twin"]["long"]["actual"] == value("1", quality="q" * 64, reason="r" * 256)
        assert result["twin"]["never"]["actual"] == value("1")
        (report,) = rig.cloud.take()
        reported = report.content_value()["twin"]["kept"]["actual"]["metadata"]
        assert reported == {"timestamp": earlier, "quality": "bad", "reason": "time-out"}


async def test_state(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        rig.mqtt(f"{D1}/state/update", {"event_id": "e", "timestamp": 1, "State": "Online"})
        ((topic, body),) = rig.bus.take()
        assert topic == f"{D1}/state/update/result"
        assert body.pop("event_id") not in ("", "e")
        online = {"name": "d1", "state": "Online", "lastOnlineTime": "2023-11-14T22:13:20Z"}
        assert body == {"timestamp": NOW, "device": online}
        (report,) = rig.cloud.take()
        assert report.resource == "device/default/d1/state/update"
        assert isinstance(report.content_value(), str)
        assert b'\\"device\\":{\\"name\\":\\"d1\\"' in bytes(report.content)

        rig.mqtt(f"{D1}/state/update", {"state": "offline"})
        rig.mqtt(f"{D1}/state/update", {"state": "asleep"})
        rig.mqtt(f"{D1}/state/update", b"nonsense")
        ((_, body),) = rig.bus.take()
        assert body["device"] == {"name": "d1", "state": "offline"}
        assert rig.cloud.take() == []
        await rig.acknowledge(report)
        (newest,) = rig.cloud.take()
        assert '"state":"offline"' in newest.content_value()


async def test_membership_get_detail_and_removal(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await rig.member("default/d1", "default/d2")
        rig.mqtt(f"{D1}/state/update", {"state": "ok"})
        rig.bus.take()
        rig.mqtt(f"{MEMBERSHIP}/get", {"event_id": "m"})
        ((topic, body),) = rig.bus.take()
        assert topic == f"{MEMBERSHIP}/get/result"
        assert body == {
            "event_id": "m",
            "timestamp": NOW,
            "devices": [
                {"id": "default/d1", "name": "d1", "state": "ok", "last_online": "2023-11-14T22:13:20Z"},
                {"id": "default/d2", "name": "d2"},
            ],
        }
        detail = {"event_id": "", "timestamp": 0, "devices": [{"id": "default/d2"}, {"id": "default/d3", "name": "d3"}]}
        await rig.twin.handle(Message.new(group="twin", resource="membership/detail", content=detail))
        added, removed = rig.bus.take()
        assert added[1]["added_devices"] == [{"id": "default/d3", "name": "d3"}]
        assert removed[1]["removed_devices"] == [{"id": "default/d1", "name": "d1"}]
        rig.mqtt(f"{MEMBERSHIP}/get", b"x")
        assert rig.bus.take()[0][1]["reason"].startswith("Unmarshal get membership info x failed , err: ")


async def test_empty_membership_is_an_empty_list(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        rig.mqtt(f"{MEMBERSHIP}/get", {})
        assert rig.bus.take() == [
            (f"{MEMBERSHIP}/get/result", {"event_id": "", "timestamp": NOW, "devices": []}),
        ]


async def test_odd_namespaces(tmp_path: Path):
    """Upstream cannot find a device whose namespace is a part of the topic's prefix."""
    async with twin_rig(tmp_path) as rig:
        for device in ("hw/d", "device/d", "e/d"):
            await rig.member(device)
            rig.bus.take()
            rig.mqtt(f"$hw/events/device/{device}/twin/get", {})
            assert rig.bus.take()[0][1]["twin"] == {}


async def test_one_report_under_way_and_only_the_newest(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        for number in range(5):
            rig.mqtt(f"{D1}/twin/update", {"twin": {"k": {"actual": {"value": str(number)}}}})
        (first,) = rig.cloud.take()
        await rig.acknowledge(first)
        (second,) = rig.cloud.take()
        assert second.content_value()["twin"]["k"]["actual"]["value"] == "4"
        await rig.acknowledge(second)
        await rig.acknowledge(second)
        assert rig.cloud.take() == []
        details = rig.twin.health().details
        assert details["values_superseded_total"] == 3
        assert details["devices_not_confirmed"] == 0


async def test_a_twin_of_the_greatest_size_is_reported_in_parts_that_the_link_takes(tmp_path: Path):
    async with twin_rig(tmp_path, connected=False) as rig:
        await ready(rig)
        longest = "\x01" * 1024  # each character is six on the wire
        for start in range(0, 2048, 128):
            keys = {f"{number:04}": {"actual": {"value": longest}} for number in range(start, start + 128)}
            rig.mqtt(f"{D1}/twin/update", {"twin": keys})
        rig.cloud.connected = True
        rig.twin.connection(True)
        told: list[str] = []
        _, report = rig.cloud.take()
        while report is not None:
            assert len(encode(report)) < MAX_QUEUED_BYTES
            told += report.content_value()["twin"]
            await rig.acknowledge(report)
            (report,) = rig.cloud.take() or (None,)
        assert told == [f"{number:04}" for number in range(2048)]
        assert rig.twin.health().details["devices_not_confirmed"] == 0


async def test_reconnection_sends_what_was_not_confirmed(tmp_path: Path):
    async with twin_rig(tmp_path, connected=False) as rig:
        await ready(rig)
        for number in range(3):
            rig.mqtt(f"{D1}/twin/update", {"twin": {"k": {"actual": {"value": str(number)}}}})
        assert rig.cloud.take() == []
        rig.cloud.connected = True
        rig.twin.connection(True)
        detail, report = rig.cloud.take()
        assert (detail.operation, detail.resource) == ("get", "membership/detail")
        assert '"event_type":"group_membership_event"' in detail.content_value()
        assert report.content_value()["twin"]["k"]["actual"]["value"] == "2"
        rig.twin.connection(False)
        rig.twin.connection(True)
        _, again = rig.cloud.take()
        assert again.content_value()["twin"] == report.content_value()["twin"]
        assert again.id != report.id
        await rig.acknowledge(report)
        assert rig.twin.health().details["devices_not_confirmed"] == 1


async def test_restart_sends_what_was_not_confirmed(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        rig.mqtt(f"{D1}/twin/update", {"twin": {"a": {"actual": {"value": "1"}}, "b": {"actual": {"value": "1"}}}})
        await rig.acknowledge(rig.cloud.take()[0])
        rig.mqtt(f"{D1}/twin/update", {"twin": {"b": {"actual": {"value": "2", "metadata": {"quality": "bad"}}}}})
        rig.mqtt(f"{D1}/state/update", {"state": "ok"})
    async with twin_rig(tmp_path) as rig:
        _, report, state = rig.cloud.take()
        assert report.content_value()["twin"] == {
            "b": {
                "actual": value("2", NOW, quality="bad"),
                "optional": True,
                "metadata": {"type": "string"},
                "actual_version": {"cloud": 0, "edge": 2},
            }
        }
        assert '"state":"ok"' in state.content_value()
        await rig.acknowledge(report)
        await rig.acknowledge(state)
    async with twin_rig(tmp_path) as rig:
        assert [message.resource for message in rig.cloud.take()] == ["membership/detail"]


async def test_expected_values_are_answered_after_the_disk_has_them(tmp_path: Path):
    slow = slow_store()
    async with twin_rig(tmp_path, store=slow) as rig:
        await ready(rig)
        await rig.member("default/d2")
        rig.bus.take()
        for number in range(50):
            rig.mqtt(f"{D1}/twin/update", {"event_id": str(number), "twin": {"k": {"expected": {"value": "1"}}}})
        rig.mqtt("$hw/events/device/default/d2/twin/update", {"twin": {"k": {"actual": {"value": "1"}}}})
        await asyncio.sleep(0.05)
        assert {topic for topic, _ in rig.bus.take()} == {
            "$hw/events/device/default/d2/twin/update/result",
            "$hw/events/device/default/d2/twin/update/document",
        }
        slow.allow.set()
        published = await rig.bus.wait(150)
        results = [body["event_id"] for topic, body in published if topic.endswith("/result")]
        assert results == [str(number) for number in range(50)]
        assert slow.durable_writes <= 2


async def test_a_full_disk_gives_500_and_the_old_values(tmp_path: Path, monkeypatch: Any):
    slow = slow_store()
    monkeypatch.setattr("edgeappliance.devicetwin.durable.SAVE_TRIES", 2)
    slow.broken = True
    slow.allow.set()
    async with twin_rig(tmp_path, store=slow) as rig:
        await ready(rig)
        rig.mqtt(f"{D1}/twin/update", {"event_id": "e", "twin": {"k": {"expected": {"value": "1"}}}})
        rig.mqtt(f"{D1}/twin/get", {"event_id": "g"})
        (result, got) = await rig.bus.wait(2)
        assert (result[1]["code"], result[1]["event_id"]) == (500, "e")
        assert "disk is full" in result[1]["reason"]
        assert got[1]["twin"] == {}
        assert rig.twin.health().state == "degraded"
        assert rig.cloud.take() == []


async def test_too_many_waiting_requests_are_refused(tmp_path: Path, monkeypatch: Any):
    slow = slow_store()
    monkeypatch.setattr("edgeappliance.devicetwin.durable.MAX_WAITING", 3)
    async with twin_rig(tmp_path, store=slow) as rig:
        await ready(rig)
        for number in range(5):
            rig.mqtt(f"{D1}/twin/update", {"event_id": str(number), "twin": {"k": {"expected": {"value": "1"}}}})
        refused = rig.bus.take()
        assert [(body["event_id"], body["code"]) for _, body in refused] == [("3", 503), ("4", 503)]
        slow.allow.set()
        await rig.bus.wait(9)


async def test_requests_that_come_while_twins_are_loaded_are_answered(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
    async with twin_rig(tmp_path, early=[(f"{D1}/twin/get", b'{"event_id":"early"}')]) as rig:
        ((topic, body),) = rig.bus.take()
        assert (topic, body["event_id"], body["twin"]) == (f"{D1}/twin/get/result", "early", {})


async def test_no_reply_for_a_minute_sends_the_newest_again(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr("edgeappliance.devicetwin.service.TICK", 0.01)
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        rig.mqtt(f"{D1}/twin/update", {"twin": {"k": {"actual": {"value": "1"}}}})
        rig.mqtt(f"{D1}/state/update", {"state": "ok"})
        first, _ = rig.cloud.take()
        rig.mqtt(f"{D1}/twin/update", {"twin": {"k": {"actual": {"value": "2"}}}})
        rig.clock.advance(59)
        await asyncio.sleep(0.05)
        assert rig.cloud.take() == []
        rig.clock.advance(1)
        twin, state = await rig.cloud.wait(2)
        assert twin.content_value()["twin"]["k"]["actual"]["value"] == "2"
        assert state.resource == "device/default/d1/state/update"
        await rig.acknowledge(first)
        assert rig.twin.health().details["devices_not_confirmed"] == 1
        await rig.acknowledge(twin)
        await rig.acknowledge(state)
        assert rig.twin.health().details["devices_not_confirmed"] == 0


async def test_what_the_link_did_not_take_is_sent_with_the_next_look(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr("edgeappliance.devicetwin.service.TICK", 0.01)
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        rig.cloud.full = True
        rig.mqtt(f"{D1}/twin/update", {"twin": {"k": {"actual": {"value": "1"}}}})
        assert rig.cloud.take() == []
        rig.cloud.full = False
        (report,) = await rig.cloud.wait(1)
        assert report.content_value()["twin"]["k"]["actual"]["value"] == "1"


async def test_a_removed_device_is_gone_with_its_reports(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        rig.mqtt(f"{D1}/twin/update", {"twin": {"k": {"actual": {"value": "1"}}}})
        (report,) = rig.cloud.take()
        await rig.twin.remove("default/d1")
        await rig.acknowledge(report)
        await rig.member("default/d1")
        rig.bus.take()
        rig.mqtt(f"{D1}/twin/get", {})
        assert rig.bus.take()[0][1]["twin"] == {}


async def test_odd_messages_of_the_cloud_are_dropped(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        for resource, content in (
            ("membership", {"added_devices": "none"}),
            ("membership", "text"),
            ("membership/detail", [1]),
            ("membership/detail", {"event_id": "e"}),
            ("something/else", {}),
            ("device/default/d1/twin/cloud_updated", {"twin": 5}),
            ("twin", "OK"),
        ):
            await rig.twin.handle(Message.new(group="twin", operation="update", resource=resource, content=content))
        ((topic, body),) = rig.bus.take()
        assert topic == EMPTY_ID_RESULT
        assert body["reason"] == "unmarshal update request body failed, Please check the request"


async def test_cloud_updated_on_mqtt(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await ready(rig)
        version = {"cloud": 1, "edge": 0}
        twin = {"k": {"expected": {"value": "5"}, "expected_version": version, "metadata": {"type": "int"}}}
        rig.mqtt(f"{D1}/twin/cloud_updated", {"event_id": "e", "twin": twin})
        document, delta = await rig.bus.wait(2)
        assert document[0] == f"{D1}/twin/update/document"
        assert delta[1]["delta"] == {"k": "5"}
        rig.mqtt(
            f"{D1}/twin/cloud_updated", {"twin": {"k": {**twin["k"], "expected_version": {"cloud": 0, "edge": 9}}}}
        )
        (back,) = await rig.cloud.wait(1)
        assert back.content_value()["twin"]["k"]["expected"]["value"] == "5"
        assert back.content_value()["twin"]["k"]["expected_version"] == version


async def test_a_device_removed_while_its_values_are_saved_stays_removed(tmp_path: Path):
    slow = slow_store()
    async with twin_rig(tmp_path, store=slow) as rig:
        await ready(rig)
        rig.mqtt(f"{D1}/twin/update", {"event_id": "e", "twin": {"k": {"expected": {"value": "1"}}}})
        await asyncio.sleep(0.02)
        await rig.twin.remove("default/d1")
        rig.bus.take()
        slow.allow.set()
        result, *_ = await rig.bus.wait(3)
        assert result[1]["event_id"] == "e"
        assert rig.cloud.take() == []
        await rig.member("default/d1")
    async with twin_rig(tmp_path) as rig:
        rig.mqtt(f"{D1}/twin/get", {})
        assert rig.bus.take()[0][1]["twin"] == {}
