"""cloudgateway's command line: what it prints, what it refuses, with and without a running gateway."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudgateway.cli.main import main
from cloudgateway.config import GatewaySettings, server_names
from cloudgateway.kube.crd_install import crd_documents
from edgeappliance.kernel import settings
from edgeappliance.wire.token import parse_token
from tests.support.net import free_port

LOOPBACK = """
[cloudhub]
host = "127.0.0.1"
port = {hub}
[enrolment]
host = "127.0.0.1"
port = 0
addresses = ["127.0.0.1"]
[cloudstream]
host = "127.0.0.1"
tunnel_port = 0
[embedded]
port = 0
[metrics]
port = {metrics}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(LOOPBACK.format(hub=0, metrics=0))
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "api"


def test_tokens_without_a_running_gateway(file: Path, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--config", str(file), "--embedded", str(directory)]
    assert main(["token", "create", *where, "--note", "roof", "--hours", "2"]) == 0
    token = parse_token(capsys.readouterr().out.strip())
    assert main(["token", "list", *where]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["ID", "EXPIRES", "STATE", "NOTE"]
    assert row.split()[0] == token.jti
    assert row.endswith("2 h left  roof")
    assert main(["token", "revoke", token.jti, *where]) == 0
    assert "stay joined" in capsys.readouterr().out
    assert main(["token", "revoke", token.jti, *where]) == 1
    assert "token list" in capsys.readouterr().err
    assert main(["token", "create", *where, "--hours", "0"]) == 1
    assert "what to do" in capsys.readouterr().err


def test_a_new_site_is_said_and_a_short_life_is_told_in_minutes(
    file: Path, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--config", str(file), "--embedded", str(directory)]
    assert main(["token", "create", *where, "--hours", "0.5"]) == 0
    assert f"{directory} did not exist; it is a new site now" in capsys.readouterr().err
    assert main(["token", "list", *where]) == 0
    out, err = capsys.readouterr()
    assert "30 min left" in out
    assert err == ""


def test_a_directory_of_somebody_else_is_said(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exists(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", exists)
    assert main(["token", "list", "--config", str(file), "--embedded", "/srv/theirs"]) == 1
    err = capsys.readouterr().err
    assert "/srv/theirs/admin.kubeconfig: Permission denied" in err
    assert "what to do: run this as the user" in err


def test_everything_wrong_with_a_file_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        '[cloudhub]\nprot = 1\nport = 70000\n[enrolment]\naddresses = ["gate.example"]\ndns_names = ["a b"]\n'
    )
    assert main(["config", "check", "--config", str(path)]) == 1
    err = capsys.readouterr().err
    for part in ("cloudhub.prot: unknown key; did you mean port?", "cloudhub.port:", str(path)):
        assert part in err
    path.write_text('[enrolment]\naddresses = ["gate.example"]\ndns_names = ["a b"]\n')
    assert main(["config", "check", "--config", str(path)]) == 1
    err = capsys.readouterr().err
    assert "enrolment.addresses: 'gate.example' is no IP address; names belong in dns_names" in err
    assert "enrolment.dns_names: 'a b' is no DNS name" in err


def test_the_printed_configuration_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show"]) == 0
    text = capsys.readouterr().out
    settings.loads(GatewaySettings, text, source="printed")
    uncommented = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", text)
    assert uncommented != text
    assert settings.loads(GatewaySettings, uncommented, source="defaults") == GatewaySettings()


def test_a_configuration_that_is_right_is_shown(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "--config", str(file)]) == 0
    assert "127.0.0.1, " in capsys.readouterr().out
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith("cloudgateway ")


def test_names_of_the_server_certificate() -> None:
    loaded = settings.loads(
        GatewaySettings, '[enrolment]\naddresses = ["10.0.0.1"]\ndns_names = ["gate.example"]\n', source="test"
    )
    names = server_names(loaded.enrolment)
    assert names[:2] == ["10.0.0.1", "gate.example"]
    assert {"127.0.0.1", "localhost"} <= set(names)


def test_crds_are_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    assert main(["crds", "print"]) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert printed == crd_documents()


def test_no_cluster_is_an_error_with_a_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert main(["token", "list"]) == 1
    assert "cannot read kubeconfig" in capsys.readouterr().err
    assert main(["token", "list", "--kubeconfig", str(tmp_path / "none")]) == 1


class Running:
    """`cloudgateway run` as a process."""

    def __init__(self, file: Path, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cloudgateway", "run", "--config", str(file), "--embedded", str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lines(self, count: int) -> list[str]:
        assert self.process.stdout is not None
        return [self.process.stdout.readline() for _ in range(count)]

    def end(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=20)
        return self.process.returncode, err


@pytest.fixture
def running(file: Path, directory: Path) -> Iterator[Running]:
    process = Running(file, directory)
    yield process
    if process.process.poll() is None:
        process.process.kill()
        process.process.communicate()


async def test_run_needs_nothing_else_and_ends_cleanly(
    running: Running, file: Path, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = await asyncio.to_thread(running.lines, 8)
    assert lines[0].startswith("Kubernetes API  https://127.0.0.1:")
    assert f"KUBECONFIG={directory}/admin.kubeconfig" in lines[1]
    assert (directory / "admin.kubeconfig").stat().st_mode & 0o777 == 0o600
    where = ["--config", str(file), "--embedded", str(directory)]
    assert await asyncio.to_thread(main, ["token", "create", *where]) == 0
    assert parse_token(capsys.readouterr().out.strip()).jti
    second = await asyncio.to_thread(Running(file, directory).process.communicate, timeout=20)
    assert "another cloudgateway uses" in second[1]
    assert "what to do: stop it first" in second[1]
    assert lines[4].startswith("edges' streams  127.0.0.1:")
    port = lines[6].rsplit(":", 1)[1].split("/")[0]
    assert b"KubeEdge_CloudHub_connected_nodes 0.0" in await _get(int(port), "/metrics")
    assert (await _get(int(port), "/readyz")).endswith(b"ok\n")
    code, err = await asyncio.to_thread(running.end)
    assert code == 0, err
    assert "Traceback" not in err


async def _get(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    body = await reader.read()
    writer.close()
    return body


async def test_a_taken_port_is_said_with_what_to_do(tmp_path: Path, directory: Path) -> None:
    holder = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = holder.sockets[0].getsockname()[1]
    file = tmp_path / "taken.toml"
    file.write_text(LOOPBACK.format(hub=port, metrics=free_port()))
    process = Running(file, directory)

    def wait_for_word() -> str:
        assert process.process.stderr is not None
        for line in process.process.stderr:
            if line.startswith("cloudgateway: cloudhub: cannot listen"):
                return next(process.process.stderr)
        return ""

    try:
        assert "set cloudhub.port to a free port" in await asyncio.to_thread(wait_for_word)
    finally:
        await asyncio.to_thread(process.end)
        holder.close()
