"""Secrets in memory, with the conflicts of the real thing."""

import asyncio
from collections.abc import Mapping

from cloudgateway.onboarding.vault import Secret, SecretConflict


class MemorySecrets:
    """`vault.Secrets` with versions; every call yields to the loop once, so that two callers interleave."""

    def __init__(self) -> None:
        self.stored: dict[str, Secret] = {}
        self._version = 0

    async def get(self, name: str) -> Secret | None:
        await asyncio.sleep(0)
        return self.stored.get(name)

    async def create(self, name: str, data: Mapping[str, bytes]) -> None:
        await asyncio.sleep(0)
        if name in self.stored:
            raise SecretConflict
        self._put(name, data)

    async def replace(self, name: str, data: Mapping[str, bytes], version: str) -> None:
        await asyncio.sleep(0)
        if name not in self.stored or self.stored[name].version != version:
            raise SecretConflict
        self._put(name, data)

    def _put(self, name: str, data: Mapping[str, bytes]) -> None:
        self._version += 1
        self.stored[name] = Secret(dict(data), str(self._version))
