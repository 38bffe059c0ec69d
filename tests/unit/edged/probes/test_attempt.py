"""Single tries against real sockets and real commands."""

import asyncio
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeappliance.edged.pods.spec import Container, Exec, Grpc, HttpGet, HttpHeader, Port, Probe, TcpSocket
from edgeappliance.edged.probes.attempt import Target, UnknownPort, attempt, port_of
from edgeappliance.edged.probes.outcome import Answer, Verdict
from tests.unit.edged.probes.stand import Commands, answer, web

SPEC = Container(name="web", ports=[Port(container_port=8080, name="http"), Port(container_port=53, name="dns")])


async def ask(probe: Probe, *, address: str = "127.0.0.1", engine: Commands | None = None) -> Answer:
    return await attempt(probe, Target("c1", SPEC, address), engine or Commands())


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


async def test_http_goes_to_the_pod_as_a_kubelet_does() -> None:
    async with web(lambda head: answer(204)) as peer:
        found = await ask(Probe(http_get=HttpGet(port=peer.port, path="/healthz?full=1")))
    assert found.verdict is Verdict.SUCCESS
    lines = peer.heads[0].split("\r\n")
    assert lines[0] == "GET /healthz?full=1 HTTP/1.1"
    assert f"Host: 127.0.0.1:{peer.port}" in lines
    assert "User-Agent: kube-probe/1.32" in lines
    assert "Accept: */*" in lines


async def test_headers_of_the_pod_replace_or_remove_those_of_the_kubelet() -> None:
    headers = [HttpHeader(name="Host", value="a.test"), HttpHeader(name="accept"), HttpHeader(name="X-A", value="1")]
    headers.append(HttpHeader(name="User-Agent", value="mine"))
    async with web(lambda head: answer(200)) as peer:
        await ask(Probe(http_get=HttpGet(port=peer.port, http_headers=headers)))
    head = peer.heads[0]
    assert "Host: a.test\r\n" in head
    assert "X-A: 1\r\n" in head
    assert "User-Agent: mine\r\n" in head
    assert "accept" not in head.lower()


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_an_http_status_from_400_is_a_failure(status: int) -> None:
    async with web(lambda head: answer(status, b"why")) as peer:
        found = await ask(Probe(http_get=HttpGet(port=peer.port)))
    assert found == Answer(Verdict.FAILURE, f"HTTP probe failed with statuscode: {status}")


async def test_https_is_not_verified(tmp_path: Path) -> None:
    async with web(lambda head: answer(200, b"fine"), tls=tmp_path) as peer:
        found = await ask(Probe(http_get=HttpGet(port=peer.port, scheme="HTTPS")))
    assert found == Answer(Verdict.SUCCESS, "fine")


async def test_a_redirect_on_the_same_host_is_followed() -> None:
    def reply(head: str) -> bytes:
        return answer(200, b"there") if head.startswith("GET /there ") else answer(302, Location="/there")

    async with web(reply) as peer:
        assert await ask(Probe(http_get=HttpGet(port=peer.port))) == Answer(Verdict.SUCCESS, "there")


async def test_a_redirect_to_another_host_is_a_success_with_a_warning() -> None:
    async with web(lambda head: answer(301, b"go", Location="http://192.0.2.1:1/")) as peer:
        found = await ask(Probe(http_get=HttpGet(port=peer.port)))
    assert found == Answer(Verdict.SUCCESS, "Probe terminated redirects, Response body: go", warning=True)


async def test_redirects_without_end_are_a_success_with_a_warning() -> None:
    async with web(lambda head: answer(307, Location="/")) as peer:
        found = await ask(Probe(http_get=HttpGet(port=peer.port)))
    assert found.warning
    assert len(peer.heads) == 10


async def test_a_long_body_is_cut() -> None:
    async with web(lambda head: answer(200, b"x" * 100_000)) as peer:
        found = await ask(Probe(http_get=HttpGet(port=peer.port)))
    assert len(found.output) == 10 * 1024


async def test_a_name_of_a_port_is_found_and_another_is_an_error() -> None:
    assert port_of("http", SPEC) == 8080
    assert port_of("81", SPEC) == 81
    for port in ("nope", 70000, -1):
        with pytest.raises(UnknownPort):
            port_of(port, SPEC)
    found = await ask(Probe(http_get=HttpGet(port="nope")))
    assert found == Answer(Verdict.UNKNOWN, "couldn't find port: nope")


@pytest.mark.parametrize("scheme", ["HTTP", "HTTPS"])
async def test_nobody_listens(scheme: str) -> None:
    port = free_port()
    found = await ask(Probe(http_get=HttpGet(port=port, scheme=scheme)))
    where = f"{scheme.lower()}://127.0.0.1:{port}/"
    assert found.output == f'Get "{where}": dial tcp 127.0.0.1:{port}: connect: connection refused'
    found = await ask(Probe(tcp_socket=TcpSocket(port=port)))
    assert found == Answer(Verdict.FAILURE, f"dial tcp 127.0.0.1:{port}: connect: connection refused")
    found = await ask(Probe(grpc=Grpc(port=port)))
    assert found.verdict is Verdict.FAILURE
    assert found.output.startswith(f'timeout: failed to connect service "127.0.0.1:{port}" within 1s: ')


@pytest.mark.parametrize(
    "peer", [b"", b"220 mail ready\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 99999\r\n\r\n"]
)
async def test_a_peer_that_does_not_speak_http(peer: bytes) -> None:
    async with web(lambda head: peer) as server:
        found = await ask(Probe(http_get=HttpGet(port=server.port)))
    assert found.verdict is Verdict.FAILURE
    assert found.output.startswith(f'Get "http://127.0.0.1:{server.port}/": ')


async def test_a_peer_that_never_answers_costs_the_timeout() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        http = ask(Probe(http_get=HttpGet(port=port)))
        grpc = ask(Probe(grpc=Grpc(port=port)))
        first, second = await asyncio.gather(http, grpc)
        assert (await ask(Probe(tcp_socket=TcpSocket(port=port)))).verdict is Verdict.SUCCESS
    assert first.output.endswith("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")
    assert second.output.endswith("context deadline exceeded")


TEXT = st.text(max_size=12)


@settings(max_examples=40, deadline=None)
@given(
    path=TEXT,
    host=TEXT.filter(lambda host: "." not in host or host.startswith(".")),
    name=TEXT,
    value=TEXT,
    scheme=st.sampled_from(["HTTP", "", "gopher"]),
)
def test_whatever_stands_in_a_probe_is_an_answer(path: str, host: str, name: str, value: str, scheme: str) -> None:
    async def work() -> Answer:
        async with web(lambda head: answer(200)) as peer:
            get = HttpGet(port=peer.port, path=path, scheme=scheme, http_headers=[HttpHeader(name=name, value=value)])
            return await ask(Probe(http_get=get))

    assert asyncio.run(work()).verdict in Verdict
    bad = asyncio.run(ask(Probe(tcp_socket=TcpSocket(port=1, host="\x00" + host))))
    assert bad.verdict is Verdict.FAILURE


async def test_a_path_with_blanks_and_letters_from_elsewhere_is_escaped() -> None:
    async with web(lambda head: answer(200)) as peer:
        await ask(Probe(http_get=HttpGet(port=peer.port, path="/a b/ü?c=%20&d=1")))
    assert peer.heads[0].startswith("GET /a%20b/%C3%BC?c=%20&d=1 HTTP/1.1\r\n")


async def test_commands() -> None:
    assert await ask(Probe(exec=Exec(command=["true"]))) == Answer(Verdict.SUCCESS)
    failed = await ask(Probe(exec=Exec(command=["sh", "-c", "echo bad; exit 3"])))
    assert failed == Answer(Verdict.FAILURE, "bad\n")
    slow = await ask(Probe(exec=Exec(command=["sleep", "5"])))
    assert slow == Answer(Verdict.FAILURE, 'command timed out: "sleep 5" timed out after 1s')
    missing = await ask(Probe(exec=Exec(command=["/no/such"])))
    assert missing.verdict is Verdict.FAILURE


async def test_an_engine_that_is_away_says_nothing_about_the_container() -> None:
    engine = Commands()
    engine.away = True
    assert (await ask(Probe(exec=Exec(command=["true"])), engine=engine)).verdict is Verdict.UNKNOWN


async def test_a_probe_without_an_action_says_so() -> None:
    assert await ask(Probe()) == Answer(Verdict.UNKNOWN, "missing probe handler for web")
