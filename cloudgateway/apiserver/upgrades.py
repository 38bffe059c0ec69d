"""Upgrade requests at the embedded API: pods/exec, attach and portforward over WebSocket or SPDY/3.1."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from cloudgateway.apiserver.podcalls import STREAMS
from cloudgateway.apiserver.translate import SocketPipe, translate
from edgeappliance.kernel.relay import relay
from edgeappliance.kernel.web.client import Upgraded
from edgeappliance.kernel.web.exchange import Exchange, HttpError, Request
from edgeappliance.kernel.web.websocket import accept
from edgeappliance.kubeapi.errors import StatusFailure, bad_request
from edgeappliance.kubeapi.request import JSON, Target, User, flag, parse_target
from edgeappliance.wire.remotecommand import (
    PORT_FORWARD,
    PROTOCOL_HEADER,
    SPDY_PROTOCOLS,
    WEBSOCKET_PROTOCOLS,
    Channel,
)

TUNNELLED = f"SPDY/3.1+{PORT_FORWARD}"
"""WebSocket subprotocol of kubectl's port-forward: the messages are the bytes of a SPDY connection (KEP-4006)."""

IMPERSONATION = "impersonation is not supported by the embedded API of cloudgateway: it has administrators only"
_UPGRADES = ("spdy/3.1", "websocket")

Connect = Callable[[User, Target, Mapping[str, Sequence[str]], Sequence[str]], Awaitable[Upgraded]]
"""Opens the stream to the kubelet: who asks, for what, the query, the protocols to offer. Raises StatusFailure."""

Identify = Callable[[str, object], User | None]
"""Who asks, by Authorization header and client certificate. Raises StatusFailure."""


def wants_upgrade(head: bytes) -> bool:
    """Whether the head of a request (with its first line) asks for an upgrade that is served here."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"upgrade":
            return any(token.strip().lower().decode("latin-1") in _UPGRADES for token in value.split(b","))
    return False


class Upgrades:
    """Serves what `wants_upgrade` found."""

    def __init__(self, connect: Connect, identify: Identify) -> None:
        self._connect = connect
        self._identify = identify

    async def serve(self, exchange: Exchange) -> None:
        """One request of a connection that began with an upgrade request."""
        try:
            await self._serve(exchange)
        except StatusFailure as failure:
            await exchange.answer(failure.code, failure.encode(), JSON, headers=[("Connection", "close")])

    async def _serve(self, exchange: Exchange) -> None:
        request = exchange.request
        user = self._identify(request.headers.get("authorization", ""), exchange.extra_info("peercert"))
        if user is None:
            raise StatusFailure(401, "Unauthorized", "Unauthorized")
        if any(name.startswith("impersonate-") for name in request.headers):
            raise StatusFailure(403, "Forbidden", IMPERSONATION)
        target = parse_target(request.path)
        if target is None or (target.group, target.resource) != ("", "pods") or target.subresource not in STREAMS:
            raise bad_request(f"{request.path[:200]} takes no upgrade")
        if request.upgrades_to("websocket"):
            await self._websocket(exchange, user, target)
        elif request.upgrades_to("spdy/3.1"):
            await self._spdy(exchange, user, target)
        else:
            raise bad_request("Upgrade request required")

    async def _spdy(self, exchange: Exchange, user: User, target: Target) -> None:
        """The kubelet's own connection, from the end of its answer's head on."""
        request = exchange.request
        protocols = request.tokens(PROTOCOL_HEADER.lower())
        upgraded = await self._connect(user, target, request.query, protocols)
        if upgraded.duplex is None:
            await _refused(exchange, upgraded)
            return
        try:
            headers = [("Upgrade", "SPDY/3.1")]
            if chosen := upgraded.headers.get(PROTOCOL_HEADER.lower()):
                headers.append((PROTOCOL_HEADER, chosen))
            pipe = await exchange.upgrade(headers)
            await relay(pipe, upgraded.duplex)
        finally:
            await upgraded.duplex.close()

    async def _websocket(self, exchange: Exchange, user: User, target: Target) -> None:
        forward = target.subresource == "portforward"
        request = exchange.request
        offered = request.tokens("sec-websocket-protocol")
        known = [TUNNELLED] if forward else [protocol.name for protocol in WEBSOCKET_PROTOCOLS]
        if not any(name in known for name in offered) and (offered or forward):
            raise bad_request(f"unable to negotiate protocol: client supports {offered}, server accepts {known}")
        # The kubelet is asked first: what it refuses is then an answer like any other.
        upgraded = await self._connect(user, target, request.query, (PORT_FORWARD,) if forward else SPDY_PROTOCOLS[:1])
        if upgraded.duplex is None:
            await _refused(exchange, upgraded)
            return
        try:
            try:
                socket, name = await accept(exchange, known)
            except HttpError as error:
                raise bad_request(error.message) from None
            if forward:
                await relay(SocketPipe(socket), upgraded.duplex)
            else:
                protocol = next(item for item in WEBSOCKET_PROTOCOLS if item.name == (name or "channel.k8s.io"))
                await translate(socket, protocol, upgraded.duplex, channels=_channels(request))
        finally:
            await upgraded.duplex.close()


def _channels(request: Request) -> list[Channel]:
    """The streams that are asked for, as the kubelet was told."""
    single = {key: values[-1] for key, values in request.query.items() if values}
    tty = flag(single, "tty")
    wanted = (Channel.STDIN, Channel.STDOUT) if tty else (Channel.STDIN, Channel.STDOUT, Channel.STDERR)
    asked = [channel for channel in wanted if flag(single, channel.name.lower())]
    return [*asked, Channel.RESIZE] if tty else asked


async def _refused(exchange: Exchange, upgraded: Upgraded) -> None:
    content_type = upgraded.headers.get("content-type", "text/plain; charset=utf-8")
    status = upgraded.status if upgraded.status >= 400 else 502
    await exchange.answer(status, upgraded.body, content_type, headers=[("Connection", "close")])
