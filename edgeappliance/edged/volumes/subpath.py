"""subPath and subPathExpr of a volume mount."""

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeappliance.edged.pods.spec import VolumeMount
from edgeappliance.edged.volumes.beneath import open_beneath, real_path
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
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mode = stat.S_IMODE(os.fstat(top).st_mode) & 0o777
        volume = place_of(top)
        descriptor = open_beneath(Path(f"/proc/self/fd/{top}"), path, make=mode if make else None)
        try:
            return Resolved(real_path(descriptor), volume, place_of(descriptor))
        finally:
            os.close(descriptor)
    finally:
        os.close(top)
