"""A pod's token: issued by a real API server, good for it, and there still when nobody can issue another."""

import asyncio
import base64
import json
import ssl
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.dockerd import Dockerd
from tests.support.pods import SLEEPS, condition, pod, restarts, shell
from tests.support.real_api import RealApi
from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.real_cluster, pytest.mark.timeout(180)]

NODE = "edge-token"
SEEN = "/var/run/secrets/kubernetes.io/serviceaccount"


def robot() -> dict[str, Any]:
    """A pod with the volume that the API server adds to each pod of a whole cluster."""
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    mounts = [{"name": "api", "mountPath": SEEN, "readOnly": True}]
    return pod(
        "robot",
        shell(SLEEPS, volumeMounts=mounts),
        node=NODE,
        serviceAccountName="robot",
        volumes=[{"name": "api", "projected": {"sources": sources}}],
    )


async def test_a_token_of_a_real_api(real_api: RealApi, dockerd: Dockerd, tmp_path: Path) -> None:
    async with Stand(tmp_path / "a", node=NODE, cluster=real_api.kubeconfig, docker=dockerd.socket) as site:
        await site.start_gateway()
        await site.join()
        await site.start_edge()
        await site.kubectl("create", "serviceaccount", "robot")
        await site.kubectl("create", "configmap", "kube-root-ca.crt", f"--from-file=ca.crt={real_api.ca}")
        await site.kubectl("apply", "-f", "-", stdin=json.dumps(robot()))

        async def ready(restarted: int = 0) -> dict[str, Any]:
            obj = await site.get("pod", "robot")
            return obj if condition(obj, "Ready") == "True" and restarts(obj) >= restarted else {}

        obj = await eventually(ready, what="pod robot ready", timeout=60)
        [directory] = await asyncio.to_thread(list, site.directory.rglob(f"{obj['metadata']['uid']}/volumes/api"))
        token = (directory / "token").read_text()
        assert (directory / "namespace").read_text() == "default"
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        assert claims["sub"] == "system:serviceaccount:default:robot"
        assert claims["kubernetes.io"]["pod"]["uid"] == obj["metadata"]["uid"]
        assert await asyncio.to_thread(who_am_i, real_api, token) == "system:serviceaccount:default:robot"

        await site.gateway.kill()
        await site.edge.kill()
        await site.start_edge(connected=False)
        [running] = [one for one in await dockerd.call("containers") if "main" in one["Names"][0]]
        await dockerd.call("kill", running["Id"])

        async def again() -> bool:
            found = [one for one in await dockerd.call("containers") if "main" in one["Names"][0]]
            return bool(found) and found[0]["Id"] != running["Id"]

        await eventually(again, what="the container again, without a cloud", timeout=40)
        assert (directory / "token").read_text() == token


def who_am_i(api: RealApi, token: str) -> str:
    """The user that the API server takes the bearer of the token for."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    request = urllib.request.Request(
        f"{api.server}/apis/authentication.k8s.io/v1/tokenreviews",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {api.admin_token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=api.ca)) as answer:
        status = json.load(answer)["status"]
    return str(status["user"]["username"]) if status.get("authenticated") else str(status)
