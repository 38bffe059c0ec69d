"""One request to a kubelet through its node's tunnel, and the answer (reference 9.4)."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeappliance.kernel.errors import TransientError
from edgeappliance.kernel.tunnel import Channel
from edgeappliance.kernel.web.client import HttpUnreachable, Upgraded, upgrade
from edgeappliance.wire.tunnel import KUBELET_HOST, ConnectRequest, FrameType, TunnelURL

HEAD_TIMEOUT = 30.0
"""Seconds until the kubelet must have begun to answer."""


class NotReached(TransientError):
    """The node's kubelet cannot be asked now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeletCall:
    """What is asked: `path` decoded, `query` as in a URL, header names as the peer wrote them."""

    kind: FrameType
    path: str
    query: str = ""
    method: str = "GET"
    headers: Mapping[str, Sequence[str]] | None = None

    def connect(self) -> ConnectRequest:
        """The request in the *_CONNECT frame."""
        url = TunnelURL(Scheme="http", Host=KUBELET_HOST, Path=self.path, RawQuery=self.query)
        header = {name: list(values) for name, values in (self.headers or {}).items()}
        return ConnectRequest(MessID=0, url=url, header=header, method=self.method)


class Opener(Protocol):
    """What opens channels: the session of a node."""

    ours: bool

    def open(self, kind: FrameType, request: ConnectRequest) -> Channel: ...


class KubeletAnswer(AsyncIterator[bytes]):
    """The answer to a GET; iterate for its body, which ends early when the tunnel breaks (OSError).

    Always `close` it.
    """

    def __init__(self, status: int, content_type: str, channel: Channel) -> None:
        self.status = status
        self.content_type = content_type
        self._channel = channel

    async def __anext__(self) -> bytes:
        data = await self._channel.read()
        if not data:
            raise StopAsyncIteration
        return data

    async def read(self, limit: int) -> bytes:
        """The body, cut at `limit` bytes. Raises OSError."""
        parts = bytearray()
        async for data in self:
            parts += data
            if len(parts) >= limit:
                break
        return bytes(parts[:limit])

    async def close(self) -> None:
        """Want no more of it. Idempotent."""
        self._channel.end()

    aclose = close
    """As a generator has it: who serves the body ends it."""


async def fetch(opener: Opener, call: KubeletCall, *, timeout: float = HEAD_TIMEOUT) -> KubeletAnswer:
    """GET. Raises NotReached. KubeEdge's edges do not tell the status: it is 200 there."""
    channel = _open(opener, call)
    if not opener.ours:
        return KubeletAnswer(200, "text/plain; charset=utf-8", channel)
    try:
        async with asyncio.timeout(timeout):
            answer = await channel.answer()
    except TimeoutError:
        channel.end()
        raise NotReached(f"the kubelet did not answer within {timeout:g} s") from None
    except OSError as error:
        raise NotReached(str(error)) from None
    except BaseException:
        channel.end()
        raise
    if answer is None:
        channel.end()
        raise NotReached("the edge ended the stream without an answer")
    return KubeletAnswer(answer.status, answer.contentType or "text/plain; charset=utf-8", channel)


async def ask_upgrade(opener: Opener, call: KubeletCall, *, timeout: float = HEAD_TIMEOUT) -> Upgraded:
    """An upgrade: the new pipe with status 101, else what the kubelet said. Raises NotReached."""
    channel = _open(opener, call)
    asked = _Asked(channel)
    try:
        answer = await upgrade(asked, call.method, "/", headers={"Upgrade": "SPDY/3.1"}, timeout=timeout)
    except HttpUnreachable as error:
        raise NotReached(error.message) from None
    finally:
        asked.asking = False
    return answer


def _open(opener: Opener, call: KubeletCall) -> Channel:
    try:
        return opener.open(call.kind, call.connect())
    except OSError as error:
        raise NotReached(str(error)) from None


class _Asked:
    """A channel on which the request has gone already, in the *_CONNECT frame."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.asking = True

    async def read(self) -> bytes:
        return await self._channel.read()

    async def write(self, data: bytes) -> None:
        if not self.asking:
            await self._channel.write(data)

    async def close(self) -> None:
        self._channel.end()
