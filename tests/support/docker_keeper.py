"""Keeps one dockerd and all that it starts: run as a program by tests/support/dockerd.py, in namespaces of its own.

    docker_keeper.py ROOT CGROUP     then on stdin, a line each: a command to start, as a JSON list

A dockerd that is killed leaves its containers behind; being the subreaper of them all, this process ends them
when its stdin ends, however the test run ended, and removes ROOT. Standard library only.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def descendants(of: int = 0) -> list[int]:
    """Every process below this one (or below the process `of`), parents first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text()
        except OSError:
            continue
        children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found: list[int] = []
    rest = list(children.get(of or os.getpid(), ()))
    while rest:
        pid = rest.pop(0)
        found.append(pid)
        rest += children.get(pid, ())
    return found


def reap(*_: object) -> None:
    """Collect what has ended."""
    while True:
        try:
            pid, _status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def end_all(seconds: float) -> None:
    """Kill every descendant, parents first, until there is none."""
    give_up = time.monotonic() + seconds
    while (found := descendants()) and time.monotonic() < give_up:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
        reap()


def unmount(root: str) -> None:
    """Every mount below `root` in this namespace."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    below = [point for point in points if point.startswith(root + "/")]
    if below:
        subprocess.run(["umount", "-l", *reversed(below)], stderr=subprocess.DEVNULL, check=False)


def remove_cgroups(name: str) -> None:
    """Everything below the cgroup that the containers were put into."""
    for top in Path("/sys/fs/cgroup").glob(f"**/{name}"):
        for directory in (*sorted((p for p in top.glob("**/") if p != top), reverse=True), top):
            try:
                directory.rmdir()
            except OSError:
                continue


def main() -> None:
    root, cgroup = sys.argv[1:3]
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    signal.signal(signal.SIGCHLD, reap)
    print("ready", flush=True)
    log = os.open(f"{root}/dockerd.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for line in sys.stdin:
        arguments = json.loads(line)
        pid = os.posix_spawnp(
            arguments[0],
            arguments,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
        )
        print(pid, flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    end_all(10)
    unmount(root)
    remove_cgroups(cgroup)
    shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
