"""Our custom resources through the real kubectl: the manifest, tables, explanations, refusals."""

import json
from typing import Any

import pytest

from cloudgateway.kube.crd_install import crd_documents, crd_manifest
from tests.support.kubectl import Kubectl

MODEL = {
    "apiVersion": "devices.kubeedge.io/v1beta1",
    "kind": "DeviceModel",
    "metadata": {"name": "meter"},
    "spec": {"protocol": "modbus", "properties": [{"name": "power", "type": "FLOAT", "accessMode": "ReadOnly"}]},
}
DEVICE = {
    "apiVersion": "devices.kubeedge.io/v1beta1",
    "kind": "Device",
    "metadata": {"name": "d1"},
    "spec": {
        "nodeName": "edge-1",
        "deviceModelRef": {"name": "meter"},
        "protocol": {"protocolName": "modbus", "configData": {"slaveID": 1}},
        "properties": [{"name": "power"}, {"name": "limit", "desired": {"value": "5"}}],
    },
}


@pytest.fixture
async def site(kube: Kubectl) -> Kubectl:
    """An API with our definitions applied from the manifest that `cloudgateway crds` prints."""
    await kube.run("apply", "-f", "-", text=crd_manifest(), all=True)
    names = [f"crd/{document['metadata']['name']}" for document in crd_documents()]
    await kube.run("wait", "--for=condition=Established", "--timeout=30s", *names, all=True)
    return kube


async def rows(kube: Kubectl, *args: str) -> list[list[str]]:
    return [line.split() for line in (await kube.run("get", *args)).out.splitlines()]


async def test_devices_in_tables(site: Kubectl) -> None:
    await site.apply([MODEL, DEVICE])
    header, row = await rows(site, "devices")
    assert header == ["NAME", "NODE", "MODEL", "PROTOCOL", "AGE"]
    assert row[:4] == ["d1", "edge-1", "meter", "modbus"]
    header, row = await rows(site, "devicemodels")
    assert (header[:2], row[:2]) == (["NAME", "PROTOCOL"], ["meter", "modbus"])
    status: dict[str, Any] = {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceStatus",
        "metadata": {"name": "d1"},
        "status": {"state": "online", "lastOnlineTime": "2020-01-01T00:00:00Z"},
    }
    await site.apply(status)
    text = (await site.run("get", "devicestatuses")).out.splitlines()
    assert text[0].split() == ["NAME", "STATE", "LAST", "ONLINE", "AGE"]
    assert text[1].split()[:2] == ["d1", "online"]
    assert "y" in text[1].split()[2]  # seen years ago, told as an age


async def test_a_desired_value_is_patched(site: Kubectl) -> None:
    await site.apply([MODEL, DEVICE])
    patch = [{"op": "replace", "path": "/spec/properties/1/desired/value", "value": "7"}]
    await site.run("patch", "device", "d1", "--type=json", "-p", json.dumps(patch))
    device = await site.json("get", "device", "d1")
    assert device["spec"]["properties"][1]["desired"]["value"] == "7"
    assert device["spec"]["protocol"]["configData"] == {"slaveID": 1}
    error = await site.fails("patch", "device", "d1", "--type=merge", "-p", '{"spec":{"nodeName":7}}')
    assert "spec.nodeName" in error


async def test_short_names_of_kubeedge(site: Kubectl) -> None:
    for name in ("re", "ng", "eapp", "saaccess"):
        assert "NotFound" not in (await site.run("get", name, check=False)).err
        assert (await site.run("get", name)).code == 0


async def test_the_fields_explain_themselves(site: Kubectl) -> None:
    if site.api == "real":
        pytest.skip("kube-apiserver 1.20 publishes no OpenAPI v3, which kubectl 1.37 explains from")
    text = (await site.run("explain", "device.spec.properties.desired")).out
    assert "-required-" in text
    assert "value" in text
    text = (await site.run("explain", "devicestatus.status.twins")).out
    assert "observedDesired" in text
    assert "desired value that the edge has taken over" in " ".join(text.split())
    for document in crd_documents():
        names = document["spec"]["names"]
        assert names["kind"] in (await site.run("explain", names["plural"])).out


def test_every_field_of_the_current_versions_is_described() -> None:
    bare: list[str] = []

    def look(schema: dict[str, Any], path: str) -> None:
        for name, field in (schema.get("properties") or {}).items():
            if path and "description" not in field and path.count(".") < 3:
                bare.append(f"{path}.{name}")
            look(field, f"{path}.{name}")
        if isinstance(schema.get("items"), dict):
            look(schema["items"], f"{path}[]")

    for document in crd_documents():
        version = next(version for version in document["spec"]["versions"] if version["storage"])
        root = version["schema"]["openAPIV3Schema"]
        assert root["description"]
        for part in ("spec", "status"):
            if part in root["properties"]:
                look(root["properties"][part], f"{document['spec']['names']['kind']}.{part}")
    assert bare == []
