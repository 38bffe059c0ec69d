"""kill -9 at random moments: nothing that was acknowledged is lost, and everything comes back by itself."""

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.faults.conftest import ROUNDS
from tests.faults.ledger import AppLedger, ledger_device, pushes_lost
from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 20 * ROUNDS)]


@pytest.fixture
async def busy(stand: Stand) -> AsyncIterator[tuple[Stand, AppLedger]]:
    """A site under load: an app writes expected values, kubectl changes pods' and devices' objects."""
    await stand.start_gateway()
    await stand.join()
    await stand.start_edge()
    await stand.kubectl("apply", "-f", "-", stdin=ledger_device(stand.node))

    async def known() -> bool:
        status = await stand.status()
        return bool(status) and status["components"]["devicetwin"]["details"]["devices"] == 1

    await eventually(known, what="the device on the edge")
    ledger = AppLedger(stand.mqtt_port)
    ledger.start()
    stop = asyncio.Event()
    writers = [
        asyncio.create_task(ledger.write(stop), name="app"),
        asyncio.create_task(change_objects(stand, stop), name="kubectl"),
    ]
    await eventually(lambda: acknowledged(ledger, 20), what="the first acknowledgements")
    yield stand, ledger
    stop.set()
    await asyncio.gather(*writers)
    ledger.stop()


async def acknowledged(ledger: AppLedger, count: int) -> bool:
    return ledger.results >= count


async def change_objects(stand: Stand, stop: asyncio.Event) -> None:
    """A pod of the node and its config map change all the time; a gateway that is down is tried again."""
    number = 0
    while not stop.is_set():
        number += 1
        name = f"cm{number % 3}"
        objects = [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": str(number)}},
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"pod{number % 3}", "annotations": {"n": str(number)}},
                "spec": {
                    "nodeName": stand.node,
                    "containers": [
                        {"name": "c", "image": "none", "envFrom": [{"configMapRef": {"name": name}}]},
                    ],
                },
            },
        ]
        text = "\n---\n".join(map(json.dumps, objects))
        await stand.kubectl("apply", "-n", "default", "-f", "-", stdin=text, check=False)
        await asyncio.sleep(0.2)


async def rounds(busy: tuple[Stand, AppLedger], dice: random.Random, kill: Callable[[], Awaitable[None]]) -> None:
    """Kill, wait until everybody is back, compare; again."""
    stand, ledger = busy
    for number in range(ROUNDS):
        await asyncio.sleep(dice.uniform(0.0, 1.5))
        before = ledger.results
        await kill()
        await stand.edge.until(stand.edge_connected, what=f"the link after kill {number}", timeout=30)
        target = before + 10
        await eventually(lambda: acknowledged(ledger, target), what=f"acknowledgements after kill {number}", timeout=30)
        lost = await ledger.lost()
        assert not lost, f"after kill {number}: {lost}"
        not_stored = await pushes_lost(stand, at_least=6)  # three pods, three config maps
        assert not not_stored, f"after kill {number}: {not_stored}"
    assert not ledger.errors


async def test_edgecore_killed(busy: tuple[Stand, AppLedger], dice: random.Random) -> None:
    stand, _ = busy

    async def kill() -> None:
        await stand.edge.kill()
        await stand.start_edge(connected=False)

    await rounds(busy, dice, kill)


async def test_cloudgateway_killed(busy: tuple[Stand, AppLedger], dice: random.Random) -> None:
    stand, _ = busy

    async def kill() -> None:
        await stand.gateway.kill()
        await stand.start_gateway()

    await rounds(busy, dice, kill)


async def test_broker_killed(busy: tuple[Stand, AppLedger], dice: random.Random) -> None:
    stand, _ = busy

    async def kill() -> None:
        pid = int((await stand.status())["components"]["broker"]["details"]["pid"])
        os.kill(pid, signal.SIGKILL)

    await rounds(busy, dice, kill)
