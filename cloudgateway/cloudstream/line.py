"""The cloud's end of a tunnel's websocket on port 10004 (reference 9.4)."""

import asyncio
import ssl
from typing import Protocol, cast

from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from edgeappliance.kernel.websocket import Listener, WebSocketLine
from edgeappliance.wire.limits import MAX_TUNNEL_DATA
from edgeappliance.wire.tunnel import OURS_HEADER

MAX_FRAME = MAX_TUNNEL_DATA + 20
"""Two uvarints before the data."""


class Gate(Protocol):
    """Who decides on tunnels."""

    def arrived(self, line: "ServerLine") -> None:
        """A TLS handshake is done."""
        ...

    def admit(self, line: "ServerLine", request: Request) -> Listener | tuple[int, str]:
        """Who hears the messages, or the HTTP status and text that refuse the tunnel."""
        ...

    def left(self, line: "ServerLine", reason: str) -> None:
        """The connection is gone, admitted or not."""
        ...


class ServerLine(WebSocketLine):
    """One connection of an edge."""

    def __init__(self, gate: Gate) -> None:
        self._server = ServerProtocol(max_size=MAX_FRAME)
        super().__init__(self._server)
        self._gate = gate
        self.ours = False
        """Whether the edge is of this project."""

    @property
    def common_name(self) -> str:
        """CN of the client certificate; empty without one."""
        tls = self.fact("ssl_object")
        certificate = tls.getpeercert() if isinstance(tls, ssl.SSLObject) else None
        subject = cast("tuple[tuple[tuple[str, str], ...], ...]", (certificate or {}).get("subject", ()))
        names = [value for part in subject for key, value in part if key == "commonName"]
        return names[0] if len(names) == 1 else ""

    @property
    def peer(self) -> str:
        """Address of the edge."""
        name = self.fact("peername")
        return str(name[0]) if isinstance(name, tuple) and name else ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._gate.arrived(self)

    def handshake(self, event: Request | Response) -> None:
        if not isinstance(event, Request):
            return
        response = self._server.accept(event)
        if response.status_code == 101:
            answer = self._gate.admit(self, event)
            if isinstance(answer, tuple):
                response = self._server.reject(answer[0], answer[1] + "\n")
            else:
                self.listener = answer
                if self.ours:
                    response.headers[OURS_HEADER] = "1"
        self._server.send_response(response)

    def ended(self, reason: str) -> None:
        self._gate.left(self, reason)
