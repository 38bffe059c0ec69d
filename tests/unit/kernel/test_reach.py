"""Hosts with several addresses."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from edgeappliance.kernel.reach import reach


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make every name resolve to the given addresses."""

    def resolve(*found: str) -> None:
        async def getaddrinfo(host: str, port: int, **rest: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)

    return resolve


async def test_a_dead_address_costs_only_its_share(addresses: Callable[..., None]) -> None:
    addresses("2001:db8::1", "192.0.2.1", "192.0.2.1")
    tried: list[str] = []

    async def attempt(address: str) -> str:
        tried.append(address)
        if ":" in address:
            await asyncio.Event().wait()
        return address

    assert await reach("cloud", 1, attempt, timeout=0.4) == "192.0.2.1"
    assert tried == ["2001:db8::1", "192.0.2.1"]


async def test_the_last_address_says_why(addresses: Callable[..., None]) -> None:
    addresses("192.0.2.1", "192.0.2.2")

    async def attempt(address: str) -> str:
        raise ConnectionRefusedError(111, address)

    with pytest.raises(ConnectionRefusedError, match=r"192\.0\.2\.2"):
        await reach("cloud", 1, attempt, timeout=1.0)


async def test_what_tls_says_is_final(addresses: Callable[..., None]) -> None:
    addresses("192.0.2.1", "192.0.2.2")
    tried: list[str] = []

    async def attempt(address: str) -> str:
        tried.append(address)
        raise ssl.SSLError("no")

    with pytest.raises(ssl.SSLError):
        await reach("cloud", 1, attempt, timeout=1.0)
    assert tried == ["192.0.2.1"]


async def test_all_together_end_in_time(addresses: Callable[..., None]) -> None:
    addresses("192.0.2.1", "192.0.2.2", "192.0.2.3")

    async def attempt(address: str) -> str:
        await asyncio.Event().wait()
        return address

    with pytest.raises(TimeoutError):
        await reach("cloud", 1, attempt, timeout=0.2)
