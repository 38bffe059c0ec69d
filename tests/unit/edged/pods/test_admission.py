"""Which pods a node refuses, and in which words."""

from typing import Any

import pytest

from edgeappliance.edged.pods.admission import Capacity, admit, host_ports
from edgeappliance.edged.pods.reading import read_pod
from edgeappliance.edged.pods.spec import Pod
from tests.unit.edged.pods.make import container, make_pod, manifest, sidecar

NODE = Capacity(
    name="box",
    labels={"kubernetes.io/os": "linux", "disk": "ssd", "slot": "7"},
    cpu=2000,
    memory=1 << 30,
    storage=1 << 34,
)


def other(*containers: Any, **spec: Any) -> Pod:
    obj = manifest(*containers, **spec)
    obj["metadata"].update(name="other", uid="0b1c7e9a-0000-4000-8000-000000000002")
    return read_pod(obj)


def refused(pod: Pod, *others: Pod, **more: Any) -> Any:
    return admit(pod, others, NODE, **{"max_pods": 10, **more})


def using(**amounts: str) -> dict[str, Any]:
    return container("a", resources={"requests": {key.replace("_", "-"): value for key, value in amounts.items()}})


def port(number: int, **fields: Any) -> dict[str, Any]:
    return container("a", ports=[{"containerPort": 80, "hostPort": number, **fields}])


def test_an_ordinary_pod_is_admitted() -> None:
    assert refused(make_pod("a")) is None
    assert refused(make_pod("a", nodeName="box", nodeSelector={"disk": "ssd"})) is None


def test_a_pod_is_not_in_its_own_way() -> None:
    pod = make_pod(port(8080), nodeName="box")
    assert refused(pod, pod) is None


@pytest.mark.parametrize(
    ("amounts", "reason", "numbers"),
    [
        ({"cpu": "600m"}, "OutOfcpu", "cpu, requested: 600, used: 1500, capacity: 2000"),
        ({"memory": "513Mi"}, "OutOfmemory", "memory, requested: 537919488, used: 536870912, capacity: 1073741824"),
    ],
)
def test_no_room(amounts: dict[str, str], reason: str, numbers: str) -> None:
    there = other(using(cpu="1500m", memory="512Mi"))
    message = f"Node didn't have enough resource: {numbers}"
    assert refused(make_pod(using(**amounts)), there) == (reason, message)


def test_what_just_fits_is_admitted() -> None:
    assert refused(make_pod(using(cpu="500m", memory="512Mi")), other(using(cpu="1500m", memory="512Mi"))) is None
    assert refused(make_pod("a"), other(using(cpu="9"))) is None, "a pod that asks for nothing always fits"


def test_storage_is_counted_too() -> None:
    assert refused(make_pod(using(ephemeral_storage="17Gi")))[0] == "OutOfephemeral-storage"


def test_there_are_no_huge_pages() -> None:
    message = "Node didn't have enough resource: hugepages-2Mi, requested: 4194304, used: 0, capacity: 0"
    pages = {"limits": {"hugepages-2Mi": "4Mi", "memory": "1Mi"}}
    assert refused(make_pod(container("a", resources=pages))) == ("OutOfhugepages-2Mi", message)


def test_too_many_pods() -> None:
    message = "Node didn't have enough resource: pods, requested: 1, used: 1, capacity: 1"
    assert refused(make_pod("a"), other("a"), max_pods=1) == ("OutOfpods", message)


PORTS = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"


@pytest.mark.parametrize(
    ("mine", "theirs", "clash"),
    [
        (port(80), port(80), True),
        (port(80), port(81), False),
        (port(80, protocol="UDP"), port(80), False),
        (port(80, hostIP="127.0.0.1"), port(80, hostIP="10.0.0.1"), False),
        (port(80, hostIP="127.0.0.1"), port(80, hostIP="127.0.0.1"), True),
        (port(80, hostIP="127.0.0.1"), port(80), True),
        (port(80, hostIP="0.0.0.0"), port(80, hostIP="10.0.0.1"), True),
        (container("a", ports=[{"containerPort": 80}]), port(80), False),
    ],
)
def test_host_ports(mine: dict[str, Any], theirs: dict[str, Any], clash: bool) -> None:
    assert refused(make_pod(mine), other(theirs)) == (("NodePorts", PORTS) if clash else None)


def test_ports_of_sidecars_and_of_pods_on_the_network_of_the_node() -> None:
    assert host_ports(make_pod("a", inits=(sidecar("s", ports=[{"containerPort": 1, "hostPort": 9}]),))) == [
        ("", "TCP", 9)
    ]
    pod = make_pod(container("a", ports=[{"containerPort": 80}]), hostNetwork=True)
    assert refused(pod, other(port(80))) == ("NodePorts", PORTS)


AFFINITY = ("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")


def requiring(*terms: dict[str, Any]) -> Pod:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return make_pod("a", affinity={"nodeAffinity": required})


def term(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("terms", "admitted"),
    [
        ([term("disk", "In", "ssd", "nvme")], True),
        ([term("disk", "In", "hdd")], False),
        ([term("disk", "In", "hdd"), term("slot", "Gt", "5")], True),
        ([term("slot", "Lt", "5")], False),
        ([term("slot", "Gt", "many")], False),
        ([term("disk", "Gt", "5")], False),
        ([term("gpu", "NotIn", "a")], True),
        ([term("disk", "NotIn", "ssd")], False),
        ([term("gpu", "Exists")], False),
        ([term("gpu", "DoesNotExist")], True),
        ([term("disk", "Like", "ssd")], False),
        ([{}], False),
        ([], False),
        ([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["box"]}]}], True),
        ([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["else"]}]}], False),
    ],
)
def test_node_affinity(terms: list[dict[str, Any]], admitted: bool) -> None:
    assert refused(requiring(*terms)) == (None if admitted else AFFINITY)


def test_another_node() -> None:
    assert refused(make_pod("a", nodeSelector={"disk": "hdd"})) == AFFINITY
    reason, message = refused(make_pod("a", nodeName="else"))
    assert (reason, message) == ("NodeName", "Predicate NodeName failed: node(s) didn't match the requested node name")


def test_labels_that_are_not_known_are_no_reason() -> None:
    pod = make_pod("a", nodeSelector={"disk": "hdd"})
    assert admit(pod, (), Capacity(name="box"), max_pods=10) is None
    assert admit(pod, (), Capacity(name="box", labels={}), max_pods=10) == AFFINITY


def test_another_system() -> None:
    assert refused(make_pod("a", os={"name": "windows"}))[0] == "PodOSNotSupported"
    assert (
        refused(make_pod("a", nodeSelector={"kubernetes.io/os": "windows"}))[0] == "PodOSSelectorNodeLabelDoesNotMatch"
    )


def test_privileged_pods_by_setting() -> None:
    pod = make_pod("a", inits=(container("i", securityContext={"privileged": True}),))
    assert refused(pod) is None
    message = f'pod with UID "{pod.uid}" specified privileged container, but is disallowed'
    assert refused(pod, privileged_allowed=False) == ("Forbidden", message)


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("net.ipv4.tcp_syncookies", {}, ""),
        ("net/ipv4/tcp_syncookies", {}, ""),
        ("kernel.msgmax", {}, 'forbidden sysctl: "kernel.msgmax" not allowlisted'),
        (
            "net.ipv4.tcp_syncookies",
            {"hostNetwork": True},
            'forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled',
        ),
        (
            "kernel.shm_rmid_forced",
            {"hostIPC": True},
            'forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled',
        ),
    ],
)
def test_sysctls(name: str, spec: dict[str, Any], message: str) -> None:
    pod = make_pod("a", securityContext={"sysctls": [{"name": name, "value": "1"}]}, **spec)
    assert refused(pod) == (("SysctlForbidden", message) if message else None)
