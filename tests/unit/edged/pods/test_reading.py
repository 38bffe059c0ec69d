"""Pods from outside: what is taken, what is refused, what is named as having no effect."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeappliance.edged.pods.limits import LIMIT, unsupported
from edgeappliance.edged.pods.reading import read_pod
from edgeappliance.kernel.errors import InputError
from edgeappliance.kubeapi.builtin_types import BuiltinTypes
from tests.unit.edged.pods.make import UID, container, manifest


def test_defaults_are_those_of_the_api() -> None:
    pod = read_pod(manifest("a"))
    assert (pod.key, pod.uid) == ("default/web", UID)
    assert pod.spec.restart_policy == "Always"
    assert pod.spec.termination_grace_period_seconds == 30
    assert pod.spec.containers[0].termination_message_path == "/dev/termination-log"


def test_nulls_count_as_absent() -> None:
    obj = manifest(container("a", command=None, env=[{"name": "X", "value": None}, None]), hostname=None, volumes=None)
    obj["metadata"]["creationTimestamp"] = None
    pod = read_pod(obj)
    assert pod.spec.containers[0].command == []
    assert [variable.value for variable in pod.spec.containers[0].env] == [""]
    assert pod.spec.volumes == []


def test_the_input_is_left_as_it_was() -> None:
    obj = manifest("a", volumes=[{"name": "v"}])
    before = copy.deepcopy(obj)
    pod = read_pod(obj)
    assert obj == before
    assert pod.spec.volumes[0].empty_dir is not None, "a volume of no kind is an emptyDir"


def test_a_volume_of_a_kind_that_is_unknown_here_is_no_empty_dir() -> None:
    pod = read_pod(manifest("a", volumes=[{"name": "v", "nfs": {"server": "x", "path": "/"}}]))
    assert pod.spec.volumes[0].empty_dir is None


def bad(change: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    obj = manifest("a")
    obj["spec"].update(change)
    obj["metadata"].update(metadata)
    return dict(obj)


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        ({}, "metadata"),
        ({"metadata": {"name": "x"}, "spec": []}, "spec"),
        (bad({"containers": []}), "spec.containers"),
        (bad({"containers": "a"}), "spec.containers"),
        (bad({"containers": [{"image": "b"}]}), "spec.containers[0].name"),
        (bad({"containers": [container("../etc")]}), "spec.containers[0].name"),
        (bad({"containers": [container("a"), container("a")]}), "spec.containers[1].name"),
        (bad({"initContainers": [container("a")]}), "spec.containers[0].name"),
        (bad({"volumes": [{"name": ".."}]}), "spec.volumes[0].name"),
        (bad({"volumes": [{"name": "v"}, {"name": "v"}]}), "spec.volumes[1].name"),
        (
            bad({"containers": [container("a", volumeMounts=[{"name": "no", "mountPath": "/x"}])]}),
            "spec.containers[0].volumeMounts[0].name",
        ),
        (bad({"hostNetwork": "yes"}), "spec.hostNetwork"),
        (bad({"restartPolicy": "Sometimes"}), "spec.restartPolicy"),
        (bad({"terminationGracePeriodSeconds": -1}), "spec.terminationGracePeriodSeconds"),
        (
            bad({"containers": [container("a", resources={"limits": {"cpu": "fast"}})]}),
            "spec.containers[0].resources.limits[cpu]",
        ),
        (
            bad({"containers": [container("a", resources={"requests": {"memory": "-1"}})]}),
            "spec.containers[0].resources.requests[memory]",
        ),
        (bad({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "x"}}]}), "spec.volumes[0].emptyDir.sizeLimit"),
        (bad({"containers": [container(f"c{n}") for n in range(300)]}), "spec.containers"),
        (bad({"hostname": "a\nb"}), "spec.hostname"),
        (bad({"subdomain": "a.b"}), "spec.subdomain"),
        (bad({"hostnameOverride": "A"}), "spec.hostnameOverride"),
        (bad({"hostnameOverride": "a" * 65}), "spec.hostnameOverride"),
        (bad({}, name="Web_1"), "metadata.name"),
        (bad({}, namespace="a/b"), "metadata.namespace"),
        (bad({}, uid="../../x"), "metadata.uid"),
        (bad({}, uid=""), "metadata.uid"),
    ],
)
def test_bad_pods_are_refused_by_field(obj: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        read_pod(obj)
    assert caught.value.field == field


def test_a_pod_nested_too_deeply_is_refused() -> None:
    deep: Any = "x"
    for _ in range(200):
        deep = {"a": deep}
    with pytest.raises(InputError, match="nested too deeply"):
        read_pod(bad({"strange": deep}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "image", "env", "value", "resources", "limits", "cpu", "volumeMounts", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(JSON, max_size=3), JSON)
def test_anything_is_read_or_refused(containers: list[Any], value: Any) -> None:
    for obj in (bad({"containers": containers}), bad({"volumes": value}), bad({"affinity": value})):
        try:
            read_pod(obj)
        except InputError as error:
            assert error.message
        unsupported(obj)


# -- fields without effect ------------------------------------------------------------------------------------


def paths(obj: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(one.path, one.fatal) for one in unsupported(obj)]


def test_what_a_cluster_adds_to_every_pod_is_silent() -> None:
    obj = manifest(
        container(
            "a",
            imagePullPolicy="Always",
            terminationMessagePolicy="File",
            resizePolicy=[{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
            volumeMounts=[{"name": "token", "mountPath": "/t", "readOnly": True, "recursiveReadOnly": "Disabled"}],
            securityContext={},
        ),
        dnsPolicy="ClusterFirst",
        enableServiceLinks=True,
        preemptionPolicy="PreemptLowerPriority",
        priority=0,
        schedulerName="default-scheduler",
        serviceAccount="default",
        serviceAccountName="default",
        automountServiceAccountToken=True,
        hostUsers=True,
        securityContext={"supplementalGroupsPolicy": "Merge", "seLinuxChangePolicy": "MountOption"},
        topologySpreadConstraints=[{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
        affinity={
            "podAntiAffinity": {"x": 1},
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [1]},
        },
        tolerations=[{"effect": "NoExecute", "key": "node.kubernetes.io/not-ready", "operator": "Exists"}],
        runtimeClassName="",
        ephemeralContainers=[],
        volumes=[
            {
                "name": "token",
                "projected": {
                    "sources": [
                        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    ]
                },
            }
        ],
    )
    assert paths(obj) == []


@pytest.mark.parametrize(
    ("change", "path", "fatal"),
    [
        ({"hostUsers": False}, "spec.hostUsers", True),
        ({"runtimeClassName": "gvisor"}, "spec.runtimeClassName", True),
        ({"os": {"name": "windows"}}, "spec.os.name", True),
        ({"resourceClaims": [{"name": "x"}]}, "spec.resourceClaims", True),
        (
            {"securityContext": {"supplementalGroupsPolicy": "Strict"}},
            "spec.securityContext.supplementalGroupsPolicy",
            True,
        ),
        ({"securityContext": {"tomorrow": True}}, "spec.securityContext.tomorrow", True),
        (
            {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]},
            "spec.volumes[0].persistentVolumeClaim",
            True,
        ),
        ({"volumes": [{"name": "v", "emptyDir": {"medium": "HugePages"}}]}, "spec.volumes[0].emptyDir.medium", True),
        (
            {"containers": [container("a", volumeDevices=[{"name": "v", "devicePath": "/x"}])]},
            "spec.containers[0].volumeDevices",
            True,
        ),
        ({"ephemeralContainers": [container("debug")]}, "spec.ephemeralContainers", False),
        ({"resources": {"limits": {"cpu": 1}}}, "spec.resources", False),
        ({"tomorrow": 1}, "spec.tomorrow", False),
        ({"containers": [container("a", tomorrow=0)]}, "spec.containers[0].tomorrow", False),
    ],
)
def test_what_has_no_effect_is_named(change: dict[str, Any], path: str, fatal: bool) -> None:
    assert paths(bad(change)) == [(path, fatal)]


def test_the_fatal_ones_come_first_and_the_list_ends() -> None:
    obj = bad({f"later{n}": 1 for n in range(LIMIT + 10)} | {"hostUsers": False})
    found = unsupported(obj)
    assert len(found) == LIMIT
    assert found[0].path == "spec.hostUsers"
    assert "users" in str(found[0])


def test_every_field_of_the_api_is_acted_upon_or_named_or_means_nothing_here() -> None:
    """The definitions of a whole release: what we neither know nor list as meaningless is this, and nothing else."""
    definitions = BuiltinTypes().definitions
    named = set()
    for path, kind in (
        ("spec", "PodSpec"),
        ("spec.securityContext", "PodSecurityContext"),
        ("spec.containers[0]", "Container"),
        ("spec.containers[0].securityContext", "SecurityContext"),
        ("spec.containers[0].resources", "ResourceRequirements"),
        ("spec.containers[0].lifecycle", "Lifecycle"),
        ("spec.containers[0].readinessProbe", "Probe"),
        ("spec.containers[0].volumeMounts[0]", "VolumeMount"),
        ("spec.containers[0].env[0].valueFrom", "EnvVarSource"),
        ("spec.volumes[0].projected.sources[0]", "VolumeProjection"),
    ):
        for field in definitions[f"io.k8s.api.core.v1.{kind}"]["properties"]:
            obj = {"spec": _at(path.split(".")[1:], field)}
            named |= {one.path for one in unsupported(obj) if one.path == f"{path}.{field}"}
    assert named == {
        "spec.ephemeralContainers",
        "spec.hostUsers",
        "spec.resourceClaims",
        "spec.resources",
        "spec.runtimeClassName",
        "spec.securityContext.supplementalGroupsPolicy",
        "spec.containers[0].resources.claims",
        "spec.containers[0].volumeDevices",
        "spec.containers[0].volumeMounts[0].bindMountOptions",
        "spec.containers[0].volumeMounts[0].recursiveReadOnly",
        "spec.containers[0].env[0].valueFrom.fileKeyRef",
        "spec.volumes[0].projected.sources[0].clusterTrustBundle",
        "spec.volumes[0].projected.sources[0].podCertificate",
    }


def _at(path: list[str], field: str) -> Any:
    """A document that holds `field` at the path."""
    if not path:
        return {field: {"x": 1}}
    name = path[0].removesuffix("[0]")
    inner = _at(path[1:], field)
    return {name: [inner] if path[0].endswith("[0]") else inner}


def test_a_vendors_resources_are_named() -> None:
    resources = {"limits": {"example.org/gpu": "1", "cpu": "1"}, "requests": {"example.org/gpu": 1, "memory": "1Mi"}}
    free = {"limits": {"example.org/gpu": "0"}}
    obj = manifest(container("a", resources=free), container("b", resources=resources))
    assert [(one.path, one.fatal) for one in unsupported(obj)] == [
        ("spec.containers[1].resources.limits[example.org/gpu]", False),
        ("spec.containers[1].resources.requests[example.org/gpu]", False),
    ]
