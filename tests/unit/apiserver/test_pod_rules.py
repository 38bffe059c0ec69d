"""Pods that are refused name the field; what may change of one; defaults. The words: contract/test_same_answers.py."""

import copy
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudgateway.apiserver.container_rules import port_name_error
from cloudgateway.apiserver.pod_rules import causes
from cloudgateway.apiserver.pods import default, grace, quality
from cloudgateway.apiserver.volume_rules import relative_path_error
from tests.support.bad_pods import SPECS
from tests.support.embedded_api import MERGE, STRATEGIC, Api

PODS = "/api/v1/namespaces/default/pods"

FIELDS = {
    "same name in init": "spec.initContainers[0].name",
    "port": "spec.containers[0].ports[0].containerPort",
    "host ports": "spec.containers[0].ports[1].hostPort",
    "env key": "spec.containers[0].env[0].valueFrom.configMapKeyRef.key",
    "more than the limit": "spec.containers[0].resources.requests",
    "probe threshold": "spec.containers[0].livenessProbe.successThreshold",
    "volumes": "spec.volumes[1].name",
    "host path back": "spec.volumes[0].hostPath.path",
    "mounts": "spec.containers[0].volumeMounts[1].mountPath",
    "projected token": "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds",
    "affinity values": "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
    ".nodeSelectorTerms[0].matchExpressions[0].values",
}


def found(spec: dict[str, Any], old: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    value = {"metadata": {"name": "p"}, "spec": copy.deepcopy(spec)}
    default(value)
    before = None
    if old is not None:
        before = {"metadata": {"name": "p"}, "spec": copy.deepcopy(old)}
        default(before)
    return [(cause.field, cause.message) for cause in causes(value, before)]


@pytest.mark.parametrize("name", SPECS)
def test_one_fault_is_one_error_at_its_field(name: str) -> None:
    errors = found(SPECS[name])
    assert errors, name
    assert all(field.startswith("spec.") and message for field, message in errors)
    if name in FIELDS:
        assert [field for field, _ in errors] == [FIELDS[name]]


GOOD: dict[str, dict[str, Any]] = {
    "plain": {"containers": [{"name": "a", "image": "i"}]},
    "sidecar": {
        "containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 80, "name": "web-1"}]}],
        "initContainers": [
            {
                "name": "s",
                "image": "i",
                "restartPolicy": "Always",
                "startupProbe": {"tcpSocket": {"port": "web-1"}},
                "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
            }
        ],
    },
    "all volumes": {
        "containers": [
            {"name": "a", "image": "i", "volumeMounts": [{"name": f"v{n}", "mountPath": f"/v{n}"} for n in range(6)]}
        ],
        "volumes": [
            {"name": "v0", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "v1", "hostPath": {"path": "/dev/ttyUSB0", "type": "CharDevice"}},
            {"name": "v2", "configMap": {"name": "c", "items": [{"key": "k", "path": "a/b", "mode": 0o400}]}},
            {"name": "v3", "secret": {"secretName": "s", "optional": True}},
            {
                "name": "v4",
                "downwardAPI": {
                    "items": [
                        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                        {"path": "one", "fieldRef": {"fieldPath": "metadata.annotations['x.io/A']"}},
                        {"path": "cpu", "resourceFieldRef": {"containerName": "a", "resource": "limits.cpu"}},
                    ]
                },
            },
            {"name": "v5", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        ],
    },
    "environment": {
        "containers": [
            {
                "name": "a",
                "image": "i",
                "envFrom": [{"prefix": "P_", "secretRef": {"name": "s"}}],
                "env": [
                    {"name": "my.name", "value": ""},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}},
                    {"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                ],
            }
        ]
    },
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_right_is_taken(name: str) -> None:
    assert found(GOOD[name]) == []


def test_several_faults_are_told_together() -> None:
    spec = {"containers": [{"name": "A"}], "restartPolicy": "x", "volumes": [{"name": "v", "hostPath": {"path": ""}}]}
    fields = [field for field, _ in found(spec)]
    assert fields == [
        "spec.volumes[0].hostPath.path",
        *(f"spec.containers[0].{key}" for key in ("name", "image")),
        "spec.restartPolicy",
    ]


def test_defaults_of_what_a_node_relies_on() -> None:
    value: dict[str, Any] = {"metadata": {"name": "p"}, "spec": copy.deepcopy(GOOD["all volumes"])}
    value["spec"]["terminationGracePeriodSeconds"] = -5
    default(value)
    assert value["spec"]["volumes"][5]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"] == 3600
    assert value["spec"]["terminationGracePeriodSeconds"] == 1
    value["spec"]["nodeName"] = "n"
    assert grace(value, None) == 1


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"limits": {"memory": "0"}, "requests": {"cpu": "0"}}, "BestEffort"),
        ({"limits": {"example.com/x": "1"}}, "BestEffort"),
        ({"requests": {"cpu": "1m"}}, "Burstable"),
        ({"limits": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Mi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1024Ki"}, "requests": {"cpu": "1000m", "memory": "1Mi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_quality(resources: dict[str, Any], expected: str) -> None:
    container = {"name": "c", "image": "i", "resources": resources}
    assert quality({"containers": [container]}) == expected
    others = [container, {"name": "d", "image": "i"}]
    assert quality({"containers": others}) == ("BestEffort" if expected == "BestEffort" else "Burstable")


_FOREIGN = (None, "", 0, -1, 2**63, 1.5, True, "x", "/a/..", [], {}, [None], [{}], {"a": None}, {"": ""}, ["a", 1])


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value within a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


async def test_no_pod_however_strange_is_more_than_refused(embedded_api: Api) -> None:
    """Every value of every pod of these tests replaced by strange ones: an answer that names it, never a fault."""
    shapes = [*SPECS.values(), *GOOD.values()]
    chance = random.Random(1)
    for _ in range(1500):
        spec = copy.deepcopy(chance.choice(shapes))
        *front, last = chance.choice(_places(spec)[1:] or [("containers",)])
        holder: Any = spec
        for key in front:
            holder = holder[key]
        holder[last] = copy.deepcopy(chance.choice(_FOREIGN))
        answer = await embedded_api.send("POST", f"{PODS}?dryRun=All", {"metadata": {"name": "q"}, "spec": spec})
        assert answer.status in (201, 400, 403, 422), (spec, answer.body)


BASE: dict[str, Any] = {
    "containers": [{"name": "a", "image": "i:1"}],
    "nodeName": "n",
    "activeDeadlineSeconds": 100,
    "tolerations": [{"key": "k", "operator": "Exists"}],
    "schedulingGates": [{"name": "a.io/x"}, {"name": "a.io/y"}],
}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"containers": [{"name": "a", "image": "i:2"}]}, ""),
        ({"activeDeadlineSeconds": 99}, ""),
        ({"activeDeadlineSeconds": 101}, "spec.activeDeadlineSeconds"),
        ({"activeDeadlineSeconds": None}, "spec.activeDeadlineSeconds"),
        ({"tolerations": [{"key": "z"}, {"key": "k", "operator": "Exists"}]}, ""),
        ({"tolerations": [{"key": "z"}]}, "spec"),
        ({"schedulingGates": [{"name": "a.io/y"}]}, ""),
        ({"schedulingGates": [{"name": "a.io/z"}]}, "spec.schedulingGates"),
        ({"nodeName": "m"}, "spec"),
        ({"hostNetwork": True}, "spec"),
        ({"containers": [{"name": "a", "image": "i:1", "command": ["x"]}]}, "spec"),
        ({"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i"}]}, "spec.containers"),
    ],
)
def test_what_may_change(change: dict[str, Any], field: str) -> None:
    after = {key: item for key, item in {**BASE, **change}.items() if item is not None}
    assert [name for name, _ in found(after, BASE)] == ([field] if field else [])


def test_a_pod_that_waits_may_be_placed_by_a_person_once() -> None:
    waiting = {key: item for key, item in BASE.items() if key != "nodeName"}
    assert found(BASE, waiting) == []


async def test_a_pod_that_older_rules_let_in_still_takes_its_status(embedded_api: Api) -> None:
    """The node reports it; refusing the status would leave the API lying about a pod that runs."""
    value = await embedded_api.ok(
        "POST",
        PODS,
        {"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "a", "image": "i"}]}},
    )
    store = embedded_api.embedded.store
    base = store.head("pods", "default", "p")
    value["spec"]["restartPolicy"] = "Sometimes"
    await store.write("pods", value, base=base)
    status = {"status": {"phase": "Running"}}
    assert (await embedded_api.ok("PATCH", f"{PODS}/p/status", status, type=STRATEGIC))["status"]["phase"] == "Running"
    await embedded_api.ok("PATCH", f"{PODS}/p", {"metadata": {"labels": {"a": "b"}}}, type=MERGE)
    await embedded_api.fails(422, "PATCH", f"{PODS}/p", {"spec": {"activeDeadlineSeconds": 5}}, type=MERGE)


@given(st.text(max_size=12))
def test_names_and_paths_from_outside(text: str) -> None:
    if not port_name_error(text):
        assert 0 < len(text) <= 15
        assert text == text.lower().strip("-")
    if not relative_path_error(text):
        assert not text.startswith("/")
        assert ".." not in text.split("/")
