"""A register becomes a twin that kubectl shows; what kubectl sets reaches the register; without a cloud it goes on."""

import json
import re

import pytest

from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


async def whole(stand: Stand) -> None:
    """Everything started, joined, the meter's Device applied and reported."""
    await stand.start_meter()
    await stand.start_gateway()
    await stand.join()
    await stand.start_edge()
    await stand.kubectl("apply", "-f", "-", stdin=stand.manifest())
    await eventually(lambda: reported(stand), what="all properties reported", timeout=30)


async def reported(stand: Stand) -> bool:
    twins = await stand.twins()
    return len(twins) == 7 and all(twin["reported"]["value"] for twin in twins.values())


async def limit_reported(stand: Stand, value: str) -> bool:
    return (await stand.twins()).get("limit", {}).get("reported", {}).get("value") == value


def set_limit(value: str) -> tuple[str, ...]:
    patch = [{"op": "replace", "path": "/spec/properties/6/desired/value", "value": value}]
    return ("patch", "device", "meter", "--type", "json", "-p", json.dumps(patch))


async def test_the_road_up_and_down(stand: Stand) -> None:
    await whole(stand)
    twins, registers = await stand.twins(), await stand.meter_registers()
    assert abs(float(twins["voltage"]["reported"]["value"]) - registers["voltage"]) < 6
    assert twins["limit"]["reported"]["value"] == "5"
    assert twins["limit"]["observedDesired"]["value"] == "5"
    assert re.fullmatch(r"\d{13}", twins["voltage"]["reported"]["metadata"]["timestamp"])
    assert twins["voltage"]["reported"]["metadata"]["type"] == "float"
    status = await stand.get("devicestatus", "meter")
    assert status["metadata"]["ownerReferences"][0]["kind"] == "Device"

    async def online() -> bool:
        return bool((await stand.get("devicestatus", "meter"))["status"].get("state") in ("online", "ok"))

    await eventually(online, what="state online")

    await stand.kubectl(*set_limit("3.5"))

    async def in_register() -> bool:
        return (await stand.meter_registers())["limit"] == 3.5

    await eventually(in_register, what="the set-point in the register")
    await eventually(lambda: limit_reported(stand, "3.5"), what="the set-point reported")

    node = await stand.get("node", stand.node)
    conditions = {item["type"]: item["status"] for item in node["status"]["conditions"]}
    assert conditions["Ready"] == "True"
    assert node["metadata"]["labels"].get("node-role.kubernetes.io/edge") == ""
    lease = await stand.get("lease", stand.node, "kube-node-lease")
    assert lease["spec"]["holderIdentity"] == stand.node

    code, out, err = await stand.edgecore("status")
    assert (code, err) == (0, "")
    assert re.search(r"ok +edgehub +running", out)
    code, out, err = await stand.edgecore("devices", "default/meter")
    assert (code, err) == (0, "")
    assert re.search(r"limit +FLOAT +3\.5 +kW", out)


async def test_what_a_register_cannot_take_is_said(stand: Stand) -> None:
    await whole(stand)
    await stand.kubectl(*set_limit("99"))

    async def told() -> bool:
        metadata = (await stand.twins())["limit"]["reported"].get("metadata", {})
        return "maximum" in metadata.get("reason", "")

    await eventually(told, what="the reason in DeviceStatus")
    assert (await stand.meter_registers())["limit"] == 5
    await stand.kubectl(*set_limit("4.2"))
    await eventually(lambda: limit_reported(stand, "4.2"), what="the corrected set-point")


async def test_a_cold_boot_without_the_gateway(stand: Stand) -> None:
    await whole(stand)
    await stand.gateway.kill()
    await stand.edge.kill()
    await stand.start_edge(connected=False)

    async def polled() -> bool:
        code, out, _ = await stand.edgecore("devices", "default/meter", "--json")
        if code:
            return False
        (device,) = json.loads(out)
        values = {item["name"]: item for item in device["properties"]}
        return len(values) == 7 and all(item["reported"] for item in values.values())

    await eventually(polled, what="twins served without a cloud")
    await stand.start_gateway()
    await stand.edge.until(stand.edge_connected, what="the link again")
    before = (await stand.twins())["energy"]["reported"]["metadata"]["timestamp"]

    async def fresh() -> bool:
        return int((await stand.twins())["energy"]["reported"]["metadata"]["timestamp"]) > int(before)

    await eventually(fresh, what="fresh values in the cloud")


async def test_a_set_point_given_while_the_edge_is_away_arrives(stand: Stand) -> None:
    await whole(stand)
    assert await stand.edge.stop() == 0
    await stand.kubectl(*set_limit("2.5"))
    await stand.start_edge()
    await eventually(lambda: limit_reported(stand, "2.5"), what="the set-point reported")
    assert (await stand.meter_registers())["limit"] == 2.5


async def test_a_device_goes_and_comes_back(stand: Stand) -> None:
    await whole(stand)
    await stand.kubectl("delete", "device", "meter")

    async def gone() -> bool:
        _, out, _ = await stand.edgecore("devices")
        return "default/meter" not in out

    await eventually(gone, what="the device gone from the edge")

    async def status_gone() -> bool:
        return not await stand.get("devicestatus", "meter")

    await eventually(status_gone, what="its DeviceStatus collected")
    await stand.kubectl("apply", "-f", "-", stdin=stand.manifest())
    await eventually(lambda: reported(stand), what="all properties reported again")


async def test_a_wrong_token_says_which_check_failed(stand: Stand) -> None:
    await stand.start_gateway()
    token = await stand.token()
    place = ("--cloud", f"127.0.0.1:{stand.hub_port}", "--enroll-port", str(stand.enroll_port), "--name", "edge-x")
    for broken, text in (
        ("nonsense", "is not one"),
        ("0" * 64 + token[64:], "is not the one of the join token"),
        (token[:-3] + "AAA", "refused"),
    ):
        code, out, err = await stand.edgecore("join", *place, "--token", broken)
        assert code == 1, (broken, out, err)
        assert text in err
        assert "what to do" in err
    await stand.start_edge()  # without an identity it works alone, and says so
    code, out, _ = await stand.edgecore("status")
    assert code == 0
    assert "this box works alone" in out
    assert "edgecore join" in out
