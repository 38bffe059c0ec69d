"""What is told of a pod."""

from typing import Any

import pytest

from edgeappliance.edged.pods.limits import Unsupported
from edgeappliance.edged.pods.observed import ObservedContainer, Phase
from edgeappliance.edged.pods.plan import Probed, Situation, StartFailure, Stopped, Stopping
from edgeappliance.edged.pods.states import MESSAGES_LIMIT, cut
from edgeappliance.edged.pods.status import SUPPORTED, patch, pod_status
from edgeappliance.kubeapi.builtin_types import BuiltinTypes
from edgeappliance.kubeapi.patch.strategic import strategic_patch
from edgeappliance.kubeapi.times import rfc3339
from tests.unit.edged.pods.make import (
    NOW,
    UID,
    WALL,
    container,
    created,
    exited,
    make_pod,
    running,
    sandbox,
    sidecar,
    situation,
)


def status(situation: Situation, previous: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return pod_status(situation, node_ip="10.0.0.1", qos="BestEffort", previous=previous, **more)


def state(told: dict[str, Any], name: str, key: str = "state") -> dict[str, Any]:
    listed = (*told.get("initContainerStatuses", ()), *told["containerStatuses"])
    found: dict[str, Any] = next(item for item in listed if item["name"] == name)[key]
    return found


def condition(told: dict[str, Any], kind: str) -> tuple[str, str, str]:
    found = next(item for item in told["conditions"] if item["type"] == kind)
    return found["status"], found.get("reason", ""), found.get("message", "")


# -- containers -----------------------------------------------------------------------------------------------


def test_a_running_pod() -> None:
    pod = make_pod("a")
    told = status(situation(pod, sandbox(), running(pod, "a")))
    assert told["phase"] == "Running"
    assert told["startTime"] == rfc3339(WALL - 60_000)
    assert (told["hostIP"], told["podIP"], told["podIPs"]) == ("10.0.0.1", "172.17.0.9", [{"ip": "172.17.0.9"}])
    (one,) = told["containerStatuses"]
    assert one == {
        "name": "a",
        "image": "busybox:1",
        "imageID": "docker://sha256:" + "1" * 64,
        "containerID": "docker://a-0",
        "state": {"running": {"startedAt": rfc3339(WALL - 50_000)}},
        "lastState": {},
        "ready": True,
        "started": True,
        "restartCount": 0,
    }
    assert {item["type"]: item["status"] for item in told["conditions"]} == {
        "PodReadyToStartContainers": "True",
        "Initialized": "True",
        "Ready": "True",
        "ContainersReady": "True",
        "PodScheduled": "True",
    }


def test_what_was_not_started_yet_waits() -> None:
    told = status(situation(make_pod("a")))
    assert told["phase"] == "Pending"
    assert state(told, "a") == {"waiting": {"reason": "ContainerCreating"}}
    assert condition(told, "PodReadyToStartContainers")[0] == "False"
    assert condition(told, "Ready") == ("False", "ContainersNotReady", "containers with unready status: [a]")
    assert "podIP" not in told


def test_behind_init_containers_a_pod_initializes() -> None:
    pod = make_pod("a", inits=("one", "two"))
    told = status(situation(pod, sandbox(), exited(pod, "one")))
    assert told["phase"] == "Pending"
    assert state(told, "a") == {"waiting": {"reason": "PodInitializing"}}
    assert state(told, "one")["terminated"]["reason"] == "Completed"
    message = "containers with incomplete status: [two]"
    assert condition(told, "Initialized") == ("False", "ContainersNotInitialized", message)
    told = status(situation(pod, sandbox(), exited(pod, "one"), exited(pod, "two"), running(pod, "a")))
    assert condition(told, "Initialized") == ("True", "", "")


def test_a_sidecar_counts_for_readiness() -> None:
    pod = make_pod("a", inits=(sidecar("mesh"),))
    seen = sandbox(), running(pod, "mesh"), running(pod, "a")
    assert condition(status(situation(pod, *seen)), "Ready")[0] == "True"
    told = status(situation(pod, *seen, probes={"mesh-0": Probed(ready=False)}))
    assert condition(told, "Ready") == ("False", "ContainersNotReady", "containers with unready status: [mesh]")
    assert condition(told, "Initialized")[0] == "True"


def test_probes_decide_about_started_and_ready() -> None:
    pod = make_pod({"name": "a", "image": "b", "readinessProbe": {"tcpSocket": {"port": 1}}})
    told = status(situation(pod, sandbox(), running(pod, "a")))
    assert (told["containerStatuses"][0]["started"], told["containerStatuses"][0]["ready"]) == (True, False)
    told = status(situation(pod, sandbox(), running(pod, "a"), probes={"a-0": Probed(started=False)}))
    assert (told["containerStatuses"][0]["started"], told["containerStatuses"][0]["ready"]) == (False, False)


def test_a_failure_is_the_waiting_reason() -> None:
    pod = make_pod("a")
    failed = {"a": StartFailure("ImagePullBackOff", 'Back-off pulling image "b"', NOW + 5)}
    told = status(situation(pod, sandbox(), failures=failed))
    assert state(told, "a") == {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "b"'}}
    assert told["phase"] == "Pending"


def test_a_blocked_pod_says_why() -> None:
    pod = make_pod("a", inits=("one",))
    told = status(situation(pod, blocked=("CreateContainerConfigError", "spec.hostUsers: no")))
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": "spec.hostUsers: no"}}
    assert (state(told, "a"), state(told, "one")) == (waiting, waiting)


def test_crash_loop() -> None:
    pod = make_pod("a")
    told = status(situation(pod, sandbox(), exited(pod, "a", 1, code=3), exited(pod, "a", 0, code=2)))
    assert told["phase"] == "Running"
    assert state(told, "a")["waiting"]["reason"] == "CrashLoopBackOff"
    assert state(told, "a", "lastState")["terminated"]["exitCode"] == 3
    assert told["containerStatuses"][0]["restartCount"] == 1
    told = status(situation(pod, sandbox(), running(pod, "a", 2), exited(pod, "a", 1, code=3)))
    assert state(told, "a", "lastState")["terminated"]["exitCode"] == 3
    assert told["containerStatuses"][0]["restartCount"] == 2


@pytest.mark.parametrize(
    ("fields", "reason", "code"),
    [
        ({"exit_code": 0}, "Completed", 0),
        ({"exit_code": 7}, "Error", 7),
        ({"exit_code": 137, "oom_killed": True}, "OOMKilled", 137),
        ({"phase": Phase.CREATED, "exit_code": 127, "error": "no such file"}, "ContainerCannotRun", 127),
        ({"phase": Phase.CREATED, "exit_code": 0, "error": "no device"}, "StartError", 128),
    ],
)
def test_how_a_container_ended(fields: dict[str, Any], reason: str, code: int) -> None:
    pod = make_pod("a", restartPolicy="Never")
    base = created(pod, "a", **{k: v for k, v in fields.items() if k != "phase"})
    if fields.get("phase") is not Phase.CREATED:
        base = exited(pod, "a", code=fields["exit_code"], oom_killed=fields.get("oom_killed", False))
    told = status(situation(pod, sandbox(), base))
    ended = state(told, "a")["terminated"]
    assert (ended["reason"], ended["exitCode"]) == (reason, code)
    assert ended.get("message", "") == fields.get("error", "")
    assert ended["containerID"] == "docker://a-0"


def test_termination_messages_share_their_room() -> None:
    pod = make_pod(*[f"c{n}" for n in range(6)], restartPolicy="Never")
    seen = [exited(pod, f"c{n}", message="é" * 5000) for n in range(6)]
    told = status(situation(pod, sandbox(), *seen))
    texts = [state(told, f"c{n}")["terminated"]["message"] for n in range(6)]
    assert sum(len(text.encode()) for text in texts) <= MESSAGES_LIMIT
    assert all(set(text) == {"é"} for text in texts)
    assert cut("a" * 10, 4) == "aaaa"


# -- phase ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "policy", "phase"),
    [
        ((0, 0), "Never", "Succeeded"),
        ((0, 1), "Never", "Failed"),
        ((0, 0), "OnFailure", "Succeeded"),
        ((0, 1), "OnFailure", "Running"),
        ((0, 1), "Always", "Running"),
    ],
)
def test_phase_of_ended_containers(codes: tuple[int, int], policy: str, phase: str) -> None:
    pod = make_pod("a", "b", restartPolicy=policy)
    seen = exited(pod, "a", code=codes[0]), exited(pod, "b", code=codes[1])
    assert status(situation(pod, *seen))["phase"] == phase


def test_a_completed_pod() -> None:
    pod = make_pod("a", inits=("one",), restartPolicy="Never")
    told = status(situation(pod, exited(pod, "one"), exited(pod, "a"), finished="Succeeded"))
    assert told["phase"] == "Succeeded"
    assert condition(told, "Initialized") == ("True", "PodCompleted", "")
    assert condition(told, "Ready") == ("False", "PodCompleted", "")
    assert condition(told, "ContainersReady") == ("False", "PodCompleted", "")


def test_a_pod_is_running_once_all_have_run() -> None:
    pod = make_pod("a", "b")
    assert status(situation(pod, sandbox(), running(pod, "a")))["phase"] == "Pending"
    assert status(situation(pod, sandbox(), running(pod, "a"), exited(pod, "b", code=1)))["phase"] == "Running"


def test_a_pod_whose_sandbox_is_made_anew_stays_running() -> None:
    pod = make_pod("a", inits=("one",))
    seen = exited(pod, "one"), exited(pod, "a", code=137), running(pod, "one", 1, sandbox="sandbox-1")
    told = status(situation(pod, sandbox(1), *seen))
    assert told["phase"] == "Running"
    assert condition(told, "Ready")[0] == "False"
    assert condition(told, "Initialized")[0] == "False"


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (143, "Failed")])
def test_a_deleted_pod_ends_in_a_final_phase(code: int, phase: str) -> None:
    pod = make_pod("a")
    deleted = Stopping(Stopped.DELETED, 30)
    assert status(situation(pod, sandbox(), running(pod, "a"), stopping=deleted))["phase"] == "Running"
    assert status(situation(pod, sandbox(), exited(pod, "a", code=code), stopping=deleted))["phase"] == "Running"
    told = status(situation(pod, sandbox(phase=Phase.EXITED), exited(pod, "a", code=code), stopping=deleted))
    assert told["phase"] == phase
    assert state(told, "a")["terminated"]["exitCode"] == code


def test_an_evicted_pod_keeps_what_was_known() -> None:
    pod = make_pod("a", "b")
    evicted = Stopping(Stopped.EVICTED, 0, "Evicted", "The node was low on resource: memory.")
    seen = sandbox(), running(pod, "a"), exited(pod, "b", code=5)
    before = status(situation(pod, *seen))
    going = status(situation(pod, *seen, stopping=evicted), before)
    assert (going["phase"], going.get("reason")) == ("Running", None)
    over = status(situation(pod, stopping=evicted), before)
    assert (over["phase"], over["reason"], over["message"]) == ("Failed", "Evicted", evicted.message)
    assert state(over, "a")["terminated"]["reason"] == "ContainerStatusUnknown"
    assert state(over, "b", "lastState") == before["containerStatuses"][1]["lastState"]
    assert condition(over, "DisruptionTarget") == ("True", "TerminationByKubelet", evicted.message)
    assert condition(over, "Ready") == ("False", "PodFailed", "")
    later = status(situation(pod, finished="Failed"), over)
    assert (later["reason"], later["message"]) == ("Evicted", evicted.message)
    assert state(later, "a") == state(over, "a")


def test_a_rejected_pod_says_only_that() -> None:
    rejected = Stopping(Stopped.REJECTED, 0, "OutOfcpu", "Node didn't have enough resource: cpu")
    told = status(situation(make_pod("a"), stopping=rejected))
    assert (told["phase"], told["reason"]) == ("Failed", "OutOfcpu")
    assert told["message"] == "Pod was rejected: Node didn't have enough resource: cpu"
    assert "containerStatuses" not in told
    assert "podIP" not in told


def test_the_deadline_is_the_reason_once_the_pod_has_ended() -> None:
    pod = make_pod("a", activeDeadlineSeconds=30)
    assert "reason" not in status(situation(pod, sandbox(), running(pod, "a")))
    told = status(situation(pod, sandbox(phase=Phase.EXITED), exited(pod, "a", code=143)))
    assert (told["phase"], told["reason"]) == ("Failed", "DeadlineExceeded")
    assert status(situation(pod, exited(pod, "a"), finished="Failed"), told)["reason"] == "DeadlineExceeded"


# -- conditions and addresses ---------------------------------------------------------------------------------


def test_transition_times_move_only_with_the_status() -> None:
    pod = make_pod("a")
    first = status(situation(pod, sandbox(), running(pod, "a"), wall_ms=WALL - 9000))
    probes = {"a-0": Probed(ready=False)}
    second = status(situation(pod, sandbox(), running(pod, "a"), probes=probes), first)
    times = {item["type"]: item["lastTransitionTime"] for item in second["conditions"]}
    assert times["Ready"] == times["ContainersReady"] == rfc3339(WALL)
    assert times["Initialized"] == times["PodScheduled"] == rfc3339(WALL - 9000)


def test_readiness_gates_are_written_by_others() -> None:
    pod = make_pod("a", readinessGates=[{"conditionType": "example.com/lb"}])
    seen = situation(pod, sandbox(), running(pod, "a"))
    text = 'corresponding condition of pod readiness gate "example.com/lb" does not exist.'
    assert condition(status(seen), "Ready") == ("False", "ReadinessGatesNotReady", text)
    pod.status["conditions"] = [{"type": "example.com/lb", "status": "False"}]
    text = 'the status of pod readiness gate "example.com/lb" is not "True", but False'
    assert condition(status(seen), "Ready") == ("False", "ReadinessGatesNotReady", text)
    pod.status["conditions"] = [{"type": "example.com/lb", "status": "True"}]
    assert condition(status(seen), "Ready")[0] == "True"
    assert condition(status(seen), "ContainersReady")[0] == "True"


def test_a_pod_on_the_network_of_the_node_has_its_address() -> None:
    pod = make_pod("a", hostNetwork=True)
    told = status(situation(pod, sandbox(ip=""), running(pod, "a")))
    assert told["podIP"] == "10.0.0.1"
    assert condition(told, "PodReadyToStartContainers")[0] == "True"


def test_an_address_stays_while_there_is_no_other() -> None:
    pod = make_pod("a")
    before = status(situation(pod, sandbox(), running(pod, "a")))
    told = status(situation(pod, sandbox(phase=Phase.EXITED), exited(pod, "a", code=1)), before)
    assert told["podIP"] == "172.17.0.9"
    assert condition(told, "PodReadyToStartContainers")[0] == "False"


def test_fields_that_have_no_effect_are_named() -> None:
    strange = (Unsupported("spec.resources", "not on this node", False),)
    told = status(situation(make_pod("a")), unsupported=strange)
    assert condition(told, SUPPORTED) == ("False", "UnsupportedFields", "spec.resources: not on this node")


# -- patch ----------------------------------------------------------------------------------------------------


def applied(api: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """The status that the API has afterwards."""
    shape = BuiltinTypes().schema("io.k8s.api.core.v1.Pod")
    patched: dict[str, Any] = strategic_patch({"status": api}, {"status": content["status"]}, shape)["status"]
    return patched


def stages() -> list[tuple[Any, dict[str, Any]]]:
    pod = make_pod("a", inits=("one",))
    evicted = Stopping(Stopped.EVICTED, 0, "Evicted", "low")
    seen: list[tuple[tuple[ObservedContainer, ...], dict[str, Any]]] = [
        ((), {}),
        ((sandbox(), running(pod, "one")), {}),
        ((sandbox(), exited(pod, "one"), running(pod, "a")), {}),
        ((sandbox(ip="172.17.0.77"), exited(pod, "one"), running(pod, "a")), {"probes": {"a-0": Probed(ready=False)}}),
        ((), {"stopping": evicted}),
    ]
    return [(pod, status(situation(pod, *some, **more))) for some, more in seen]


def test_a_patch_brings_any_status_to_any_other() -> None:
    other = {"type": "example.com/other", "status": "True"}
    for _, old in stages():
        for _, new in stages():
            for known in (old, None):
                api = {**old, "conditions": [*old["conditions"], other]}
                result = applied(api, patch(known, new, uid=UID))
                kinds = {item["type"]: item for item in result.pop("conditions")}
                assert kinds.pop("example.com/other") == other
                wanted = {item["type"]: item for item in new["conditions"]}
                assert {**kinds, **wanted} == kinds
                assert kinds.keys() - wanted.keys() <= {"DisruptionTarget"}, "others write that one too"
                assert result == {key: value for key, value in new.items() if key != "conditions"}


def test_a_patch_names_the_pod_by_its_uid() -> None:
    assert patch(None, status(situation(make_pod("a"))), uid=UID)["metadata"] == {"uid": UID}


# -- while something is being started -------------------------------------------------------------------------


def test_a_restart_is_shown_when_it_is_done() -> None:
    """Nothing is told between the wait and the next attempt's running that would have to be taken back."""
    pod = make_pod("a")
    dead = exited(pod, "a", 1, code=3)
    waiting = status(situation(pod, sandbox(), dead))
    going = status(situation(pod, sandbox(), dead, busy=frozenset({"a"}), exits={dead.id: NOW - 11}))
    up = running(pod, "a", 2, backoff=10.0)
    nearly = status(situation(pod, sandbox(), dead, up, busy=frozenset({"a"})))
    assert waiting["containerStatuses"] == going["containerStatuses"] == nearly["containerStatuses"]
    assert waiting["conditions"] == nearly["conditions"]
    done = status(situation(pod, sandbox(), dead, up))
    assert "running" in state(done, "a")
    assert done["containerStatuses"][0]["restartCount"] == 2


def test_a_first_start_is_shown_when_it_is_done() -> None:
    pod = make_pod("a")
    told = status(situation(pod, sandbox(), running(pod, "a"), busy=frozenset({"a"})))
    assert state(told, "a") == {"waiting": {"reason": "ContainerCreating"}}
    assert "containerID" not in told["containerStatuses"][0]


def test_what_could_not_be_started_is_told_to_the_end() -> None:
    pod = make_pod("a")
    failed = {"a": StartFailure("ErrImagePull", "no route", NOW + 5)}
    before = status(situation(pod, sandbox(), failures=failed))
    deleted = situation(pod, sandbox(), stopping=Stopping(Stopped.DELETED, 30))
    assert state(status(deleted, before), "a") == {"waiting": {"reason": "ErrImagePull", "message": "no route"}}


def test_the_last_state_outlives_the_attempt_that_it_tells_of() -> None:
    pod = make_pod("a", restartPolicy="OnFailure")
    first, second = exited(pod, "a", code=5), exited(pod, "a", 1)
    before = status(situation(pod, sandbox(), first, running(pod, "a", 1)))
    after = status(situation(pod, sandbox(), second), before)
    assert state(after, "a")["terminated"]["exitCode"] == 0
    assert state(after, "a", "lastState") == state(before, "a", "lastState")
    third = status(situation(make_pod("a"), sandbox(), exited(pod, "a", 2), finished="Failed"), before)
    assert state(third, "a", "lastState") == {}, "of another attempt"


def test_a_pod_is_pending_while_the_hook_of_its_first_start_is_under_way() -> None:
    hook = {"postStart": {"sleep": {"seconds": 9}}}
    pod = make_pod(container("a", lifecycle=hook))
    seen = [sandbox(), running(pod, "a")]
    told = status(situation(pod, *seen, busy=frozenset({"a"})))
    assert (told["phase"], state(told, "a")) == ("Pending", {"waiting": {"reason": "ContainerCreating"}})
    assert status(situation(pod, *seen))["phase"] == "Running"
