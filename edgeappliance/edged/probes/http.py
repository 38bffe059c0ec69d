"""One HTTP GET as probes and hooks send it, on the event loop."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import h11

from edgeappliance.edged.pods.spec import HttpHeader
from edgeappliance.edged.probes.dial import DialFailed, dial
from edgeappliance.kernel.http import close_all

MAX_BODY = 10 * 1024
"""Bytes of an answer that are looked at, as a kubelet does."""

MAX_HEAD = 64 * 1024
MAX_REDIRECTS = 10
_CHUNK = 16 * 1024
_TERMINATED = "Probe terminated redirects"


class HttpFailed(Exception):
    """No answer came; the text is what a kubelet's HTTP client says."""


@dataclass(frozen=True, slots=True)
class Url:
    """Where a probe goes. `target` is the path with its query."""

    scheme: str
    host: str
    port: int
    target: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def joined(self, location: str) -> "Url | None":
        """Where a redirect leads; None when it cannot be read or leaves HTTP."""
        try:
            parts = urlsplit(urljoin(str(self), location))
            scheme, host = parts.scheme.lower(), parts.hostname or ""
            port = parts.port or (443 if scheme == "https" else 80)
        except ValueError:
            return None
        if scheme not in ("http", "https") or not host:
            return None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Url(scheme, host, port, target)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status and the first MAX_BODY bytes. stopped: why a redirect was not followed, "" otherwise."""

    status: int
    body: bytes
    stopped: str = ""


async def get(url: Url, headers: Sequence[HttpHeader], *, agent: str) -> HttpAnswer:
    """GET, following redirects to the same host only (Kubernetes documentation, "HTTP probes").

    The caller bounds the time. Certificates are not verified: a probe goes to a container of this very box. Raises
    HttpFailed.
    """
    host = url.host
    for _ in range(MAX_REDIRECTS):
        answer, location = await _once(url, headers, agent=agent)
        if location is None:
            return answer
        onward = url.joined(location)
        if onward is None:
            return answer
        if onward.host != host:
            return HttpAnswer(answer.status, answer.body, _TERMINATED)
        url = onward
    return HttpAnswer(answer.status, answer.body, _TERMINATED)


async def _once(url: Url, headers: Sequence[HttpHeader], *, agent: str) -> tuple[HttpAnswer, str | None]:
    """One request: the answer, and where it redirects to."""
    try:
        reader, writer = await dial(url.host, url.port, tls=_no_verification() if url.scheme == "https" else None)
        try:
            return await _talk(url, headers, agent, reader, writer)
        finally:
            writer.transport.abort()  # nothing of it is wanted any more, not even a TLS good-bye
            await close_all([writer])
    except (h11.ProtocolError, DialFailed, OSError, EOFError) as error:
        raise HttpFailed(f'Get "{url}": {error or "EOF"}') from None


async def _talk(
    url: Url, headers: Sequence[HttpHeader], agent: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[HttpAnswer, str | None]:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    request = h11.Request(method="GET", target=url.target.encode(), headers=request_headers(url, headers, agent=agent))
    writer.write(connection.send(request) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()
    response: h11.Response | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) >= MAX_BODY:
                break
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed) or event is h11.PAUSED:
            break
    if response is None:
        raise EOFError
    location = None
    if response.status_code in (301, 302, 303, 307, 308):
        location = next((v.decode("latin-1") for k, v in response.headers if k == b"location"), None)
    return HttpAnswer(response.status_code, bytes(body[:MAX_BODY])), location


def request_headers(url: Url, headers: Sequence[HttpHeader], *, agent: str) -> list[tuple[bytes, bytes]]:
    """The request's headers: User-Agent and Accept unless the pod names them; one named with "" is left out."""
    named = {header.name.lower() for header in headers}
    host = next((h.value for h in headers if h.name.lower() == "host" and h.value), url.authority)
    made = [("Host", host)]
    made += [(k, v) for k, v in (("User-Agent", agent), ("Accept", "*/*")) if k.lower() not in named]
    made += [(h.name, h.value) for h in headers if h.value and h.name.lower() != "host"]
    return [(name.encode(), value.encode()) for name, value in (*made, ("Connection", "close"))]


def _no_verification() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
