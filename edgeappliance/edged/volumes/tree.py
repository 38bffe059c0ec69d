"""Removing and measuring trees that containers have filled as they liked. Blocking."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

MAX_ENTRIES = 2_000_000
"""Entries after which a measurement stops."""

BATCH = 1000
"""Entries of a directory that are held at once."""


@dataclass(frozen=True, slots=True)
class Usage:
    """bytes: as allocated on the disk."""

    bytes: int = 0
    inodes: int = 0


def remove_tree(directory: Path) -> None:
    """Remove `directory` and everything in it; no error when it is gone. Raises OSError.

    Every directory is moved up to the top before it is opened: any depth needs two descriptors, a link is never
    followed, and what something is mounted on cannot be moved, so that nothing of another file system is removed.
    """
    try:
        if stat.S_ISLNK(directory.lstat().st_mode):
            directory.unlink()
            return
        top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _empty(top)
    finally:
        os.close(top)
    directory.rmdir()


def _empty(top: int) -> None:
    number = 0
    while batch := _some(top):
        for name, is_directory in batch:
            if not is_directory:
                _unlink(top, name)
                continue
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
            try:
                while inner_batch := _some(descriptor):
                    for inner, inner_is_directory in inner_batch:
                        if not inner_is_directory:
                            _unlink(descriptor, inner)
                            continue
                        number += 1
                        # A name that nothing has: what is there may look like ours after a half-done removal.
                        moved = f".removed-{number}-{os.urandom(8).hex()}"
                        os.rename(inner, moved, src_dir_fd=descriptor, dst_dir_fd=top)
            finally:
                os.close(descriptor)
            os.rmdir(name, dir_fd=top)


def _some(descriptor: int) -> list[tuple[str, bool]]:
    """The next entries of a directory that is being emptied, and whether each is a directory."""
    with os.scandir(descriptor) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in islice(entries, BATCH)]


def _unlink(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass  # removed by somebody else


def measure(directory: Path) -> Usage:
    """What a tree takes on its file system. What vanishes meanwhile does not count; other file systems do not."""
    try:
        device = directory.lstat().st_dev
    except OSError:
        return Usage()
    total, inodes = 0, 1
    pending = [str(directory)]
    seen: set[int] = set()
    while pending and inodes < MAX_ENTRIES:
        path = pending.pop()
        try:
            with _entries(path) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if status.st_dev != device:
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(f"{path}/{entry.name}")
                    elif status.st_nlink > 1:
                        if status.st_ino in seen:
                            continue
                        seen.add(status.st_ino)
                    inodes += 1
                    total += status.st_blocks * 512
        except OSError:
            continue  # gone, or too deep for a path
    return Usage(total, inodes)


@contextmanager
def _entries(path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    """The entries of a directory that is not a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with os.scandir(descriptor) as entries:
            yield entries
    finally:
        os.close(descriptor)
