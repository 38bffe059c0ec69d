"""Whatever goes wrong in whatever order: a pod gets to where it has to be, and nothing forbidden happens on the way."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeappliance.edged.pods.observed import Kind
from edgeappliance.edged.pods.plan import Probed, Stopped, Stopping
from edgeappliance.edged.pods.resources import qos_class
from edgeappliance.edged.pods.status import patch, pod_status
from tests.unit.edged.pods.engine_model import Node
from tests.unit.edged.pods.make import container, make_pod, sidecar

POLICIES = ("Always", "OnFailure", "Never")


@st.composite
def pods(draw: st.DrawFn) -> tuple[Any, dict[str, list[int]]]:
    """A pod, and the exit codes of its containers' attempts."""
    inits, ends = [], {}
    for index in range(draw(st.integers(0, 3))):
        name = f"i{index}"
        if draw(st.booleans()):
            inits.append(sidecar(name))
            ends[name] = draw(st.lists(st.integers(0, 2), max_size=2))
        else:
            inits.append(container(name))
            ends[name] = [*draw(st.lists(st.just(1), max_size=2)), *[0] * 50]
    names = [f"a{index}" for index in range(draw(st.integers(1, 3)))]
    policy = draw(st.sampled_from(POLICIES))
    for name in names:
        ends[name] = draw(st.lists(st.integers(0, 2), max_size=3))
        if policy != "Always":
            ends[name] += [0] * 50  # it comes to its end some day
    return make_pod(*names, inits=tuple(inits), restartPolicy=policy), ends


def settle(node: Node) -> None:
    """No more faults: let everything run its course."""
    for _ in range(400):
        node.look()
        assert_status(node)
        if node.pending:
            node.carry_out(node.pending[0])
        elif not node.finish_programs():
            if node.wake_at is None:
                return
            assert node.wake_at <= node.now + 300
            node.now = max(node.now, node.wake_at)
    raise AssertionError(f"does not come to rest: {node.look()}")


def assert_status(node: Node) -> None:
    """A status can be made at any moment, and says nothing impossible."""
    situation = node.situation()
    before = getattr(node, "last_status", None)
    status = pod_status(situation, node_ip="10.0.0.1", qos=qos_class(node.pod), previous=before)
    assert status["phase"] in ("Pending", "Running", "Succeeded", "Failed")
    if before is not None and before["phase"] in ("Succeeded", "Failed") and node.finished:
        assert status["phase"] == before["phase"]
    for item in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        (state,) = item["state"]
        assert state in ("waiting", "running", "terminated")
        assert item["restartCount"] >= 0
        if item["ready"]:
            assert state != "waiting"
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")["status"] == "True"
    if ready:
        assert status["phase"] == "Running"
        assert all(item["ready"] for item in status["containerStatuses"])
    patch(before, status, uid=node.pod.uid)
    node.last_status = status  # type: ignore[attr-defined]


def disturb(node: Node, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
    """One random thing happens."""
    event = draw(st.integers(0, 11))
    up = [c for c in node.containers.values() if c.running]
    if event <= 4 and node.pending:
        action = node.pending[draw(st.integers(0, len(node.pending) - 1))]
        node.carry_out(action, fail=draw(st.integers(0, 9)) == 0)
    elif event == 5:
        node.finish_programs()
    elif event == 6 and up:
        node.end(up[draw(st.integers(0, len(up) - 1))].id, draw(st.sampled_from((1, 137))))
    elif event == 7:
        node.now += draw(st.sampled_from((0.5, 5.0, 400.0)))
    elif event == 8:
        node.node_restarts(finished_lost=draw(st.booleans()))
    elif event == 9:
        node.engine_restarts()
    elif event == 10 and up:
        chosen = up[draw(st.integers(0, len(up) - 1))]
        if chosen.kind is Kind.APP:
            node.probes[chosen.id] = Probed(failed="liveness", grace=1)
    elif event == 11 and node.stopping is None and draw(st.integers(0, 3)) == 0:
        why = draw(st.sampled_from((Stopped.DELETED, Stopped.EVICTED, Stopped.DEADLINE)))
        node.stopping = Stopping(why, 30, "Reason", "message", since=node.now)


def assert_done(node: Node) -> None:
    """The pod is where it has to be."""
    up = [c for c in node.containers.values() if c.running]
    if node.stopping is not None:
        assert not up
        if node.stopping.why is Stopped.DELETED:
            assert node.gone
        else:
            assert node.finished
        return
    if node.finished:
        assert not up
        return
    (sandbox,) = [c for c in up if c.kind is Kind.SANDBOX]
    assert all(c.sandbox == sandbox.id for c in up if c.kind is not Kind.SANDBOX)
    wanted = {c.name for c in node.pod.spec.containers} | {
        c.name for c in node.pod.spec.init_containers if c.is_sidecar
    }
    assert {c.name for c in up if c.kind is not Kind.SANDBOX} == wanted
    for name in wanted:
        assert len([c for c in node.containers.values() if c.name == name]) <= 2, "one ended attempt is kept"
    assert len([c for c in node.containers.values() if c.kind is Kind.SANDBOX]) == 1


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_pod_comes_to_where_it_has_to_be(data: st.DataObject) -> None:
    pod, ends = data.draw(pods())
    node = Node(pod, lambda n: data.draw(st.integers(0, n - 1)), ends)
    for _ in range(data.draw(st.integers(0, 40))):
        node.look()
        assert_status(node)
        disturb(node, data.draw)
    node.probes.clear()
    settle(node)
    assert_done(node)


@settings(max_examples=60, deadline=None)
@given(pods())
def test_without_faults_the_policy_alone_decides(drawn: tuple[Any, dict[str, list[int]]]) -> None:
    pod, ends = drawn
    policy = pod.spec.restart_policy
    failing_init = policy == "Never" and any(ends[c.name][0] for c in pod.spec.init_containers if not c.is_sidecar)
    node = Node(pod, lambda n: 0, {name: list(codes) for name, codes in ends.items()})
    settle(node)
    assert_done(node)
    if policy == "Always":
        assert node.finished == ""
    elif policy == "OnFailure":
        assert node.finished == "Succeeded"
    else:
        bad = failing_init or any(ends[c.name][0] for c in pod.spec.containers)
        assert node.finished == ("Failed" if bad else "Succeeded")
