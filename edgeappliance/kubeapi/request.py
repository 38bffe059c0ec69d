"""Requests and responses of the API without a transport, and the grammar of its URLs."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from edgeappliance.kubeapi.errors import bad_request

JSON = "application/json"
BODY_LIMIT = 3 * 1024 * 1024
"""Bytes of a request body, as upstream has it."""
QUERY_LIMIT = 64
"""Parameters of a query."""


@dataclass(frozen=True, slots=True)
class User:
    """Who asks: as the transport authenticated it."""

    name: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """One request. `path` is decoded, `query` holds the last value of each parameter."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    content_type: str = ""
    accept: str = ""
    user: User | None = None

    @classmethod
    def of(
        cls,
        method: str,
        target: str,
        *,
        body: bytes = b"",
        content_type: str = "",
        accept: str = "",
        user: User | None = None,
    ) -> "ApiRequest":
        """From a raw request target (`/api/v1/pods?limit=1`); StatusFailure 400 for too many parameters."""
        path, _, query = target.partition("?")
        try:
            parameters = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=QUERY_LIMIT)) if query else {}
        except ValueError:
            raise bad_request(f"the query has more than {QUERY_LIMIT} parameters") from None
        return cls(
            method=method,
            path=unquote(path),
            query=parameters,
            body=body,
            content_type=content_type,
            accept=accept,
            user=user,
        )


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """One answer: `body` is bytes, or a stream of frames for a watch. `warnings` become Warning headers."""

    status: int
    body: bytes | AsyncIterator[bytes]
    content_type: str = JSON
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """What a resource URL names. Empty `version` never occurs; empty `name` means the collection."""

    group: str
    version: str
    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def parse_target(path: str) -> Target | None:
    """A resource URL taken apart; None when the path has not that form (discovery, health)."""
    if "//" in path:  # an empty namespace must not mean all of them, least of all to a DELETE
        return None
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) >= 3:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= 3 and not (len(rest) == 3 and rest[2] in ("status", "finalize")):
        namespace, rest = rest[1], rest[2:]
    if len(rest) > 3 or not all(rest):
        return None
    return Target(
        group, version, rest[0], namespace, rest[1] if len(rest) > 1 else "", rest[2] if len(rest) > 2 else ""
    )


def flag(query: Mapping[str, str], name: str) -> bool:
    """A boolean query parameter, read as Go's strconv does; absent is false."""
    text = query.get(name)
    if text is None or text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    if text in ("", "1", "t", "T", "true", "TRUE", "True"):
        return True
    raise bad_request(f"{name}: {text!r} is neither true nor false")


def number(query: Mapping[str, str], name: str, *, maximum: int) -> int:
    """A non-negative integer query parameter; absent or empty is 0."""
    text = query.get(name) or "0"
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise bad_request(f"{name}: {text[:40]!r} is not a number")
    return min(int(text), maximum)


@dataclass(frozen=True, slots=True)
class View:
    """In which form the client wants an answer: `as_` is "", Table, PartialObjectMetadata(List)
    or APIGroupDiscoveryList; `version` is the version of that form."""

    as_: str = ""
    version: str = ""


def accepted_views(accept: str) -> list[View]:
    """The JSON forms that an Accept header takes, in its order; empty when it takes no JSON at all."""
    if not accept:
        return [View()]
    found = []
    for item in accept.split(",")[:32]:
        media, *parameters = (part.strip() for part in item.split(";"))
        if media not in (JSON, "*/*", "application/*"):
            continue
        options = dict(parameter.partition("=")[::2] for parameter in parameters)
        found.append(View(options.get("as", ""), options.get("v", "")))
    return found
