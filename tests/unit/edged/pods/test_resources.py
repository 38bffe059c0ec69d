"""Quantities, classes of service, and what the engine is told of them."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.edged.pods.resources import (
    Qos,
    cpu_quota,
    cpu_shares,
    memory_limit,
    oom_score_adj,
    pod_limit,
    pod_request,
    qos_class,
    storage_limit,
    to_bytes,
    to_millicores,
)
from edgeappliance.edged.pods.spec import Pod
from edgeappliance.kernel.errors import InputError
from tests.unit.edged.pods.make import container, make_pod, sidecar

GIB = 1 << 30


def limits(**amounts: Any) -> dict[str, Any]:
    return {"limits": {key.replace("_", "-"): value for key, value in amounts.items()}}


def requests(**amounts: Any) -> dict[str, Any]:
    return {"requests": {key.replace("_", "-"): value for key, value in amounts.items()}}


@pytest.mark.parametrize(
    ("text", "amount"),
    [("1Ki", 1024), ("1k", 1000), ("1.5Gi", 3 * GIB // 2), ("100m", 1), (128, 128), ("1e3", 1000), (0.5, 1), ("0", 0)],
)
def test_bytes(text: Any, amount: int) -> None:
    assert to_bytes(text) == amount


@pytest.mark.parametrize(("text", "amount"), [("1", 1000), ("250m", 250), (0.1, 100), ("1u", 1), (2, 2000)])
def test_millicores(text: Any, amount: int) -> None:
    assert to_millicores(text) == amount


@pytest.mark.parametrize("text", ["", "fast", "1 Gi", "1GB", "--1", "1" * 100])
def test_what_is_no_quantity_is_refused_by_field(text: str) -> None:
    with pytest.raises(InputError) as caught:
        to_bytes(text, field="spec.x")
    assert caught.value.field == "spec.x"


def test_no_quantity_is_beyond_the_engine() -> None:
    assert to_bytes("1e999") == 2**63 - 1
    one = make_pod(container("a", resources=limits(cpu="1e999", memory="9e99"))).spec.containers[0]
    assert cpu_quota(one) <= 2**63 - 1
    assert memory_limit(one) == 2**63 - 1
    assert cpu_shares(one) == 262_144


@pytest.mark.parametrize(
    ("resources", "qos"),
    [
        ({}, Qos.BEST_EFFORT),
        (limits(cpu=0, memory="0"), Qos.BEST_EFFORT),
        (limits(cpu=1, memory="1Gi"), Qos.GUARANTEED),
        ({**limits(cpu="1", memory="1Gi"), **requests(cpu="1000m", memory="1024Mi")}, Qos.GUARANTEED),
        ({**limits(cpu="1", memory="1Gi"), **requests(cpu="500m")}, Qos.BURSTABLE),
        (limits(memory="1Gi"), Qos.BURSTABLE),
        (requests(cpu="1m"), Qos.BURSTABLE),
        (limits(ephemeral_storage="1Gi"), Qos.BEST_EFFORT),
    ],
)
def test_quality_of_service(resources: dict[str, Any], qos: Qos) -> None:
    assert qos_class(make_pod(container("a", resources=resources))) is qos


def test_every_container_counts_for_the_class() -> None:
    full = limits(cpu=1, memory="1Gi")
    assert qos_class(make_pod(container("a", resources=full), "b")) is Qos.BURSTABLE
    assert qos_class(make_pod(container("a", resources=full), inits=("i",))) is Qos.BURSTABLE
    both = make_pod(container("a", resources=full), inits=(container("i", resources=full),))
    assert qos_class(both) is Qos.GUARANTEED


def test_what_a_pod_requests() -> None:
    pod = make_pod(
        container("a", resources=requests(cpu="300m")),
        container("b", resources=limits(cpu="200m")),
        inits=(
            container("one", resources=requests(cpu="800m")),
            sidecar("mesh", resources=requests(cpu="100m")),
            container("two", resources=requests(cpu="750m")),
        ),
    )
    assert pod_request(pod, "cpu") == Decimal("0.85"), "the second init container beside the sidecar"
    assert pod_limit(pod, "cpu") is None
    assert pod_request(make_pod("a"), "memory") == 0


def test_storage_limit_needs_all_containers() -> None:
    one = container("a", resources=limits(ephemeral_storage="1Gi"))
    assert storage_limit(make_pod(one)) == GIB
    assert storage_limit(make_pod(one, "b")) is None


@pytest.mark.parametrize(
    ("resources", "shares", "quota"),
    [
        ({}, 2, 0),
        (requests(cpu="1m"), 2, 0),
        (requests(cpu="500m"), 512, 0),
        (limits(cpu="1m"), 2, 1000),
        (limits(cpu="4"), 4096, 400_000),
        ({**limits(cpu="250m"), **requests(cpu="100m")}, 102, 25_000),
    ],
)
def test_cpu(resources: dict[str, Any], shares: int, quota: int) -> None:
    one = make_pod(container("a", resources=resources)).spec.containers[0]
    assert (cpu_shares(one), cpu_quota(one)) == (shares, quota)


def score(pod: Pod, index: int = 0) -> int:
    return oom_score_adj(pod, pod.containers()[index], memory=4 * GIB)


def test_whom_the_kernel_kills_first() -> None:
    assert score(make_pod("a")) == 1000
    assert score(make_pod(container("a", resources=limits(cpu=1, memory="1Gi")))) == -997
    assert score(make_pod(container("a", resources=requests(memory="1Gi")))) == 750
    assert score(make_pod(container("a", resources=requests(memory="1")))) == 999
    assert score(make_pod(container("a", resources=requests(memory="64Gi")))) == 2
    assert score(make_pod("a", priorityClassName="system-node-critical", priority=2_000_001_000)) == -997


def test_a_sidecar_is_not_killed_before_what_it_serves() -> None:
    pod = make_pod(container("a", resources=requests(memory="2Gi")), inits=(sidecar("mesh"),))
    assert score(pod, 0) == score(pod, 1) == 500


@given(st.integers(0, 10**15), st.sampled_from(["", "m", "k", "Mi", "Gi"]))
def test_rounding_never_gives_less_than_asked(number: int, suffix: str) -> None:
    factor = Decimal({"": "1", "m": "0.001", "k": "1000", "Mi": "1048576", "Gi": "1073741824"}[suffix])
    exact = number * factor
    assert exact <= to_bytes(f"{number}{suffix}") < exact + 1 or to_bytes(f"{number}{suffix}") == 2**63 - 1
