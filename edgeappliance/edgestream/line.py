"""Dialling the tunnel: TLS as this node, the upgrade, and what a refusal means."""

import asyncio
import ssl
from collections.abc import Callable

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.uri import parse_uri

from edgeappliance.kernel.errors import TransientError
from edgeappliance.kernel.reach import reach
from edgeappliance.kernel.websocket import Listener, WebSocketLine
from edgeappliance.wire.limits import MAX_TUNNEL_DATA
from edgeappliance.wire.tunnel import ADDRESS_HEADER, CONNECT_PATH, NODE_HEADER, OURS_HEADER

PORT = 10004
"""The tunnel port of KubeEdge (reference 9.4)."""

OPEN_TIMEOUT = 10.0
MAX_FRAME = MAX_TUNNEL_DATA + 20
"""Two uvarints before the data."""

_STEP = f"check that this is the tunnel port of a KubeEdge cloud ({PORT})"


class TunnelRefused(TransientError):
    """The cloud did not take the tunnel."""


class ClientLine(WebSocketLine):
    """The edge's end of the websocket. `opened` resolves when the upgrade is done."""

    def __init__(self, url: str, node: str, listen: Callable[["ClientLine"], Listener]) -> None:
        self._listen = listen
        self._client = ClientProtocol(parse_uri(url), max_size=MAX_FRAME)
        super().__init__(self._client)
        self._node = node
        self.ours = False
        """Whether the cloud is of this project."""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Resolves with the reason once the connection is gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        request = self._client.connect()
        request.headers[NODE_HEADER] = self._node
        address = transport.get_extra_info("sockname")
        request.headers[ADDRESS_HEADER] = str(address[0]) if address else ""
        request.headers[OURS_HEADER] = "1"
        self._client.send_request(request)
        self._flush()

    def handshake(self, event: Request | Response) -> None:
        if isinstance(event, Response) and self._client.state is State.OPEN:
            self.ours = event.headers.get(OURS_HEADER) == "1"
            self.listener = self._listen(self)  # at once: frames may follow in the same packet
            if not self.opened.done():
                self.opened.set_result(None)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._client.handshake_exc is not None:
            self.abort(str(self._client.handshake_exc))

    def ended(self, reason: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(self._refusal(reason))
            self.opened.exception()  # looked at: with TLS unfinished, create_connection is what raises
        if not self.closed.done():
            self.closed.set_result(reason)

    def _refusal(self, reason: str) -> TunnelRefused:
        failed = self._client.handshake_exc
        if isinstance(failed, InvalidStatus):
            body = (failed.response.body or b"").decode("utf-8", "replace").strip()[:200]
            text = f"the cloud answered the upgrade with status {failed.response.status_code}"
            return TunnelRefused(f"{text}: {body}" if body else text, next_step=_STEP)
        if isinstance(failed, InvalidHandshake):
            return TunnelRefused(f"the cloud's answer to the upgrade is wrong: {failed}", next_step=_STEP)
        return TunnelRefused(
            f"{reason} before it answered the upgrade",
            next_step="look into the cloud's log; it may not accept this node's certificate",
        )


async def open_line(
    host: str,
    port: int,
    *,
    node: str,
    context: ssl.SSLContext,
    listen: Callable[[ClientLine], Listener],
    timeout: float = OPEN_TIMEOUT,
) -> ClientLine:
    """Connect and upgrade; `listen` makes who hears the messages. Raises TunnelRefused."""
    url = f"wss://{f'[{host}]' if ':' in host else host}:{port}{CONNECT_PATH}"

    async def attempt(address: str) -> ClientLine:
        line = ClientLine(url, node, listen)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: line, address, port, ssl=context, server_hostname=host
            )
            await line.opened
            return line
        except BaseException:
            line.opened.cancel()
            line.abort("not opened")
            raise

    try:
        return await reach(host, port, attempt, timeout=timeout)
    except ssl.SSLCertVerificationError as error:
        raise TunnelRefused(
            f"the certificate of {host}:{port} was not accepted: {error.verify_message}",
            next_step="check the address of the cloud and the clocks of both machines",
        ) from None
    except ssl.SSLError as error:
        raise TunnelRefused(f"TLS with {host}:{port} failed: {error.reason or error}", next_step=_STEP) from None
    except TimeoutError:
        raise TunnelRefused(
            f"{host}:{port} did not answer within {timeout:.0f} s",
            next_step=f"check the network, and that no firewall drops TCP port {port}",
        ) from None
    except OSError as error:
        raise TunnelRefused(
            f"{host}:{port} cannot be reached: {error.strerror or error}",
            next_step="nothing while component edgehub is not connected either;"
            f" else open TCP port {port} on the gateway, or set edgestream.enable = false to do without",
        ) from None
