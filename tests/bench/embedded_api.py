"""embedded-api: CPU of a patch, of a node's lease, and memory with 2 000 nodes."""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cloudgateway.apiserver.embedded import EmbeddedApi
from tests.bench.figure import figure
from tests.support.embedded_api import MERGE, Api, widget, widget_definition

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WIDGETS = "/apis/test.example.com/v1/namespaces/default/widgets"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
NODES = 2000
PATCHES = 5000


def rss_mb() -> float:
    """Resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


async def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        api = Api(await EmbeddedApi.open(Path(directory)))
        try:
            await measure_patches(api)
            await measure_nodes(api)
        finally:
            await api.embedded.close()
    return 0


async def measure_patches(api: Api) -> None:
    """Durable patches of small custom objects, one at a time and fifty at a time."""
    await api.ok("POST", CRDS, widget_definition())
    for index in range(50):
        await api.ok("POST", WIDGETS, widget(f"w{index}", parts=[{"name": "a"}, {"name": "b"}]))

    async def patch(index: int, count: int) -> None:
        for number in range(count):
            await api.ok("PATCH", f"{WIDGETS}/w{index}", {"spec": {"free": {"n": number}}}, type=MERGE)

    for workers, name in ((1, "one at a time"), (50, "fifty at a time")):
        count = PATCHES if workers > 1 else PATCHES // 10
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(patch(index, count // workers) for index in range(workers)))
        spent = (time.process_time() - cpu) / count * 1e6
        rate = count / (time.perf_counter() - began)
        # Alone, a patch pays for its own fsync and four switches between threads: that has no target.
        target = 300 if workers > 1 else None
        figure("embedded-api-patch", spent, "us CPU", target=target, how=f"durable merge patches, {name}, {rate:.0f}/s")


async def measure_nodes(api: Api) -> None:
    """The nodes' objects, and the renewal of their leases."""
    condition = {"status": "True", "reason": "EdgeReady", "message": "edge is posting ready status"}
    status: dict[str, Any] = {
        "conditions": [{"type": kind, **condition} for kind in ("Ready", "MemoryPressure", "DiskPressure")],
        "nodeInfo": {"kubeletVersion": "v1.32.10-kubeedge-v1.23.0", "osImage": "Debian GNU/Linux 12"},
        "capacity": {"cpu": "4", "memory": "2Gi", "pods": "110"},
    }
    for index in range(NODES):
        await api.ok(
            "POST", "/api/v1/nodes", {"metadata": {"name": f"n{index}"}, "status": json.loads(json.dumps(status))}
        )
        await api.ok("PUT", f"{LEASES}/n{index}", {"metadata": {"name": f"n{index}"}, "spec": {"leaseTransitions": 0}})
    cpu = time.process_time()
    for index in range(NODES):
        await api.ok("PATCH", f"{LEASES}/n{index}", {"spec": {"leaseTransitions": 1}}, type=MERGE)
    spent = (time.process_time() - cpu) / NODES
    figure("embedded-api-lease", spent * 1e6, "us CPU", target=None, how="renewal of one of 2000 leases")
    figure(
        "embedded-api-memory",
        rss_mb(),
        "MB RSS",
        target=None,
        how="process with 2000 nodes and leases, benchmark included",
    )


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
