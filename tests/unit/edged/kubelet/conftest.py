"""The kubelet API on a real Docker Engine, with pods that are made by hand."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeappliance.edged.engine.docker_engine import DockerEngine
from edgeappliance.edged.engine.service import DockerService
from edgeappliance.edged.kubelet.api import KubeletApi
from edgeappliance.edged.pods import observed
from edgeappliance.edged.pods.observed import ObservedContainer
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.kernel.web import client
from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd

NODE = "edge-1"


class Numbers:
    """Measurements, as the kubelet API asks for them."""

    async def summary(self) -> dict[str, Any]:
        return {
            "node": {"nodeName": NODE, "cpu": {"usageNanoCores": 1}, "fs": {}},
            "pods": [
                {"podRef": {"name": "web"}, "containers": [{"name": "c", "memory": {}, "logs": {}}], "network": {}}
            ],
        }

    async def exposition(self, kind: str) -> bytes:
        return f'answered{{kind="{kind}"}} 1\n'.encode()


class Stand:
    """Pods, the engine and the API in one. `syncing` is what /healthz/syncloop says."""

    def __init__(self, dockerd: Dockerd, directory: Path, *, open_to_all: bool = False, port: int = 0) -> None:
        self.dockerd = dockerd
        self.directory = directory
        self.failures: list[BaseException] = []
        self._scopes = [TaskScope(name, self.failures.append) for name in ("docker", "kubelet")]
        self.service = DockerService(self._scopes[0], socket=dockerd.socket, node=NODE, clock=SystemClock())
        self.engine: DockerEngine = self.service.engine
        self.syncing = True
        self._objects: dict[str, dict[str, Any]] = {}
        self._observed: dict[str, list[ObservedContainer]] = {}
        self.api = KubeletApi(
            self._scopes[1],
            runtime=directory,
            port=port,
            open_to_all=open_to_all,
            pods=self,
            engine=self.engine,
            figures=Numbers(),
            syncing=lambda: self.syncing,
            clock=SystemClock(),
        )

    @property
    def socket(self) -> Path:
        return self.directory / "kubelet.sock"

    @property
    def token(self) -> str:
        return (self.directory / "kubelet.token").read_text().strip()

    async def __aenter__(self) -> "Stand":
        await self.service.start()
        async with asyncio.timeout(20):
            while not self.engine.connected:
                await asyncio.sleep(0.01)
        await self.api.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.api.stop()
        await self.service.stop()
        for scope in self._scopes:
            await scope.cancel()
        assert self.failures == []

    # -- needs.Pods ---------------------------------------------------------------------------------------

    def objects(self) -> list[dict[str, Any]]:
        return list(self._objects.values())

    def object(self, namespace: str, name: str, uid: str = "") -> dict[str, Any] | None:
        for pod in self._objects.values():
            metadata = pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name) and uid in ("", metadata["uid"]):
                return pod
        return None

    def observed(self, uid: str) -> Sequence[ObservedContainer]:
        return self._observed.get(uid, [])

    # -- making pods --------------------------------------------------------------------------------------

    async def pod(self, name: str, *, network: str = "none", **containers: Any) -> dict[str, Any]:
        """Start a pod: each container is a command, or a dict for the body of its creation."""
        uid = f"uid-{name}"
        sandbox = await self._start(uid, name, "POD", {"Cmd": ["sleep", "1000"]}, kind="sandbox", network=network)
        shared = network if network == "host" else f"container:{sandbox}"
        for container, given in containers.items():
            body = given if isinstance(given, dict) else {"Cmd": given}
            await self._start(uid, name, container, body, kind="app", network=shared)
        self._objects[uid] = {
            "metadata": {"namespace": "default", "name": name, "uid": uid},
            "spec": {"containers": [{"name": one} for one in containers], "hostNetwork": network == "host"},
            "status": {},
        }
        await self.look()
        return self._objects[uid]

    async def start_again(self, name: str, container: str, body: dict[str, Any]) -> None:
        """The next attempt of a container."""
        await self._start(f"uid-{name}", name, container, body, kind="app", network="none", attempt=1)
        await self.look()

    async def _start(
        self, uid: str, pod: str, name: str, body: dict[str, Any], *, kind: str, network: str, attempt: int = 0
    ) -> str:
        labels = {
            observed.OWNER: NODE,
            observed.KIND: kind,
            observed.POD_UID: uid,
            observed.POD_NAME: pod,
            observed.POD_NAMESPACE: "default",
            observed.CONTAINER_NAME: name,
            observed.ATTEMPT: str(attempt),
        }
        host = {"NetworkMode": network, "Init": False}
        full = {"Image": BUSYBOX, "Labels": labels, "HostConfig": host, "StopSignal": "SIGKILL", **body}
        id = await self.engine.create(full, name=f"k8s_{name}_{pod}_{uid}_{attempt}")
        await self.engine.start(id)
        return id

    async def look(self) -> None:
        """See what is on the engine, and bring the statuses up to date as a worker would."""
        self._observed.clear()
        for container in await self.engine.containers():
            self._observed.setdefault(container.pod_uid, []).append(container)
        for uid, pod in self._objects.items():
            pod["status"] = {"containerStatuses": [self._status(uid, c["name"]) for c in pod["spec"]["containers"]]}

    def _status(self, uid: str, name: str) -> dict[str, Any]:
        attempts = sorted((c for c in self.observed(uid) if c.name == name), key=lambda c: -c.attempt)
        if not attempts:
            return {"name": name, "state": {"waiting": {"reason": "ContainerCreating"}}, "lastState": {}}
        states = [
            {"running": {}} if c.running else {"terminated": {"containerID": f"docker://{c.id}"}} for c in attempts
        ]
        last = states[1] if len(states) > 1 else {}
        if not attempts[0].running:
            last = states[0]
        return {"name": name, "state": states[0], "lastState": last, "containerID": f"docker://{attempts[0].id}"}

    # -- asking -------------------------------------------------------------------------------------------

    async def get(self, target: str, *, tcp: bool = False, **headers: str) -> tuple[int, str]:
        address = ("127.0.0.1", self.api.port) if tcp else self.socket
        async with client.request(address, "GET", target, headers=headers) as response:
            return response.status, (await response.read(10_000_000)).decode()


@pytest.fixture
async def stand(dockerd: Dockerd, tmp_path: Path) -> AsyncIterator[Stand]:
    async with Stand(dockerd, tmp_path) as stand:
        yield stand
