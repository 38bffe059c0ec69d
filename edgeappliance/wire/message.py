"""The message: one JSON document in one websocket message (reference 2.1, 2.3)."""

import time
import uuid
from typing import Any, TypeVar

import msgspec

from edgeappliance.wire import gojson
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.limits import MAX_ID, MAX_MESSAGE, MAX_RESOURCE, MAX_WORD
from edgeappliance.wire.operations import Operation

T = TypeVar("T")

_INT64 = 2**63


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Identity of a message. `timestamp` is Unix milliseconds, `resourceversion` a decimal text or empty."""

    msg_id: str = ""
    parent_msg_id: str = ""
    timestamp: int = 0
    resourceversion: str = ""
    sync: bool = False
    type: str = ""


class Route(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where a message comes from, which kind of receiver it is for, and what it is about."""

    source: str = ""
    destination: str = ""
    group: str = ""
    operation: str = ""
    resource: str = ""


class _HeaderOut(msgspec.Struct, omit_defaults=True):
    """Header as it is written: msg_id and timestamp always, the others only when set."""

    msg_id: str
    parent_msg_id: str = ""
    timestamp: int = -_INT64
    resourceversion: str = ""
    sync: bool = False
    type: str = ""


class _MessageOut(msgspec.Struct):
    header: _HeaderOut
    route: Route
    content: msgspec.Raw


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message. `content` stays raw JSON until somebody asks for it as a type."""

    header: Header = Header()
    route: Route = Route()
    content: msgspec.Raw = msgspec.Raw(b"null")

    @classmethod
    def new(
        cls,
        *,
        source: str = "",
        group: str = "",
        operation: str = "",
        resource: str = "",
        content: Any = None,
        resource_version: str = "",
        msg_id: str | None = None,
        timestamp: int | None = None,
        parent_id: str = "",
        destination: str = "",
    ) -> "Message":
        """A message with a fresh id and the current time unless given. `content` is any JSON-able value or Raw."""
        return cls(
            Header(
                msg_id=str(uuid.uuid4()) if msg_id is None else msg_id,
                parent_msg_id=parent_id,
                timestamp=time.time_ns() // 1_000_000 if timestamp is None else timestamp,
                resourceversion=resource_version,
            ),
            Route(source, destination, group, operation, resource),
            content if isinstance(content, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(content)),
        )

    @property
    def id(self) -> str:
        return self.header.msg_id

    @property
    def parent_id(self) -> str:
        return self.header.parent_msg_id

    @property
    def resource_version(self) -> str:
        return self.header.resourceversion

    @property
    def source(self) -> str:
        return self.route.source

    @property
    def group(self) -> str:
        return self.route.group

    @property
    def operation(self) -> str:
        return self.route.operation

    @property
    def resource(self) -> str:
        return self.route.resource

    def reply(
        self,
        content: Any,
        *,
        source: str | None = None,
        group: str | None = None,
        operation: str = Operation.RESPONSE,
        resource: str | None = None,
        resource_version: str = "",
    ) -> "Message":
        """An answer: new id, parent id set, same source, group and resource unless given."""
        return Message.new(
            source=self.source if source is None else source,
            group=self.group if group is None else group,
            operation=operation,
            resource=self.resource if resource is None else resource,
            content=content,
            resource_version=resource_version,
            parent_id=self.id,
        )

    def error(self, text: str) -> "Message":
        """The generic error reply: resource copied, source and group empty, content the text (reference F6)."""
        return Message.new(operation=Operation.ERROR, resource=self.resource, content=text, parent_id=self.id)

    def routed(self, **changes: str) -> "Message":
        """The same message with parts of its route replaced; header and content stay."""
        return msgspec.structs.replace(self, route=msgspec.structs.replace(self.route, **changes))

    def content_as(self, kind: type[T]) -> T:
        """The content as `kind`, read by Go's rules. Raises WireError naming the field below `content`."""
        return gojson.loads(bytes(self.content), kind, field="content")

    def content_value(self) -> Any:
        """The content as plain Python values. Raises WireError."""
        try:
            return msgspec.json.decode(self.content)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise WireError(str(error), field="content") from None

    def content_bytes(self) -> bytes:
        """The content the way upstream hands it to a consumer of bytes: a string's own bytes, else its JSON text."""
        raw = bytes(self.content)
        if raw.startswith(b'"'):
            return self.content_as(str).encode()
        return raw

    @property
    def is_ok(self) -> bool:
        """Whether the content is exactly "OK"."""
        return bytes(self.content) == b'"OK"'


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Message)


def encode(message: Message) -> bytes:
    """The message as it stands on the wire: Go-escaped JSON and a newline."""
    header = message.header
    out = _MessageOut(
        _HeaderOut(
            header.msg_id,
            header.parent_msg_id,
            header.timestamp,
            header.resourceversion,
            header.sync,
            header.type,
        ),
        message.route,
        message.content,
    )
    return gojson.escape(_encoder.encode(out)) + b"\n"


def decode(data: bytes | str) -> Message:
    """One message from the text or bytes of one websocket message. Raises WireError."""
    if len(data) > MAX_MESSAGE:
        raise WireError(f"longer than {MAX_MESSAGE} bytes")
    try:
        message = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        message = gojson.loads(data, Message)
    _check(message)
    return message


def _check(message: Message) -> None:
    header, route = message.header, message.route
    if len(header.msg_id) > MAX_ID or len(header.parent_msg_id) > MAX_ID:
        raise WireError(f"longer than {MAX_ID}", field="header.msg_id")
    if not -_INT64 <= header.timestamp < _INT64:
        raise WireError("outside 64 bits", field="header.timestamp")
    if len(header.resourceversion) > MAX_WORD:
        raise WireError(f"longer than {MAX_WORD}", field="header.resourceversion")
    if len(header.type) > MAX_WORD:
        raise WireError(f"longer than {MAX_WORD}", field="header.type")
    if len(route.resource) > MAX_RESOURCE:
        raise WireError(f"longer than {MAX_RESOURCE}", field="route.resource")
    for name in ("source", "destination", "group", "operation"):
        if len(getattr(route, name)) > MAX_WORD:
            raise WireError(f"longer than {MAX_WORD}", field=f"route.{name}")
