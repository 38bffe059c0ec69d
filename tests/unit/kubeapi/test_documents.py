"""Discovery, OpenAPI and protobuf: what kubectl needs before it asks for an object."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.kubeapi import discovery
from edgeappliance.kubeapi.builtin_types import BuiltinTypes
from edgeappliance.kubeapi.builtins import builtin_resources
from edgeappliance.kubeapi.errors import StatusFailure
from edgeappliance.kubeapi.openapi import OpenApi
from edgeappliance.kubeapi.protobuf import ProtobufReader
from edgeappliance.kubeapi.resources import Registry, ResourceType, version_rank

TYPES = BuiltinTypes()


@pytest.fixture
def registry() -> Registry:
    return Registry(builtin_resources(TYPES))


def test_versions_in_order_of_preference() -> None:
    versions = ["v1alpha1", "v2", "v1beta1", "foo1", "v1", "v1beta2", "v10"]
    assert sorted(versions, key=version_rank) == ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo1"]


def test_legacy_discovery(registry: Registry) -> None:
    core = discovery.api_resource_list(registry, "", "v1")
    assert core is not None
    names = {item["name"]: item for item in core["resources"]}
    assert names["pods"]["shortNames"] == ["po"]
    assert names["pods/status"]["verbs"] == ["get", "patch", "update"]
    assert discovery.api_resource_list(registry, "nothing", "v1") is None
    assert discovery.api_group(registry, "nothing") is None
    groups = {group["name"] for group in discovery.api_group_list(registry)["groups"]}
    assert "coordination.k8s.io" in groups
    assert "" not in groups


def test_aggregated_discovery(registry: Registry) -> None:
    core = discovery.aggregated(registry, core=True, version="v2")
    assert [item["metadata"]["name"] for item in core["items"]] == [""]
    resources = {item["resource"]: item for item in core["items"][0]["versions"][0]["resources"]}
    assert resources["nodes"]["scope"] == "Cluster"
    assert resources["nodes"]["subresources"][0]["subresource"] == "status"
    others = discovery.aggregated(registry, core=False, version="v2")
    refused = next(item for item in others["items"] if item["metadata"]["name"] == "apps")
    assert all(item["verbs"] == [] for item in refused["versions"][0]["resources"])


def test_openapi_documents_refer_to_what_they_hold(registry: Registry) -> None:
    openapi = OpenApi(registry, TYPES)
    index = json.loads(openapi.index())
    assert "api/v1" in index["paths"]
    assert "apis/apps/v1" not in index["paths"]
    document = json.loads(openapi.document("", "v1") or b"")
    schemas = document["components"]["schemas"]
    for text in _references(document):
        assert text.removeprefix("#/components/schemas/") in schemas
    patch = document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"]
    assert "application/strategic-merge-patch+json" in patch["requestBody"]["content"]
    assert "fieldValidation" in [item["name"] for item in patch["parameters"]]
    two = json.loads(openapi.version_two())
    for text in _references(two):
        assert text.removeprefix("#/definitions/") in two["definitions"]
    assert openapi.version_two_protobuf().startswith(b"\x0a\x032.0")


def test_a_custom_kind_is_published_and_withdrawn(registry: Registry) -> None:
    openapi = OpenApi(registry, TYPES)
    before = openapi.index()
    registry.add(
        ResourceType(
            group="g.io",
            version="v1",
            plural="things",
            kind="Thing",
            namespaced=True,
            custom=True,
            component="io.g.v1.Thing",
        )
    )
    openapi.set_custom("io.g.v1.Thing", {"type": "object"})
    document = json.loads(openapi.document("g.io", "v1") or b"")
    assert "io.g.v1.Thing" in document["components"]["schemas"]
    registry.remove("g.io", "things")
    openapi.set_custom("io.g.v1.Thing", None)
    assert openapi.document("g.io", "v1") is None
    assert openapi.index() == before


def _references(node: object) -> list[str]:
    found: list[str] = []
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            found.append(node["$ref"])
        for value in node.values():
            found += _references(value)
    elif isinstance(node, list):
        for value in node:
            found += _references(value)
    return found


def _varint(value: int) -> bytes:
    result = b""
    while value > 0x7F:
        result += bytes([value & 0x7F | 0x80])
        value >>= 7
    return result + bytes([value])


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _body(api_version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\x00" + _field(1, _field(1, api_version.encode()) + _field(2, kind.encode())) + _field(2, raw)


def test_protobuf_bodies_become_the_json_that_they_stand_for() -> None:
    reader = ProtobufReader()
    metadata = _field(1, b"n") + _field(3, b"") + _field(8, b"") + _field(11, _field(1, b"k") + _field(2, b"v"))
    config = (
        _field(1, metadata)
        + _field(2, _field(1, b"a") + _field(2, b"1"))
        + _field(3, _field(1, b"b") + _field(2, b"\xff"))
    )
    assert reader.read(_body("v1", "ConfigMap", config)) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "n", "labels": {"k": "v"}},
        "data": {"a": "1"},
        "binaryData": {"b": "/w=="},
    }
    port = _field(3, 80) + _field(4, _field(1, 1) + _field(3, b"http"))
    service = reader.read(_body("v1", "Service", _field(2, _field(1, port))))
    assert service["spec"]["ports"] == [{"port": 80, "targetPort": "http"}]
    volume = _field(1, b"v") + _field(2, _field(19, _field(1, _field(1, b"cm"))))
    pod = reader.read(_body("v1", "Pod", _field(2, _field(1, volume) + _field(4, 0))))
    assert pod["spec"] == {"volumes": [{"name": "v", "configMap": {"name": "cm"}}], "terminationGracePeriodSeconds": 0}
    lease = reader.read(
        _body("coordination.k8s.io/v1", "Lease", _field(2, _field(4, _field(1, 1_700_000_000) + _field(2, 5_000_000))))
    )
    assert lease["spec"]["renewTime"] == "2023-11-14T22:13:20.005000Z"
    options = reader.read(
        _body("v1", "DeleteOptions", _field(1, (1 << 64) - 1) + _field(4, b"Foreground") + _field(5, b"All"))
    )
    assert (options["gracePeriodSeconds"], options["propagationPolicy"], options["dryRun"]) == (
        -1,
        "Foreground",
        ["All"],
    )


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"k8s\x00\xff",
        _body("v1", "Unknown", b""),
        _body("v1", "ConfigMap", _field(99, b"x")),
        _body("v1", "ConfigMap", b"\x0a\xff\x01"),
        _body("v1", "ConfigMap", _field(1, _field(1, b"\xff"))),
        _body("v1", "ConfigMap", b"\x0b"),
    ],
)
def test_protobuf_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(StatusFailure) as failure:
        ProtobufReader().read(body)
    assert failure.value.code == 400


READER = ProtobufReader()


@given(st.binary(max_size=80))
def test_any_protobuf_gives_an_object_or_a_refusal(raw: bytes) -> None:
    try:
        value = READER.read(_body("v1", "Pod", raw))
    except StatusFailure as failure:
        assert failure.code == 400
    else:
        assert value["kind"] == "Pod"
