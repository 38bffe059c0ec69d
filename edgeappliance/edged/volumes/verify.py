"""Whether a running container sees what was meant for it.

The engine takes a path as a text and walks it by itself. Between our walk and its own, another container of the pod
may exchange a directory of a shared volume for a link; so what was mounted is compared with the volume afterwards.
The comparison is between lines of /proc/<pid>/mountinfo (proc(5)): which part of which file system is mounted where.
"""

import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

_ESCAPED = re.compile(r"\\([0-7]{3})")
_DELETED = "//deleted"


@dataclass(frozen=True, slots=True)
class Place:
    """A directory or file by file system (`major:minor`) and path within it."""

    device: str
    path: str

    def holds(self, other: "Place") -> bool:
        """Whether `other` is this or below it."""
        if self.device != other.device:
            return False
        return other.path == self.path or other.path.startswith(self.path.rstrip("/") + "/")


@dataclass(frozen=True, slots=True)
class MountLine:
    """One line of mountinfo: `root` of the file system `device` is mounted on `target`."""

    id: int
    device: str
    root: str
    target: str


def parse_mountinfo(text: str) -> list[MountLine]:
    """The lines in their order: of two with one target the later covers the earlier."""
    found = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) > 4 and fields[0].isdecimal():
            found.append(MountLine(int(fields[0]), fields[2], _plain(fields[3]), _plain(fields[4])))
    return found


def _plain(field: str) -> str:
    text = _ESCAPED.sub(lambda match: chr(int(match.group(1), 8)), field)
    # The kernel writes bytes, of which the escapes are some: a name in UTF-8 has none of them but space and backslash.
    return text.removesuffix(_DELETED)


def mounted_at(lines: Iterable[MountLine], target: str) -> Place | None:
    """What is mounted on `target`."""
    wanted = posixpath.normpath(target)
    found = None
    for line in lines:
        if line.target == wanted:
            found = Place(line.device, line.root)
    return found


def place_of(descriptor: int) -> Place:
    """Where an open file or directory lies. Blocking; raises OSError."""
    path = os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)")
    mount_id = _mount_id(descriptor)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        lines = parse_mountinfo(file.read())
    for line in lines:
        if line.id == mount_id:
            inner = os.path.relpath(path, line.target)
            return Place(line.device, posixpath.normpath(posixpath.join(line.root, inner)))
    raise FileNotFoundError(2, "the file system of this path is not mounted", path)


def _mount_id(descriptor: int) -> int:
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "mnt_id":
                return int(value)
    raise FileNotFoundError(2, "the kernel does not tell the mount of a descriptor")


def container_mounts(pid: int) -> list[MountLine] | None:
    """The mounts that a process sees; None when it has ended. Blocking."""
    try:
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return parse_mountinfo(file.read())
    except (FileNotFoundError, ProcessLookupError, OSError):
        return None
