"""What the embedded API does on its own (its small controllers), and what it refuses in plain words."""

import base64
import json
from pathlib import Path

import pytest

from tests.contract.test_kubectl_objects import config_map, pod
from tests.support.embedded_api import widget
from tests.support.kubectl import Kubectl


@pytest.fixture
def embedded(kube: Kubectl) -> Kubectl:
    """kubectl on the embedded API only."""
    return kube


pytestmark = pytest.mark.parametrize("kube_api", [None], ids=["embedded"])


async def test_what_is_not_done_is_refused_in_plain_words(embedded: Kubectl) -> None:
    refused = await embedded.fails("create", "deployment", "web", "--image=busybox")
    assert "nothing here keeps several copies of a pod" in refused
    assert "a Kubernetes cluster, which deployments need" in refused
    assert "starts pods by the clock" in await embedded.fails("get", "cronjobs")
    assert "restartPolicy: OnFailure" in await embedded.fails("create", "job", "j", "--image=busybox")
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {}}
    assert "it gets an edge node" in await embedded.fails("apply", "-f", "-", text=json.dumps(deployment))
    assert "not a cluster" in await embedded.fails("get", "deployments")
    assert "deployments" not in (await embedded.run("api-resources")).out
    applied = json.dumps(config_map("c"))
    assert "apply without --server-side" in await embedded.fails("apply", "--server-side", "-f", "-", text=applied)
    await embedded.apply(pod("p", "busybox:1"))
    assert "cloudstream.enable is false" in await embedded.fails("logs", "p")
    assert "cloudstream.enable is false" in await embedded.fails("exec", "p", "--", "true")


async def test_version_health_and_who_am_i(embedded: Kubectl) -> None:
    assert "edgeappliance" in (await embedded.run("version")).out
    assert (await embedded.run("get", "--raw", "/readyz", all=True)).out == "ok"
    assert "system:masters" in (await embedded.run("auth", "whoami", all=True)).out
    assert "*.*" in (await embedded.run("auth", "can-i", "--list", all=True)).out
    assert "Widget" in (await embedded.run("explain", "widget", "--output=plaintext-openapiv2")).out
    assert json.loads((await embedded.run("get", "--raw", "/openapi/v2", all=True)).out)["swagger"] == "2.0"


async def test_nothing_is_written_to_stderr(embedded: Kubectl) -> None:
    for command in (("get", "all"), ("get", "widgets"), ("describe", "nodes"), ("api-resources",)):
        done = await embedded.run(*command)
        assert "rror" not in done.err, done.err
        assert "arning" not in done.err, done.err


async def test_dependents_go_with_their_owner(embedded: Kubectl) -> None:
    await embedded.apply(widget("owner"))
    uid = (await embedded.json("get", "widget", "owner"))["metadata"]["uid"]
    reference = {"apiVersion": "test.example.com/v1", "kind": "Widget", "name": "owner", "uid": uid}
    for name in ("a", "b"):
        value = config_map(name)
        value["metadata"]["ownerReferences"] = [{**reference, "blockOwnerDeletion": True}]
        await embedded.apply(value)
    await embedded.run("delete", "widget", "owner", "--cascade=foreground")
    assert (await embedded.json("get", "configmaps"))["items"] == []
    await embedded.apply(widget("owner"))
    reference["uid"] = (await embedded.json("get", "widget", "owner"))["metadata"]["uid"]
    value = config_map("kept")
    value["metadata"]["ownerReferences"] = [reference]
    await embedded.apply(value)
    await embedded.run("delete", "widget", "owner", "--cascade=orphan")
    assert "ownerReferences" not in (await embedded.json("get", "configmap", "kept"))["metadata"]
    await embedded.apply(widget("owner"))
    await embedded.run(
        "patch", "configmap", "kept", "--type=merge", "-p", json.dumps({"metadata": {"ownerReferences": [reference]}})
    )
    await embedded.run("wait", "--for=delete", "configmap/kept", "--timeout=10s")  # its owner is long gone


async def test_a_namespace_goes_with_its_contents(embedded: Kubectl) -> None:
    await embedded.apply([config_map("c"), widget("w"), pod("p", "busybox:1")])
    held = widget("held")
    held["metadata"]["finalizers"] = ["test.example.com/hold"]
    await embedded.apply(held)
    await embedded.run("delete", "namespace", embedded.namespace, "--wait=false", all=True)
    await embedded.run("wait", "--for=delete", "widget/w", "--timeout=10s")
    refused = await embedded.fails("create", "configmap", "late")
    assert "because it is being terminated" in refused
    assert "Terminating" in (await embedded.run("get", "namespace", embedded.namespace, all=True)).out
    described = (await embedded.run("describe", "namespace", embedded.namespace, all=True)).out
    assert "NamespaceContentRemaining" in described
    await embedded.run("patch", "widget", "held", "--type=merge", "-p", '{"metadata":{"finalizers":[]}}')
    await embedded.run("delete", "pod", "p", "--force", "--grace-period=0")
    await embedded.run("wait", "--for=delete", f"namespace/{embedded.namespace}", "--timeout=10s", all=True)
    assert "may not be deleted" in await embedded.fails("delete", "namespace", "default")


async def test_a_pod_on_a_node_is_ended_by_its_node(embedded: Kubectl) -> None:
    await embedded.apply(pod("p", "busybox:1"))
    await embedded.run("delete", "pod", "p", "--wait=false", "--grace-period=7")
    value = await embedded.json("get", "pod", "p")
    assert value["metadata"]["deletionGracePeriodSeconds"] == 7
    assert "Terminating" in (await embedded.run("get", "pod", "p")).out
    await embedded.run("delete", "pod", "p", "--grace-period=0", "--force")
    assert "not found" in await embedded.fails("get", "pod", "p")
    unplaced = pod("q", "busybox:1")
    del unplaced["spec"]["nodeName"]
    await embedded.apply(unplaced)
    await embedded.run("patch", "pod", "q", "-p", '{"spec":{"nodeName":"edge-1"}}')
    assert "Forbidden" in await embedded.fails("patch", "pod", "q", "-p", '{"spec":{"nodeName":"edge-2"}}')


async def test_a_node_is_cordoned_and_drained(embedded: Kubectl) -> None:
    for name in ("edge-1", "edge-2"):
        status = {
            "allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        await embedded.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        patch = json.dumps({"status": status})
        await embedded.run("patch", "node", name, "--subresource=status", "-p", patch, all=True)
    await embedded.run("run", "p", "--image=busybox:1", "--restart=Never")
    await embedded.run("wait", "--for=condition=PodScheduled", "pod/p", "--timeout=10s")
    assert (await embedded.json("get", "pod", "p"))["spec"]["nodeName"] == "edge-1"
    assert "Successfully assigned" in (await embedded.run("describe", "pod", "p")).out
    await embedded.run("patch", "pod", "p", "--subresource=status", "-p", '{"status":{"phase":"Succeeded"}}')
    drained = await embedded.run("drain", "edge-1", "--force", "--timeout=10s", all=True)
    assert "evicted" in drained.out + drained.err
    assert "not found" in await embedded.fails("get", "pod", "p")
    await embedded.run("run", "q", "--image=busybox:1")
    await embedded.run("wait", "--for=condition=PodScheduled", "pod/q", "--timeout=10s")
    assert (await embedded.json("get", "pod", "q"))["spec"]["nodeName"] == "edge-2"
    await embedded.run("cordon", "edge-2", all=True)
    await embedded.run("run", "r", "--image=busybox:1")
    await embedded.run("wait", "--for=condition=PodScheduled=False", "pod/r", "--timeout=10s")
    described = (await embedded.run("describe", "pod", "r")).out
    assert "0/2 nodes are available: 2 node(s) were unschedulable." in described
    assert "FailedScheduling" in described
    await embedded.run("uncordon", "edge-1", all=True)
    await embedded.run("wait", "--for=condition=PodScheduled", "pod/r", "--timeout=10s")


async def test_a_token_of_a_service_account(embedded: Kubectl) -> None:
    await embedded.run("create", "serviceaccount", "sa")
    value = pod("p", "busybox:1")
    value["spec"]["serviceAccountName"] = "sa"
    await embedded.apply(value)
    asked = ("--duration", "15m", "--audience", "vault", "--bound-object-kind", "Pod", "--bound-object-name", "p")
    token = (await embedded.run("create", "token", "sa", *asked)).out
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert (claims["aud"], claims["exp"] - claims["iat"]) == (["vault"], 900)
    assert claims["kubernetes.io"]["pod"]["name"] == "p"


async def test_certificate_requests_can_be_approved(embedded: Kubectl) -> None:
    request = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": "csr-1"},
        "spec": {"request": "YQ==", "signerName": "kubernetes.io/kubelet-serving", "usages": ["server auth"]},
    }
    await embedded.run("create", "-f", "-", text=json.dumps(request))
    assert "Pending" in (await embedded.run("get", "csr")).out
    await embedded.run("certificate", "approve", "csr-1")
    assert "Approved" in (await embedded.run("get", "csr")).out
    assert (await embedded.json("get", "csr", "csr-1"))["spec"]["username"] == "edge-appliance-admin"


async def test_diff_and_rehearsal_change_nothing(embedded: Kubectl) -> None:
    await embedded.apply(widget("w", size=1))
    done = await embedded.run("diff", "-f", "-", text=json.dumps(widget("w", size=2)), check=False)
    assert (done.code, "+  size: 2" in done.out) == (1, True)
    await embedded.run("delete", "widget", "w", "--dry-run=server")
    await embedded.run("label", "widget", "w", "a=b", "--dry-run=server")
    value = await embedded.json("get", "widget", "w")
    assert (value["spec"]["size"], "labels" in value["metadata"]) == (1, False)


async def test_the_other_document_forms(embedded: Kubectl, tmp_path: Path) -> None:
    file = tmp_path / "many.yaml"
    file.write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n---\n" + json.dumps(widget("w", port=80))
    )
    assert (await embedded.run("apply", "-f", str(file))).out.split()[1::2] == ["created", "created"]
    assert (await embedded.json("get", "widget", "w"))["spec"]["port"] == 80
    (tmp_path / "kustomization.yaml").write_text("namePrefix: k-\nresources: [many.yaml]\n")
    await embedded.run("apply", "-k", str(tmp_path))
    assert (await embedded.json("get", "configmap", "k-a"))["data"] == {"k": "v"}
    await embedded.run("delete", "-f", str(file))
    everything = await embedded.run("get", "configmap,widget", "-o", "name")
    assert everything.out.split() == ["configmap/k-a", "widget.test.example.com/k-w"]
    await embedded.run("delete", "widgets", "--all")
    assert "No resources found" in (await embedded.run("get", "widgets")).err
