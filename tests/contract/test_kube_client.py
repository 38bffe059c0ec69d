"""The client on every API: objects, patches, lists, watches, errors."""

import asyncio
from typing import Any

import pytest

from cloudgateway.kube.client import KubeClient, PatchType
from cloudgateway.kube.errors import ApiError, is_retryable
from cloudgateway.kube.informers import Informers
from cloudgateway.kube.reflector import Reflector, Watched
from cloudgateway.kube.resources import CONFIGMAPS, DEVICES, NODES, PODS, SECRETS
from edgeappliance.kernel.supervisor import TaskScope
from tests.support.kube_client import new_namespace


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


async def test_an_object_from_birth_to_death(kube_client: KubeClient) -> None:
    ns = await new_namespace(kube_client)
    made = await kube_client.create(CONFIGMAPS, config_map("a", x="1"), namespace=ns)
    assert made["metadata"]["uid"]
    read = await kube_client.get(CONFIGMAPS, ns, "a")
    assert read["data"] == {"x": "1"}
    updated = await kube_client.update(CONFIGMAPS, {**read, "data": {"x": "2"}})
    assert updated["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]
    with pytest.raises(ApiError) as stale:
        await kube_client.update(CONFIGMAPS, {**read, "data": {"x": "3"}})
    assert stale.value.conflict
    assert is_retryable(stale.value)
    with pytest.raises(ApiError) as twice:
        await kube_client.create(CONFIGMAPS, config_map("a"), namespace=ns)
    assert twice.value.already_exists
    assert not is_retryable(twice.value)
    with pytest.raises(ApiError) as other:
        await kube_client.delete(CONFIGMAPS, ns, "a", uid="00000000-0000-0000-0000-000000000000")
    assert other.value.conflict
    await kube_client.delete(CONFIGMAPS, ns, "a", uid=made["metadata"]["uid"])
    with pytest.raises(ApiError) as gone:
        await kube_client.get(CONFIGMAPS, ns, "a")
    assert gone.value.not_found
    assert gone.value.reason == "NotFound"
    assert gone.value.message == 'configmaps "a" not found'
    assert gone.value.status["details"]["name"] == "a"


async def test_the_three_patches(kube_client: KubeClient) -> None:
    ns = await new_namespace(kube_client)
    await kube_client.create(CONFIGMAPS, config_map("a", x="1", y="1"), namespace=ns)
    merged = await kube_client.patch(CONFIGMAPS, ns, "a", {"data": {"x": None, "z": "3"}})
    assert merged["data"] == {"y": "1", "z": "3"}
    patched = await kube_client.patch(
        CONFIGMAPS, ns, "a", [{"op": "replace", "path": "/data/y", "value": "2"}], content_type=PatchType.JSON
    )
    assert patched["data"] == {"y": "2", "z": "3"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"nodeName": "nowhere", "containers": [{"name": "c", "image": "i"}]},
    }
    made = await kube_client.create(PODS, pod, namespace=ns)
    text = b'{"metadata":{"uid":"%s"},"status":{"conditions":[{"type":"Ready","status":"True"}],"phase":"Running"}}'
    patch = text % made["metadata"]["uid"].encode()
    strategic = await kube_client.patch(PODS, ns, "p", patch, content_type=PatchType.STRATEGIC, subresource="status")
    assert strategic["status"]["phase"] == "Running"
    more = b'{"status":{"conditions":[{"type":"Initialized","status":"True"}]}}'
    strategic = await kube_client.patch(PODS, ns, "p", more, content_type=PatchType.STRATEGIC, subresource="status")
    assert {entry["type"] for entry in strategic["status"]["conditions"]} == {"Ready", "Initialized"}


async def test_lists_come_in_pages_and_by_selector(kube_client: KubeClient) -> None:
    ns = await new_namespace(kube_client)
    for number in range(7):
        labels = {"parity": "even" if number % 2 == 0 else "odd"}
        body = config_map(f"c{number}")
        body["metadata"]["labels"] = labels
        await kube_client.create(CONFIGMAPS, body, namespace=ns)
    own = await kube_client.list(CONFIGMAPS, ns, label_selector="parity", limit=3)
    assert [item["metadata"]["name"] for item in own.items] == [f"c{n}" for n in range(7)]
    assert {(item["kind"], item["apiVersion"]) for item in own.items} == {("ConfigMap", "v1")}
    odd = await kube_client.list(CONFIGMAPS, ns, label_selector="parity=odd")
    assert len(odd.items) == 3
    one = await kube_client.list(CONFIGMAPS, ns, field_selector="metadata.name=c4")
    assert len(one.items) == 1
    bare = await kube_client.list(CONFIGMAPS, ns, label_selector="parity", metadata_only=True)
    assert len(bare.items) == 7
    assert all("data" not in item and item["kind"] == "ConfigMap" for item in bare.items)


async def test_a_mirror_tells_every_change_once(kube_client: KubeClient, scope: TaskScope) -> None:
    ns = await new_namespace(kube_client)
    await kube_client.create(CONFIGMAPS, config_map("before"), namespace=ns)
    mirror = Reflector(kube_client, Watched(CONFIGMAPS, ns, label_selector="!x"))
    events: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def told(what: str, obj: dict[str, Any]) -> None:
        if obj["metadata"]["name"] != "kube-root-ca.crt":
            events.put_nowait((what, obj["metadata"]["name"]))

    mirror.subscribe(
        on_add=lambda obj: told("add", obj),
        on_update=lambda old, new: told("update", new),
        on_delete=lambda obj: told("delete", obj),
    )
    scope.spawn(mirror.run(), name="mirror")
    await asyncio.wait_for(mirror.wait_synced(), 10)
    made = await kube_client.create(CONFIGMAPS, config_map("a", x="1"), namespace=ns)
    await kube_client.patch(CONFIGMAPS, ns, "a", {"data": {"x": "2"}})
    await kube_client.delete(CONFIGMAPS, ns, "a")
    await kube_client.delete(CONFIGMAPS, ns, "before")
    seen = [await asyncio.wait_for(events.get(), 10) for _ in range(5)]
    assert seen == [("add", "before"), ("add", "a"), ("update", "a"), ("delete", "a"), ("delete", "before")]
    assert int(mirror.resource_version) > int(made["metadata"]["resourceVersion"])
    assert mirror.get(ns, "a") is None


async def test_secrets_are_mirrored_without_their_bodies(kube_client: KubeClient, scope: TaskScope) -> None:
    ns = await new_namespace(kube_client)
    mirror = Informers(kube_client, scope).of(Watched(SECRETS, ns, metadata_only=True))
    added: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    mirror.subscribe(on_add=added.put_nowait)
    await asyncio.wait_for(mirror.wait_synced(), 10)
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"password": "x"}}
    await kube_client.create(SECRETS, body, namespace=ns)
    seen = await asyncio.wait_for(added.get(), 10)
    assert seen["kind"] == "Secret"
    assert seen["metadata"]["name"] == "s"
    assert "data" not in seen


async def test_a_version_that_is_too_new_or_unreadable_is_an_error(kube_client: KubeClient) -> None:
    with pytest.raises(ApiError) as error:
        async for _ in kube_client.watch(CONFIGMAPS, resource_version="not-a-version"):
            pass
    assert error.value.code in (400, 500)


async def test_an_invalid_object_is_named_by_field(kube_client: KubeClient) -> None:
    ns = await new_namespace(kube_client)
    device = {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": "d"},
        "spec": {"nodeName": 5},
    }
    with pytest.raises(ApiError) as error:
        await kube_client.create(DEVICES, device, namespace=ns)
    assert error.value.code == 422
    assert error.value.reason == "Invalid"
    assert "spec.nodeName" in error.value.message


async def test_many_requests_at_once(kube_client: KubeClient) -> None:
    ns = await new_namespace(kube_client)
    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(kube_client.create(CONFIGMAPS, config_map(f"m{number}"), namespace=ns))
    listed = await kube_client.list(CONFIGMAPS, ns)
    assert len([item for item in listed.items if item["metadata"]["name"].startswith("m")]) == 100


async def test_cluster_scoped_objects(kube_client: KubeClient) -> None:
    name = await new_namespace(kube_client)
    await kube_client.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    assert (await kube_client.get(NODES, None, name))["kind"] == "Node"
    await kube_client.delete(NODES, None, name)
