"""edge-footprint: memory and CPU of edgecore with one Modbus device, idle otherwise."""

import asyncio
import sys

from tests.bench.figure import figure
from tests.bench.procfs import cpu_seconds, pss_mb
from tests.support.stand import Stand, eventually

SETTLE = 20.0
SECONDS = 60.0


async def main() -> int:
    async with Stand() as stand:
        await stand.start_meter()
        await stand.start_gateway()
        await stand.join()
        await stand.start_edge()
        await stand.kubectl("apply", "-f", "-", stdin=stand.manifest())
        await eventually(lambda: has_values(stand), what="twins in the cloud", timeout=30)
        polling = await measure(stand)
        figure(
            "edge-footprint", polling[0], "MB PSS", target=55, how="7 registers polled each second, gateway connected"
        )
        figure(
            "edge-cpu-polling", polling[1], "% of a core", target=None, how="7 registers polled each second at 19200"
        )
    async with Stand() as stand:
        await stand.start_gateway()
        await stand.join()
        await stand.start_edge()
        idle = await measure(stand)
        figure("edge-footprint-idle", idle[0], "MB PSS", target=55, how="connected, Modbus enabled, no device")
        figure("edge-cpu-idle", idle[1], "% of a core", target=0.5, how=f"connected, no device, over {SECONDS:g} s")
    return 0


async def has_values(stand: Stand) -> bool:
    return len(await stand.twins()) >= 7


async def measure(stand: Stand) -> tuple[float, float]:
    """PSS in MB, and CPU in percent of a core over a minute."""
    await asyncio.sleep(SETTLE)
    before = cpu_seconds(stand.edge.pid)
    await asyncio.sleep(SECONDS)
    return pss_mb(stand.edge.pid), (cpu_seconds(stand.edge.pid) - before) / SECONDS * 100


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
