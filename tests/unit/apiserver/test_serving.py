"""The HTTPS shell: who gets in, the certificates, and the limits of a body."""

import asyncio
import io
import json
import ssl
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
import yaml

from cloudgateway.apiserver.embedded import TOKEN_FILE, EmbeddedApi, Shell
from cloudgateway.apiserver.tls import LEAF_LIFE, ApiCertificates
from cloudgateway.onboarding.authority import CertificateAuthority
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kubeapi.request import BODY_LIMIT

NOW_MS = int(datetime(2026, 11, 22, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    embedded = await EmbeddedApi.open(tmp_path / "api")
    try:
        yield await embedded.serve()
    finally:
        await embedded.close()


def trusting(tmp_path: Path) -> ssl.SSLContext:
    """A context that trusts the API's CA."""
    return ssl.create_default_context(cafile=str(tmp_path / "api" / "pki" / "ca.crt"))


@pytest.fixture
async def http(shell: Shell, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=trusting(tmp_path))
    async with aiohttp.ClientSession(shell.url, connector=connector) as session:
        yield session


async def test_the_bearer_token_opens_the_api(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    path = tmp_path / "api" / TOKEN_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for header, status in (
        ({"Authorization": f"Bearer {path.read_text().strip()}"}, 200),
        ({"Authorization": "Bearer wrong"}, 401),
        ({}, 401),
    ):
        async with http.get("/api/v1/nodes", headers=header) as answer:
            assert answer.status == status
    async with http.get("/healthz") as answer:
        assert (answer.status, await answer.text()) == (200, "ok")


async def test_a_certificate_of_the_site_opens_nothing(shell: Shell, tmp_path: Path) -> None:
    site = CertificateAuthority.generate(datetime.now(UTC))
    pair = site.issue_server(["127.0.0.1"], datetime.now(UTC))
    (tmp_path / "edge.pem").write_bytes(pair.pem())
    context = trusting(tmp_path)
    context.load_cert_chain(tmp_path / "edge.pem")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(f"{shell.url}/api/v1/nodes") as answer:
                await answer.read()


async def test_bodies_have_a_limit(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    token = (tmp_path / "api" / TOKEN_FILE).read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(2 + BODY_LIMIT // 65536):
            yield b"x" * 65536

    async with http.post("/api/v1/namespaces", data=io.BytesIO(b"x" * (BODY_LIMIT + 1)), headers=headers) as answer:
        assert answer.status == 413
    async with http.post("/api/v1/namespaces", data=endless(), headers=headers) as answer:
        assert (answer.status, (await answer.json())["reason"]) == (413, "RequestEntityTooLarge")
    async with http.post("/api/v1/namespaces", data=b"{", headers=headers) as answer:
        assert answer.status == 400


async def test_a_watch_streams_and_ends_when_its_reader_leaves(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    token = (tmp_path / "api" / TOKEN_FILE).read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    async with http.get("/api/v1/namespaces", params={"watch": "1"}, headers=headers) as answer:
        assert json.loads(await answer.content.readline())["type"] == "ADDED"
    tasks = {task.get_name() for task in asyncio.all_tasks()}
    assert not any("watch" in name for name in tasks)


async def test_the_kubeconfig_is_private_and_complete(shell: Shell, tmp_path: Path) -> None:
    embedded = await EmbeddedApi.open(tmp_path / "other")
    path = tmp_path / "k" / "config"
    await embedded.write_kubeconfig(path, server=shell.url)
    await embedded.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    value = yaml.safe_load(path.read_text())
    assert value["clusters"][0]["cluster"]["server"] == shell.url
    assert set(value["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
    for key in (tmp_path / "other" / "pki").glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


async def test_a_port_that_is_taken_is_named(shell: Shell, tmp_path: Path) -> None:
    embedded = await EmbeddedApi.open(tmp_path / "other")
    with pytest.raises(OperatorError, match=str(shell.port)):
        await embedded.serve(port=shell.port)
    await embedded.close()


def test_certificates_are_kept_and_renewed(tmp_path: Path) -> None:
    first = ApiCertificates(tmp_path, wall_ms=NOW_MS)
    admin = first.admin("a", "g")
    same = ApiCertificates(tmp_path, wall_ms=NOW_MS + 1000)
    assert (same.ca_pem, same.server, same.admin("a", "g")) == (first.ca_pem, first.server, admin)
    named = ApiCertificates(tmp_path, wall_ms=NOW_MS, names=["gateway.example.com", "10.1.2.3"])
    assert named.server != first.server
    late = ApiCertificates(tmp_path, wall_ms=NOW_MS + int(LEAF_LIFE.total_seconds() * 1000))
    assert late.ca_pem == first.ca_pem
    assert late.server != named.server
    assert late.admin("a", "g") != admin
    (tmp_path / "server.key").write_bytes((tmp_path / "admin.key").read_bytes())
    assert ApiCertificates(tmp_path, wall_ms=NOW_MS).server.key != (tmp_path / "admin.key").read_bytes()
