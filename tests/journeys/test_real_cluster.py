"""The same road with a real kube-apiserver, and two gateways of which one holds the node."""

import asyncio
import json
import re
import ssl
from pathlib import Path

import pytest

from tests.support.real_api import RealApi
from tests.support.relay import Relay
from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.real_cluster, pytest.mark.timeout(180)]

NODE = "edge-real"


async def holder(stand: Stand) -> str:
    lease = await stand.get("lease", f"cloudgateway-session-{NODE}", "kubeedge")
    return str(lease.get("spec", {}).get("holderIdentity") or "")


async def limit_reported(stand: Stand, value: str) -> bool:
    return (await stand.twins()).get("limit", {}).get("reported", {}).get("value") == value


def set_limit(value: str) -> tuple[str, ...]:
    patch = [{"op": "replace", "path": "/spec/properties/6/desired/value", "value": value}]
    return ("patch", "device", "meter", "--type", "json", "-p", json.dumps(patch))


async def site_ca(stand: Stand) -> str:
    """The CA that a gateway hands out."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.enroll_port, ssl=ssl._create_unverified_context())
    writer.write(b"GET /ca.crt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    body = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    await writer.wait_closed()
    return body.hex()


async def test_two_gateways_on_a_real_api(real_api: RealApi, tmp_path: Path) -> None:
    first = Stand(tmp_path / "a", node=NODE, cluster=real_api.kubeconfig)
    second = Stand(tmp_path / "b", node=NODE, cluster=real_api.kubeconfig)
    relay = Relay(first.hub_port)
    await relay.start()
    try:
        async with first, second:
            # Both at once on a cluster that has nothing: one CA comes of it.
            await asyncio.gather(first.start_gateway(), second.start_gateway())
            assert await site_ca(first) == await site_ca(second)

            await first.start_meter()
            await first.join(hub_port=relay.port)
            await first.start_edge()
            await first.kubectl("apply", "-f", "-", stdin=first.manifest())
            await eventually(lambda: limit_reported(first, "5"), what="the first values", timeout=30)
            assert re.search(rf"{NODE} +Ready", await first.kubectl("get", "nodes"))
            held_by_first = await holder(first)
            assert held_by_first

            # The node comes back by way of the other gateway: it takes over, and the first stays out.
            relay.target = second.hub_port
            relay.cut()

            async def moved() -> bool:
                return await holder(first) not in ("", held_by_first)

            await eventually(moved, what="the session lease in the other hands", timeout=30)
            await first.edge.until(first.edge_connected, what="the link by the second gateway")
            await first.kubectl(*set_limit("3.5"))
            await eventually(lambda: limit_reported(first, "3.5"), what="the set-point by the second gateway")
            assert (await first.meter_registers())["limit"] == 3.5

            # The second one dies without a word.
            await second.gateway.kill()
            relay.target = first.hub_port
            await eventually(lambda: held_again(first, held_by_first), what="the lease back", timeout=40)
            await first.edge.until(first.edge_connected, what="the link by the first gateway")
            await first.kubectl(*set_limit("4.5"))
            await eventually(lambda: limit_reported(first, "4.5"), what="the set-point by the first gateway")
    finally:
        await relay.stop()


async def held_again(stand: Stand, identity: str) -> bool:
    return await holder(stand) == identity
