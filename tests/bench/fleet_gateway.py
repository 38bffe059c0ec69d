"""The gateway of the fleet benchmark: the whole program with its embedded API, plus orders on stdin.

`identities N DIR` makes N nodes and their identities; `memory` prints sessions and PSS in KB; `push N SIZE` sends N
keyed messages round robin and prints seconds, CPU seconds and acknowledged messages once all are acknowledged.
"""

import asyncio
import gc
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloudgateway.config import (
    CloudHubSettings,
    CloudStreamSettings,
    EmbeddedSettings,
    EnrolmentSettings,
    GatewaySettings,
    MetricsSettings,
)
from cloudgateway.gateway import Gateway
from cloudgateway.kube.resources import NODES
from edgeappliance.kernel import log
from edgeappliance.wire.message import Message
from tests.bench.procfs import pss_mb
from tests.support import kubeedge_edge as edge

_IN_FLIGHT = 4000
_OBJECTS = 8000


async def main(directory: Path, port: int) -> None:
    log.setup(level="error")
    gateway = Gateway(
        GatewaySettings(
            cloudhub=CloudHubSettings(host="127.0.0.1", port=port, node_limit=5000),
            enrolment=EnrolmentSettings(host="127.0.0.1", port=0, addresses=["127.0.0.1"]),
            cloudstream=CloudStreamSettings(host="127.0.0.1", tunnel_port=0),
            embedded=EmbeddedSettings(directory=str(directory), port=0),
            metrics=MetricsSettings(enable=False),
        )
    )
    await gateway.start()
    await gateway.wait_listening()
    answer("ready")
    loop = asyncio.get_running_loop()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        if line[0] == "identities":
            await identities(gateway, int(line[1]), Path(line[2]))
            answer("done")
        elif line[0] == "memory":
            gc.collect()
            answer(len(gateway.hub.nodes()), pss_mb(os.getpid()) * 1000)
        elif line[0] == "push":
            answer(*await push(gateway, int(line[1]), int(line[2])))
    await gateway.stop()


def answer(*values: object) -> None:
    print(*values, flush=True)


async def identities(gateway: Gateway, count: int, directory: Path) -> None:
    authority = (await gateway.credentials.wait()).authority
    (directory / "ca.pem").write_bytes(authority.certificate_pem)
    for number in range(count):
        key, node = edge.new_key(), f"node-{number}"
        certificate = authority.sign_request(
            edge.csr(key, node), node=node, usages=[ExtendedKeyUsageOID.CLIENT_AUTH], days=9, now=datetime.now(UTC)
        )
        pem = x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)
        (directory / f"{node}.pem").write_bytes(pem + edge.key_pem(key))
        labels = {"node-role.kubernetes.io/edge": ""}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}}
        await gateway.api.client.create(NODES, body)


async def push(gateway: Gateway, count: int, size: int) -> tuple[float, float, int]:
    """Keyed messages to all nodes in turn, at most `_IN_FLIGHT` ahead of the acknowledgements."""
    hub, nodes, counters = gateway.hub, gateway.hub.nodes(), gateway.traffic.queue
    acknowledged = counters.acknowledged
    text = "x" * size
    began, cpu = time.perf_counter(), time.process_time()
    base = time.time_ns() // 1000
    objects = max(1, _OBJECTS // len(nodes))  # per node: enough that no message replaces one that still waits
    for number in range(count):
        node = nodes[number % len(nodes)]
        content = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "cm", "namespace": "default", "uid": f"cm-{number // len(nodes) % objects}-{node}"},
            "data": {"text": text},
        }
        hub.push(
            node,
            Message.new(
                source="edgecontroller",
                group="resource",
                operation="update",
                resource="default/configmap/cm",
                content=content,
                resource_version=str(base + number),
            ),
        )
        if number % 100 == 99:
            await asyncio.sleep(0)
            while number - (counters.acknowledged - acknowledged) > _IN_FLIGHT:
                await asyncio.sleep(0.001)
    for _ in range(6000):
        if counters.acknowledged - acknowledged >= count:
            break
        await asyncio.sleep(0.01)
    return time.perf_counter() - began, time.process_time() - cpu, counters.acknowledged - acknowledged


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
