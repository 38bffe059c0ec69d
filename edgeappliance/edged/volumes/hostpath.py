"""hostPath volumes: the checks that their type asks for, in the kubelet's words. Blocking."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from edgeappliance.edged.pods.spec import HostPath

_WANTED = {
    "Directory": (stat.S_ISDIR, "a directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "a directory"),
    "File": (stat.S_ISREG, "a file"),
    "FileOrCreate": (stat.S_ISREG, "a file"),
    "Socket": (stat.S_ISSOCK, "a socket file"),
    "CharDevice": (stat.S_ISCHR, "a character device"),
    "BlockDevice": (stat.S_ISBLK, "a block device"),
}
_DEVICES = Path("/dev")


class HostPathError(ValueError):
    """Why a path of the host cannot be used."""


@dataclass(frozen=True, slots=True)
class HostSource:
    """device: the device node to which a container is permitted. create: there is nothing; the engine makes it."""

    path: str
    device: str = ""
    create: bool = False


def host_source(volume: HostPath) -> HostSource:
    """What the volume is on this host now. Makes an empty file for FileOrCreate."""
    path = volume.path
    if not path.startswith("/"):
        raise HostPathError(f"path: must be an absolute path: {path}")
    if ".." in path.split("/") or "\0" in path:
        raise HostPathError(f"path: must not contain '..': {path}")
    if volume.type not in ("", *_WANTED):
        raise HostPathError(f"invalid hostPath type: {volume.type}")
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return _absent(volume)
    except OSError as error:
        raise HostPathError(f"hostPath type check failed: {path}: {error.strerror}") from None
    if volume.type:
        check, word = _WANTED[volume.type]
        if not check(mode):
            raise HostPathError(f"hostPath type check failed: {path} is not {word}")
    return HostSource(path, device=_device(path, mode))


def _absent(volume: HostPath) -> HostSource:
    if volume.type in ("", "DirectoryOrCreate"):
        if ":" in volume.path:
            raise HostPathError(f"{volume.path}: a directory whose path has a colon can be used but not created")
        return HostSource(volume.path, create=True)
    if volume.type == "FileOrCreate":
        try:
            os.close(os.open(volume.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
        except OSError as error:
            raise HostPathError(f"hostPath type check failed: {volume.path}: {error.strerror}") from None
        return HostSource(volume.path)
    raise HostPathError(f"hostPath type check failed: {volume.path} is not {_WANTED[volume.type][1]}")


def _device(path: str, mode: int) -> str:
    """The device node behind `path`, also behind a link of /dev/serial/by-id.

    Only where both the path of the pod and what it leads to are below /dev: a container may make links and device
    nodes in other directories that it can write, and must not get at a device in this way.
    """
    if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
        return ""
    real = Path(os.path.realpath(path))
    return str(real) if Path(path).is_relative_to(_DEVICES) and real.is_relative_to(_DEVICES) else ""
