"""Our edge's enrolment against our gateway's: tokens, grace after expiry, clocks that lie."""

import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloudgateway.onboarding.authority import CertificateAuthority
from cloudgateway.onboarding.credentials import SiteCredentials
from cloudgateway.onboarding.enrolment import EnrolmentPolicy, EnrolmentServer
from cloudgateway.onboarding.vault import Vault
from edgeappliance.edgehub.certificates import new_request
from edgeappliance.edgehub.enrolment import Enrolment
from edgeappliance.edgehub.identity import Identity, IdentityFiles
from edgeappliance.kernel.clock import Clock, ManualClock, SystemClock
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.supervisor import Supervisor
from tests.support.secrets import MemorySecrets

NODE = "edge-1"
CLIENT_AUTH = [ExtendedKeyUsageOID.CLIENT_AUTH]
GRACE = timedelta(days=30)


class AnyNode:
    async def exists(self, name: str) -> bool:
        return True


@dataclass
class Site:
    port: int
    vault: Vault
    ca: CertificateAuthority

    async def token(self) -> str:
        return (await self.vault.create_token(self.ca, lifetime_s=3600, note="", now=datetime.now(UTC)))[0]

    def enrolment(self, directory: Path, clock: Clock | None = None, node: str = NODE) -> Enrolment:
        return Enrolment(
            files=IdentityFiles(directory), host="127.0.0.1", port=self.port, node=node, clock=clock or SystemClock()
        )

    def identity(self, directory: Path, *, ago: timedelta, days: int, node: str = NODE) -> Identity:
        """What an edge has on disk that joined `ago` and got `days`."""
        request = new_request(node)
        der = self.ca.sign_request(
            request.request_der, node=node, usages=CLIENT_AUTH, days=days, now=datetime.now(UTC) - ago
        )
        files = IdentityFiles(directory)
        files.save(
            ca_pem=self.ca.certificate_pem,
            key_pem=request.key_pem,
            certificate_pem=ssl.DER_cert_to_PEM_cert(der).encode(),
        )
        identity = files.load()
        assert identity is not None
        return identity


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    vault, supervisor = Vault(MemorySecrets()), Supervisor()
    credentials = supervisor.add(
        "credentials",
        lambda tasks: SiteCredentials(
            vault=vault, addresses=["127.0.0.1"], token_lifetime_s=3600, clock=SystemClock(), tasks=tasks
        ),
    )
    server = supervisor.add(
        "enrolment",
        lambda tasks: EnrolmentServer(
            host="127.0.0.1",
            port=0,
            credentials=credentials,
            vault=vault,
            nodes=AnyNode(),
            policy=EnrolmentPolicy(days=365, grace=GRACE),
            clock=SystemClock(),
            tasks=tasks,
        ),
    )
    await supervisor.start()
    await server.wait_listening()
    yield Site(server.port, vault, (await credentials.wait()).authority)
    await supervisor.stop()


async def test_join_and_renew(site: Site, tmp_path: Path) -> None:
    enrolment = site.enrolment(tmp_path)
    first = await enrolment.join(await site.token())
    assert (first.facts.common_name, first.facts.organization) == (f"system:node:{NODE}", "system:nodes")
    before = first.node_file.read_bytes()
    second = await enrolment.renew(first)
    assert second.node_file.read_bytes() != before
    second.client_context(ignore_dates=False)


async def test_revoked_token(site: Site, tmp_path: Path) -> None:
    token = await site.token()
    for record in await site.vault.list_tokens():
        await site.vault.revoke_token(record.jti)
    with pytest.raises(OperatorError, match="refused node 'edge-1'"):
        await site.enrolment(tmp_path).join(token)


async def test_expired_certificate_within_grace_is_renewed_by_its_key(site: Site, tmp_path: Path) -> None:
    expired = site.identity(tmp_path, ago=timedelta(days=380), days=365)
    assert expired.facts.expired(time.time())
    renewed = await site.enrolment(tmp_path).renew(expired)
    assert not renewed.facts.expired(time.time())


async def test_expired_certificate_beyond_grace_needs_a_token(site: Site, tmp_path: Path) -> None:
    expired = site.identity(tmp_path, ago=timedelta(days=400), days=365)
    with pytest.raises(OperatorError, match="does not renew this certificate") as caught:
        await site.enrolment(tmp_path).renew(expired)
    assert "edgecore join" in caught.value.next_step


@pytest.mark.parametrize("milliseconds", [0, 1_600_000_000_000], ids=["1970", "2020"])
async def test_a_clock_that_was_never_set_strands_nobody(site: Site, tmp_path: Path, milliseconds: int) -> None:
    """The gateway's and the node's certificates are "not yet valid" for such a clock."""
    clock = ManualClock(wall_ms=milliseconds)
    enrolment = site.enrolment(tmp_path / "join", clock)
    identity = await enrolment.join(await site.token())
    renewed = await enrolment.renew(identity)
    assert renewed.facts.common_name == f"system:node:{NODE}"


async def test_nobody_renews_for_another_node(site: Site, tmp_path: Path) -> None:
    other = site.identity(tmp_path, ago=timedelta(days=1), days=365, node="edge-2")
    with pytest.raises(OperatorError, match="does not renew"):
        await site.enrolment(tmp_path).renew(other)
