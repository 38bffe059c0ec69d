"""twin-latency: a twin update on MQTT until a watch on the API shows it in DeviceStatus, at 25 updates a second."""

import asyncio
import sys
import time

from tests.bench.figure import figure, percentile
from tests.bench.site import Site

RATE = 25.0
SECONDS = 40.0
WARM_UP = 50


async def main() -> int:
    async with Site(devices=1) as site:
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
            f"{RATE:g} updates/s for {SECONDS:g} s, MQTT publish to event of a watch on the embedded API; "
            f"{len(measured)} measured, {missing} never seen alone (superseded before they were patched)"
        )
        figure("twin-latency-p50", percentile(measured, 0.50) * 1000, "ms", target=15, how=how)
        figure("twin-latency-p99", percentile(measured, 0.99) * 1000, "ms", target=40, how=how)
    return 0


def take(event: tuple[str, float], sent: dict[str, float], latencies: list[float]) -> None:
    value, now = event
    began = sent.pop(value, None)
    if began is not None:
        latencies.append(now - began)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
