"""subPath and subPathExpr of a volume mount."""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeappliance.edged.pods.spec import VolumeMount
from edgeappliance.edged.volumes.beneath import open_beneath
from edgeappliance.edged.volumes.errors import CONFIG_ERROR, VolumeError
from edgeappliance.edged.volumes.verify import Place, place_of

_REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")


@dataclass(frozen=True, slots=True)
class Resolved:
    """path: what to mount. volume and place: where the volume and that lie, to compare with afterwards."""

    path: str
    volume: Place
    place: Place


def sub_path(mount: VolumeMount, env: Sequence[str]) -> str:
    """The path below the volume, variables of subPathExpr replaced; "" for the volume itself. Pure."""
    if mount.sub_path_expr:
        path = _expanded(mount, dict(item.partition("=")[::2] for item in env))
        if not path:
            raise VolumeError(f'subPathExpr "{mount.sub_path_expr}" expands to nothing', reason=CONFIG_ERROR)
    else:
        path = mount.sub_path
    if not path:
        return ""
    if path.startswith("/"):
        raise VolumeError(f"error SubPath `{path}` must not be an absolute path", reason=CONFIG_ERROR)
    if ".." in path.split("/"):
        raise VolumeError(f"unable to provision SubPath `{path}`: must not contain '..'", reason=CONFIG_ERROR)
    return path


def _expanded(mount: VolumeMount, values: dict[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match.group(1) == "$":
            return "$"
        found = values.get(match.group(2))
        if found is None:
            raise VolumeError(f'missing value for "{match.group(2)}"', reason=CONFIG_ERROR)
        return found

    return _REFERENCE.sub(value, mount.sub_path_expr)


def resolve(root: Path, path: str, *, make: bool) -> Resolved:
    """What `path` is below `root`; missing directories are made with the volume's own permissions. Blocking.

    Raises Escape or OSError.
    """
    with _walked(root, path, make=make) as (top, descriptor, way):
        real = os.path.join(os.path.realpath(root), way)
        return Resolved(real, place_of(top), place_of(descriptor))


def resolve_in_memory(pid: int, seen: str, path: str, *, engine: Path, make: bool) -> Resolved:
    """The same for a file system that the engine mounted, perhaps where we do not see it: walked as the process `pid`
    sees it at `seen`; `engine` is where the engine has it. Blocking."""
    with _walked(Path(f"/proc/{pid}/root{seen}"), path, make=make) as (top, _, way):
        device = os.fstat(top).st_dev
        volume = Place(f"{os.major(device)}:{os.minor(device)}", "/")
        return Resolved(os.path.join(engine, way), volume, Place(volume.device, f"/{way}"))


@contextmanager
def _walked(root: Path, path: str, *, make: bool) -> Iterator[tuple[int, int, str]]:
    """Descriptors of the volume and of `path` in it, and the way between them."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mode = stat.S_IMODE(os.fstat(top).st_mode) & 0o777
        descriptor, way = open_beneath(Path(f"/proc/self/fd/{top}"), path, make=mode if make else None)
        try:
            yield top, descriptor, way
        finally:
            os.close(descriptor)
    finally:
        os.close(top)
