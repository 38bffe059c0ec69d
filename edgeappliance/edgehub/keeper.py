"""Keeps the node's identity usable: joins with a token file, rotates, renews what expired or was refused
(reference 3.4)."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from edgeappliance.edgehub.enrolment import Enrolment
from edgeappliance.edgehub.identity import Identity, IdentityFiles, clock_is_implausible
from edgeappliance.edgehub.link import Blame
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.errors import ApplianceError, OperatorError
from edgeappliance.kernel.files import sync_directory
from edgeappliance.kernel.log import get_logger

ROTATE_FROM, ROTATE_TO = 0.70, 0.90
"""Part of its life after which a certificate is renewed; a point in between is drawn."""

ROTATION_CHECK = 3600.0
"""Seconds between looks at the wall clock, which may jump: rotation is never slept for in one piece."""

JOIN_CHECK = 60.0
"""Seconds between looks for an identity to rotate while there is none."""

RENEWAL_PAUSE = 60.0
"""Seconds between attempts to renew a certificate that is over."""

SUSPICIONS = 3
"""Connections that end without a word right after TLS until our certificate is held to be the reason."""


class IdentityKeeper:
    """The identity on disk and what is done for it.

    token_file: joins with it when there is no identity, and removes it then.
    """

    def __init__(
        self,
        *,
        node: str,
        files: IdentityFiles,
        enrolment: Enrolment,
        clock: Clock,
        token_file: Path | None = None,
    ) -> None:
        self._name = f"system:node:{node}"
        self._files = files
        self._enrolment = enrolment
        self._clock = clock
        self._token_file = token_file
        self._renew_after = 0.0
        self._suspicions = 0
        self._renewing = asyncio.Lock()
        self._log = get_logger("edgehub")
        self.identity: Identity | None = None
        self.problem: ApplianceError | None = None
        """Why the certificate that is over could not be renewed."""

    async def load(self) -> Identity | None:
        """Read the files; None when this node never joined. Raises OperatorError when they are damaged."""
        self.identity = await asyncio.to_thread(self._files.load)
        return self.identity

    async def ready(self) -> Identity:
        """The identity to connect with: joined with the token file if there is none of this name, renewed if it
        expired.

        Read anew each time: `edgecore join` may have replaced the files. An expired one is returned when it
        cannot be renewed: whether it still opens the link is the cloud's to say, whose clock may be right.
        """
        identity = await self.load()
        if identity is None or identity.facts.common_name != self._name:
            identity = await self._join(identity)
        self.identity = identity
        if identity.facts.expired(self._clock.wall_ms() / 1000):
            await self._renew_over(identity)
        return self.identity

    async def blamed(self, blame: Blame) -> None:
        """A connection was refused; if it was for the certificate, try to get a new one."""
        self._suspicions = self._suspicions + 1 if blame is Blame.PERHAPS else 0
        if self.identity is not None and (blame is Blame.CERTIFICATE or self._suspicions >= SUSPICIONS):
            await self._renew_over(self.identity)

    def accepted(self) -> None:
        """The certificate opened a connection."""
        self._suspicions = 0
        self.problem = None

    async def rotate(self, changed: Callable[[], None]) -> None:
        """Renew the certificate at 70-90 % of its life, for ever; `changed` is called after each renewal."""
        point = random.uniform(ROTATE_FROM, ROTATE_TO)  # noqa: S311 - spreads load, guards nothing
        retry = Backoff(initial=2.0, maximum=32.0)
        said = ""
        while True:
            identity = self.identity
            if identity is None:
                await asyncio.sleep(JOIN_CHECK)
                continue
            facts, now = identity.facts, self._clock.wall_ms() / 1000
            remaining = facts.not_before + point * (facts.not_after - facts.not_before) - now
            if remaining > 0 or clock_is_implausible(now, facts):
                await asyncio.sleep(min(max(remaining, 1.0), ROTATION_CHECK))
                continue
            try:
                await self._renew(identity)
            except ApplianceError as error:
                if error.message != said:
                    self._log.warning("certificate not rotated", reason=error.message, next_step=error.next_step)
                    said = error.message
                await asyncio.sleep(retry.next_delay())
                continue
            said = ""
            retry.reset()
            changed()

    async def _join(self, other: Identity | None) -> Identity:
        """Join with the token file. `other` is an identity of another name, as after a change of node.name."""
        token = await asyncio.to_thread(_read_token, self._token_file)
        if not token and other is not None:
            raise OperatorError(
                f"the certificate is for {other.facts.common_name}, this node is {self._name}",
                next_step="set node.name back, or join under the new name: `edgecore join --cloud HOST --token TOKEN`",
            )
        if not token:
            raise OperatorError(
                "this node has not joined a cloud", next_step="run `edgecore join --cloud HOST --token TOKEN`"
            )
        identity = await self._enrolment.join(token)
        try:
            await asyncio.to_thread(_remove, self._token_file)
        except OSError as error:  # a read-only partition: the node has joined all the same
            self._log.warning("the used join token stays on the disk", file=self._token_file, reason=error)
        self._log.info("joined", node=identity.facts.common_name, expires=int(identity.facts.not_after))
        return identity

    async def _renew_over(self, identity: Identity) -> None:
        """The certificate is over, or the cloud says so: try the old key, at most once in RENEWAL_PAUSE."""
        now = self._clock.monotonic()
        if now < self._renew_after:
            return
        self._renew_after = now + RENEWAL_PAUSE
        try:
            await self._renew(identity)
        except ApplianceError as error:
            self.problem = error

    async def _renew(self, old: Identity) -> None:
        """Change `old` for a new certificate, unless that has just been done."""
        async with self._renewing:
            if self.identity != old:
                return
            self.identity = await self._enrolment.renew(old)
            self.problem = None
            self._log.info("certificate renewed", expires=int(self.identity.facts.not_after))


def _read_token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(
            f"cloud.token_file {path} cannot be read: {error}", next_step="check the file and its mode"
        ) from None


def _remove(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
