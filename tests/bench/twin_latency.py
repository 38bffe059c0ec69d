"""twin-latency: a twin update on MQTT until a watch on the API shows it in DeviceStatus, at 25 updates a second."""

import asyncio
import sys
import time
from pathlib import Path

from tests.bench.figure import figure, percentile
from tests.bench.site import Site
from tests.support.real_api import binary, running_api

RATE = 25.0
SECONDS = 40.0
WARM_UP = 50


async def main() -> int:
    await one("twin-latency", "the embedded API")
    apiserver = binary()
    if apiserver is None:
        print("no real kube-apiserver here: tests/support/build_kube_apiserver.sh builds it", file=sys.stderr)
        return 0
    with running_api(apiserver) as api:
        await one("twin-latency-real-api", "a real kube-apiserver 1.20 with etcd", cluster=api.kubeconfig)
    return 0


async def one(name: str, api: str, *, cluster: Path | None = None) -> None:
    """Measure on one kind of API."""
    async with Site(devices=1, cluster=cluster) as site:
        seen = asyncio.Queue[tuple[str, float]]()
        watching = asyncio.create_task(site.watch(lambda device, twins, now: seen.put_nowait((twins["p0"], now))))
        await site.watching.wait()
        sent: dict[str, float] = {}
        latencies: list[float] = []
        begin = time.perf_counter()
        for number in range(int(RATE * SECONDS)):
            await asyncio.sleep(max(0.0, begin + number / RATE - time.perf_counter()))
            value = str(number)
            sent[value] = time.perf_counter()
            site.publish(0, {"p0": value})
            while not seen.empty():
                take(seen.get_nowait(), sent, latencies)
        await asyncio.sleep(1)
        while not seen.empty():
            take(seen.get_nowait(), sent, latencies)
        watching.cancel()
        await asyncio.wait([watching])
        missing = len(sent)
        measured = latencies[WARM_UP:]
        how = (
            f"{RATE:g} updates/s for {SECONDS:g} s, MQTT publish to event of a watch on {api}; "
            f"{len(measured)} measured, {missing} never seen alone (superseded before they were patched)"
        )
        figure(f"{name}-p50", percentile(measured, 0.50) * 1000, "ms", target=15, how=how)
        figure(f"{name}-p99", percentile(measured, 0.99) * 1000, "ms", target=40, how=how)


def take(event: tuple[str, float], sent: dict[str, float], latencies: list[float]) -> None:
    value, now = event
    began = sent.pop(value, None)
    if began is not None:
        latencies.append(now - began)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
