"""What every test must keep: no leaked task, no blocked event loop."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest_plugins = [
    "tests.support.broker",
    "tests.support.kubeedge_cloud",
    "tests.support.real_api",
    "tests.support.kube_client",
    "tests.support.embedded_api",
    "tests.support.docker_fixtures",
]

MAX_STEP = 1.0
"""Seconds that one step of the event loop may take before the test fails. Generous: the machine has two cores
and other work; a real block (connect, sleep, fsync on a slow disk) shows all the same in the checks below."""


@pytest.fixture(autouse=True)
def unblocked_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail the test when a step of the event loop blocks, or when blocking calls are made on the loop's thread."""
    slow: list[str] = []
    run = asyncio.events.Handle._run

    def timed(handle: Any) -> None:
        before = time.perf_counter()
        cpu = time.thread_time()
        run(handle)
        took = time.perf_counter() - before
        # Waiting without computing is a block; computing a second long is one too. Being descheduled is neither.
        if took > MAX_STEP and time.thread_time() - cpu > MAX_STEP / 2:
            slow.append(f"{handle!r} computed for {took:.2f} s")

    sleep = time.sleep

    def guarded_sleep(seconds: float) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            sleep(seconds)
            return
        raise AssertionError("time.sleep on the event loop's thread")

    monkeypatch.setattr(asyncio.events.Handle, "_run", timed)
    monkeypatch.setattr(time, "sleep", guarded_sleep)
    yield
    assert not slow, "event loop blocked: " + "; ".join(slow)


@pytest.fixture(autouse=True)
async def no_leaked_tasks(request: pytest.FixtureRequest) -> Any:
    """Fail the test when it leaves asyncio tasks behind. Runs only for tests with an event loop."""
    before = asyncio.all_tasks()
    yield
    for _ in range(5):  # done callbacks and closing transports get their turns
        await asyncio.sleep(0)
    leaked = [task for task in asyncio.all_tasks() - before if task is not asyncio.current_task() and not task.done()]
    for task in leaked:
        task.cancel()
    if leaked:
        await asyncio.wait(leaked, timeout=1)
    assert not leaked, f"tasks left behind: {[task.get_name() for task in leaked]}"
