"""The single files and directories of a pod on this machine. Blocking."""

import os
import stat
from pathlib import Path

KEPT_MESSAGES = 101
"""Termination messages kept of a container: of as many ended attempts as may be kept, and of the present one."""


def make_private(directory: Path) -> None:
    """The directory with its parents, for root and its group alone: containers get what lies in it by mounts."""
    for parent in reversed((directory, *directory.parents)):
        if not parent.is_dir():  # mkdir(parents=True) would make them for everybody
            parent.mkdir(mode=0o750, exist_ok=True)


def make_shared(path: Path, *, group: int | None) -> None:
    """An empty directory that every user of the pod may write, unless it is there. group: the pod's fsGroup, which
    new files get too."""
    if path.is_dir() and not path.is_symlink():
        return
    fresh = path.with_name(f".new-{path.name}")
    fresh.mkdir(mode=0o700, exist_ok=True)
    mode = 0o777
    if group is not None:
        os.chown(fresh, -1, group)
        mode |= stat.S_ISGID
    fresh.chmod(mode)
    fresh.rename(path)  # a run killed half-way leaves none with half its rights


def make_message_file(path: Path, attempt: int) -> None:
    """An empty file that any user of the container may write. Those of attempts long ago are removed."""
    make_private(path.parent)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o666)
    finally:
        os.close(descriptor)
    for name in os.listdir(path.parent):
        if name.isdecimal() and int(name) <= attempt - KEPT_MESSAGES:
            (path.parent / name).unlink()


def write_in_place(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Make the file hold `data`, the same file: running containers have it mounted. A reader may see a mixture."""
    make_private(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        if os.fstat(descriptor).st_size == len(data) and os.pread(descriptor, len(data) + 1, 0) == data:
            return
        os.fchmod(descriptor, mode)
        written = 0
        while written < len(data):  # a disk that fills up takes a part first, and refuses then
            written += os.pwrite(descriptor, data[written:], written)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def read_text(path: Path, *, limit: int) -> str:
    """At most `limit` bytes of a regular file as text; "" when there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return os.pread(descriptor, limit, 0).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
