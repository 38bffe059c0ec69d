"""What the cloud may ask of the kubelet API, and how it is asked. Pure (reference 9.4).

The cloud names a whole URL; only path and query of it count, and only the kubelet's routes that streams are for.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from edgeappliance.wire.errors import WireError
from edgeappliance.wire.tunnel import RAW, ConnectRequest, FrameType, path_kind

_UPGRADES = ("spdy/3.1", "websocket")
_HEADERS = frozenset(
    {
        "accept",
        "content-type",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "user-agent",
        "x-stream-protocol-version",
    }
)
"""Headers that reach the kubelet API. Credentials and what speaks of connections do not."""

MAX_TARGET = 48 * 1024
MAX_HEADERS = 64
MAX_VALUE = 4096

_QUERY = re.compile(r"[!-~]*")
_VALUE = re.compile(r"[ -~]*")


@dataclass(frozen=True, slots=True)
class KubeletRequest:
    """One request to the kubelet API. `raw`: the connection becomes something else than HTTP."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    raw: bool

    def head(self) -> bytes:
        """The request as bytes on the wire, for a raw one."""
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.method != "GET":
            lines.append("Content-Length: 0")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def kubelet_request(kind: FrameType, request: ConnectRequest) -> KubeletRequest:
    """What is asked of the kubelet for a *_CONNECT frame. Raises WireError naming the field."""
    raw = kind in RAW
    method = (request.method or "GET") if raw else "GET"
    if method not in ("GET", "POST"):
        raise WireError(f"{method[:20]!r} is neither GET nor POST", field="connect.method")
    path = request.url.Path
    if path_kind(path) is not kind:
        raise WireError(f"{path[:200]!r} is no path of the kubelet for {kind.name}", field="connect.url.Path")
    query = request.url.RawQuery
    if not _QUERY.fullmatch(query) or "#" in query:
        raise WireError("holds what no query may hold", field="connect.url.RawQuery")
    target = quote(path, safe="/:@!$&'()*+,;=~-._")
    if query:
        target = f"{target}?{query}"
    if len(target) > MAX_TARGET:
        raise WireError(f"longer than {MAX_TARGET} bytes", field="connect.url")
    headers = _headers(request.header or {})
    if raw:
        headers += [("Connection", "Upgrade"), ("Upgrade", _upgrade(request.header or {}))]
    else:
        headers.append(("Accept-Encoding", "identity"))
    return KubeletRequest(method, target, headers, raw)


def _headers(given: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, values in given.items():
        if name.lower() not in _HEADERS:
            continue
        for value in values:
            if len(value) > MAX_VALUE or not _VALUE.fullmatch(value):
                raise WireError("holds what no header may hold", field=f"connect.header.{name}")
            found.append((name, value))
    if len(found) > MAX_HEADERS:
        raise WireError(f"more than {MAX_HEADERS}", field="connect.header")
    return found


def _upgrade(given: Mapping[str, Sequence[str]]) -> str:
    """The protocol that is asked for; KubeEdge's edge always takes SPDY."""
    for name, values in given.items():
        if name.lower() == "upgrade" and values and values[0].lower() in _UPGRADES:
            return values[0]
    return "SPDY/3.1"
