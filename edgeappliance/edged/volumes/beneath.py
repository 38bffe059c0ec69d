"""Walking to a path that must stay below a directory, although a container may exchange parts of it meanwhile.

Every step opens one name relative to the last directory and follows no link by itself; links are read and walked by
the same steps, so that none leaves the volume (what CVE-2017-1002101 and CVE-2021-25741 were about). Blocking.
"""

import os
import stat
from collections import deque
from pathlib import Path

MAX_LINKS = 40
MAX_DEPTH = 128
"""Directories below the root: each costs a descriptor."""


class Escape(ValueError):
    """The path leaves its directory, or cannot be walked."""


def open_beneath(root: Path, path: str, *, make: int | None = None) -> tuple[int, str]:
    """An O_PATH descriptor of `path` below `root`, which the caller closes, and the way to it without links.

    `root` itself may be reached through links.
    make: permission bits with which missing directories are made; None: FileNotFoundError. `path` is what a person
    wrote and may hold no `..`; links that are found may, as long as they stay below `root`. Raises Escape, OSError.
    """
    if "\0" in path:
        raise Escape("must not contain NUL")
    if path.startswith("/"):
        raise Escape("must be a relative path")
    if ".." in path.split("/"):
        raise Escape("must not contain '..'")
    stack = [(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), "")]
    try:
        _walk(stack, deque(path.split("/")), make)
        way = "/".join(name for _, name in stack[1:])
        return stack.pop()[0], way
    finally:
        for descriptor, _ in stack:
            os.close(descriptor)


def _walk(stack: list[tuple[int, str]], parts: deque[str], make: int | None) -> None:
    links = 0
    while parts:
        part = parts.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            if len(stack) == 1:
                raise Escape("a link leads out of the volume")
            os.close(stack.pop()[0])
            continue
        descriptor = _step(stack[-1][0], part, make)
        if not stat.S_ISLNK(os.fstat(descriptor).st_mode):
            stack.append((descriptor, part))
            if len(stack) > MAX_DEPTH:
                raise Escape(f"is deeper than {MAX_DEPTH} directories")
            continue
        try:
            target = os.readlink("", dir_fd=descriptor)
        finally:
            os.close(descriptor)
        links += 1
        if links > MAX_LINKS:
            raise Escape("has too many links")
        if target.startswith("/"):
            raise Escape("a link leads out of the volume")
        parts.extendleft(reversed(target.split("/")))


def _step(parent: int, name: str, make: int | None) -> int:
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        if make is None:
            raise
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return os.open(name, flags, dir_fd=parent)  # made by somebody else just now: looked at like any other
    made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        # The group bit of the parent is inherited and stays: it is how fsGroup reaches new directories.
        os.fchmod(made, make | (os.fstat(made).st_mode & stat.S_ISGID))
    finally:
        os.close(made)
    return os.open(name, flags, dir_fd=parent)
