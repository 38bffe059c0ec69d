"""Request bodies: JSON, or the protobuf that kubectl's typed commands send."""

from typing import Any

import msgspec

from edgeappliance.kubeapi.errors import bad_request, unsupported_media_type
from edgeappliance.kubeapi.protobuf import MEDIA_TYPE, ProtobufReader
from edgeappliance.kubeapi.request import JSON, ApiRequest

DEPTH_LIMIT = 128
"""Levels of nesting in an object: what walks it may use a stack frame or three for each."""


class BodyReader:
    """Reads the object of a request; the protobuf layout is loaded when the first such body comes."""

    def __init__(self) -> None:
        self._protobuf: ProtobufReader | None = None

    def read(self, request: ApiRequest) -> dict[str, Any]:
        """The object; StatusFailure 400 or 415 when it cannot be read."""
        media = request.content_type.partition(";")[0].strip()
        if media == MEDIA_TYPE:
            if self._protobuf is None:
                self._protobuf = ProtobufReader()
            return self._protobuf.read(request.body)
        if media not in ("", JSON):
            raise unsupported_media_type(
                f"the body of the request was in an unknown format ({media}) - accepted media types include: "
                f"{JSON}, {MEDIA_TYPE}"
            )
        value = decode_json(request.body)
        if not isinstance(value, dict):
            raise bad_request("the body of the request is no object")
        return value


def decode_json(body: bytes) -> Any:
    """A JSON value; StatusFailure 400 when it is none, or nested deeper than any object of Kubernetes is."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise bad_request(f"the body of the request cannot be read: {error}") from None
    if body.count(b"{") + body.count(b"[") > DEPTH_LIMIT:
        check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raise StatusFailure 400 for a value that is nested deeper than DEPTH_LIMIT."""
    level, depth = [value], 0
    while level:
        if depth > DEPTH_LIMIT:
            raise bad_request(f"the value is nested deeper than {DEPTH_LIMIT} levels")
        below: list[Any] = []
        for item in level:
            for child in item.values() if isinstance(item, dict) else item if isinstance(item, list) else ():
                if isinstance(child, dict | list):
                    below.append(child)
        level, depth = below, depth + 1
