"""The link is cut, or swallows everything: apps notice nothing, and the cloud has the newest state soon after."""

import asyncio
import json
import os
from collections.abc import AsyncIterator

import pytest

from tests.faults.ledger import AppLedger, ledger_device
from tests.support.relay import Relay
from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

HOLE = float(os.environ.get("FAULT_HOLE", "40"))
"""Seconds of black hole: longer than every keepalive."""


@pytest.fixture
async def relayed(stand: Stand) -> AsyncIterator[tuple[Stand, Relay, AppLedger]]:
    relay = Relay(stand.hub_port)
    await relay.start()
    await stand.start_gateway()
    await stand.join(hub_port=relay.port)
    await stand.start_edge()
    await stand.kubectl("apply", "-f", "-", stdin=ledger_device(stand.node))

    async def known() -> bool:
        status = await stand.status()
        return bool(status) and status["components"]["devicetwin"]["details"]["devices"] == 1

    await eventually(known, what="the device on the edge")
    ledger = AppLedger(stand.mqtt_port)
    ledger.start()
    yield stand, relay, ledger
    ledger.stop()
    await relay.stop()


async def newest_in_cloud(stand: Stand, ledger: AppLedger) -> bool:
    """Whether DeviceStatus shows what the app had acknowledged last."""
    twins = await stand.twins("ledger")
    return bool(ledger.acknowledged) and all(
        int(twins.get(key, {}).get("observedDesired", {}).get("value") or -1) == number
        for key, number in ledger.acknowledged.items()
    )


async def write_for(ledger: AppLedger, seconds: float) -> None:
    stop = asyncio.Event()
    writing = asyncio.create_task(ledger.write(stop, every=0.05))
    await asyncio.sleep(seconds)
    stop.set()
    await writing
    await asyncio.sleep(0.5)


async def test_a_cut_link_comes_back_with_everything(relayed: tuple[Stand, Relay, AppLedger]) -> None:
    stand, relay, ledger = relayed
    for _ in range(5):
        relay.cut()
        await write_for(ledger, 1.0)
    await eventually(lambda: newest_in_cloud(stand, ledger), what="the newest values", timeout=15)
    assert not ledger.errors
    assert not await ledger.lost()


async def test_a_black_hole_is_noticed_and_survived(relayed: tuple[Stand, Relay, AppLedger]) -> None:
    stand, relay, ledger = relayed
    await write_for(ledger, 1.0)
    relay.black_hole()
    await write_for(ledger, HOLE)
    report = (await stand.status())["components"]["edgehub"]
    assert report["state"] == "degraded", report
    code, out, _ = await stand.edgecore("status")
    assert code == 0
    assert "!!  edgehub" in out
    await stand.kubectl(
        "patch", "device", "ledger", "--type", "merge", "-p", json.dumps({"metadata": {"labels": {"a": "b"}}})
    )
    relay.black_hole(False)
    relay.cut()  # what was swallowed is gone, as when a mobile link changes its address
    await stand.edge.until(stand.edge_connected, what="the link again", timeout=20)
    await eventually(lambda: newest_in_cloud(stand, ledger), what="the newest values", timeout=10)
    assert not ledger.errors

    async def ready() -> bool:
        conditions = (await stand.get("node", stand.node))["status"]["conditions"]
        return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)

    await eventually(ready, what="node Ready again", timeout=30)
