"""What an edgecore that is not ours, played from the reference, asks the gateway for on behalf of its pods."""

import json
from typing import Any

from cloudgateway.kube.resources import (
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
)
from tests.support.gateway_site import Site, node_object


def mirror(name: str, node: str) -> dict[str, Any]:
    """A static pod as an edgecore shows it."""
    annotations = {
        "kubernetes.io/config.hash": "abc",
        "kubernetes.io/config.mirror": "abc",
        "kubernetes.io/config.seen": "2026-11-22T09:32:22Z",
        "kubernetes.io/config.source": "file",
    }
    return {
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "busybox"}]},
    }


async def test_everything_that_a_pod_asks_its_cloud_for(site: Site) -> None:
    """Secrets and tokens by query, mirror pods, patches as the recorded ones, events (reference 1.4 B, C, E, F)."""
    core = await site.connect(await site.join(site.node))
    await core.register(node_object(site.node))
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": site.meter, "namespace": "default"},
        "stringData": {"password": "hush"},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": site.meter, "namespace": "default"},
        "spec": {
            "nodeName": site.node,
            "serviceAccountName": site.meter,
            "containers": [{"name": "c", "image": "busybox", "envFrom": [{"secretRef": {"name": site.meter}}]}],
        },
    }
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": site.meter, "namespace": "default"}}
    await site.client.create(SERVICE_ACCOUNTS, account, namespace="default")
    await site.client.create(PODS, pod, namespace="default")
    uid = (await core.wait_for(f"default/pod/{site.meter}"))["content"]["metadata"]["uid"]
    missing = await core.request("query", f"default/secret/{site.meter}")
    assert missing["content"]["ErrStatus"]["reason"] == "NotFound"
    await site.client.create(SECRETS, secret, namespace="default")
    try:
        pushed = await core.wait_for(f"default/secret/{site.meter}", operation="update")
        assert pushed["content"]["data"] == {"password": "aHVzaA=="}, "a new secret comes as an update"
        found = await core.request("query", f"default/secret/{site.meter}")
        assert (found["content"]["kind"], found["content"]["data"]) == ("Secret", {"password": "aHVzaA=="})
        assert found["header"]["resourceversion"] == found["content"]["metadata"]["resourceVersion"]
    finally:
        await site.client.delete(SECRETS, "default", site.meter)

    bound = {"kind": "Pod", "apiVersion": "v1", "name": site.meter, "uid": uid}
    wanted = {"audiences": None, "expirationSeconds": 3607, "boundObjectRef": bound}
    asked = {"metadata": {"creationTimestamp": None}, "spec": wanted, "status": {"token": ""}}
    token = await core.request("query", f"default/serviceaccounttoken/{site.meter}", asked)
    assert token["content"]["status"]["token"].count(".") == 2
    assert token["content"]["spec"]["expirationSeconds"] == 3607

    condition = {"lastProbeTime": None, "lastTransitionTime": "2026-11-22T09:32:22Z", "type": "Ready"}
    order = [{"type": "Ready"}, {"type": "PodScheduled"}]
    for status, reason in (("False", "ContainersNotReady"), ("True", None)):
        change = {**condition, "status": status, "reason": reason, "message": reason}
        body = {"$setElementOrder/conditions": order, "conditions": [change], "podIPs": [{"ip": "10.1.2.3"}]}
        text = json.dumps({"metadata": {"uid": uid}, "status": body})
        reply = await core.request("patch", f"default/podpatch/{site.meter}", text)
        assert reply["content"]["Err"] is None
        [ready] = [one for one in reply["content"]["Object"]["status"]["conditions"] if one["type"] == "Ready"]
        assert (ready["status"], ready.get("reason")) == (status, reason)

    name = f"hmi-{site.node}"
    reply = await core.request("insert", f"default/pod/{name}", mirror(name, site.node))
    assert reply["content"]["Err"] is None
    mirrored = reply["content"]["Object"]["metadata"]["uid"]
    shown = await core.wait_for(f"default/pod/{name}", operation="insert")
    assert shown["content"]["metadata"]["uid"] == mirrored
    again = await core.request("insert", f"default/pod/{name}", mirror(name, site.node))
    assert again["content"]["Err"]["ErrStatus"]["reason"] == "AlreadyExists"
    for gone in ("another-uid", mirrored, mirrored):
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": gone}}
        reply = await core.request("delete", f"default/pod/{name}", options)
        assert reply["content"] == "OK", "not found and another UID are no errors"
        if gone == "another-uid":
            assert await site.client.get(PODS, "default", name)
    await site.until(PODS, "default", name, lambda one: one is None)
    await core.close()
