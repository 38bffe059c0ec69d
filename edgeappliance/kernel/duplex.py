"""A pipe of bytes with two directions, whatever carries it: a socket, a tunnel, an upgraded connection."""

from typing import Protocol


class Duplex(Protocol):
    """Both ends may be used at the same time. One reader and one writer at most."""

    async def read(self) -> bytes:
        """The next bytes, b"" at the end. Raises OSError when the pipe broke."""
        ...

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more. Raises OSError when the pipe broke."""
        ...

    async def close(self) -> None:
        """End both directions. Idempotent, never raises."""
        ...
