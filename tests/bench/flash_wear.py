"""flash-wear: bytes written to disk a day at 100 changing values a second."""

import asyncio
import sys
import time

from tests.bench.figure import figure
from tests.bench.procfs import descendants, written_bytes
from tests.bench.site import Site

RATE = 10
PROPERTIES = 10
SECONDS = 120.0


async def main() -> int:
    async with Site(devices=10, properties=PROPERTIES) as site:
        await asyncio.sleep(5)
        family = descendants(site.stand.edge.pid)
        before = sum(written_bytes(pid) for pid in family)
        begin = time.perf_counter()
        number = 0
        while time.perf_counter() - begin < SECONDS:
            site.publish(number % 10, {f"p{index}": str(number) for index in range(PROPERTIES)})
            number += 1
            await asyncio.sleep(max(0.0, begin + number / RATE - time.perf_counter()))
        took = time.perf_counter() - begin
        await asyncio.sleep(12)  # the commit of what came last belongs to it
        written = sum(written_bytes(pid) for pid in family) - before
        a_day = written / took * 86400 / 1e6
        how = f"{number * PROPERTIES / took:.0f} changing values/s for {took:.0f} s; write_bytes of edgecore and broker"
        figure("flash-wear", a_day, "MB/day", target=300, how=how)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
