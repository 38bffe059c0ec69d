"""The upgrade of a request to SPDY/3.1, with the stream protocol that both sides speak."""

from collections.abc import Sequence

from edgeappliance.kernel.duplex import Duplex
from edgeappliance.kernel.web.exchange import Exchange, HttpError
from edgeappliance.wire.remotecommand import PROTOCOL_HEADER, negotiate


async def upgrade_to_spdy(exchange: Exchange, protocols: Sequence[str]) -> tuple[Duplex, str]:
    """The pipe, and the protocol agreed upon ("" with a client that names none). Raises HttpError."""
    request = exchange.request
    if not request.upgrades_to("spdy/3.1"):
        raise HttpError(400, "unable to upgrade: missing upgrade headers in request")
    offered = request.tokens(PROTOCOL_HEADER.lower())
    protocol = negotiate(offered, protocols)
    if protocol is None:
        both = f"client supports {offered}, server accepts {[*protocols]}"
        raise HttpError(403, f"unable to upgrade: unable to negotiate protocol: {both}")
    headers = [("Upgrade", "SPDY/3.1")]
    if protocol:
        headers.append((PROTOCOL_HEADER, protocol))
    return await exchange.upgrade(headers), protocol
