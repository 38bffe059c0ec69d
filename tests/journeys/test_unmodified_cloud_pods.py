"""A cloudcore that is not ours, played from the reference, has pods on the real edgecore with a real Docker Engine."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.dockerd import Dockerd
from tests.support.kubeedge_cloud import Json, KubeEdgeCloud, Received, kubeedge_cloud
from tests.support.kubeedge_stream import DATA, EXEC, LOGS, REMOVE, CloudTunnel, connect_data, tunnel_server
from tests.support.pods import SLEEPS, condition, pod, restarts, shell
from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

RATE, BURST = 30, 60
"""Messages a second, and in one go, that a cloudcore takes from an edge (reference 2.3)."""


@dataclass
class Site:
    """The edge, its engine and the cloud that it knows."""

    stand: Stand
    dockerd: Dockerd
    cloud: KubeEdgeCloud

    async def bind(self, name: str, *containers: Json, **spec: Any) -> Json:
        """What cloudcore sends for a pod that was bound to the node (reference 1.4 A); it is acknowledged."""
        obj = self.cloud.object(
            "Pod", "default", name, spec=pod(name, *containers, node=self.stand.node, **spec)["spec"]
        )
        obj["metadata"] |= {"creationTimestamp": "2026-11-22T09:32:22Z", "generation": 1}
        obj["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        self.cloud.objects[f"default/pod/{name}"] = obj
        await self.push("insert", name)
        return obj

    async def push(self, operation: str, name: str) -> None:
        copy = json.loads(json.dumps(self.pod(name)))
        acknowledged = await self.cloud.push(operation, f"default/pod/{name}", copy)
        assert acknowledged["content"] == "OK"

    def pod(self, name: str) -> Json:
        return self.cloud.objects.get(f"default/pod/{name}", {})

    async def ready(self, name: str, *, restarted: int = 0) -> Json:
        def look(_: KubeEdgeCloud) -> Json:
            obj = self.pod(name)
            return obj if condition(obj, "Ready") == "True" and restarts(obj) >= restarted else {}

        found: Json = await self.cloud.wait(look, 60)
        copy: Json = json.loads(json.dumps(found))
        return copy

    async def containers(self, *, all: bool = False) -> dict[str, str]:
        """Name in the pod -> id."""
        found = await self.dockerd.call("containers", all=all)
        return {one["Labels"].get("io.kubernetes.container.name", ""): one["Id"] for one in found}


@pytest.fixture
async def site(dockerd: Dockerd) -> AsyncIterator[Site]:
    async with new_site(dockerd) as running:
        yield running


@asynccontextmanager
async def new_site(dockerd: Dockerd, **streams: Any) -> AsyncIterator[Site]:
    async with Stand(docker=dockerd.socket) as stand:
        stand.edge_settings["edgestream"] |= {"enable": bool(streams), **streams}
        stand.write_settings()
        directory = stand.directory / "cloudcore"
        directory.mkdir()
        async with kubeedge_cloud(directory) as cloud:
            code, _, err = await stand.edgecore(
                "join", "--cloud", f"127.0.0.1:{cloud.ws_port}", "--enroll-port", str(cloud.http_port),
                "--token", cloud.token(), "--name", stand.node,
            )  # fmt: skip
            assert (code, err) == (0, "")
            await stand.start_edge()
            await cloud.wait(lambda cloud: f"null/node/{stand.node}" in cloud.objects)
            yield Site(stand, dockerd, cloud)


def configured() -> list[Json]:
    """A container with one of everything that an edge asks its cloud for."""
    script = "cat /config/rate /secret/password /token/token >/dev/termination-log; " + SLEEPS
    env = [{"name": "RATE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "rate"}}}]
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("config", "secret", "token")]
    return [shell(script, env=env, volumeMounts=mounts)]


VOLUMES = [
    {"name": "config", "configMap": {"name": "settings"}},
    {"name": "secret", "secret": {"secretName": "key"}},
    {
        "name": "token",
        "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]},
    },
]


def give_config(cloud: KubeEdgeCloud) -> None:
    rate, password = {"rate": "5"}, {"password": base64.b64encode(b"hush").decode()}
    cloud.objects["default/configmap/settings"] = cloud.object("ConfigMap", "default", "settings", data=rate)
    cloud.objects["default/secret/key"] = cloud.object("Secret", "default", "key", data=password, type="Opaque")
    granted = {"token": "aaa.bbb.ccc", "expirationTimestamp": "2036-11-22T10:00:00Z"}
    token = cloud.object("TokenRequest", "default", "robot", spec={"expirationSeconds": 3600}, status=granted)
    cloud.objects["default/serviceaccounttoken/robot"] = token


async def inside(site: Site, id: str, path: str) -> str:
    made = await site.dockerd.call("exec_create", id, ["cat", path])
    output: bytes = await site.dockerd.call("exec_start", made["Id"])
    return output.decode()


def asked(cloud: KubeEdgeCloud, resource: str) -> Received:
    [found] = cloud.messages(resource, "query")
    assert (found.route["source"], found.route["group"]) == ("edged", "meta")
    return found


async def test_a_pod_from_its_insert_to_its_end(site: Site) -> None:
    cloud, name = site.cloud, "default/pod/web"
    give_config(cloud)
    bound = await site.bind("web", *configured(), volumes=VOLUMES, serviceAccountName="robot")
    uid = bound["metadata"]["uid"]
    running = await site.ready("web")
    assert running["status"]["phase"] == "Running"
    assert running["status"]["containerStatuses"][0]["containerID"].startswith("docker://")
    for item in cloud.messages("default/podpatch/web", "patch"):
        assert (item.route["source"], item.route["group"]) == ("edged", "meta")
        assert isinstance(item.content, str), "a string that holds the patch (reference 1.4 B)"
        assert json.loads(item.content)["metadata"] == {"uid": uid}
    # E: what is asked for is answered, stored, and the answer acknowledged; F: a token's is not looked for again.
    for resource in ("default/configmap/settings", "default/secret/key"):
        query = asked(cloud, resource)
        [answer] = [message for _, message in cloud.sends if message["header"].get("parent_msg_id") == query.id]
        await cloud.wait_message(operation="response", parent=answer["header"]["msg_id"])
    request = asked(cloud, "default/serviceaccounttoken/robot").content
    assert request["spec"]["boundObjectRef"] == {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": uid}
    id = (await site.containers())["main"]
    assert await inside(site, id, "/token/token") == "aaa.bbb.ccc"
    assert await inside(site, id, "/secret/password") == "hush"

    settings = cloud.objects["default/configmap/settings"]
    settings["data"]["rate"] = "7"
    settings["metadata"]["resourceVersion"] = cloud.next_version()
    assert (await cloud.push("update", "default/configmap/settings", settings))["content"] == "OK"

    async def followed() -> bool:
        return await inside(site, id, "/config/rate") == "7"

    await eventually(followed, what="the change in the volume")

    # C: the deletion comes as an update; when everything has ended, the edge says so, and the object goes.
    site.pod("web")["metadata"] |= {"deletionTimestamp": "2026-11-22T10:00:00Z", "deletionGracePeriodSeconds": 3}
    await site.push("update", "web")
    gone = await cloud.wait_message(name, "delete", timeout=30)
    assert (gone.route["source"], gone.route["group"]) == ("edged", "meta")
    assert gone.content["gracePeriodSeconds"] == 0
    assert gone.content["preconditions"] == {"uid": uid}
    last = json.loads(cloud.messages("default/podpatch/web", "patch")[-1].content)["status"]
    assert "terminated" in last["containerStatuses"][0]["state"], "its end is told before it may be deleted"

    async def clean() -> bool:
        return not await site.dockerd.call("containers", all=True)

    await eventually(clean, what="no container left")
    code, out, _ = await site.stand.edgecore("pods", "-A")
    assert (code, "web" in out) == (0, False)


async def test_offline_through_a_boot_and_back(site: Site) -> None:
    """No cloud, power gone, boot, a crash: the same pod runs on, and the cloud hears of it when it is there again."""
    cloud = site.cloud
    give_config(cloud)
    await site.bind("web", *configured(), volumes=VOLUMES, serviceAccountName="robot")
    before = await site.ready("web")
    await cloud.stop_ws()
    await site.stand.edge.kill()
    await site.dockerd.power_cut()
    await site.dockerd.start()
    await site.stand.start_edge(connected=False)

    async def again() -> str:
        return (await site.containers()).get("main", "")

    id = await eventually(again, what="the pod after the boot, without a cloud", timeout=40)
    assert await inside(site, id, "/secret/password") == "hush"
    assert await inside(site, id, "/token/token") == "aaa.bbb.ccc"
    await site.dockerd.call("kill", id)

    async def restarted() -> str:
        found = (await site.containers()).get("main", "")
        return found if found != id else ""

    id = await eventually(restarted, what="the container after a crash, without a cloud", timeout=40)
    said = len(cloud.received)
    await cloud.start_ws()
    after = await site.ready("web", restarted=2)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["startTime"] == before["status"]["startTime"]
    assert after["status"]["containerStatuses"][0]["containerID"] == f"docker://{id}"
    assert not [item for item in cloud.received[said:] if item.operation == "delete"]
    # cloudcore sends what it does not know to be stored once more: nothing is started again for it.
    await site.push("insert", "web")
    await asyncio.sleep(2)
    assert (await site.containers())["main"] == id


async def test_many_pods_keep_the_pace_of_a_cloudcore(site: Site) -> None:
    started = len(site.cloud.received)
    script = shell("exec sleep 1000")
    names = [f"p{number}" for number in range(14)]
    await asyncio.gather(*(site.bind(name, script, terminationGracePeriodSeconds=0) for name in names))
    for name in names:
        await site.ready(name)
    for name in names:
        site.pod(name)["metadata"] |= {"deletionTimestamp": "2026-11-22T10:00:00Z", "deletionGracePeriodSeconds": 0}
    await asyncio.gather(*(site.push("update", name) for name in names))
    await site.cloud.wait(lambda _: not any(site.pod(name) for name in names), 60)
    at = [item.at for item in site.cloud.received[started:] if item.operation != "keepalive"]
    assert len(at) > 3 * len(names)
    for first, begin in enumerate(at):
        for last in range(first + BURST, len(at)):
            assert last - first <= BURST + RATE * (at[last] - begin) + 10, "faster than a cloudcore listens"


async def test_a_static_pod_and_its_mirror(site: Site) -> None:
    folder = site.stand.directory / "manifests"
    spec = {"containers": [shell(SLEEPS)], "terminationGracePeriodSeconds": 1}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hmi"}, "spec": spec}
    folder.mkdir(exist_ok=True)
    (folder / "hmi.json").write_text(json.dumps(manifest))
    name = f"hmi-{site.stand.node}"
    inserted = await site.cloud.wait_message(f"default/pod/{name}", "insert", timeout=40)
    assert (inserted.route["source"], inserted.route["group"]) == ("edged", "meta")
    annotations = inserted.content["metadata"]["annotations"]
    assert annotations["kubernetes.io/config.source"] == "file"
    assert annotations["kubernetes.io/config.mirror"] == annotations["kubernetes.io/config.hash"]
    mirror = await site.ready(name)
    patch = site.cloud.messages(f"default/podpatch/{name}", "patch")[-1]
    assert json.loads(patch.content)["metadata"] == {"uid": mirror["metadata"]["uid"]}
    (folder / "hmi.json").unlink()
    await site.cloud.wait_message(f"default/pod/{name}", "delete", timeout=40)
    assert [*(await site.containers())] == []


async def test_logs_and_exec_through_a_cloudcores_tunnel(dockerd: Dockerd) -> None:
    """The tunnel of reference 9.4, to the kubelet API of a pod that runs: SPDY behind the kubelet's 101."""
    async with (
        new_site(dockerd, server="127.0.0.1:1") as site,
        tunnel_server(site.cloud._context(ssl.CERT_REQUIRED)) as server,
    ):
        site.stand.edge_settings["edgestream"]["server"] = f"127.0.0.1:{server.port}"
        site.stand.write_settings()
        await site.stand.edge.stop()
        await site.stand.start_edge()
        await site.bind("web", shell("echo hello; exec sleep 1000"))
        await site.ready("web")

        async def dialled() -> list[CloudTunnel]:
            return server.tunnels.get(site.stand.node, [])

        tunnel = (await eventually(dialled, what="the tunnel"))[-1]
        await tunnel.send(1, LOGS, connect_data(1, "/containerLogs/default/web/main", "tailLines=5"))
        await tunnel.until(1, REMOVE)
        assert tunnel.data(1) == b"hello\n"
        query = "command=cat&input=1&output=1"
        await tunnel.send(2, EXEC, connect_data(2, "/exec/default/web/main", query, method="POST"))
        await tunnel.until(2, DATA)
        head = tunnel.data(2).split(b"\r\n\r\n")[0].lower()
        assert head.startswith(b"http/1.1 101 ")
        assert b"x-stream-protocol-version: v4.channel.k8s.io" in head
        await tunnel.send(2, REMOVE)
        await tunnel.until(2, REMOVE)
