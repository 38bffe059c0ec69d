"""Ending the process of an exec that nobody listens to any more: the engine itself has no call for that."""

import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any


async def end_exec(look: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
    """SIGKILL to the process of an exec, if it still runs. `look` inspects the exec.

    Asked again once the process is held by a descriptor, so that it cannot be another one with the same number.
    """
    pid = _pid(await look())
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
