"""pod-cold-boot: thirty pods run again after a boot without a cloud; and what an idle node with thirty pods costs."""

import asyncio
import sys
import time

from tests.bench.figure import figure
from tests.bench.pods_site import PodSite, runs
from tests.bench.procfs import cpu_seconds, pss_mb
from tests.support.pods import pod
from tests.support.stand import eventually

PODS = 30
SETTLE = 15.0
SECONDS = 60.0


async def main() -> int:
    async with PodSite() as site:
        stand = site.stand
        for number in range(PODS):
            await site.create(pod(f"boot-{number}"))

        async def all_run() -> bool:
            found = await site.list()
            return len(found) == PODS and all(map(runs, found))

        await eventually(all_run, what="all pods running", timeout=120)
        await asyncio.sleep(SETTLE)
        before = cpu_seconds(stand.edge.pid)
        await asyncio.sleep(SECONDS)
        idle = (cpu_seconds(stand.edge.pid) - before) / SECONDS * 100
        figure("pod-idle-cpu", idle, "% of a core", target=1.0, how=f"edgecore with {PODS} pods, over {SECONDS:g} s")
        figure("pod-idle-memory", pss_mb(stand.edge.pid), "MB PSS", target=None, how=f"edgecore with {PODS} pods")

        # Power cut: edgecore, the engine and every container die at once; the gateway is gone too.
        await stand.gateway.kill()
        await stand.edge.kill()
        stand.edge.sweep()
        await site.engine.power_cut()
        began = time.perf_counter()
        await asyncio.gather(site.engine.start(), stand.start_edge(connected=False))

        async def all_run_locally() -> bool:
            containers = await site.engine.call("containers", filters={"label": "io.edgeappliance.kind=app"})
            return len(containers) == PODS

        await eventually(all_run_locally, what="all pods running again", timeout=120)
        took = time.perf_counter() - began
        figure("pod-cold-boot", took, "s", target=30, how=f"{PODS} pods, engine and edgecore started anew, no gateway")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
