"""edge-footprint-pods: memory of edgecore with edged, a polled Modbus device and one pod."""

import asyncio
import sys

from tests.bench.edge_footprint import has_values, measure
from tests.bench.figure import figure
from tests.bench.pods_site import PodSite, runs
from tests.support.pods import pod
from tests.support.stand import eventually


async def main() -> int:
    async with PodSite() as site:
        stand = site.stand
        await stand.start_meter()
        await stand.kubectl("apply", "-f", "-", stdin=stand.manifest())
        await site.create(pod("one"))

        async def ready() -> bool:
            return all(map(runs, await site.list())) and await has_values(stand)

        await eventually(ready, what="the pod and the twins", timeout=60)
        memory, cpu = await measure(stand)
        how = "edged with one pod, tunnel up, 7 registers polled each second, gateway connected"
        figure("edge-footprint-pods", memory, "MB PSS", target=70, how=how)
        figure("edge-cpu-pods", cpu, "% of a core", target=None, how=how)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
