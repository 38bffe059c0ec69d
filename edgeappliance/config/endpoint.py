"""`host[:port]` as people write it."""

import ipaddress
import re

from msgspec import Struct

from edgeappliance.kernel.errors import OperatorError

EXAMPLE = "write it like gateway.example.org:10000"

_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")


class Endpoint(Struct, frozen=True):
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def endpoint(text: str, *, default_port: int, key: str) -> Endpoint:
    """`host`, `host:port`, `[v6]` or `[v6]:port`. Raises OperatorError naming the key."""
    host, port = _split(text.strip())
    error = _error(text, host, port)
    if error:
        raise OperatorError(f"{key}: {error}", next_step=EXAMPLE)
    return Endpoint(host, int(port) if port else default_port)


def endpoint_error(text: str) -> str:
    """Why the text is no `host[:port]`; empty when it is one."""
    return _error(text, *_split(text.strip()))


def _split(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        return host, "" if bracket and not rest else rest[1:] if rest[:1] == ":" and rest[1:] else "?"
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port or "?"
    return text, ""


def _error(text: str, host: str, port: str) -> str:
    if port == "?" or len(host) > 253 or not (_HOST.fullmatch(host) or _is_address(host)):
        return f"{text!r} is no host[:port]"
    if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        return f"port {port!r} is not 1-65535"
    return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
