"""What `kubectl get` shows: ages, JSON paths, and the words of the built-in kinds."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.kubeapi.columns import path_column
from edgeappliance.kubeapi.jsonpath import JsonPath
from edgeappliance.kubeapi.pod_printer import pod_state
from edgeappliance.kubeapi.printers import BUILTIN_COLUMNS
from edgeappliance.kubeapi.tables import table
from edgeappliance.kubeapi.times import age, human_duration, parse_time, rfc3339, rfc3339_micro

NOW = 1_700_000_000_000


def cells(key: str, value: dict[str, Any]) -> dict[str, Any]:
    return {column.name: column.read(value, NOW) for column in BUILTIN_COLUMNS[key]}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (150, "2m30s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 1800, "3h30m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (49 * 3600, "2d1h"),
        (8 * 86400, "8d"),
        (800 * 86400, "2y70d"),
        (9 * 365 * 86400, "9y"),
        (-5, "<invalid>"),
    ],
)
def test_durations_as_kubectl_shows_them(seconds: int, text: str) -> None:
    assert human_duration(seconds) == text


@given(st.integers(0, 4_000_000_000_000))
def test_times_survive_their_text(wall_ms: int) -> None:
    assert parse_time(rfc3339_micro(wall_ms)) == wall_ms
    assert parse_time(rfc3339(wall_ms)) == wall_ms // 1000 * 1000


def test_what_is_no_time() -> None:
    for value in (None, 5, "", "2026-01-01", "2026-01-01T00:00:00", "x" * 100):
        assert parse_time(value) is None
    assert age(None, NOW) == "<unknown>"


VALUE = {
    "a": {"b.c": [1, 2, {"d": "x"}], "e": {"f": True}},
    "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}],
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".a.e.f", [True]),
        ("{.a.e.f}", [True]),
        ("$.a.e", [{"f": True}]),
        (r".a.b\.c[0]", [1]),
        (".a['b.c'][-1].d", ["x"]),
        (".a['b.c'][*]", [1, 2, {"d": "x"}]),
        ('.conditions[?(@.type=="Ready")].status', ["True"]),
        (".conditions[?(@.type!='Ready')].status", ["False"]),
        (".conditions[*].type", ["Ready", "Other"]),
        (".missing.x", []),
        (".a.e.f.g", []),
        (".conditions[9]", []),
    ],
)
def test_json_paths(path: str, found: list[Any]) -> None:
    assert JsonPath(path).find(VALUE) == found


@pytest.mark.parametrize("path", [".a[", ".a[?(@.x > 1)]", "..", ".a[x]"])
def test_json_paths_that_are_not_read(path: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        JsonPath(path)


def test_cells_by_type() -> None:
    value = {"n": 3, "t": "2023-11-14T22:12:20Z", "b": True, "l": ["a", "b"], "m": {"x": 1}, "s": "text"}
    read = {
        (path, type_): path_column("c", path, type=type_).read(value, NOW)
        for path, type_ in [
            (".n", "integer"),
            (".s", "integer"),
            (".t", "date"),
            (".b", "boolean"),
            (".l[*]", "string"),
            (".l", "string"),
            (".m", "string"),
            (".missing", "string"),
        ]
    }
    assert read == {
        (".n", "integer"): 3,
        (".s", "integer"): None,
        (".t", "date"): "60s",
        (".b", "boolean"): True,
        (".l[*]", "string"): "a,b",
        (".l", "string"): "[a b]",
        (".m", "string"): "map[x:1]",
        (".missing", "string"): None,
    }


def test_a_node_row() -> None:
    node = {
        "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/edge": "", "node-role.kubernetes.io/agent": ""}},
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "Ready", "status": "Unknown"}],
            "addresses": [{"type": "InternalIP", "address": "10.1.1.1"}],
            "nodeInfo": {"kubeletVersion": "v1", "osImage": "Debian"},
        },
    }
    row = cells("nodes", node)
    assert row["Status"] == "NotReady,SchedulingDisabled"
    assert row["Roles"] == "agent,edge"
    assert (row["Internal-IP"], row["External-IP"], row["OS-Image"]) == ("10.1.1.1", "<none>", "Debian")
    assert cells("nodes", {"metadata": {"name": "n"}})["Status"] == "Unknown"


def container(ready: bool = False, **state: Any) -> dict[str, Any]:
    return {"name": "c", "ready": ready, "restartCount": 2, "state": state}


@pytest.mark.parametrize(
    ("status", "metadata", "word"),
    [
        ({"phase": "Pending"}, {}, "Pending"),
        ({"phase": "Running", "containerStatuses": [container(True, running={})]}, {}, "Running"),
        (
            {"phase": "Running", "containerStatuses": [container(waiting={"reason": "CrashLoopBackOff"})]},
            {},
            "CrashLoopBackOff",
        ),
        ({"phase": "Failed", "containerStatuses": [container(terminated={"exitCode": 3})]}, {}, "ExitCode:3"),
        ({"phase": "Failed", "containerStatuses": [container(terminated={"signal": 9})]}, {}, "Signal:9"),
        ({"phase": "Succeeded", "containerStatuses": [container(terminated={"reason": "Completed"})]}, {}, "Completed"),
        ({"phase": "Pending", "initContainerStatuses": [container(running={})]}, {}, "Init:0/1"),
        ({"phase": "Pending", "initContainerStatuses": [container(terminated={"exitCode": 1})]}, {}, "Init:ExitCode:1"),
        ({"phase": "Running"}, {"deletionTimestamp": "x"}, "Terminating"),
        ({"phase": "Succeeded"}, {"deletionTimestamp": "x"}, "Succeeded"),
        ({"phase": "Failed", "reason": "Evicted"}, {}, "Evicted"),
        ({}, {}, "Unknown"),
    ],
)
def test_the_state_word_of_a_pod(status: dict[str, Any], metadata: dict[str, Any], word: str) -> None:
    pod = {"metadata": metadata, "spec": {"initContainers": [{"name": "c"}]}, "status": status}
    assert pod_state(pod) == word


def test_a_pod_row() -> None:
    ended = {"terminated": {"finishedAt": rfc3339(NOW - 90_000)}}
    pod = {
        "metadata": {"name": "p", "creationTimestamp": rfc3339(NOW - 60_000)},
        "spec": {
            "containers": [{"name": "c"}, {"name": "d"}],
            "nodeName": "n",
            "readinessGates": [{"conditionType": "g"}],
        },
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.7",
            "containerStatuses": [{**container(True, running={}), "lastState": ended}],
        },
    }
    row = cells("pods", pod)
    assert (row["Ready"], row["Restarts"], row["Age"]) == ("1/2", "2 (90s ago)", "60s")
    assert (row["IP"], row["Node"], row["Readiness Gates"]) == ("10.0.0.7", "n", "0/1")


def test_restarts_of_a_pod_that_initializes() -> None:
    """Those of the init containers so far; afterwards of the containers and sidecars."""
    over = {**container(terminated={"exitCode": 0}), "name": "a"}
    loops = {**container(waiting={"reason": "CrashLoopBackOff"}), "name": "b", "restartCount": 3}
    mesh = {**container(True, running={}), "name": "m", "restartCount": 5, "started": True}
    pod: dict[str, Any] = {
        "metadata": {"name": "p"},
        "spec": {"initContainers": [{"name": "a"}, {"name": "m", "restartPolicy": "Always"}, {"name": "b"}]},
        "status": {"phase": "Pending", "initContainerStatuses": [over, mesh, loops]},
    }
    assert cells("pods", pod)["Restarts"] == "10"
    done = {**loops, "state": {"terminated": {"exitCode": 0}}}
    pod["status"] = {"initContainerStatuses": [over, mesh, done], "containerStatuses": [container(running={})]}
    assert cells("pods", pod)["Restarts"] == "7"


def test_rows_of_other_kinds() -> None:
    event = {
        "involvedObject": {"kind": "Pod", "name": "p"},
        "reason": "R",
        "message": " m ",
        "type": "Normal",
        "lastTimestamp": rfc3339(NOW - 5000),
        "source": {"component": "c", "host": "h"},
    }
    row = cells("events", event)
    assert (row["Last Seen"], row["Object"], row["Message"], row["Source"], row["Count"]) == (
        "5s",
        "pod/p",
        "m",
        "c, h",
        1,
    )
    service = {
        "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}], "selector": {"b": "1", "a": "2"}}
    }
    row = cells("services", service)
    assert (row["Port(s)"], row["Cluster-IP"], row["Selector"]) == ("80:30080/TCP", "<none>", "a=2,b=1")
    endpoints = {"subsets": [{"addresses": [{"ip": f"10.0.0.{n}"} for n in range(5)], "ports": [{"port": 1}]}]}
    assert cells("endpoints", endpoints)["Endpoints"] == "10.0.0.0:1,10.0.0.1:1,10.0.0.2:1 + 2 more..."
    claim = {"spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}
    row = cells("persistentvolumeclaims", claim)
    assert (row["Status"], row["Capacity"], row["Access Modes"]) == ("Bound", "1Gi", "")
    binding = {
        "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "s", "namespace": "n"}],
    }
    row = cells("rolebindings.rbac.authorization.k8s.io", binding)
    assert (row["Role"], row["ServiceAccounts"]) == ("Role/r", "n/s")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2),
    max_leaves=5,
)


@pytest.mark.parametrize("key", sorted(BUILTIN_COLUMNS))
def test_every_kind_has_a_row_for_an_empty_object(key: str) -> None:
    value = table([{"metadata": {"name": "x"}}], BUILTIN_COLUMNS[key], now_ms=NOW, metadata={}, include="Metadata")
    assert len(value["rows"][0]["cells"]) == len(value["columnDefinitions"])
    assert value["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


@given(json_values)
def test_a_path_column_reads_anything(value: Any) -> None:
    for type_ in ("string", "integer", "number", "boolean", "date"):
        path_column("c", ".a[*].b", type=type_).read({"a": value}, NOW)
