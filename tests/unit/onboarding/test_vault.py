"""What is kept in Secrets, and what happens when two gateways start at once."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from cloudgateway.onboarding.authority import alternative_names
from cloudgateway.onboarding.tokens import TokenRefused, mint
from cloudgateway.onboarding.vault import LEDGER_SECRET, Secret, Vault
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.wire.token import parse_token
from tests.support.secrets import MemorySecrets

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = 86400


async def test_two_gateways_at_once_have_one_ca_and_one_server_certificate() -> None:
    secrets = MemorySecrets()
    first, second = Vault(secrets), Vault(secrets)
    one, two = await asyncio.gather(first.authority(NOW), second.authority(NOW))
    assert one.fingerprint == two.fingerprint
    assert set(secrets.stored["casecret"].data) == {"cadata", "cakeydata"}
    pairs = await asyncio.gather(
        first.server_certificate(one, ["10.0.0.1"], NOW), second.server_certificate(one, ["10.0.0.2"], NOW)
    )
    for pair, address in zip(pairs, ("10.0.0.1", "10.0.0.2"), strict=True):
        assert address in alternative_names(pair.certificate)
    assert set(alternative_names(secrets.stored["cloudcoresecret"].data["cloudcoredata"])) == {"10.0.0.1", "10.0.0.2"}


async def test_server_certificate_is_kept_until_an_address_is_new() -> None:
    secrets = MemorySecrets()
    vault = Vault(secrets)
    ca = await vault.authority(NOW)
    first = await vault.server_certificate(ca, ["10.0.0.1", "gate"], NOW)
    assert await vault.server_certificate(ca, ["gate"], NOW) == first
    again = await vault.server_certificate(ca, ["10.0.0.7"], NOW)
    assert set(alternative_names(again.certificate)) == {"10.0.0.1", "10.0.0.7", "gate"}
    assert await vault.server_certificate(ca, ["10.0.0.1"], NOW) == again


async def test_a_server_certificate_that_cannot_be_read_or_is_foreign_is_replaced() -> None:
    secrets = MemorySecrets()
    vault = Vault(secrets)
    ca = await vault.authority(NOW)
    for data in ({}, {"cloudcoredata": b"x", "cloudcorekeydata": b"y"}):
        secrets.stored["cloudcoresecret"] = Secret(data, "1")
        pair = await vault.server_certificate(ca, ["10.0.0.1"], NOW)
        assert alternative_names(pair.certificate) == ["10.0.0.1"]


async def test_a_broken_ca_needs_a_person() -> None:
    secrets = MemorySecrets()
    await secrets.create("casecret", {"cadata": b"x", "cakeydata": b"y"})
    with pytest.raises(OperatorError, match="every edge must join again"):
        await Vault(secrets).authority(NOW)


async def test_tokens_are_listed_revoked_and_forgotten() -> None:
    vault = Vault(MemorySecrets())
    ca = await vault.authority(NOW)
    token, record = await vault.create_token(ca, lifetime_s=DAY, note="roof", now=NOW)
    parsed = parse_token(token)
    assert (parsed.jti, parsed.ca_hash) == (record.jti, ca.fingerprint)
    assert (await vault.check_token(parsed.jwt, ca, NOW)).jti == record.jti
    other, _ = await vault.create_token(ca, lifetime_s=2 * DAY, note="", now=NOW)
    assert next((item.note, item.expires_at) for item in await vault.list_tokens()) == (
        "roof",
        int(NOW.timestamp()) + DAY,
    )
    assert await vault.revoke_token(record.jti)
    assert not await vault.revoke_token(record.jti)
    with pytest.raises(TokenRefused, match="revoked"):
        await vault.check_token(parsed.jwt, ca, NOW)
    await vault.check_token(parse_token(other).jwt, ca, NOW)
    await vault.create_token(ca, lifetime_s=DAY, note="later", now=NOW + timedelta(days=9))
    assert [item.note for item in await vault.list_tokens()] == ["later"]


async def test_tokens_made_at_once_are_all_recorded() -> None:
    vault = Vault(MemorySecrets())
    ca = await vault.authority(NOW)
    await asyncio.gather(*(vault.create_token(ca, lifetime_s=DAY, note=str(n), now=NOW) for n in range(5)))
    assert {item.note for item in await vault.list_tokens()} == set("01234")


async def test_a_cloudcores_token_is_accepted_and_a_hand_edited_record_is_not() -> None:
    secrets = MemorySecrets()
    vault = Vault(secrets)
    ca = await vault.authority(NOW)
    theirs = mint(ca_hash=ca.fingerprint, key=ca.pair.key, expires_at=int(NOW.timestamp()) + 9, jti="")
    await vault.check_token(parse_token(theirs).jwt, ca, NOW)
    ours, record = await vault.create_token(ca, lifetime_s=DAY, note="", now=NOW)
    secrets.stored[LEDGER_SECRET] = Secret({record.jti: b"nonsense"}, "77")
    with pytest.raises(TokenRefused):
        await vault.check_token(parse_token(ours).jwt, ca, NOW)


async def test_the_site_token_is_replaced_at_half_of_its_life() -> None:
    secrets = MemorySecrets()
    vault = Vault(secrets)
    ca = await vault.authority(NOW)
    await asyncio.gather(*(vault.refresh_site_token(ca, lifetime_s=DAY, now=NOW) for _ in range(2)))
    first = secrets.stored["tokensecret"].data["tokendata"]
    assert len(await vault.list_tokens()) == 1, "the loser takes its token back"
    await vault.check_token(parse_token(first.decode()).jwt, ca, NOW)
    await vault.refresh_site_token(ca, lifetime_s=DAY, now=NOW + timedelta(hours=11))
    assert secrets.stored["tokensecret"].data["tokendata"] == first
    await vault.refresh_site_token(ca, lifetime_s=DAY, now=NOW + timedelta(hours=13))
    assert secrets.stored["tokensecret"].data["tokendata"] != first
