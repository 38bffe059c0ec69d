"""Device specifications: membership, types and desired values (KubeEdge reference 1.4 G, H)."""

import asyncio
from pathlib import Path

import pytest

from edgeappliance.devicemodel import Access, DeviceSpec, PropertySpec, PropertyType
from edgeappliance.kernel.database import StorageError
from tests.unit.devicetwin.parts import D1, slow_store, twin_rig


def spec(*, local: bool = False, **desired: str | None) -> DeviceSpec:
    kinds = {"limit": PropertyType.INT, "gain": PropertyType.DOUBLE, "blob": PropertyType.BYTES}
    return DeviceSpec(
        namespace="default",
        name="d1",
        model="m",
        protocol="modbus",
        properties=(
            *(PropertySpec(name=key, type=kind, desired=desired.get(key)) for key, kind in kinds.items()),
            PropertySpec(name="shown", type=PropertyType.INT, access=Access.READ_ONLY, desired=desired.get("shown")),
        ),
        local=local,
    )


async def test_desired_becomes_expected_once(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await rig.twin.apply(spec(limit="20", gain="1.5", shown="3"))
        added, document, delta = rig.bus.take()
        assert added[1]["added_devices"] == [{"id": "default/d1", "name": "d1"}]
        assert document[0] == f"{D1}/twin/update/document"
        assert list(document[1]["twin"]) == ["gain", "limit"]
        assert document[1]["twin"]["gain"]["current"]["metadata"] == {"type": "float"}
        assert delta[1]["delta"] == {"limit": "20", "gain": "1.5"}
        report = rig.cloud.take()[-1]
        assert report.content_value()["twin"]["limit"]["expected_version"] == {"cloud": 0, "edge": 1}

        await rig.twin.apply(spec(limit="20", gain="1.5", shown="3"))
        assert rig.bus.take() == []
        await rig.twin.apply(spec(limit="30", gain="1.5"))
        (document, delta) = rig.bus.take()
        assert list(document[1]["twin"]) == ["limit"]

        rig.mqtt(f"{D1}/twin/update", {"twin": {"limit": {"expected": {"value": "5"}}}})
        await rig.bus.wait(3)
        await rig.twin.apply(spec(limit="30", gain="1.5"))
        assert rig.bus.take() == [], "what an app has set meanwhile stays until the Device changes"


@pytest.mark.parametrize("restart", [False, True])
async def test_a_desired_value_that_was_taken_away_and_comes_back_is_new(tmp_path: Path, restart: bool):
    async with twin_rig(tmp_path) as rig:
        await rig.twin.apply(spec(limit="20"))
        await rig.twin.apply(spec())
        rig.bus.take()
        rig.mqtt(f"{D1}/twin/update", {"twin": {"limit": {"expected": {"value": "5"}}}})
        await rig.bus.wait(3)
        if not restart:
            await rig.twin.apply(spec(limit="20"))
            assert rig.bus.take()[-1][1]["delta"] == {"limit": "20"}
    if restart:
        async with twin_rig(tmp_path) as rig:
            await rig.twin.apply(spec(limit="20"))
            assert rig.bus.take()[-1][1]["delta"] == {"limit": "20"}


async def test_a_desired_value_taken_away_while_another_is_being_saved(tmp_path: Path):
    store = slow_store()
    async with twin_rig(tmp_path, store=store) as rig:
        store.allow.set()
        await rig.twin.apply(spec(limit="20"))
        store.allow.clear()
        rig.mqtt(f"{D1}/twin/update", {"twin": {"gain": {"expected": {"value": "1"}}}})
        await asyncio.sleep(0)
        taken_away = asyncio.create_task(rig.twin.apply(spec()))
        await asyncio.sleep(0.01)
        store.allow.set()
        await taken_away
        rig.bus.take()
        await rig.twin.apply(spec(limit="20"))
        assert list(rig.bus.take()[0][1]["twin"]) == ["limit"]


async def test_applied_values_survive_a_restart(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await rig.twin.apply(spec(limit="20"))
        rig.mqtt(f"{D1}/twin/update", {"twin": {"limit": {"expected": {"value": "5"}}}})
        await rig.bus.wait(6)
    async with twin_rig(tmp_path) as rig:
        await rig.twin.apply(spec(limit="20"))
        assert rig.bus.take() == []
        rig.mqtt(f"{D1}/twin/get", {})
        assert rig.bus.take()[0][1]["twin"]["limit"]["expected"]["value"] == "5"
        await rig.twin.apply(spec())
        await rig.twin.apply(spec(limit="20"))
        assert rig.bus.take()[0][1]["twin"]["limit"]["current"]["expected"]["value"] == "20"


async def test_a_refused_value_does_not_hold_up_the_others(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await rig.twin.apply(spec(limit="much", gain="2"))
        _, document, _ = rig.bus.take()
        assert list(document[1]["twin"]) == ["gain"]
        assert rig.twin.health().details["desired_refused"] == {"default/d1 limit": "the value is not int or integer"}
        await rig.twin.apply(spec(limit="7", gain="2"))
        assert rig.twin.health().details["desired_refused"] == {}


async def test_new_keys_get_their_type_from_the_model(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await rig.twin.apply(spec())
        rig.bus.take()
        twin = {key: {"actual": {"value": "1"}} for key in ("limit", "gain", "blob", "other")}
        rig.mqtt(f"{D1}/twin/update", {"twin": twin})
        result = rig.bus.take()[0][1]["twin"]
        assert {key: entry["metadata"]["type"] for key, entry in result.items()} == {
            "limit": "int",
            "gain": "float",
            "blob": "string",
            "other": "string",
        }


async def test_removal_forgets_everything(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await rig.twin.apply(spec(limit="20"))
        rig.bus.take()
        await rig.twin.remove("default/d1")
        ((_, body),) = rig.bus.take()
        assert body["removed_devices"] == [{"id": "default/d1", "name": "d1"}]
        await rig.twin.remove("default/d1")
        assert rig.bus.take() == []
    async with twin_rig(tmp_path) as rig:
        rig.mqtt(f"{D1}/twin/get", {})
        assert rig.bus.take()[0][1]["code"] == 404
        await rig.twin.apply(spec(limit="20"))
        assert rig.bus.take()[-1][1]["delta"] == {"limit": "20"}


async def test_local_devices_are_not_reported_and_not_removed_by_the_cloud(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await rig.twin.apply(spec(local=True, limit="20"))
        rig.mqtt(f"{D1}/state/update", {"state": "online"})
        assert [topic.rpartition("/")[2] for topic, _ in rig.bus.take()] == ["updated", "document", "delta", "result"]
        assert [message.resource for message in rig.cloud.take()] == ["membership/detail"]
        assert rig.twin.health().details["devices_not_confirmed"] == 0
        await rig.twin.apply(spec(limit="20"))
        report, state = rig.cloud.take()
        assert report.content_value()["twin"]["limit"]["expected"]["value"] == "20"
        assert state.resource == "device/default/d1/state/update"


async def test_a_full_disk_is_told_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    slow = slow_store()
    monkeypatch.setattr("edgeappliance.devicetwin.durable.SAVE_TRIES", 1)
    slow.broken = True
    slow.allow.set()
    async with twin_rig(tmp_path, store=slow) as rig:
        with pytest.raises(StorageError):
            await rig.twin.apply(spec(limit="20"))
        slow.broken = False
        await rig.twin.apply(spec(limit="20"))
        assert rig.bus.take()[-1][1]["delta"] == {"limit": "20"}


async def test_membership_and_device_object_at_the_same_moment(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await asyncio.gather(rig.member("default/d1"), rig.twin.apply(spec(limit="20")), rig.member("default/d1"))
        assert [topic.rpartition("/")[2] for topic, _ in rig.bus.take()] == ["updated", "document", "delta"]


async def test_a_changed_model_changes_the_types(tmp_path: Path):
    async with twin_rig(tmp_path) as rig:
        await rig.member("default/d1")
        rig.mqtt(f"{D1}/twin/update", {"twin": {"gain": {"actual": {"value": "1"}, "metadata": {"type": "int"}}}})
        rig.mqtt(f"{D1}/twin/update", {"twin": {"other": {"actual": {"value": "x"}}}})
        rig.bus.take()
        await rig.twin.apply(spec())
        assert rig.bus.take() == []
        rig.mqtt(f"{D1}/twin/update", {"twin": {"gain": {"actual": {"value": "1.5"}}}})
        result = rig.bus.take()[0][1]["twin"]
        assert result["gain"]["metadata"] == {"type": "float"}
    async with twin_rig(tmp_path) as rig:
        rig.mqtt(f"{D1}/twin/get", {})
        twin = rig.bus.take()[0][1]["twin"]
        assert {key: entry["metadata"]["type"] for key, entry in twin.items()} == {"gain": "float", "other": "string"}
