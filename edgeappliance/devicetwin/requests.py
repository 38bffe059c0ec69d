"""MQTT payloads and topics of the twin, parsed once (KubeEdge reference 4.3, 4.4)."""

from enum import StrEnum
from typing import NamedTuple, TypeVar

import msgspec

from edgeappliance.wire import gojson
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.limits import MAX_TWIN_PAYLOAD

T = TypeVar("T")

DEVICE_PREFIX = "$hw/events/device/"
NODE_PREFIX = "$hw/events/node/"
NO_DEVICE_RESULT = DEVICE_PREFIX + "/twin/update/result"
"""Where a request is refused before its device is looked at: upstream leaves the id empty."""


class Request(StrEnum):
    """What an app asks for; the value is the end of its topic."""

    TWIN_UPDATE = "twin/update"
    TWIN_GET = "twin/get"
    CLOUD_UPDATED = "twin/cloud_updated"
    STATE_UPDATE = "state/update"
    MEMBERSHIP_GET = "membership/get"


class Address(NamedTuple):
    """A parsed topic: the request and the id of its device, or of its node for a membership request."""

    request: Request
    id: str


_DEVICE_REQUESTS = {
    request.value: request
    for request in (Request.TWIN_UPDATE, Request.TWIN_GET, Request.CLOUD_UPDATED, Request.STATE_UPDATE)
}


def parse_topic(topic: str) -> Address | None:
    """The request on this topic, None when it is none of ours.

    The id is read by position; upstream searches for the namespace as text and fails for those that occur in
    the topic's prefix, such as `hw` or `device` (KubeEdge reference 4.2).
    """
    parts = topic.split("/")
    if len(parts) == 7 and topic.startswith(DEVICE_PREFIX):
        request = _DEVICE_REQUESTS.get(f"{parts[5]}/{parts[6]}")
        return None if request is None else Address(request, f"{parts[3]}/{parts[4]}")
    if len(parts) == 6 and topic.startswith(NODE_PREFIX) and topic.endswith("/membership/get"):
        return Address(Request.MEMBERSHIP_GET, parts[3])
    return None


def parse(payload: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The payload by Go's rules: any case of keys, unknown keys ignored, null for a zero value; one document.

    Raises WireError.
    """
    if len(payload) > MAX_TWIN_PAYLOAD:
        raise WireError(f"longer than {MAX_TWIN_PAYLOAD} bytes")
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        # The lenient reader stops after the first document; here nothing may follow it.
        msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(str(error)) from None
    return gojson.loads(payload, decoder.type)
