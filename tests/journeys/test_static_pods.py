"""Static pods: they run without any cloud, and are shown in one by their mirrors."""

import json
from typing import Any

import pytest

from tests.support.dockerd import Dockerd
from tests.support.pods import SLEEPS, condition, shell
from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

MIRROR = "hmi-edge-demo"


async def containers(dockerd: Dockerd) -> dict[str, str]:
    """Name in the pod -> id of those that run."""
    found = await dockerd.call("containers")
    return {one["Labels"].get("io.kubernetes.container.name", ""): one["Id"] for one in found}


async def test_a_file_is_a_pod(dockerd: Dockerd) -> None:
    async with Stand(docker=dockerd.socket) as site:
        await site.start_gateway()
        await site.join()
        await site.gateway.stop()
        folder = site.directory / "manifests"
        folder.mkdir(exist_ok=True)
        file = folder / "hmi.json"
        spec = {"containers": [shell(SLEEPS)], "terminationGracePeriodSeconds": 1}
        file.write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hmi"}, "spec": spec}))
        (folder / "bad.yaml").write_text("kind: Deployment")
        await site.start_edge(connected=False)

        async def runs() -> dict[str, str]:
            found = await containers(dockerd)
            return found if "main" in found else {}

        before = await eventually(runs, what="the pod without a cloud", timeout=40)
        shown = (await site.status())["components"]["static"]
        assert shown["state"] == "degraded"
        assert shown["reason"].startswith("bad.yaml: kind: must be apiVersion v1, kind Pod")

        await site.start_gateway()

        async def mirrored(other: str = "") -> dict[str, Any]:
            obj = await site.get("pod", MIRROR)
            return obj if condition(obj, "Ready") == "True" and obj["metadata"]["uid"] != other else {}

        obj = await eventually(mirrored, what="its mirror", timeout=40)
        annotations = obj["metadata"]["annotations"]
        assert annotations["kubernetes.io/config.mirror"] == annotations["kubernetes.io/config.hash"]
        assert await containers(dockerd) == before

        await site.kubectl("delete", "pod", MIRROR, "--wait=false")
        await eventually(lambda: mirrored(obj["metadata"]["uid"]), what="a new mirror", timeout=40)
        assert await containers(dockerd) == before

        await site.edge.kill()
        await site.start_edge()
        await eventually(mirrored, what="the mirror after a restart", timeout=40)
        assert await containers(dockerd) == before

        file.unlink()

        async def gone() -> bool:
            return not await containers(dockerd) and await site.get("pod", MIRROR) == {}

        await eventually(gone, what="nothing left of it", timeout=60)
