"""What containers put on the engine's disk: their logs and their writable layers.

The engine's own figure (`GET /containers/json?size=1`) walks through every container of the machine; here only those
are looked at whose pods have a limit. Where the engine keeps them is no published interface: overlay2 with json-file
logs, as every engine up to now; with another storage driver a writable layer counts as nothing.
"""

import re
from pathlib import Path

from edgeappliance.edged.volumes.tree import Usage, measure

_ID = re.compile(r"[0-9a-f]{64}")
_LAYER = re.compile(r"[0-9a-z-]{1,128}")


def container_use(root: Path, id: str) -> Usage:
    """Of one container; `root` is the engine's data directory. Blocking."""
    if not _ID.fullmatch(id):
        return Usage()
    logs = 0
    inodes = 0
    for log in (root / "containers" / id).glob(f"{id}-json.log*"):
        try:
            logs += log.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue  # rotated away
        inodes += 1
    layer = _layer(root, id)
    written = measure(layer) if layer is not None else Usage()
    return Usage(logs + written.bytes, inodes + written.inodes)


def _layer(root: Path, id: str) -> Path | None:
    try:
        name = (root / "image/overlay2/layerdb/mounts" / id / "mount-id").read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return root / "overlay2" / name / "diff" if _LAYER.fullmatch(name) else None
