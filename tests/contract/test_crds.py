"""The custom resources as an API takes them: names, versions, scopes, status subresources (KubeEdge reference 6)."""

import pytest

from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.crd_install import crd_documents, install_crds
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.resources import CRDS, DEVICE_MODELS, DEVICE_STATUSES, DEVICES, EDGE_APPLICATIONS, OBJECT_SYNCS
from tests.support.kube_client import new_namespace

# kind: group, versions (the stored one last), plural, short names, scope, status subresource
FACTS = {
    "Device": ("devices.kubeedge.io", ["v1alpha2", "v1beta1"], "devices", [], "Namespaced", False),
    "DeviceModel": ("devices.kubeedge.io", ["v1alpha2", "v1beta1"], "devicemodels", [], "Namespaced", False),
    "DeviceStatus": ("devices.kubeedge.io", ["v1alpha2", "v1beta1"], "devicestatuses", [], "Namespaced", False),
    "Rule": ("rules.kubeedge.io", ["v1"], "rules", [], "Namespaced", False),
    "RuleEndpoint": ("rules.kubeedge.io", ["v1"], "ruleendpoints", ["re"], "Namespaced", False),
    "ObjectSync": ("reliablesyncs.kubeedge.io", ["v1alpha1"], "objectsyncs", [], "Namespaced", True),
    "ClusterObjectSync": ("reliablesyncs.kubeedge.io", ["v1alpha1"], "clusterobjectsyncs", [], "Cluster", True),
    "NodeGroup": ("apps.kubeedge.io", ["v1alpha1"], "nodegroups", ["ng"], "Cluster", True),
    "EdgeApplication": ("apps.kubeedge.io", ["v1alpha1"], "edgeapplications", ["eapp"], "Namespaced", True),
    "NodeUpgradeJob": ("operations.kubeedge.io", ["v1alpha1", "v1alpha2"], "nodeupgradejobs", [], "Cluster", True),
    "ImagePrePullJob": ("operations.kubeedge.io", ["v1alpha1", "v1alpha2"], "imageprepulljobs", [], "Cluster", True),
    "ConfigUpdateJob": ("operations.kubeedge.io", ["v1alpha2"], "configupdatejobs", [], "Cluster", True),
    "ServiceAccountAccess": (
        "policy.kubeedge.io",
        ["v1alpha1"],
        "serviceaccountaccesses",
        ["saaccess"],
        "Namespaced",
        True,
    ),
}


def test_every_kind_has_its_names() -> None:
    found = {}
    for document in crd_documents():
        spec = document["spec"]
        versions = sorted(spec["versions"], key=lambda version: version["storage"])
        assert sum(version["storage"] for version in versions) == 1
        assert all(version["served"] for version in versions)
        subresources = {"status" in version.get("subresources", {}) for version in versions}
        assert len(subresources) == 1
        found[spec["names"]["kind"]] = (
            spec["group"],
            [version["name"] for version in versions],
            spec["names"]["plural"],
            spec["names"].get("shortNames", []),
            spec["scope"],
            subresources.pop(),
        )
        assert document["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}"
    assert found == FACTS


async def test_installing_again_changes_nothing(kube_client: KubeClient) -> None:
    before = await kube_client.list(CRDS)
    assert await install_crds(kube_client) == []
    after = await kube_client.list(CRDS)
    versions = [{i["metadata"]["name"]: i["metadata"]["resourceVersion"] for i in x.items} for x in (before, after)]
    assert versions[0] == versions[1]


async def test_a_definition_that_was_changed_is_mended(kube_client: KubeClient) -> None:
    name = "nodegroups.apps.kubeedge.io"
    crd = await kube_client.get(CRDS, None, name)
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["extra"] = {
        "type": "string"
    }
    await kube_client.update(CRDS, crd)
    assert await install_crds(kube_client) == [name]
    assert await install_crds(kube_client) == []


async def test_configuration_of_any_shape_survives_and_unknown_fields_go(kube_client: KubeClient) -> None:
    ns = await new_namespace(kube_client)
    config = {"slaveID": 1, "nested": {"list": [1, "two", {"three": 3.5}]}, "flag": True}
    device = await kube_client.create(
        DEVICES,
        {
            "apiVersion": "devices.kubeedge.io/v1beta1",
            "kind": "Device",
            "metadata": {"name": "d"},
            "spec": {
                "nodeName": "edge-1",
                "unheardOf": 1,
                "protocol": {"protocolName": "modbus", "configData": config},
                "properties": [
                    {
                        "name": "temp",
                        "desired": {"value": "5", "metadata": {"timestamp": "1"}},
                        "visitors": {"protocolName": "modbus", "configData": config},
                        "reportCycle": 1000,
                        "pushMethod": {
                            "dbMethod": {"TDEngine": {"TDEngineClientConfig": {"addr": "a", "dbName": "b"}}},
                            "anomalyDetection": config,
                        },
                    }
                ],
            },
        },
        namespace=ns,
    )
    assert device["spec"]["protocol"]["configData"] == config
    entry = device["spec"]["properties"][0]
    assert entry["visitors"]["configData"] == config
    assert entry["pushMethod"]["anomalyDetection"] == config
    assert entry["pushMethod"]["dbMethod"]["TDEngine"]["TDEngineClientConfig"]["dbName"] == "b"
    assert "unheardOf" not in device["spec"]


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ([{"name": "t", "type": "INTEGER"}], "spec.properties"),
        ([{"name": "t", "accessMode": "Write"}], "spec.properties"),
        ([{"type": "INT"}], "name"),
        ([{"name": "t"}, {"name": "t"}], "spec.properties"),
    ],
)
async def test_a_model_that_cannot_be_meant_is_refused(
    kube_client: KubeClient, properties: list[dict[str, str]], named: str
) -> None:
    ns = await new_namespace(kube_client)
    model = {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceModel",
        "metadata": {"name": "m"},
        "spec": {"properties": properties},
    }
    with pytest.raises(ApiError) as error:
        await kube_client.create(DEVICE_MODELS, model, namespace=ns)
    assert error.value.code == 422
    assert named in error.value.message


async def test_status_is_a_field_of_devices_and_a_subresource_of_records(kube_client: KubeClient) -> None:
    ns = await new_namespace(kube_client)
    status = {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceStatus",
        "metadata": {"name": "d"},
        "status": {"state": "ok", "extensions": {"any": [1]}, "twins": [{"propertyName": "p"}]},
    }
    made = await kube_client.create(DEVICE_STATUSES, status, namespace=ns)
    assert made["status"] == status["status"]
    record = {
        "apiVersion": "reliablesyncs.kubeedge.io/v1alpha1",
        "kind": "ObjectSync",
        "metadata": {"name": "edge-1.u"},
        "spec": {"objectAPIVersion": "v1", "objectKind": "Pod", "objectName": "p"},
        "status": {"objectResourceVersion": "5"},
    }
    assert "status" not in await kube_client.create(OBJECT_SYNCS, record, namespace=ns)
    body = {"status": {"objectResourceVersion": "7"}}
    await kube_client.patch(OBJECT_SYNCS, ns, "edge-1.u", body, subresource="status")
    assert (await kube_client.get(OBJECT_SYNCS, ns, "edge-1.u"))["status"] == {"objectResourceVersion": "7"}


async def test_a_v1alpha2_device_is_read_through_v1beta1(kube_client: KubeClient) -> None:
    ns = await new_namespace(kube_client)
    old = type(DEVICES)("devices.kubeedge.io", "v1alpha2", "devices", "Device")
    body = {
        "apiVersion": "devices.kubeedge.io/v1alpha2",
        "kind": "Device",
        "metadata": {"name": "d"},
        "spec": {"deviceModelRef": {"name": "m"}, "protocol": {"modbus": {"slaveID": 1}}},
    }
    await kube_client.create(old, body, namespace=ns)
    new = await kube_client.get(DEVICES, ns, "d")
    assert new["apiVersion"] == "devices.kubeedge.io/v1beta1"
    assert new["spec"]["deviceModelRef"] == {"name": "m"}


async def test_an_edge_application_carries_whole_objects(kube_client: KubeClient) -> None:
    ns = await new_namespace(kube_client)
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}}
    application = {
        "apiVersion": "apps.kubeedge.io/v1alpha1",
        "kind": "EdgeApplication",
        "metadata": {"name": "e"},
        "spec": {
            "workloadTemplate": {"manifests": [manifest]},
            "workloadScope": {"targetNodeGroups": [{"name": "g", "overriders": {"replicas": 2}}]},
        },
    }
    made = await kube_client.create(EDGE_APPLICATIONS, application, namespace=ns)
    assert made["spec"]["workloadTemplate"]["manifests"] == [manifest]
