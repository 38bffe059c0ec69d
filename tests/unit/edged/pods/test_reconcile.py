"""What is done next for a pod, case by case."""

from typing import Any

import pytest

from edgeappliance.edged.pods.observed import Phase
from edgeappliance.edged.pods.plan import (
    Probed,
    RemoveContainer,
    StartContainer,
    StartFailure,
    StartSandbox,
    StopContainer,
    Stopped,
    Stopping,
)
from edgeappliance.edged.pods.reconcile import reconcile
from tests.unit.edged.pods.make import (
    NOW,
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

DELETED = Stopping(Stopped.DELETED, 30)


def stops(plan: Any) -> list[str]:
    return [action.id for action in plan.actions if isinstance(action, StopContainer)]


def starts(plan: Any) -> list[tuple[str, int]]:
    return [(action.name, action.attempt) for action in plan.actions if isinstance(action, StartContainer)]


def removals(plan: Any) -> set[str]:
    return {action.id for action in plan.actions if isinstance(action, RemoveContainer)}


# -- starting -------------------------------------------------------------------------------------------------


def test_the_sandbox_comes_first() -> None:
    assert reconcile(situation(make_pod("a", "b"))).actions == (StartSandbox(0),)


def test_all_containers_start_at_once_when_the_sandbox_is_up() -> None:
    pod = make_pod("a", "b")
    assert reconcile(situation(pod, sandbox())).actions == (
        StartContainer("a", False, 0),
        StartContainer("b", False, 0),
    )


def test_what_is_being_started_is_not_started_again() -> None:
    pod = make_pod("a", "b")
    assert reconcile(situation(pod, busy=frozenset({""}))).actions == ()
    assert starts(reconcile(situation(pod, sandbox(), busy=frozenset({"a"})))) == [("b", 0)]


def test_a_pod_that_runs_needs_nothing() -> None:
    pod = make_pod("a")
    plan = reconcile(situation(pod, sandbox(), running(pod, "a")))
    assert (plan.actions, plan.wake_at, plan.finished, plan.gone) == ((), None, "", False)


def test_a_container_made_and_never_started_is_started_under_its_number() -> None:
    pod = make_pod("a")
    assert starts(reconcile(situation(pod, sandbox(), created(pod, "a", 3)))) == [("a", 3)]


def test_a_sandbox_made_and_never_started_keeps_its_number() -> None:
    plan = reconcile(situation(make_pod("a"), sandbox(2, Phase.CREATED)))
    assert plan.actions == (StartSandbox(2),)


def test_a_blocked_pod_starts_nothing() -> None:
    pod = make_pod("a")
    assert reconcile(situation(pod, blocked=("ContainerCreating", "no volume"))).actions == ()
    assert reconcile(situation(pod, sandbox(), blocked=("ContainerCreating", "no volume"))).actions == ()


def test_a_failure_waits_for_its_time() -> None:
    pod = make_pod("a", "b")
    failed = {"a": StartFailure("ErrImagePull", "no route", NOW + 20)}
    plan = reconcile(situation(pod, sandbox(), failures=failed))
    assert starts(plan) == [("b", 0)]
    assert plan.wake_at == NOW + 20
    past = {"a": StartFailure("ErrImagePull", "no route", NOW - 1)}
    assert starts(reconcile(situation(pod, sandbox(), failures=past))) == [("a", 0), ("b", 0)]


def test_a_sandbox_that_failed_waits_for_its_time() -> None:
    failed = {"": StartFailure("CreatePodSandboxError", "no network", NOW + 5)}
    plan = reconcile(situation(make_pod("a"), failures=failed))
    assert (plan.actions, plan.wake_at) == ((), NOW + 5)


# -- init containers and sidecars -----------------------------------------------------------------------------


def test_init_containers_run_one_after_the_other() -> None:
    pod = make_pod("app", inits=("one", "two"))
    assert starts(reconcile(situation(pod, sandbox()))) == [("one", 0)]
    assert starts(reconcile(situation(pod, sandbox(), running(pod, "one")))) == []
    assert starts(reconcile(situation(pod, sandbox(), exited(pod, "one")))) == [("two", 0)]
    done = exited(pod, "one"), exited(pod, "two")
    assert starts(reconcile(situation(pod, sandbox(), *done))) == [("app", 0)]


def test_a_failed_init_container_runs_again_after_its_wait() -> None:
    pod = make_pod("app", inits=("one",))
    assert starts(reconcile(situation(pod, sandbox(), exited(pod, "one", code=1)))) == [("one", 1)]
    second = exited(pod, "one", 1, code=1)
    plan = reconcile(situation(pod, sandbox(), exited(pod, "one", code=1), second))
    assert (starts(plan), plan.wake_at) == ([], NOW + 9)


def test_a_failed_init_container_ends_a_pod_that_never_restarts() -> None:
    pod = make_pod("app", inits=("one",), restartPolicy="Never")
    plan = reconcile(situation(pod, sandbox(), exited(pod, "one", code=1)))
    assert stops(plan) == ["sandbox-0"]
    plan = reconcile(situation(pod, sandbox(phase=Phase.EXITED), exited(pod, "one", code=1)))
    assert plan.finished == "Failed"


def test_a_sidecar_lets_the_next_begin_when_it_has_started() -> None:
    pod = make_pod("app", inits=(sidecar("mesh", startupProbe={"tcpSocket": {"port": 1}}), "one"))
    up = running(pod, "mesh")
    assert starts(reconcile(situation(pod, sandbox()))) == [("mesh", 0)]
    assert starts(reconcile(situation(pod, sandbox(), up))) == []
    assert starts(reconcile(situation(pod, sandbox(), up, probes={"mesh-0": Probed(started=False)}))) == []
    assert starts(reconcile(situation(pod, sandbox(), up, probes={"mesh-0": Probed()}))) == [("one", 0)]


def test_a_sidecar_that_ended_is_started_again_without_holding_up_the_others() -> None:
    pod = make_pod("app", inits=(sidecar("mesh"), "one"), restartPolicy="Never")
    seen = exited(pod, "mesh"), exited(pod, "one")
    assert starts(reconcile(situation(pod, sandbox(), *seen))) == [("mesh", 1), ("app", 0)]
    assert starts(reconcile(situation(pod, sandbox(), *seen, running(pod, "app")))) == [("mesh", 1)]


def test_init_containers_that_were_cleaned_away_do_not_run_again() -> None:
    pod = make_pod("app", inits=("one", "two"))
    assert reconcile(situation(pod, sandbox(), running(pod, "app"))).actions == ()
    assert starts(reconcile(situation(pod, sandbox(), running(pod, "two")))) == []


# -- restarts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 3, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ],
)
def test_restart_policy(policy: str, code: int, again: bool) -> None:
    pod = make_pod("a", "b", restartPolicy=policy)
    plan = reconcile(situation(pod, sandbox(), exited(pod, "a", code=code), running(pod, "b")))
    assert starts(plan) == ([("a", 1)] if again else [])


def test_the_policy_of_a_container_outranks_that_of_its_pod() -> None:
    pod = make_pod(container("a", restartPolicy="OnFailure"), "b", restartPolicy="Never")
    seen = sandbox(), exited(pod, "a", code=1), exited(pod, "b", code=1)
    assert starts(reconcile(situation(pod, *seen))) == [("a", 1)]


def test_restart_rules_by_exit_code() -> None:
    rules = [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]
    pod = make_pod(container("a", restartPolicy="Never", restartPolicyRules=rules), restartPolicy="Never")
    assert starts(reconcile(situation(pod, sandbox(), exited(pod, "a", code=42)))) == [("a", 1)]
    assert stops(reconcile(situation(pod, sandbox(), exited(pod, "a", code=1)))) == ["sandbox-0"]


def test_crash_loop_waits_longer_each_time() -> None:
    pod = make_pod("a")
    waits = []
    attempt, waited = 1, 0.0
    for _ in range(7):
        dead = exited(pod, "a", attempt, code=1, backoff=waited)
        plan = reconcile(situation(pod, sandbox(), dead, exits={dead.id: NOW}))
        assert starts(plan) == []
        waits.append(plan.wake_at - NOW if plan.wake_at else 0)
        reason, message = plan.waiting["a"]
        assert reason == "CrashLoopBackOff"
        later = reconcile(situation(pod, sandbox(), dead, exits={dead.id: NOW - waits[-1]}))
        action = later.actions[0]
        assert isinstance(action, StartContainer)
        attempt, waited = action.attempt, action.backoff
    assert waits == [10, 20, 40, 80, 160, 300, 300]
    assert message == f"back-off 5m0s restarting failed container=a pod=web_default({pod.uid})"


def test_ten_minutes_of_running_reset_the_wait() -> None:
    pod = make_pod("a")
    dead = exited(pod, "a", 9, code=1, backoff=300.0, started_ms=WALL - 700_000, finished_ms=WALL - 1000)
    assert reconcile(situation(pod, sandbox(), dead)).actions == (StartContainer("a", False, 10, 0.0),)


def test_a_container_that_could_not_be_started_counts_as_an_attempt() -> None:
    pod = make_pod("a")
    dead = created(pod, "a", 1, error="no such file", exit_code=127)
    plan = reconcile(situation(pod, sandbox(), dead, exits={dead.id: NOW}))
    assert (starts(plan), plan.wake_at) == ([], NOW + 10)


def test_a_changed_image_restarts_the_container() -> None:
    pod = make_pod("a", restartPolicy="Never")
    old = running(pod, "a", spec_hash="other")
    (action,) = reconcile(situation(pod, sandbox(), old)).actions
    assert action == StopContainer("a-0", "a", 30, "Container a definition changed, will be restarted")
    dead = exited(pod, "a", 4, code=143, spec_hash="other", backoff=300.0)
    assert starts(reconcile(situation(pod, sandbox(), dead))) == [("a", 5)]


def test_a_failed_probe_kills_with_its_own_grace() -> None:
    pod = make_pod("a")
    failed = {"a-0": Probed(failed="Liveness probe failed: refused", grace=3)}
    (action,) = reconcile(situation(pod, sandbox(), running(pod, "a"), probes=failed)).actions
    assert action == StopContainer("a-0", "a", 3, "Container a failed liveness probe, will be restarted")
    seen = running(pod, "a")
    assert reconcile(situation(pod, sandbox(), seen, probes=failed, stopping_ids={"a-0"})).actions == ()


def test_a_failed_probe_ends_what_never_restarts() -> None:
    pod = make_pod("a", restartPolicy="Never")
    failed = {"a-0": Probed(failed="startup probe: refused")}
    (action,) = reconcile(situation(pod, sandbox(), running(pod, "a"), probes=failed)).actions
    assert action == StopContainer("a-0", "a", 30, "Container a failed startup probe")


def test_a_condemned_container_is_stopped() -> None:
    pod = make_pod("app", inits=("one",))
    plan = reconcile(situation(pod, sandbox(), running(pod, "one"), condemned={"one-0": ("FailedPostStartHook", None)}))
    assert plan.actions == (StopContainer("one-0", "one", 30, "FailedPostStartHook"),)


# -- the sandbox ends -----------------------------------------------------------------------------------------


def test_containers_of_a_dead_sandbox_end_before_a_new_one_is_made() -> None:
    pod = make_pod("a", "b")
    dead = sandbox(phase=Phase.EXITED)
    plan = reconcile(situation(pod, dead, running(pod, "a"), exited(pod, "b", code=1)))
    assert plan.actions == (StopContainer("a-0", "a", 30, "Stopping container a"),)
    busy = situation(pod, dead, running(pod, "a"), stopping_ids=frozenset({"a-0"}))
    assert reconcile(busy).actions == ()
    over = reconcile(situation(pod, dead, exited(pod, "a", code=137), exited(pod, "b", code=1)))
    assert over.actions == (StartSandbox(1),)


def test_a_new_sandbox_runs_the_init_containers_again() -> None:
    pod = make_pod("app", inits=("one",))
    old = sandbox(phase=Phase.EXITED), exited(pod, "one"), exited(pod, "app", 2, code=137, backoff=20.0)
    plan = reconcile(situation(pod, *old, sandbox(1)))
    assert starts(plan) == [("one", 1)]
    assert removals(plan) == {"sandbox-0"}
    again = exited(pod, "one", 1, sandbox="sandbox-1")
    plan = reconcile(situation(pod, *old, sandbox(1), again))
    assert [action for action in plan.actions if isinstance(action, StartContainer)] == [
        StartContainer("app", False, 3, 20.0)
    ]


def test_what_runs_in_an_older_sandbox_is_stopped() -> None:
    pod = make_pod("a")
    plan = reconcile(situation(pod, sandbox(), sandbox(1), running(pod, "a")))
    assert stops(plan) == ["a-0"]
    plan = reconcile(situation(pod, sandbox(), sandbox(1), exited(pod, "a")))
    assert stops(plan) == ["sandbox-0"]


def test_a_sandbox_that_ends_at_once_again_and_again_waits() -> None:
    pod = make_pod("a")
    dead = sandbox(3, Phase.EXITED, started_ms=WALL - 1100, finished_ms=WALL - 1000)
    plan = reconcile(situation(pod, dead))
    assert (plan.actions, plan.wake_at) == ((), NOW + 9)


def test_a_finished_pod_gets_no_new_sandbox() -> None:
    pod = make_pod("a", restartPolicy="Never")
    plan = reconcile(situation(pod, sandbox(phase=Phase.EXITED), exited(pod, "a")))
    assert (plan.actions, plan.finished) == ((), "Succeeded")


# -- the end --------------------------------------------------------------------------------------------------


def test_a_completed_pod_stops_sidecars_from_the_last_and_then_the_sandbox() -> None:
    pod = make_pod("app", inits=(sidecar("one"), sidecar("two")), restartPolicy="Never")
    done = exited(pod, "app")
    plan = reconcile(situation(pod, sandbox(), running(pod, "one"), running(pod, "two"), done))
    assert (stops(plan), starts(plan), plan.finished) == (["two-0"], [], "")
    plan = reconcile(situation(pod, sandbox(), running(pod, "one"), exited(pod, "two", code=143), done))
    assert (stops(plan), starts(plan), plan.finished) == (["one-0"], [], "")
    ended = exited(pod, "one", code=143), exited(pod, "two", code=143)
    plan = reconcile(situation(pod, sandbox(), *ended, done))
    assert (stops(plan), plan.finished) == (["sandbox-0"], "")
    plan = reconcile(situation(pod, sandbox(phase=Phase.EXITED), *ended, done))
    assert (plan.actions, plan.finished) == ((), "Succeeded")


def test_a_finished_pod_is_never_started_again() -> None:
    pod = make_pod("app")
    plan = reconcile(situation(pod, exited(pod, "app", code=1), finished="Failed"))
    assert (plan.actions, plan.finished) == ((), "")


def test_deletion_stops_containers_then_sandbox_then_removes_everything() -> None:
    pod = make_pod("a", "b", inits=(sidecar("mesh"),))
    all_up = sandbox(), running(pod, "a"), running(pod, "b"), running(pod, "mesh")
    assert stops(reconcile(situation(pod, *all_up, stopping=DELETED))) == ["a-0", "b-0"]
    going = situation(pod, *all_up, stopping=DELETED, stopping_ids=frozenset({"a-0", "b-0"}))
    assert reconcile(going).actions == ()
    ended = exited(pod, "a", code=143), exited(pod, "b")
    assert stops(reconcile(situation(pod, sandbox(), *ended, running(pod, "mesh"), stopping=DELETED))) == ["mesh-0"]
    over = *ended, exited(pod, "mesh")
    assert stops(reconcile(situation(pod, sandbox(), *over, stopping=DELETED))) == ["sandbox-0"]
    plan = reconcile(situation(pod, sandbox(phase=Phase.EXITED), *over, stopping=DELETED))
    assert removals(plan) == {"a-0", "b-0", "mesh-0", "sandbox-0"}
    assert not plan.gone
    plan = reconcile(situation(pod, stopping=DELETED))
    assert (plan.actions, plan.gone) == ((), True)


def test_a_deleted_pod_is_not_gone_while_a_start_is_under_way() -> None:
    pod = make_pod("a")
    assert not reconcile(situation(pod, stopping=DELETED, busy=frozenset({"a"}))).gone
    plan = reconcile(situation(pod, sandbox(), stopping=DELETED, busy=frozenset({"a"})))
    assert plan.actions == ()


def test_sidecars_get_what_is_left_of_the_grace() -> None:
    pod = make_pod("a", inits=(sidecar("one"), sidecar("two")))
    seen = sandbox(), exited(pod, "a"), running(pod, "one"), running(pod, "two")
    early = reconcile(situation(pod, *seen, stopping=Stopping(Stopped.DELETED, 30, since=NOW - 12)))
    assert [(a.id, a.grace) for a in early.actions if isinstance(a, StopContainer)] == [("two-0", 18)]
    late = reconcile(situation(pod, *seen, stopping=Stopping(Stopped.DELETED, 30, since=NOW - 40)))
    assert {(a.id, a.grace) for a in late.actions if isinstance(a, StopContainer)} == {("one-0", 2), ("two-0", 2)}


def test_an_evicted_pod_fails_and_leaves_nothing_on_the_engine() -> None:
    pod = make_pod("a")
    evicted = Stopping(Stopped.EVICTED, 0, "Evicted", "The node was low on resource: memory.")
    assert stops(reconcile(situation(pod, sandbox(), running(pod, "a"), stopping=evicted))) == ["a-0"]
    plan = reconcile(situation(pod, sandbox(phase=Phase.EXITED), exited(pod, "a", code=137), stopping=evicted))
    assert (removals(plan), plan.finished, plan.gone) == ({"a-0", "sandbox-0"}, "Failed", False)
    plan = reconcile(situation(pod, stopping=evicted, finished="Failed"))
    assert (plan.finished, plan.gone) == ("", True)


def test_a_rejected_pod_fails_at_once() -> None:
    rejected = Stopping(Stopped.REJECTED, 0, "OutOfcpu", "Node didn't have enough resource: cpu")
    plan = reconcile(situation(make_pod("a"), stopping=rejected))
    assert (plan.actions, plan.finished) == ((), "Failed")


def test_the_deadline_stops_the_pod_and_keeps_its_containers() -> None:
    pod = make_pod("a", activeDeadlineSeconds=60)
    early = reconcile(situation(pod, sandbox(), running(pod, "a"), started_ms=WALL - 50_000))
    assert (early.actions, early.wake_at, early.stop) == ((), NOW + 10, None)
    plan = reconcile(situation(pod, sandbox(), running(pod, "a")))
    assert stops(plan) == ["a-0"]
    assert plan.stop is not None
    assert (plan.stop.why, plan.stop.reason) == (Stopped.DEADLINE, "DeadlineExceeded")
    plan = reconcile(situation(pod, sandbox(phase=Phase.EXITED), exited(pod, "a", code=143), stopping=plan.stop))
    assert (plan.actions, plan.finished, plan.gone) == ((), "Failed", False)


# -- tidying --------------------------------------------------------------------------------------------------


def test_old_attempts_are_removed_beyond_those_kept() -> None:
    pod = make_pod("a")
    seen = sandbox(), *(exited(pod, "a", n, code=1) for n in range(4)), running(pod, "a", 4)
    assert removals(reconcile(situation(pod, *seen))) == {"a-0", "a-1", "a-2"}
    assert removals(reconcile(situation(pod, *seen), keep=3)) == {"a-0"}
    assert removals(reconcile(situation(pod, *seen, stopping_ids=frozenset({"a-0", "a-1"})))) == {"a-2"}


def test_of_two_running_attempts_the_older_is_stopped() -> None:
    pod = make_pod("a")
    assert stops(reconcile(situation(pod, sandbox(), running(pod, "a"), running(pod, "a", 1)))) == ["a-0"]


def test_a_container_that_the_pod_has_no_more_is_stopped_and_removed() -> None:
    pod = make_pod("a")
    assert stops(reconcile(situation(pod, sandbox(), running(pod, "a"), running(pod, "old")))) == ["old-0"]
    assert removals(reconcile(situation(pod, sandbox(), running(pod, "a"), exited(pod, "old")))) == {"old-0"}


def test_a_clock_that_is_set_is_no_deadline() -> None:
    pod = make_pod("a", activeDeadlineSeconds=60)
    year = 365 * 86_400_000
    assert stops(reconcile(situation(pod, sandbox(), running(pod, "a"), started_ms=WALL - year, elapsed=20.0))) == []
    back = reconcile(situation(pod, sandbox(), running(pod, "a"), started_ms=WALL + year))
    assert (back.actions, back.wake_at) == ((), NOW + 60)
    assert stops(reconcile(situation(pod, sandbox(), running(pod, "a"), elapsed=60.0))) == ["a-0"]


def test_a_clock_that_was_set_back_does_not_hold_up_a_restart() -> None:
    pod = make_pod("a")
    dead = exited(pod, "a", 5, code=1, backoff=300.0, finished_ms=WALL + 86_400_000)
    assert starts(reconcile(situation(pod, sandbox(), dead, exits={}))) == [("a", 6)]


# -- postStart hooks ------------------------------------------------------------------------------------------

HOOK = {"postStart": {"exec": {"command": ["true"]}}}


def test_containers_wait_for_the_hook_of_the_one_before_them() -> None:
    pod = make_pod("a", container("b", lifecycle=HOOK), "c", "d")
    assert starts(reconcile(situation(pod, sandbox()))) == [("a", 0), ("b", 0)]
    up = [sandbox(), running(pod, "a"), running(pod, "b")]
    assert starts(reconcile(situation(pod, *up, busy=frozenset({"b"})))) == []
    assert starts(reconcile(situation(pod, *up))) == [("c", 0), ("d", 0)]


def test_a_container_that_cannot_be_started_holds_up_no_other() -> None:
    pod = make_pod(container("a", lifecycle=HOOK), "b")
    failures = {"a": StartFailure("ImagePullBackOff", "no", NOW + 100, 1)}
    assert starts(reconcile(situation(pod, sandbox(), failures=failures))) == [("b", 0)]


def test_what_runs_is_judged_while_a_hook_is_under_way() -> None:
    pod = make_pod(container("a", lifecycle=HOOK), "b")
    seen = [sandbox(), running(pod, "a"), running(pod, "b")]
    probes = {"b-0": Probed(failed="liveness probe: no")}
    assert stops(reconcile(situation(pod, *seen, busy=frozenset({"a"}), probes=probes))) == ["b-0"]
