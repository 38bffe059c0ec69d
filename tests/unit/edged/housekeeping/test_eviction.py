"""Who has to go, and the words about it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeappliance.edged.housekeeping.eviction import (
    WORTHWHILE,
    Candidate,
    Used,
    is_limited,
    is_spared,
    low_on,
    over_limit,
    ranked,
)
from edgeappliance.edged.housekeeping.signals import Level, Signal
from edgeappliance.edged.pods.spec import Pod

MI = 1 << 20


def pod(name: str, *, priority: int = 0, request: str = "", resource: str = "memory", **spec: Any) -> Pod:
    resources = {"requests": {resource: request}} if request else {}
    obj = {
        "metadata": {"name": name, "uid": name, "annotations": spec.pop("annotations", {})},
        "spec": {"containers": [{"name": "app", "resources": resources}], "priority": priority, **spec},
    }
    return msgspec.convert(obj, Pod)


def uses(pod: Pod, memory: int = 0, *, disk: int = 0, inodes: int = 0) -> Candidate:
    used = Used(memory, disk, inodes)
    return Candidate(pod, used, {"app": used})


def order(*candidates: Candidate, signal: Signal = Signal.MEMORY) -> list[str]:
    return [item.pod.uid for item in ranked(candidates, signal)]


def test_who_keeps_to_its_request_goes_last_whatever_it_uses() -> None:
    modest = uses(pod("modest", request="500Mi"), 400 * MI)
    greedy = uses(pod("greedy", request="10Mi"), 20 * MI)
    assert order(modest, greedy) == ["greedy", "modest"]


def test_then_priority_then_how_much_more_than_asked() -> None:
    important = uses(pod("important", priority=100), 900 * MI)
    small = uses(pod("small"), 20 * MI)
    big = uses(pod("big"), 50 * MI)
    assert order(important, small, big) == ["big", "small", "important"]


def test_critical_static_and_tiny_pods_are_never_evicted() -> None:
    critical = pod("critical", priority=2_000_000_000)
    static = pod("static", annotations={"kubernetes.io/config.source": "file"})
    assert is_spared(critical)
    assert is_spared(static)
    tiny = uses(pod("tiny"), WORTHWHILE - 1)
    assert order(uses(critical, 900 * MI), uses(static, 900 * MI), tiny) == []
    assert not is_spared(pod("api", annotations={"kubernetes.io/config.source": "api"}))


def test_disk_by_its_own_request_and_inodes_by_number() -> None:
    hoards = uses(pod("hoards", request="1Gi", resource="ephemeral-storage"), disk=500 * MI, inodes=5000)
    spills = uses(pod("spills"), disk=10 * MI, inodes=200)
    assert order(hoards, spills, signal=Signal.NODE_FS) == ["spills", "hoards"]
    assert order(hoards, spills, signal=Signal.NODE_INODES) == ["hoards", "spills"]


def by_name(count: int) -> list[str]:
    return [f"p{number}" for number in range(count)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)), max_size=12))
def test_the_order_is_total_and_leaves_nobody_out(shapes: list[tuple[int, int, int]]) -> None:
    candidates = [
        uses(pod(f"p{number}", priority=priority, request=f"{request * 100}Mi"), (1 + used * 100) * MI)
        for number, (priority, request, used) in enumerate(shapes)
    ]
    found = order(*candidates)
    assert sorted(found) == sorted(item.pod.uid for item in candidates)
    assert order(*reversed(candidates)) == found
    greedy = [uid for uid, (_, request, used) in zip(by_name(len(shapes)), shapes, strict=True) if used >= request]
    assert set(found[: len(greedy)]) == set(greedy)


def test_the_message_names_threshold_and_the_container_that_used_more() -> None:
    candidate = uses(pod("web", request="10Mi"), 30 * MI)
    assert low_on(candidate, Signal.MEMORY, Level(96040 * 1024, 100 * MI)) == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 96040Ki. "
        "Container app was using 30Mi, request is 10Mi, has larger consumption of memory. "
    )
    modest = uses(pod("web", request="100Mi"), 30 * MI)
    assert "Container" not in low_on(modest, Signal.MEMORY, Level(1, 2))
    inodes = low_on(candidate, Signal.NODE_INODES, Level(1024, 2048))
    assert inodes == "The node was low on resource: inodes. Threshold quantity: 2048, available: 1024. "


def limited() -> Pod:
    storage = {"limits": {"ephemeral-storage": "10Mi"}}
    obj = {
        "metadata": {"name": "web", "uid": "web"},
        "spec": {
            "containers": [{"name": "app", "resources": storage}, {"name": "log", "resources": storage}],
            "volumes": [
                {"name": "cache", "emptyDir": {"sizeLimit": "5Mi"}},
                {"name": "shared", "emptyDir": {}},
                {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            ],
        },
    }
    return msgspec.convert(obj, Pod)


@pytest.mark.parametrize(
    ("volumes", "containers", "message"),
    [
        ({"cache": 5 * MI}, {"app": 10 * MI}, ""),
        ({"fast": 9 * MI}, {}, ""),
        ({"cache": 5 * MI + 1}, {}, 'Usage of EmptyDir volume "cache" exceeds the limit "5Mi". '),
        ({}, {"log": 10 * MI + 1}, 'Container log exceeded its local ephemeral storage limit "10Mi". '),
        (
            {"shared": 15 * MI},
            {"app": 6 * MI},
            "Pod ephemeral local storage usage exceeds the total limit of containers 20Mi. ",
        ),
    ],
)
def test_limits_of_the_pod_itself(volumes: dict[str, int], containers: dict[str, int], message: str) -> None:
    assert over_limit(limited(), volumes=volumes, containers=containers) == message


def test_only_pods_with_a_limit_are_measured() -> None:
    assert is_limited(limited())
    assert not is_limited(pod("web", request="1Gi"))
    assert not is_limited(pod("web", volumes=[{"name": "a", "emptyDir": {}}]))
    assert is_limited(pod("web", volumes=[{"name": "a", "emptyDir": {"sizeLimit": "1Mi"}}]))
    assert over_limit(pod("web"), volumes={"a": 10**12}, containers={"app": 10**12}) == ""
