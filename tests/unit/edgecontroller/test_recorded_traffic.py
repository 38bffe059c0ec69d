"""Requests of an unmodified edge, replayed: the answers are those that its own cloud gave."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from cloudgateway.devicecontroller.controller import DeviceController
from cloudgateway.edgecontroller.controller import EdgeController
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.informers import Informers
from cloudgateway.kube.resources import DEVICE_STATUSES, DEVICES, LEASES, NODES, PODS
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.wire.message import Message, decode
from tests import vectors
from tests.support.recording_hub import RecordingHub

NODE = "edge-1"
OURS = ("edged", "twin")


def exchanges() -> Iterator[tuple[Message, Message]]:
    """Each recorded request of the edge that its cloud answered, with the answer."""
    requests: dict[str, Message] = {}
    for recorded in vectors.messages():
        message = decode(recorded.text)
        if recorded.direction == "up":
            requests[message.id] = message
        elif (request := requests.get(message.parent_id)) is not None and request.source in OURS:
            yield request, message


def shape(value: Any) -> Any:
    """What an edge looks at in an answer: which kind of answer it is, and what went wrong."""
    if not isinstance(value, dict):
        return value
    if "Object" in value:
        return {"Object": value["Err"] is None, "Err": value["Err"]}
    return sorted(value)


async def at_home(client: KubeClient, request: Message) -> Message:
    """The request with UIDs, versions and owners of this API server in place of the recorded one's."""
    if request.source == "twin" or request.operation not in ("patch", "update"):
        return request
    namespace, kind, name = request.resource.split("/")
    if kind == "lease":
        content = request.content_value()
        metadata = (await client.get(LEASES, namespace, name))["metadata"]
        content["metadata"] = {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")}
    elif kind == "podpatch":
        patch = json.loads(request.content_value())
        patch["metadata"]["uid"] = (await client.get(PODS, namespace, name))["metadata"]["uid"]
        content = json.dumps(patch)
    else:
        return request
    return msgspec.structs.replace(request, content=msgspec.Raw(msgspec.json.encode(content)))


@pytest.fixture
async def hub(local_client: KubeClient, scope: TaskScope) -> RecordingHub:
    """The site as it was when the recording began: the node, its lease and a device existed."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
    lease = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": {"name": NODE}, "spec": {}}
    device = {
        "apiVersion": DEVICES.api_version,
        "kind": "Device",
        "metadata": {"name": "dev-1"},
        "spec": {"nodeName": NODE, "properties": [{"name": name} for name in ("k1", "k2", "temperature")]},
    }
    await local_client.create(NODES, node)
    await local_client.create(LEASES, lease, namespace="kube-node-lease")
    await local_client.create(DEVICES, device, namespace="default")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p1"},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]},
    }
    await local_client.create(PODS, pod, namespace="default")
    return RecordingHub()


async def test_answers_are_those_of_the_recorded_cloud(
    hub: RecordingHub, local_client: KubeClient, scope: TaskScope
) -> None:
    informers = Informers(local_client, scope)
    edges = EdgeController(local_client, informers, hub, scope, address="192.0.2.2")
    devices = DeviceController(local_client, informers, hub, scope)
    await edges.start()
    await devices.start()
    versions: dict[str, str] = {}
    seen: dict[str, int] = {}
    for request, recorded in exchanges():
        controller = devices if request.source == "twin" else edges
        request = await at_home(local_client, request)
        await controller.handle(NODE, request)
        answer = await hub.reply(request)
        assert answer.route == recorded.route, request.resource
        assert shape(answer.content_value()) == shape(recorded.content_value()), request.resource
        assert bool(answer.resource_version) == bool(recorded.resource_version), request.resource
        seen[request.source] = seen.get(request.source, 0) + 1
        versions[request.resource] = answer.resource_version
    assert seen["edged"] >= 30
    assert seen["twin"] >= 11
    status = (await local_client.get(DEVICE_STATUSES, "default", "dev-1"))["status"]
    assert status["state"].lower() in ("online", "offline", "ok", "unknown", "unhealthy")
    assert all(twin["reported"]["value"] or twin["observedDesired"]["value"] for twin in status["twins"])
    await edges.stop()
    await devices.stop()
