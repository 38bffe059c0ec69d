"""Lists and watch frames put together from objects that are already encoded."""

from collections.abc import Iterable

import msgspec

from edgeappliance.kubeapi.errors import StatusFailure


def object_list(
    api_version: str,
    kind: str,
    values: Iterable[bytes],
    *,
    version: int,
    continue_token: str = "",
    remaining: int | None = None,
) -> bytes:
    """A `<Kind>List` of encoded objects."""
    metadata: dict[str, object] = {"resourceVersion": str(version)}
    if continue_token:
        metadata["continue"] = continue_token
        if remaining is not None:
            metadata["remainingItemCount"] = remaining
    head = msgspec.json.encode({"kind": kind, "apiVersion": api_version, "metadata": metadata})
    return b"".join((head[:-1], b',"items":[', b",".join(values), b"]}"))


def watch_frame(type_: str, value: bytes) -> bytes:
    """One watch event, newline-terminated."""
    return b"".join((b'{"type":"', type_.encode(), b'","object":', value, b"}\n"))


def error_frame(failure: StatusFailure) -> bytes:
    """The ERROR event that ends a watch."""
    return watch_frame("ERROR", failure.encode())


def bookmark_frame(api_version: str, kind: str, version: int, *, initial_end: bool = False) -> bytes:
    """A BOOKMARK event; `initial_end` marks the end of the initial events of a streamed list."""
    metadata: dict[str, object] = {"resourceVersion": str(version), "creationTimestamp": None}
    if initial_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    value = {"kind": kind, "apiVersion": api_version, "metadata": metadata}
    return watch_frame("BOOKMARK", msgspec.json.encode(value))
