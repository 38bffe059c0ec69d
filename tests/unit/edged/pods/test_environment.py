"""Variables of containers, and the pod's own fields as texts."""

import base64
import os
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.edged.pods.environment import (
    ConfigMissing,
    Facts,
    Reference,
    as_mapping,
    environment,
    expand,
    field_value,
    references,
)
from edgeappliance.edged.pods.reading import read_pod
from edgeappliance.edged.pods.spec import Pod
from tests.unit.edged.pods.make import UID, container, make_pod, manifest

FACTS = Facts(node_name="box", host_ip="10.0.0.1", pod_ip="172.17.0.9", cpu=4000, memory=2 << 30, storage=10 << 30)


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


CONFIG_MAPS: dict[Any, Any] = {("default", "conf"): {"data": {"LEVEL": "info", "log.path": "/var/log"}}}
SECRETS: dict[Any, Any] = {("default", "keys"): {"data": {"TOKEN": b64("s3cret"), "bad": b64(b"\xff\xfe")}}}


def variables(*env: dict[str, Any], env_from: list[Any] | None = None, pod: dict[str, Any] | None = None) -> list[str]:
    one = container("a", env=list(env), envFrom=env_from or [], **(pod or {}))
    made = make_pod(one)
    return environment(made, made.spec.containers[0], config_maps=CONFIG_MAPS, secrets=SECRETS, facts=FACTS)


def sourced(**source: Any) -> dict[str, Any]:
    return {"name": "X", "valueFrom": source}


def test_values_refer_to_what_stands_before_them() -> None:
    assert variables(
        {"name": "HOST", "value": "db"},
        {"name": "URL", "value": "tcp://$(HOST):$(PORT)"},
        {"name": "PORT", "value": "5432"},
        {"name": "PLAIN", "value": "$$(HOST) $HOST"},
        {"name": "EMPTY"},
    ) == ["HOST=db", "URL=tcp://db:$(PORT)", "PORT=5432", "PLAIN=$(HOST) $HOST", "EMPTY="]


def test_env_outranks_env_from_and_the_later_source_the_earlier() -> None:
    env_from = [
        {"configMapRef": {"name": "conf"}},
        {"prefix": "K_", "secretRef": {"name": "keys"}},
    ]
    assert variables({"name": "LEVEL", "value": "was $(LEVEL)"}, env_from=env_from) == [
        "LEVEL=was info",
        "log.path=/var/log",
        "K_TOKEN=s3cret",
        "K_bad=\ufffd\ufffd",
    ]


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ({"configMapKeyRef": {"name": "conf", "key": "LEVEL"}}, "info"),
        ({"secretKeyRef": {"name": "keys", "key": "TOKEN"}}, "s3cret"),
        ({"fieldRef": {"fieldPath": "metadata.name"}}, "web"),
        ({"fieldRef": {"fieldPath": "metadata.uid"}}, UID),
        ({"fieldRef": {"fieldPath": "spec.nodeName"}}, "box"),
        ({"fieldRef": {"fieldPath": "status.podIP"}}, "172.17.0.9"),
        ({"fieldRef": {"fieldPath": "status.hostIPs"}}, "10.0.0.1"),
        ({"resourceFieldRef": {"resource": "limits.cpu"}}, "4"),
        ({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}, "2048"),
        ({"resourceFieldRef": {"resource": "limits.ephemeral-storage", "divisor": "1Gi"}}, "10"),
        ({"resourceFieldRef": {"resource": "requests.cpu"}}, "0"),
    ],
)
def test_sources(source: dict[str, Any], value: str) -> None:
    assert variables(sourced(**source)) == [f"X={value}"]


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("limits.cpu", "0", "2"),  # 1500m, rounded up
        ("limits.cpu", "1m", "1500"),
        ("requests.cpu", "1m", "250"),
        ("limits.memory", "0", "67108864"),
        ("requests.memory", "1Mi", "64"),  # the request is the limit when only that is given
        ("limits.memory", "1G", "1"),
    ],
)
def test_resources_in_units_of_their_divisor(resource: str, divisor: str, value: str) -> None:
    resources = {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}
    source = sourced(resourceFieldRef={"resource": resource, "divisor": divisor})
    assert variables(source, pod={"resources": resources}) == [f"X={value}"]


def test_the_resources_of_another_container() -> None:
    ref = {"resource": "limits.cpu", "containerName": "b"}
    pod = make_pod(
        container("a", env=[sourced(resourceFieldRef=ref)]), container("b", resources={"limits": {"cpu": 3}})
    )
    assert environment(pod, pod.spec.containers[0], config_maps={}, secrets={}, facts=FACTS) == ["X=3"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"configMapKeyRef": {"name": "no", "key": "k"}}, 'configmap "no" not found'),
        ({"configMapKeyRef": {"name": "conf", "key": "k"}}, "couldn't find key k in ConfigMap default/conf"),
        ({"secretKeyRef": {"name": "no", "key": "k"}}, 'secret "no" not found'),
        ({"secretKeyRef": {"name": "keys", "key": "k"}}, "couldn't find key k in Secret default/keys"),
        ({"fieldRef": {"fieldPath": "spec.color"}}, "unsupported fieldPath: spec.color"),
        ({"resourceFieldRef": {"resource": "color"}}, "unsupported container resource: color"),
        ({"resourceFieldRef": {"resource": "limits.cpu", "containerName": "z"}}, "container z not found"),
    ],
)
def test_what_is_missing_is_named_as_a_kubelet_does(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigMissing) as caught:
        variables(sourced(**source))
    assert caught.value.message == message


def test_what_is_optional_may_be_missing() -> None:
    assert variables(sourced(configMapKeyRef={"name": "no", "key": "k", "optional": True})) == []
    assert variables(sourced(secretKeyRef={"name": "keys", "key": "no", "optional": True})) == []
    assert variables(env_from=[{"configMapRef": {"name": "no", "optional": True}}]) == []
    with pytest.raises(ConfigMissing, match='secret "no" not found'):
        variables(env_from=[{"secretRef": {"name": "no"}}])


def test_a_secret_that_is_not_base64_is_named() -> None:
    pod = make_pod(container("a", envFrom=[{"secretRef": {"name": "s"}}]))
    secrets: dict[Any, Any] = {("default", "s"): {"data": {"k": "***"}}}
    with pytest.raises(ConfigMissing, match=r"data\[k\] is not base64"):
        environment(pod, pod.spec.containers[0], config_maps={}, secrets=secrets, facts=FACTS)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("$(A)$(B)", "1$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$", "$$"),
        ("$(A", "$(A"),
        ("$", "$"),
        ("$A)", "$A)"),
        ("$()", "$()"),
        ("$(A)b$$", "1b$"),
    ],
)
def test_expansion(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


@given(st.text(alphabet="$()AB"), st.dictionaries(st.sampled_from(["A", "B", "AB"]), st.text(max_size=5)))
def test_expansion_leaves_text_without_dollars_alone_and_is_undone_by_doubling(
    text: str, values: dict[str, str]
) -> None:
    assert expand(text.replace("$", ""), values) == text.replace("$", "")
    assert expand(text.replace("$", "$$"), values) == text


def test_variables_reach_a_process_as_they_are() -> None:
    found = variables({"name": "MULTI", "value": "a=b\nc d é"}, {"name": "Q", "value": "'\"`"})
    shown = subprocess.run(["/usr/bin/env", "-0"], env=as_mapping(found), stdout=subprocess.PIPE, check=True).stdout
    assert shown.split(b"\0")[:2] == [os.fsencode(one) for one in found]


# -- fields ---------------------------------------------------------------------------------------------------


def labelled() -> Pod:
    obj = manifest("a", serviceAccountName="runner")
    obj["metadata"]["labels"] = {"tier": "front", "app": "web"}
    obj["metadata"]["annotations"] = {"note": 'say "hi"\n\x01é\u2028', "example.com/x": "1"}
    return read_pod(obj)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.namespace", "default"),
        ("metadata.labels", 'app="web"\ntier="front"'),
        ("metadata.annotations", 'example.com/x="1"\nnote="say \\"hi\\"\\n\\x01é\\u2028"'),
        ("metadata.labels['tier']", "front"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['example.com/x']", "1"),
        ("spec.serviceAccountName", "runner"),
        ("status.hostIP", "10.0.0.1"),
        ("status.podIPs", "172.17.0.9"),
    ],
)
def test_fields(path: str, value: str) -> None:
    assert field_value(labelled(), path, FACTS) == value


def test_on_the_network_of_the_node_its_address_is_the_pods() -> None:
    assert field_value(make_pod("a", hostNetwork=True), "status.podIP", FACTS) == "10.0.0.1"


# -- references -----------------------------------------------------------------------------------------------


def test_references() -> None:
    pod = make_pod(
        container(
            "a",
            envFrom=[{"configMapRef": {"name": "c1"}}, {"secretRef": {"name": "s1", "optional": True}}],
            env=[
                sourced(configMapKeyRef={"name": "c2", "key": "k", "optional": True}),
                sourced(secretKeyRef={"name": "s1", "key": "k"}),
            ],
        ),
        inits=(container("i", env=[sourced(configMapKeyRef={"name": "c3", "key": "k"})]),),
        volumes=[
            {"name": "v1", "configMap": {"name": "c2"}},
            {"name": "v2", "secret": {"secretName": "s2", "optional": True}},
            {"name": "v3", "projected": {"sources": [{"secret": {"name": "s3"}}, {"configMap": {"name": "c4"}}]}},
        ],
        imagePullSecrets=[{"name": "pull"}],
    )
    found = {(one.kind, one.name, one.optional) for one in references(pod)}
    assert found == {
        ("configmap", "c1", False),
        ("configmap", "c2", False),
        ("configmap", "c3", False),
        ("configmap", "c4", False),
        ("secret", "s1", False),
        ("secret", "s2", True),
        ("secret", "s3", False),
        ("secret", "pull", True),
    }
    assert Reference("configmap", "default", "c1") in references(pod)
