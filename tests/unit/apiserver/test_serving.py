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


async def raw(shell: Shell, tmp_path: Path, request: bytes) -> bytes:
    """What the server says to some bytes until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", shell.port, ssl=trusting(tmp_path))
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


def authorized(tmp_path: Path) -> bytes:
    token = (tmp_path / "api" / TOKEN_FILE).read_text().strip()
    return b"Host: x\r\nConnection: close\r\nAuthorization: Bearer " + token.encode() + b"\r\n"


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        (b"GET /api/v1/nodes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n", 401, b"Unauthorized"),
        (b"GET /api/v1/nodes HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YTpi\r\n\r\n", 401, b"Unauthorized"),
        (b"POST /api/v1/nodes HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\nx", 401, b"Unauthorized"),
        (
            b"POST /api/v1/nodes HTTP/1.1\r\nContent-Length: 2\r\nContent-Type: \xff\r\nAUTH\r\n{}",
            415,
            b"unknown format",
        ),
        (
            b"POST /api/v1/nodes HTTP/1.1\r\nContent-Length: 2\r\nContent-Encoding: gzip\r\nAUTH\r\n{}",
            415,
            b"compressed",
        ),
        (b"POST /api/v1/nodes HTTP/1.1\r\nTransfer-Encoding: chunked\r\nAUTH\r\nzz\r\n", 400, b""),
        (b"GET /api/v1/nodes HTTP/1.1\r\nImpersonate-User: bob\r\nAUTH\r\n", 403, b"impersonation is not supported"),
    ],
)
async def test_strange_requests_are_answered_with_a_status(
    shell: Shell, tmp_path: Path, request_: bytes, code: int, said: bytes
) -> None:
    answer = await raw(shell, tmp_path, request_.replace(b"AUTH", authorized(tmp_path).rstrip() + b"\r\n", 1))
    assert int(answer.split()[1]) == code, answer
    assert said in answer


async def test_a_selector_of_eight_kilobytes_fits_the_request_line(shell: Shell, tmp_path: Path) -> None:
    selector = b"a%20in%20(" + b",".join(b"v%d" % index for index in range(1540)) + b")"
    request = b"GET /api/v1/nodes?labelSelector=" + selector + b"%2Cb HTTP/1.1\r\n" + authorized(tmp_path) + b"\r\n"
    assert len(selector) < 8192 < len(request)
    assert (await raw(shell, tmp_path, request)).startswith(b"HTTP/1.1 200")


async def test_a_body_that_waits_to_be_asked_for_is_asked_for(shell: Shell, tmp_path: Path) -> None:
    body = b'{"metadata":{"name":"n"}}'
    head = b"POST /api/v1/nodes HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n" % len(body)
    reader, writer = await asyncio.open_connection("127.0.0.1", shell.port, ssl=trusting(tmp_path))
    writer.write(head + authorized(tmp_path) + b"\r\n")
    async with asyncio.timeout(10):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.read()).startswith(b"HTTP/1.1 201")
    writer.close()


async def test_who_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudgateway.apiserver.entrance.FIRST_REQUEST_SECONDS", 0.3)
    monkeypatch.setattr("cloudgateway.apiserver.shell.BODY_SECONDS", 0.3)
    embedded = await EmbeddedApi.open(tmp_path / "api")
    shell = await embedded.serve()
    half = b"GET /api/v1/nodes HTTP/1.1\r\nHost: x\r\n"
    for ending in await asyncio.gather(raw(shell, tmp_path, b""), raw(shell, tmp_path, half), return_exceptions=True):
        assert ending == b"" or isinstance(ending, ConnectionError)
    slow = b"POST /api/v1/nodes HTTP/1.1\r\nContent-Length: 99\r\n" + authorized(tmp_path) + b"\r\n{"
    assert (await raw(shell, tmp_path, slow)).startswith(b"HTTP/1.1 408")
    watching = b"GET /api/v1/nodes?watch=1&timeoutSeconds=1 HTTP/1.1\r\n" + authorized(tmp_path) + b"\r\n"
    assert b"0\r\n\r\n" in await raw(shell, tmp_path, watching)  # ended in its own time, not by the door
    await embedded.close()
