"""pod-start: a bound pod is created on the API until the API says that its container runs; the image is there."""

import asyncio
import sys
from typing import Any

from tests.bench.figure import figure, percentile
from tests.bench.pods_site import PodSite, runs
from tests.support.pods import pod

PODS = 60


async def main() -> int:
    async with PodSite() as site:
        running: dict[str, float] = {}
        changed = asyncio.Event()

        def see(obj: dict[str, Any], now: float) -> None:
            if runs(obj) and obj["metadata"]["name"] not in running:
                running[obj["metadata"]["name"]] = now
                changed.set()

        ready = asyncio.Event()
        watching = asyncio.create_task(site.watch(see, ready))
        await ready.wait()
        times = []
        for number in range(PODS + 1):
            name = f"start-{number}"
            sent = await site.create(pod(name))
            async with asyncio.timeout(30):
                while name not in running:
                    changed.clear()
                    await changed.wait()
            if number:  # the first one loads the sandbox's image
                times.append(running[name] - sent)
            await site.delete(name)
            await asyncio.sleep(0.3)
        watching.cancel()
        how = f"{PODS} pods one after the other, POST to the watch that shows the container running, image present"
        figure("pod-start-p50", percentile(times, 0.5), "s", target=1.0, how=how)
        figure("pod-start-p99", percentile(times, 0.99), "s", target=2.0, how=how)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
