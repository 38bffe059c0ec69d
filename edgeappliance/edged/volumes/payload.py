"""From config maps and secrets to the files of a volume. Pure.

Rules: Kubernetes API reference, ConfigMapVolumeSource, SecretVolumeSource, KeyToPath.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeappliance.edged.pods.spec import KeyToPath

MAX_PATH = 4096
MAX_SEGMENT = 255
MAX_DEPTH = 32
"""Folders in the path of one file. Nothing useful is deeper, and each level costs a descriptor."""


class PayloadError(ValueError):
    """Why the files of a volume cannot be made."""


@dataclass(frozen=True, slots=True)
class File:
    """mode: permission bits. uid: its owner, None for root."""

    data: bytes
    mode: int = 0o644
    uid: int | None = None


Payload = Mapping[str, File]
"""Path relative to the volume -> file."""


def config_map_data(obj: Mapping[str, Any]) -> dict[str, bytes]:
    """Every key of a config map: `data` as UTF-8, `binaryData` decoded."""
    found = {key: _text(key, value) for key, value in _entries(obj, "data")}
    found.update((key, _decoded(key, value)) for key, value in _entries(obj, "binaryData"))
    return found


def secret_data(obj: Mapping[str, Any]) -> dict[str, bytes]:
    """Every key of a secret, decoded."""
    return {key: _decoded(key, value) for key, value in _entries(obj, "data")}


def _entries(obj: Mapping[str, Any], field: str) -> Iterable[tuple[str, Any]]:
    entries = obj.get(field)
    if entries is None:
        return ()
    if not isinstance(entries, dict):
        raise PayloadError(f"{field}: must be an object")
    return ((str(key), value) for key, value in entries.items())


def _text(key: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise PayloadError(f"data.{key}: must be a text")
    return value.encode("utf-8", "surrogatepass")


def _decoded(key: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise PayloadError(f"data.{key}: must be base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise PayloadError(f"data.{key}: illegal base64 data") from None


def select(
    data: Mapping[str, bytes], items: Sequence[KeyToPath], *, mode: int, optional: bool, kind: str
) -> dict[str, File]:
    """The files of one source: every key under its own name, or only `items` under their paths.

    kind: `config` or `secret`, for the kubelet's words about a missing key.
    """
    if not items:
        return {checked_path(key): File(value, checked_mode(mode)) for key, value in data.items()}
    files = {}
    for item in items:
        value = data.get(item.key)
        if value is None:
            if optional:
                continue
            whose = "configmap references" if kind == "config" else "references"
            raise PayloadError(f"{whose} non-existent {kind} key: {item.key}")
        files[checked_path(item.path)] = File(value, checked_mode(mode if item.mode is None else item.mode))
    return files


def merged(sources: Iterable[Payload]) -> dict[str, File]:
    """All files of a volume; of two with the same path the later one. No path may lie below another's file."""
    files: dict[str, File] = {}
    for source in sources:
        files.update(source)
    for path in files:
        parts = path.split("/")
        for end in range(1, len(parts)):
            if (above := "/".join(parts[:end])) in files:
                raise PayloadError(f"invalid path: {path}: {above} is a file")
    return files


def checked_path(path: str) -> str:
    """`path` in its shortest form. Refused: what is no path of a file below the volume, or could hide the volume's
    own entries (`..data`)."""
    if not path:
        raise PayloadError("invalid path: must not be empty")
    if "\0" in path:
        raise PayloadError("invalid path: must not contain NUL")
    if path.startswith("/"):
        raise PayloadError(f"invalid path: must be relative path: {path}")
    if path.startswith(".."):
        raise PayloadError(f"invalid path: must not start with '..': {path}")
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH:
        raise PayloadError(f"invalid path: must be less than or equal to {MAX_PATH} characters")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise PayloadError(f"invalid path: must not contain '..': {path}")
    if not parts or path.endswith("/"):
        raise PayloadError(f"invalid path: must name a file: {path}")
    if parts[0].startswith(".."):
        raise PayloadError(f"invalid path: must not start with '..': {path}")
    if len(parts) > MAX_DEPTH:
        raise PayloadError(f"invalid path: must have at most {MAX_DEPTH} segments: {path}")
    if any(len(part.encode("utf-8", "surrogatepass")) > MAX_SEGMENT for part in parts):
        raise PayloadError(f"invalid path: segments must be less than or equal to {MAX_SEGMENT} characters: {path}")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise PayloadError("invalid path: must be UTF-8") from None
    return "/".join(parts)


def checked_mode(mode: int) -> int:
    """Permission bits, 0 to 0777."""
    if not 0 <= mode <= 0o777:
        raise PayloadError(f"mode: must be a number between 0 and 0777 (octal), both inclusive: {mode:o}")
    return mode


def with_group(files: Payload) -> dict[str, File]:
    """The modes with which the pod's fsGroup can read what is read-only to it."""
    return {path: File(file.data, file.mode | 0o440, file.uid) for path, file in files.items()}
