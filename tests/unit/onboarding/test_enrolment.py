"""Port 10002 over real TLS against the scripted edgecore."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloudgateway.onboarding.authority import CertificateAuthority
from cloudgateway.onboarding.credentials import SiteCredentials
from cloudgateway.onboarding.enrolment import EnrolmentPolicy, EnrolmentServer
from cloudgateway.onboarding.vault import Vault
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.errors import TransientError
from edgeappliance.kernel.supervisor import Supervisor
from tests.support import kubeedge_edge as edge
from tests.support.secrets import MemorySecrets

OCTETS = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"


class Names:
    def __init__(self) -> None:
        self.known = {"edge-1"}
        self.down = False

    async def exists(self, name: str) -> bool:
        if self.down:
            raise TransientError("no answer")
        return name in self.known


@dataclass
class Site:
    port: int
    vault: Vault
    ca: CertificateAuthority
    nodes: Names

    async def ask(self, *args: object, **kwargs: object) -> edge.HttpAnswer:
        return await asyncio.to_thread(edge.request, self.port, *args, **kwargs)  # type: ignore[arg-type]

    async def token(self, **changes: object) -> str:
        arguments = {"lifetime_s": 3600, "note": "", "now": datetime.now(UTC), **changes}
        return (await self.vault.create_token(self.ca, **arguments))[0]  # type: ignore[arg-type]

    def identity(self, node: str, *, ago: timedelta, days: int) -> edge.Identity:
        """A certificate that was issued `ago` for `days`."""
        key = edge.new_key()
        der = self.ca.sign_request(
            edge.csr(key, node),
            node=node,
            usages=[ExtendedKeyUsageOID.CLIENT_AUTH],
            days=days,
            now=datetime.now(UTC) - ago,
        )
        pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        return edge.Identity(node, self.ca.certificate_pem, pem, edge.key_pem(key))


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running_site() as running:
        yield running


@asynccontextmanager
async def running_site(*, connections: int = 512, patience: float = 60.0) -> AsyncIterator[Site]:
    vault, nodes, supervisor = Vault(MemorySecrets()), Names(), Supervisor()
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
            nodes=nodes,
            policy=EnrolmentPolicy(days=365, grace=timedelta(days=30)),
            clock=SystemClock(),
            tasks=tasks,
            connections=connections,
            patience=patience,
        ),
    )
    await supervisor.start()
    await server.wait_listening()
    yield Site(server.port, vault, (await credentials.wait()).authority, nodes)
    await supervisor.stop()


async def test_an_unmodified_edge_enrols_with_a_token(site: Site) -> None:
    identity = await edge.enrolled(site.port, "edge-1", await site.token())
    certificate = x509.load_pem_x509_certificate(identity.certificate)
    assert certificate.subject.rfc4514_string() == "CN=system:node:edge-1,O=system:nodes"
    ca = await site.ask("GET", "/ca.crt")
    assert (ca.status, ca.content_type, ca.body) == (200, OCTETS, site.ca.certificate_der)


async def test_the_site_token_of_keadm_gettoken_enrols_too(site: Site) -> None:
    site_token = site.vault._secrets.stored["tokensecret"].data["tokendata"].decode()  # type: ignore[attr-defined]
    await edge.enrolled(site.port, "edge-9", site_token)


async def test_refusals_have_upstreams_status_text_and_type(site: Site) -> None:
    token = await site.token()
    expired = await site.token(now=datetime.now(UTC) - timedelta(days=2))
    body = edge.csr(edge.new_key(), "edge-1")
    named = {"NodeName": "edge-1"}
    for headers, body_, status, text in [
        (named, body, 401, "token validation failure, token is empty"),
        (named | {"Authorization": "xyz"}, body, 401, "token validation failure, token cannot be split"),
        (
            named | {"Authorization": f"Bearer {token}"},
            body,
            401,
            "token validation failure, err: token is malformed: token contains an invalid number of segments",
        ),
        (
            named | {"Authorization": f"Bearer {expired.partition('.')[2]}"},
            body,
            401,
            "token validation failure, err: token has invalid claims: token is expired",
        ),
        (
            named | {"Authorization": f"Bearer {token.partition('.')[2]}"},
            b"no CSR",
            500,
            "failed to sign certs for edgenode edge-1, err: ",
        ),
        (
            {"NodeName": "edge-2", "Authorization": f"Bearer {token.partition('.')[2]}"},
            body,
            500,
            "failed to sign certs for edgenode edge-2, err: CN is",
        ),
        (
            {"Authorization": f"Bearer {token.partition('.')[2]}"},
            body,
            500,
            "failed to sign certs for edgenode , err: CN is",
        ),
        (
            named | {"Authorization": f"Bearer {token.partition('.')[2]}", "ExtKeyUsages": "nonsense"},
            body,
            500,
            "failed to sign certs for edgenode edge-1, err: ExtKeyUsages is not JSON",
        ),
        (
            named | {"Authorization": f"Bearer {token.partition('.')[2]}"},
            b"x" * (1024 * 1024 + 1),
            500,
            "failed to sign certs for edgenode edge-1, err: the body is longer",
        ),
    ]:
        answer = await site.ask("GET", "/edge.crt", headers=headers, body=body_)
        assert (answer.status, answer.content_type) == (status, TEXT)
        assert answer.body.decode().startswith(text)


async def test_a_name_that_could_never_connect_is_not_enrolled(site: Site) -> None:
    headers = {"NodeName": "Edge_1", "Authorization": f"Bearer {(await site.token()).partition('.')[2]}"}
    answer = await site.ask("GET", "/edge.crt", headers=headers, body=edge.csr(edge.new_key(), "Edge_1"))
    assert answer.status == 500
    assert b"'Edge_1' is not a node name" in answer.body


async def idle(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TLS connection that says nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return await asyncio.open_connection("127.0.0.1", port, ssl=context)


async def ended(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except (ConnectionError, ssl.SSLError):
        return b""


async def test_who_says_nothing_is_not_waited_for() -> None:
    async with running_site(patience=0.3) as site:
        reader, writer = await idle(site.port)
        writer.write(b"GET /ca.crt HTTP/1.1\r\nSlow: ")
        assert await ended(reader) == b""
        writer.close()
        assert (await site.ask("GET", "/ca.crt")).status == 200


async def test_many_connections_make_room_for_the_next() -> None:
    async with running_site(connections=3) as site:
        held = [await idle(site.port) for _ in range(5)]
        assert await ended(held[0][0]) == b""
        assert (await site.ask("GET", "/ca.crt")).status == 200
        for _, writer in held:
            writer.close()


async def test_a_revoked_token_no_longer_enrols(site: Site) -> None:
    token = await site.token()
    await site.vault.revoke_token((await site.vault.list_tokens())[0].jti)
    for record in await site.vault.list_tokens():
        await site.vault.revoke_token(record.jti)
    with pytest.raises(AssertionError, match="revoked"):
        await edge.enrolled(site.port, "edge-1", token)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("ago", "days", "status"),
    [(0, 365, 200), (380, 365, 200), (400, 365, 401)],
    ids=["valid", "expired within grace", "expired beyond grace"],
)
async def test_renewal_by_the_old_key(site: Site, version: ssl.TLSVersion, ago: int, days: int, status: int) -> None:
    identity = site.identity("edge-1", ago=timedelta(days=ago), days=days)
    context = identity.context()
    context.maximum_version = version
    body = edge.csr(edge.new_key(), "edge-1")
    answer = await site.ask("GET", "/edge.crt", headers={"NodeName": "edge-1"}, body=body, context=context)
    assert answer.status == status, answer
    if status == 401:
        assert answer.body.startswith(b"failed to verify the certificate for edgenode: edge-1, err: x509")
        token = await site.token()
        headers = {"NodeName": "edge-1", "Authorization": f"Bearer {token.partition('.')[2]}"}
        answer = await site.ask("GET", "/edge.crt", headers=headers, body=body, context=identity.context())
        assert answer.status == 200, "a token heals it"


async def test_a_node_cannot_renew_as_another(site: Site) -> None:
    identity = site.identity("edge-1", ago=timedelta(0), days=9)
    body = edge.csr(edge.new_key(), "edge-2")
    answer = await site.ask("GET", "/edge.crt", headers={"NodeName": "edge-2"}, body=body, context=identity.context())
    assert (answer.status, answer.body.decode()) == (
        401,
        "failed to verify the certificate for edgenode: edge-2, err: "
        "request node name is not match with the certificate",
    )


async def test_node_names(site: Site) -> None:
    for path, status, text in [
        ("/node/edge-1", 200, "Node found"),
        ("/node/edge-2", 404, "Node not found"),
        ("/node/Not_A_Name", 400, "Invalid node name"),
    ]:
        answer = await site.ask("GET", path)
        assert (answer.status, answer.body.decode(), answer.content_type) == (status, text, TEXT)
    site.nodes.down = True
    assert (await site.ask("GET", "/node/edge-1")).status == 500


async def test_reports_need_the_nodes_certificate(site: Site) -> None:
    path = "/task/upgrade/name/t1/node/edge-1/status"
    assert (await site.ask("POST", path, body=b"{}")).status == 401
    identity = site.identity("edge-1", ago=timedelta(0), days=9)
    for target, body, status, text in [
        (path, b"{}", 200, "ok"),
        ("/nodeupgrade", b'{"NodeName":"edge-1","Status":"upgrade_success"}', 200, "ok"),
        ("/nodeupgrade", b"{}", 200, "ok"),
        ("/nodeupgrade", b"{", 400, "failed to read the report"),
        ("/nodeupgrade", b'{"NodeName":"edge-2"}', 401, "failed to verify"),
        (path.replace("edge-1", "edge-2"), b"{}", 401, "failed to verify"),
    ]:
        answer = await site.ask("POST", target, body=body, context=identity.context())
        assert answer.status == status
        assert answer.body.decode().startswith(text)
