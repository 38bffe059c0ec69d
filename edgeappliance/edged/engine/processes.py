"""Ending the process of an exec that nobody listens to any more: the engine itself has no call for that."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

START_TIMEOUT = 3.0
"""Seconds in which an exec that was asked for has begun."""


async def end_exec(look: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
    """SIGKILL to the process of an exec, if it still runs. `look` inspects the exec.

    Asked again once the process is held by a descriptor, so that it cannot be another one with the same number.
    """
    document = await look()
    waited = 0.0
    while document.get("ExitCode") is None and not document.get("Pid") and waited < START_TIMEOUT:
        await asyncio.sleep(0.05)  # it has no process yet, and would go on alone
        waited += 0.05
        document = await look()
    pid = _pid(document)
    if pid == 0:
        return
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return  # it has ended meanwhile, or it is in a namespace of processes that we do not see
    try:
        if _pid(await look()) == pid:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.close(descriptor)


def _pid(document: Mapping[str, Any]) -> int:
    pid = document.get("Pid")
    return pid if document.get("Running") and isinstance(pid, int) and pid > 1 else 0
