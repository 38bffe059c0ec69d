"""twin-throughput and twin-cpu: updates a second sustained end to end, and edgecore's CPU for each."""

import asyncio
import sys
import time

from tests.bench.figure import figure
from tests.bench.procfs import cpu_seconds
from tests.bench.site import Site

DEVICES = 10
SECONDS = 60.0
SETTLE = 2.0
"""Seconds after the last update within which the newest values must be in DeviceStatus."""


async def one(name: str, *, messages: float, properties: int, target: float, cpu: bool) -> bool:
    """Send `messages` updates a second of `properties` properties each for a minute."""
    async with Site(devices=DEVICES, properties=properties) as site:
        for device in range(DEVICES):  # every property exists before the clock starts
            site.publish(device, {f"p{number}": "0" for number in range(properties)})
        await asyncio.sleep(2)
        site.results = 0
        edge, gateway = site.stand.edge.pid, site.stand.gateway.pid
        edge_cpu, gateway_cpu = cpu_seconds(edge), cpu_seconds(gateway)
        newest: dict[int, str] = {}
        begin = time.perf_counter()
        total = int(messages * SECONDS)
        for number in range(total):
            delay = begin + number / messages - time.perf_counter()
            if delay > 0.002:
                await asyncio.sleep(delay)
            device = number % DEVICES
            newest[device] = f"v{number}"
            site.publish(device, {f"p{index}": f"v{number}" for index in range(properties)})
        took = time.perf_counter() - begin
        await asyncio.sleep(SETTLE)
        used = cpu_seconds(edge) - edge_cpu
        gateway_used = cpu_seconds(gateway) - gateway_cpu
        reported = await site.reported()
        stale = sum(
            1
            for device, value in newest.items()
            for index in range(properties)
            if reported.get(f"d{device}", {}).get(f"p{index}") != value
        )
        status = await site.stand.status()
        superseded = status["components"]["devicetwin"]["details"]["values_superseded_total"]
        whole = site.results == total and not stale and not site.refused
        rate = total * properties / took if whole else 0.0
        how = (
            f"{messages:g} messages/s x {properties} properties on {DEVICES} devices for {took:.1f} s; "
            f"{site.results}/{total} results, {len(site.refused)} refused, {stale} values not in DeviceStatus after "
            f"{SETTLE:g} s, {superseded} superseded on the edge; CPU edgecore {used / took:.2f}, gateway "
            f"{gateway_used / took:.2f} cores"
        )
        ok = figure(name, rate, "values/s", target=target, better="more", how=how)
        if cpu:
            figure("twin-cpu", used / total * 1000, "ms/update", target=1.0, how=how)
        return ok


async def main() -> int:
    await one("twin-throughput-messages", messages=300, properties=1, target=299, cpu=True)
    await one("twin-throughput-batched", messages=100, properties=20, target=1990, cpu=False)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
