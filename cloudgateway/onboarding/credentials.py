"""The component that holds the CA and the server certificate while the gateway runs."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cloudgateway.onboarding.authority import CertificateAuthority, KeyPair, alternative_names
from cloudgateway.onboarding.vault import Vault
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope

_REFRESH_EVERY = 600.0
"""Seconds between looks at the site token."""

_EVERYBODYS = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the two ports serve with."""

    authority: CertificateAuthority
    server: KeyPair


class SiteCredentials:
    """Reads or makes CA and server certificate, retrying while the API is away, and keeps the site token fresh."""

    def __init__(
        self,
        *,
        vault: Vault,
        addresses: Sequence[str],
        token_lifetime_s: int,
        clock: Clock,
        tasks: TaskScope,
    ) -> None:
        self._vault = vault
        self._addresses = tuple(addresses)
        self._token_lifetime_s = token_lifetime_s
        self._clock = clock
        self._tasks = tasks
        self._ready = asyncio.Event()
        self._current: Credentials | None = None
        self._trouble: ApplianceError | None = None
        self._log = get_logger("onboarding")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Names and addresses under which edges reach this gateway."""
        return self._addresses

    @property
    def reserved(self) -> tuple[str, ...]:
        """Those that no node may carry, other gateways' of the site too.

        Loopback is everybody's: a node serves its own apps there.
        """
        served = () if self._current is None else alternative_names(self._current.server.certificate)
        return tuple(address for address in {*self._addresses, *served} if address not in _EVERYBODYS)

    async def start(self) -> None:
        """Begin to read; who needs the result awaits `wait`."""
        self._tasks.spawn(self._keep(), name="credentials")

    async def stop(self) -> None:
        """Nothing to undo: the supervisor ends the task."""

    def health(self) -> Health:
        if self._trouble is not None:
            state = State.DEGRADED if self._current else State.STARTING
            return Health(state, self._trouble.message, self._trouble.next_step)
        if self._current is None:
            return Health(State.STARTING, "reading the site's CA")
        return Health(State.RUNNING, details={"ca": self._current.authority.fingerprint})

    async def wait(self) -> Credentials:
        """The credentials, as soon as there are any."""
        await self._ready.wait()
        assert self._current is not None  # noqa: S101 - set before the event
        return self._current

    async def _keep(self) -> None:
        backoff = Backoff(initial=0.5, maximum=10.0)
        while True:
            try:
                await self._refresh()
            except ApplianceError as error:
                if self._trouble is None or self._trouble.message != error.message:
                    self._log.warning("credentials not available", error=error)
                self._trouble = error
                await asyncio.sleep(backoff.next_delay())
                continue
            self._trouble = None
            backoff.reset()
            await asyncio.sleep(_REFRESH_EVERY)

    async def _refresh(self) -> None:
        now = datetime.fromtimestamp(self._clock.wall_ms() / 1000, UTC)
        if self._current is None:
            authority = await self._vault.authority(now)
            server = await self._vault.server_certificate(authority, self._addresses, now)
            self._current = Credentials(authority, server)
            self._ready.set()
            self._log.info("site CA ready", sha256=authority.fingerprint, addresses=",".join(self._addresses))
        await self._vault.refresh_site_token(self._current.authority, lifetime_s=self._token_lifetime_s, now=now)
