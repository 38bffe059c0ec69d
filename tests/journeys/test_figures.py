"""Generous bounds on the figures that `make bench` measures: a change that breaks one by far fails here."""

import asyncio
import time

import pytest

from tests.bench.procfs import cpu_seconds, pss_mb
from tests.bench.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

DEVICES = 5
RATE = 100
SECONDS = 6


async def test_updates_memory_and_cpu_stay_within_bounds() -> None:
    async with Site(devices=DEVICES) as site:
        assert pss_mb(site.stand.edge.pid) < 80
        cpu = cpu_seconds(site.stand.edge.pid)
        begin = time.perf_counter()
        total = RATE * SECONDS
        for number in range(total):
            await asyncio.sleep(max(0.0, begin + number / RATE - time.perf_counter()))
            site.publish(number % DEVICES, {"p0": f"v{number}"})
        await asyncio.sleep(2)
        assert site.results == total
        assert not site.refused
        newest = {f"d{number % DEVICES}": {"p0": f"v{number}"} for number in range(total - DEVICES, total)}
        assert await site.reported() == newest
        assert (cpu_seconds(site.stand.edge.pid) - cpu) / total < 0.01
