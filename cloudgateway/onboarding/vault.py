"""CA, server certificate and tokens as Secrets of namespace `kubeedge`, so that gateways and cloudcores share them.

Two starting at once cannot overwrite each other: a Secret is only ever created, or replaced at the version that was
read; who comes second reads what the first wrote (reference 3.1, 3.2 for names, keys and contents).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from cloudgateway.onboarding.authority import CertificateAuthority, KeyPair, alternative_names
from cloudgateway.onboarding.tokens import Claims, TokenRecord, TokenRefused, mint, new_id, verify
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.errors import OperatorError

CA_SECRET = "casecret"  # noqa: S105 - the name of a Secret object
SERVER_SECRET = "cloudcoresecret"  # noqa: S105 - likewise
TOKEN_SECRET = "tokensecret"  # noqa: S105 - likewise
LEDGER_SECRET = "cloudgateway-tokens"  # noqa: S105 - likewise
_CA_KEYS = ("cadata", "cakeydata")
_SERVER_KEYS = ("cloudcoredata", "cloudcorekeydata")
_TOKEN_KEY = "tokendata"  # noqa: S105 - a key inside the Secret
_SITE_NOTE = "made by the gateway for `keadm gettoken`"
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Secret:
    """One Secret's decoded data and the version it was read at."""

    data: Mapping[str, bytes]
    version: str


class SecretConflict(Exception):
    """Somebody else created or changed the Secret since it was read."""


class Secrets(Protocol):
    """Secrets of namespace kubeedge."""

    async def get(self, name: str) -> Secret | None:
        """None when there is none."""
        ...

    async def create(self, name: str, data: Mapping[str, bytes]) -> None:
        """Raises SecretConflict when it exists."""
        ...

    async def replace(self, name: str, data: Mapping[str, bytes], version: str) -> None:
        """Raises SecretConflict when it is no longer at `version` or gone."""
        ...


class Vault:
    """What the enrolment needs that must outlive this process."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    async def authority(self, now: datetime) -> CertificateAuthority:
        """The site's CA, made if there is none. Raises OperatorError when the stored one is unusable."""
        async for _ in _attempts():
            stored = await self._secrets.get(CA_SECRET)
            if stored is not None:
                return _authority(stored)
            made = CertificateAuthority.generate(now)
            try:
                await self._secrets.create(CA_SECRET, _data(_CA_KEYS, made.pair))
            except SecretConflict:
                continue  # another gateway was first: theirs is the CA
            return made
        raise _contended(CA_SECRET)

    async def server_certificate(
        self, authority: CertificateAuthority, addresses: Sequence[str], now: datetime
    ) -> KeyPair:
        """A server certificate that names every address; re-issued when one is new.

        Addresses of the stored certificate are kept: they may be those of another gateway of the site.
        """
        async for _ in _attempts():
            stored = await self._secrets.get(SERVER_SECRET)
            pair = None if stored is None else _pair(_SERVER_KEYS, stored)
            if pair is not None and authority.serves(pair, addresses, now):
                return pair
            kept = alternative_names(pair.certificate) if pair and authority.serves(pair, (), now) else []
            made = authority.issue_server(list(dict.fromkeys([*addresses, *kept])), now)
            try:
                if stored is None:
                    await self._secrets.create(SERVER_SECRET, _data(_SERVER_KEYS, made))
                else:
                    data = {**stored.data, **_data(_SERVER_KEYS, made)}
                    await self._secrets.replace(SERVER_SECRET, data, stored.version)
            except SecretConflict:
                continue
            return made
        raise _contended(SERVER_SECRET)

    async def create_token(
        self, authority: CertificateAuthority, *, lifetime_s: int, note: str, now: datetime
    ) -> tuple[str, TokenRecord]:
        """A new token, recorded before it is handed out."""
        seconds = int(now.timestamp())
        record = TokenRecord(new_id(), seconds + lifetime_s, seconds, note)
        await self._edit_ledger(seconds, add=record)
        return _mint(authority, record), record

    async def list_tokens(self) -> list[TokenRecord]:
        """All recorded tokens, the ones that end first in front; expired ones stay until the next is made."""
        stored = await self._secrets.get(LEDGER_SECRET)
        return sorted(_records(stored).values(), key=lambda record: record.expires_at)

    async def revoke_token(self, jti: str) -> bool:
        """Whether there was such a token."""
        return await self._edit_ledger(0, remove=jti)

    async def check_token(self, jwt: str, authority: CertificateAuthority, now: datetime) -> Claims:
        """The claims of a token that may enrol a node. Raises TokenRefused."""
        claims = verify(jwt, key=authority.pair.key, now=int(now.timestamp()))
        if claims.jti and claims.jti not in _records(await self._secrets.get(LEDGER_SECRET)):
            raise TokenRefused("token was revoked")
        return claims

    async def refresh_site_token(self, authority: CertificateAuthority, *, lifetime_s: int, now: datetime) -> None:
        """Keep Secret tokensecret (`keadm gettoken`) at a token with more than half its life left."""
        seconds = int(now.timestamp())
        async for _ in _attempts():
            stored = await self._secrets.get(TOKEN_SECRET)
            if stored is not None and self._fresh(stored, authority, seconds, lifetime_s):
                return
            token, record = await self.create_token(authority, lifetime_s=lifetime_s, note=_SITE_NOTE, now=now)
            data = {_TOKEN_KEY: token.encode()}
            try:
                if stored is None:
                    await self._secrets.create(TOKEN_SECRET, data)
                else:
                    await self._secrets.replace(TOKEN_SECRET, {**stored.data, **data}, stored.version)
            except SecretConflict:
                await self.revoke_token(record.jti)
                continue
            return
        raise _contended(TOKEN_SECRET)

    @staticmethod
    def _fresh(stored: Secret, authority: CertificateAuthority, now: int, lifetime_s: int) -> bool:
        ca_hash, _, jwt = stored.data.get(_TOKEN_KEY, b"").decode("ascii", "replace").partition(".")
        try:
            claims = verify(jwt, key=authority.pair.key, now=now)
        except TokenRefused:
            return False
        return ca_hash == authority.fingerprint and claims.expires_at - now > lifetime_s // 2

    async def _edit_ledger(self, now: int, *, add: TokenRecord | None = None, remove: str = "") -> bool:
        """Add or remove one record; expired ones are dropped on the way. Whether anything was found to remove."""
        async for _ in _attempts():
            stored = await self._secrets.get(LEDGER_SECRET)
            records = _records(stored)
            found = records.pop(remove, None) is not None
            if add is None and not found:
                return False
            if add is not None:
                records[add.jti] = add
            data = {jti: record.encode() for jti, record in records.items() if record.expires_at >= now}
            try:
                if stored is None:
                    await self._secrets.create(LEDGER_SECRET, data)
                else:
                    await self._secrets.replace(LEDGER_SECRET, data, stored.version)
            except SecretConflict:
                continue
            return found
        raise _contended(LEDGER_SECRET)


async def _attempts() -> AsyncIterator[int]:
    """Tries with growing, unequal pauses: the other writer's change may not be readable yet."""
    backoff = Backoff(initial=0.01, maximum=0.5, jitter=0.5)
    for attempt in range(_ATTEMPTS):
        if attempt:
            await asyncio.sleep(backoff.next_delay())
        yield attempt


def format_expiry(seconds: int) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _mint(authority: CertificateAuthority, record: TokenRecord) -> str:
    return mint(
        ca_hash=authority.fingerprint,
        key=authority.pair.key,
        expires_at=record.expires_at,
        jti=record.jti,
    )


def _authority(stored: Secret) -> CertificateAuthority:
    pair = _pair(_CA_KEYS, stored)
    try:
        if pair is None:
            raise ValueError("keys cadata and cakeydata are missing")
        return CertificateAuthority(pair)
    except ValueError as error:
        raise OperatorError(
            f"Secret kubeedge/{CA_SECRET} does not hold a usable CA: {error}",
            next_step=f"restore it from a backup; deleting it (kubectl -n kubeedge delete secret {CA_SECRET}) makes"
            " a new CA, and then every edge must join again",
        ) from None


def _pair(keys: tuple[str, str], stored: Secret) -> KeyPair | None:
    certificate, key = stored.data.get(keys[0], b""), stored.data.get(keys[1], b"")
    return KeyPair(certificate, key) if certificate and key else None


def _data(keys: tuple[str, str], pair: KeyPair) -> dict[str, bytes]:
    return {keys[0]: pair.certificate, keys[1]: pair.key}


def _records(stored: Secret | None) -> dict[str, TokenRecord]:
    records = {}
    for jti, data in (stored.data if stored is not None else {}).items():
        try:
            records[jti] = TokenRecord.decode(jti, data)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # edited by hand: such a token counts as revoked
    return records


def _contended(name: str) -> OperatorError:
    return OperatorError(
        f"Secret kubeedge/{name} changed {_ATTEMPTS} times while it was being written",
        next_step=f"see who writes it: kubectl -n kubeedge get secret {name} -o yaml --show-managed-fields",
    )
