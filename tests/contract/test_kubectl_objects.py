"""What a user does with objects through kubectl; the same on the embedded API and on a real one."""

import json
from typing import Any

import pytest

from tests.support.embedded_api import widget
from tests.support.kubectl import Kubectl


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pod(name: str, *images: str) -> dict[str, Any]:
    containers = [{"name": f"c{index}", "image": image} for index, image in enumerate(images)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": "edge-1", "containers": containers},
    }


async def test_resources_are_discovered(kube: Kubectl) -> None:
    listed = (await kube.run("api-resources", "--no-headers")).out
    words = {line.split()[0] for line in listed.splitlines()}
    assert {"configmaps", "pods", "nodes", "leases", "customresourcedefinitions", "widgets"} <= words
    assert "wd" in listed
    versions = (await kube.run("api-versions")).out.split()
    assert {"v1", "coordination.k8s.io/v1", "test.example.com/v1"} <= set(versions)


async def test_create_get_and_delete(kube: Kubectl) -> None:
    assert (await kube.run("create", "configmap", "one", "--from-literal=a=1")).out == "configmap/one created\n"
    assert "already exists" in await kube.fails("create", "configmap", "one")
    value = await kube.json("get", "configmap", "one")
    assert value["data"] == {"a": "1"}
    assert value["metadata"]["uid"]
    assert value["metadata"]["creationTimestamp"].endswith("Z")
    table = (await kube.run("get", "configmaps")).out.splitlines()
    assert table[0].split() == ["NAME", "DATA", "AGE"]
    assert ["one", "1"] in [line.split()[:2] for line in table]
    await kube.run("delete", "configmap", "one")
    assert '"one" not found' in await kube.fails("get", "configmap", "one")
    assert "NotFound" in await kube.fails("delete", "configmap", "one")


async def test_the_typed_create_commands(kube: Kubectl) -> None:
    await kube.run("create", "secret", "generic", "s", "--from-literal=k=v")
    secret = await kube.json("get", "secret", "s")
    assert (secret["type"], secret["data"]) == ("Opaque", {"k": "dg=="})
    await kube.run("create", "serviceaccount", "robot")
    await kube.run("create", "role", "r", "--verb=get", "--resource=pods")
    await kube.run("create", "rolebinding", "b", "--role=r", "--serviceaccount=default:robot")
    binding = await kube.json("get", "rolebinding", "b")
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    await kube.run("create", "service", "clusterip", "web", "--tcp=80:8080")
    service = await kube.json("get", "service", "web")
    assert service["spec"]["ports"][0]["targetPort"] == 8080
    assert (await kube.run("auth", "can-i", "delete", "nodes", all=True)).out.strip() == "yes"


async def test_output_forms_and_selection(kube: Kubectl) -> None:
    for index in range(5):
        value = widget(f"w{index}", size=index + 1)
        value["metadata"]["labels"] = {"odd": str(index % 2 == 1).lower()}
        await kube.apply(value)
    wide = (await kube.run("get", "wd", "-o", "wide")).out.splitlines()
    assert wide[0].split() == ["NAME", "SIZE", "COLOR", "PHASE", "AGE"]
    assert wide[1].split()[:3] == ["w0", "1", "red"]
    assert "COLOR" not in (await kube.run("get", "wd")).out
    names = ("-o", "custom-columns=N:.metadata.name,S:.spec.size", "--no-headers")
    assert (await kube.run("get", "widgets", "-l", "odd=true", *names)).out.split() == ["w1", "2", "w3", "4"]
    assert (await kube.run("get", "widgets", "-l", "odd notin (true)", "-o", "name")).out.split() == [
        f"widget.test.example.com/w{index}" for index in (0, 2, 4)
    ]
    by_field = await kube.run("get", "widgets", "--field-selector", "metadata.name=w3", "-o", "name")
    assert by_field.out.split() == ["widget.test.example.com/w3"]
    assert "field label not supported" in await kube.fails("get", "widgets", "--field-selector", "spec.size=3")
    paged = (await kube.run("get", "widgets", "--chunk-size=2", "-o", "name")).out.split()
    assert len(paged) == 5
    everywhere = (await kube.run("get", "widgets", "--all-namespaces", all=True)).out
    assert everywhere.splitlines()[0].split()[0] == "NAMESPACE"
    assert kube.namespace in everywhere
    sorted_ = await kube.run("get", "widgets", "--sort-by=.spec.size", "-o", "jsonpath={.items[*].spec.size}")
    assert sorted_.out == "1 2 3 4 5"
    assert "kind: Widget" in (await kube.run("get", "widget", "w0", "-o", "yaml")).out


async def test_apply_changes_what_changed(kube: Kubectl) -> None:
    first = widget("w", size=1, labels={"a": "1", "b": "2"})
    assert await kube.apply(first) == "widget.test.example.com/w created"
    assert await kube.apply(first) == "widget.test.example.com/w unchanged"
    before = await kube.json("get", "widget", "w")
    await kube.run("patch", "widget", "w", "--type=merge", "-p", '{"spec":{"port":"http"}}')
    assert await kube.apply(widget("w", size=2, labels={"a": "1"})) == "widget.test.example.com/w configured"
    after = await kube.json("get", "widget", "w")
    assert after["spec"] == {"size": 2, "color": "red", "labels": {"a": "1"}, "port": "http"}
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 2
    assert int(after["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    text = json.dumps(config_map("c", a="1"))
    assert "no changes" not in (await kube.run("apply", "--dry-run=server", "-f", "-", text=text)).out
    assert "not found" in await kube.fails("get", "configmap", "c")


async def test_apply_of_a_pod_keeps_what_others_added(kube: Kubectl) -> None:
    await kube.apply(pod("p", "busybox:1", "busybox:2"))
    value = await kube.json("get", "pod", "p")
    assert value["spec"]["restartPolicy"] == "Always"
    assert value["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert value["status"]["phase"] == "Pending"
    assert await kube.apply(pod("p", "busybox:1", "busybox:3")) == "pod/p configured"
    value = await kube.json("get", "pod", "p")
    assert [item["image"] for item in value["spec"]["containers"]] == ["busybox:1", "busybox:3"]
    assert value["spec"]["containers"][1]["terminationMessagePath"] == "/dev/termination-log"
    changed = pod("p", "busybox:1", "busybox:3")
    changed["spec"]["nodeName"] = "edge-2"
    assert "Forbidden" in await kube.fails("apply", "-f", "-", text=json.dumps(changed))


async def test_every_patch_type(kube: Kubectl) -> None:
    await kube.apply([config_map("c", a="1", b="2"), widget("w", size=1), pod("p", "busybox:1", "busybox:2")])
    await kube.run("patch", "configmap", "c", "--type=merge", "-p", '{"data":{"a":null,"x":"9"}}')
    assert (await kube.json("get", "configmap", "c"))["data"] == {"b": "2", "x": "9"}
    operations = '[{"op":"test","path":"/data/b","value":"2"},{"op":"move","from":"/data/b","path":"/data/y"}]'
    await kube.run("patch", "configmap", "c", "--type=json", "-p", operations)
    assert (await kube.json("get", "configmap", "c"))["data"] == {"x": "9", "y": "2"}
    wrong = '[{"op":"test","path":"/data/y","value":"3"}]'
    assert await kube.fails("patch", "configmap", "c", "--type=json", "-p", wrong)
    strategic = '{"spec":{"containers":[{"name":"c1","image":"busybox:9"}]}}'
    await kube.run("patch", "pod", "p", "-p", strategic)
    images = [item["image"] for item in (await kube.json("get", "pod", "p"))["spec"]["containers"]]
    assert images == ["busybox:1", "busybox:9"]
    assert "strategic" in await kube.fails("patch", "widget", "w", "-p", '{"spec":{"size":2}}')
    await kube.run("patch", "widget", "w", "--type=merge", "-p", '{"spec":{"size":7}}')
    assert (await kube.json("get", "widget", "w"))["spec"]["size"] == 7
    patched = await kube.run("patch", "widget", "w", "--type=merge", "-p", '{"spec":{"size":7}}')
    assert "no change" in patched.out


async def test_labels_and_annotations(kube: Kubectl) -> None:
    await kube.apply(config_map("c"))
    await kube.run("label", "configmap", "c", "a=1")
    assert "overwrite" in await kube.fails("label", "configmap", "c", "a=2")
    await kube.run("label", "configmap", "c", "a=2", "--overwrite")
    await kube.run("annotate", "configmap", "c", "note=some text")
    metadata = (await kube.json("get", "configmap", "c"))["metadata"]
    assert (metadata["labels"], metadata["annotations"]["note"]) == ({"a": "2"}, "some text")
    await kube.run("label", "configmap", "c", "a-")
    assert "labels" not in (await kube.json("get", "configmap", "c"))["metadata"]
    assert "Invalid" in await kube.fails(
        "patch", "configmap", "c", "--type=merge", "-p", '{"metadata":{"labels":{"a b":"c"}}}'
    )


async def test_edit(kube: Kubectl) -> None:
    await kube.apply([config_map("c", a="before"), widget("w", size=1)])
    edited = await kube.run("edit", "configmap", "c", editor="sed -i s/before/after/")
    assert edited.out == "configmap/c edited\n"
    assert (await kube.json("get", "configmap", "c"))["data"]["a"] == "after"
    await kube.run("edit", "widget", "w", editor="sed -i 's/size: 1/size: 5/'")
    assert (await kube.json("get", "widget", "w"))["spec"]["size"] == 5


async def test_replace_needs_the_newest_version(kube: Kubectl) -> None:
    await kube.apply(config_map("c", a="1"))
    value = await kube.json("get", "configmap", "c")
    await kube.run("patch", "configmap", "c", "--type=merge", "-p", '{"data":{"a":"2"}}')
    refused = await kube.fails("replace", "-f", "-", text=json.dumps(value))
    assert "Conflict" in refused
    assert "the object has been modified" in refused
    del value["metadata"]["resourceVersion"]
    await kube.run("replace", "-f", "-", text=json.dumps(value))
    assert (await kube.json("get", "configmap", "c"))["data"]["a"] == "1"
    created = await kube.run("create", "-f", "-", text=json.dumps({**widget("x"), "metadata": {"generateName": "g-"}}))
    assert created.out.startswith("widget.test.example.com/g-")


async def test_delete_by_label_and_wait(kube: Kubectl) -> None:
    for index in range(3):
        await kube.run("create", "configmap", f"c{index}")
        await kube.run("label", "configmap", f"c{index}", "group=x")
    await kube.run("delete", "configmap", "-l", "group=x")
    left = (await kube.json("get", "configmaps"))["items"]
    assert [item for item in left if item["metadata"].get("labels")] == []
    value = widget("w")
    value["metadata"]["finalizers"] = ["test.example.com/hold"]
    await kube.apply(value)
    await kube.run("delete", "widget", "w", "--wait=false")
    assert (await kube.json("get", "widget", "w"))["metadata"]["deletionTimestamp"]
    await kube.run("patch", "widget", "w", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    await kube.run("wait", "--for=delete", "widget/w", "--timeout=20s")


async def test_wait_for_a_value(kube: Kubectl) -> None:
    await kube.apply(widget("w"))
    await kube.run("patch", "widget", "w", "--subresource=status", "--type=merge", "-p", '{"status":{"phase":"Done"}}')
    await kube.run("wait", "--for=jsonpath={.status.phase}=Done", "widget/w", "--timeout=20s")
    assert "timed out" in await kube.fails("wait", "--for=jsonpath={.status.phase}=Never", "widget/w", "--timeout=1s")


async def test_get_watch_shows_changes_as_they_come(kube: Kubectl) -> None:
    await kube.apply(widget("w", size=1))
    async with kube.stream("get", "widgets", "--watch", "--no-headers", "--output-watch-events") as lines:
        assert (await lines.readline()).split()[:3] == [b"ADDED", b"w", b"1"]
        await kube.run("patch", "widget", "w", "--type=merge", "-p", '{"spec":{"size":2}}')
        assert (await lines.readline()).split()[:3] == [b"MODIFIED", b"w", b"2"]
        await kube.apply(widget("v", size=3))
        assert (await lines.readline()).split()[:3] == [b"ADDED", b"v", b"3"]
        await kube.run("delete", "widget", "w")
        assert (await lines.readline()).split()[:2] == [b"DELETED", b"w"]


async def test_explain(kube: Kubectl) -> None:
    if kube.api == "real":
        pytest.skip("kube-apiserver 1.20 publishes no OpenAPI v3, which kubectl 1.37 explains from")
    text = (await kube.run("explain", "widget.spec")).out
    assert "GROUP:      test.example.com" in text
    assert "How large it is." in text
    assert "size\t<integer> -required-" in text
    assert "nodeName" in (await kube.run("explain", "pod.spec")).out
    assert "FIELDS:" in (await kube.run("explain", "widgets", "--recursive")).out


async def test_invalid_objects_are_refused_with_the_field(kube: Kubectl) -> None:
    refused = await kube.fails(
        "apply", "--validate=false", "-f", "-", text=json.dumps(widget("w", size=0, color="blue"))
    )
    assert "spec.size" in refused
    assert 'Unsupported value: "blue"' in refused
    missing = {**widget("w"), "spec": {}}
    assert "spec.size" in await kube.fails("create", "--validate=false", "-f", "-", text=json.dumps(missing))
    wrong = await kube.fails("create", "--validate=false", "-f", "-", text=json.dumps(widget("w", size="big")))
    assert "must be of type integer" in wrong
    name = await kube.fails("create", "-f", "-", text=json.dumps(widget("Not_A_Name")))
    assert "Invalid value" in name
    unknown = await kube.fails("create", "-f", "-", text=json.dumps(widget("w", weight=3)))
    assert "weight" in unknown
    await kube.run("create", "--validate=false", "-f", "-", text=json.dumps(widget("w", weight=3, free={"any": 1})))
    assert (await kube.json("get", "widget", "w"))["spec"] == {"size": 1, "color": "red", "free": {"any": 1}}


async def test_documents_of_kind_list_are_validated_and_applied(kube: Kubectl) -> None:
    full = widget("w", free={"any": [1, {"x": "y"}]}, labels={"a": "b"}, port="http")
    placed = pod("p", "busybox:1")
    placed["spec"]["volumes"] = [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]
    placed["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "1", "memory": "1Gi"}}
    await kube.apply([full, placed])
    assert (await kube.apply([full, placed])).split()[1::2] == ["unchanged", "unchanged"]
    wrong = {"apiVersion": "v1", "kind": "List", "items": [{**config_map("c"), "colour": 1}]}
    refused = await kube.fails("apply", "-f", "-", text=json.dumps(wrong))
    assert 'unknown field "colour"' in refused
    got = (await kube.run("get", "widgets,pods", "-o", "yaml")).out
    await kube.run("apply", "-f", "-", text=got)
    assert (await kube.json("get", "widget", "w"))["spec"] == {**full["spec"], "color": "red"}


async def test_describe_and_events(kube: Kubectl) -> None:
    await kube.apply(pod("p", "busybox:1"))
    uid = (await kube.json("get", "pod", "p"))["metadata"]["uid"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "p.1"},
        "involvedObject": {"kind": "Pod", "namespace": kube.namespace, "name": "p", "uid": uid, "apiVersion": "v1"},
        "reason": "Pulled",
        "message": "image is there",
        "type": "Normal",
        "source": {"component": "edged", "host": "edge-1"},
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z",
        "count": 1,
    }
    await kube.run("create", "-f", "-", text=json.dumps(event))
    described = (await kube.run("describe", "pod", "p")).out
    assert "edge-1" in described
    assert "image is there" in described
    assert "Pulled" in (await kube.run("get", "events")).out
    assert "image is there" in (await kube.run("events", "--for", "pod/p")).out
    await kube.apply(widget("w", size=3))
    words = (await kube.run("describe", "widget", "w")).out.split()
    assert words[words.index("Size:") + 1] == "3"


async def test_nodes_and_their_status(kube: Kubectl) -> None:
    name = f"node-{kube.namespace}"
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"node-role.kubernetes.io/edge": ""}},
    }
    await kube.run("create", "-f", "-", text=json.dumps(node))
    ready = {"type": "Ready", "status": "True", "reason": "EdgeReady", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}
    status = {"conditions": [ready], "nodeInfo": {"kubeletVersion": "v1.32.10-kubeedge"}}
    await kube.run("patch", "node", name, "--subresource=status", "-p", json.dumps({"status": status}))
    disk = {"status": {"conditions": [{"type": "DiskPressure", "status": "False"}]}}
    await kube.run("patch", "node", name, "--subresource=status", "-p", json.dumps(disk))
    kinds = {item["type"] for item in (await kube.json("get", "node", name))["status"]["conditions"]}
    assert kinds == {"Ready", "DiskPressure"}
    row = (await kube.run("get", "node", name, "--no-headers")).out.split()
    assert row[:3] == [name, "Ready", "edge"]
    assert row[4] == "v1.32.10-kubeedge"
    await kube.run("cordon", name)
    assert "SchedulingDisabled" in (await kube.run("get", "node", name)).out
    await kube.run("taint", "node", name, "dedicated=x:NoSchedule")
    assert {"key": "dedicated", "value": "x", "effect": "NoSchedule"} in (await kube.json("get", "node", name))["spec"][
        "taints"
    ]
    assert "Taints:" in (await kube.run("describe", "node", name)).out
    await kube.run("delete", "node", name)


async def test_a_definition_can_be_read_and_its_kind_goes_with_it(kube: Kubectl) -> None:
    definition = await kube.json("get", "crd", "widgets.test.example.com")
    assert definition["status"]["storedVersions"] == ["v1"]
    assert definition["status"]["acceptedNames"]["kind"] == "Widget"
    other = json.loads(json.dumps(definition))
    other["metadata"] = {"name": "gadgets.test.example.com"}
    other["spec"]["names"] = {"plural": "gadgets", "kind": "Gadget"}
    other.pop("status")
    await kube.run("create", "-f", "-", text=json.dumps(other))
    await kube.run("wait", "--for=condition=Established", "crd/gadgets.test.example.com", "--timeout=20s")
    await kube.run("create", "-f", "-", text=json.dumps({**widget("g"), "kind": "Gadget"}))
    await kube.run("delete", "crd", "gadgets.test.example.com", "--timeout=30s")
    assert "resource" in await kube.fails("get", "gadgets")
