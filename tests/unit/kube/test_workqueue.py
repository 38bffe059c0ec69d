"""Work by key."""

import asyncio

from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.workqueue import WorkQueue
from edgeappliance.kernel.errors import TransientError
from edgeappliance.kernel.supervisor import TaskScope


async def test_a_key_runs_once_at_a_time_and_again_when_added_meanwhile(scope: TaskScope) -> None:
    running, runs, most = 0, 0, 0
    release = asyncio.Event()
    done = asyncio.Event()

    async def work(key: str) -> None:
        nonlocal running, runs, most
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1
        runs += 1
        if runs == 2:
            done.set()

    queue = WorkQueue[str]("test", work, workers=3)
    queue.start(scope)
    queue.add("a")
    queue.add("a")
    await asyncio.sleep(0)
    queue.add("a")
    queue.add("a")
    release.set()
    await asyncio.wait_for(done.wait(), 5)
    await asyncio.sleep(0)
    assert (runs, most) == (2, 1)


async def test_a_failure_is_repeated_and_holds_nobody_up(scope: TaskScope) -> None:
    attempts: list[str] = []
    done = asyncio.Event()

    async def work(key: str) -> None:
        attempts.append(key)
        if key == "bad" and attempts.count("bad") < 3:
            raise TransientError("not yet")
        if attempts.count("bad") == 3:
            done.set()

    queue = WorkQueue[str]("test", work, workers=1, initial=0.01, maximum=0.02)
    queue.start(scope)
    queue.add("bad")
    queue.add("good")
    await asyncio.wait_for(done.wait(), 5)
    assert attempts == ["bad", "good", "bad", "bad"]
    assert queue.failing == 0


async def test_what_cannot_succeed_rests_until_it_is_added_again(scope: TaskScope) -> None:
    attempts = 0
    second = asyncio.Event()

    async def work(key: str) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 2:
            second.set()
        raise ApiError(code=422, reason="Invalid", message="no", status={})

    queue = WorkQueue[str]("test", work, workers=1, initial=0.001)
    queue.start(scope)
    queue.add("a")
    await asyncio.sleep(0.02)
    assert (attempts, queue.failing) == (1, 0)
    queue.add("a")
    await asyncio.wait_for(second.wait(), 5)


async def test_stopping_forgets_retries(scope: TaskScope) -> None:
    failed = asyncio.Event()

    async def work(key: str) -> None:
        failed.set()
        raise TransientError("not yet")

    queue = WorkQueue[str]("test", work, initial=30.0)
    queue.start(scope)
    queue.add("a")
    await asyncio.wait_for(failed.wait(), 5)
    await asyncio.sleep(0)
    assert queue.failing == 1
    queue.stop()
    assert queue.failing == 0
