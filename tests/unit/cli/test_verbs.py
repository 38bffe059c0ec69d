"""edgecore's command line: what it prints, what it refuses, with its exit codes."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeappliance.cli.main import main
from edgeappliance.config.joined import Joined, read_joined
from edgeappliance.config.settings import EdgeSettings
from edgeappliance.kernel import settings
from edgeappliance.kernel.control import ControlServer
from edgeappliance.version import version
from tests.support.kubeedge_authority import Authority
from tests.support.kubeedge_cloud import KubeEdgeCloud
from tests.support.net import free_port

METER = """
[[model]]
name = "meter"
[[model.properties]]
name = "voltage"
type = "FLOAT"
accessMode = "ReadOnly"
visitors.configData = {{ register = "{register}", offset = 0, limit = 2 }}

[[device]]
name = "meter-1"
deviceModelRef.name = "meter"
protocol.protocolName = "modbus"
protocol.configData = {{ serialPort = "/dev/ttyUSB0", slaveID = {unit} }}
properties = [{{ name = "voltage" }}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "edgecore.toml"
    path.write_text(
        f'state_dir = "{tmp_path}/state"\nruntime_dir = "{tmp_path}/run"\n'
        f'[mappers]\ndirectory = "{tmp_path}/mappers.d"\n'
    )
    return path


def add(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


@pytest.mark.parametrize(
    "verb",
    [
        "",
        "run",
        "join",
        "status",
        "devices",
        "pods",
        "logs",
        "exec",
        "autonomy",
        "config",
        "config check",
        "config show",
    ],
)
def test_every_verb_has_help_that_fits_a_terminal(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*verb.split(), "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert out.startswith("usage: edgecore")
    assert all(len(line) <= 120 for line in out.splitlines())


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code or 0
    assert (code, capsys.readouterr().out) == (0, f"edgecore {version()}\n")


def test_what_needs_no_configuration_works_with_a_broken_one(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("a = = b")
    assert main(["version", "--config", str(file)]) == 0
    assert main(["config", "show", "--config", str(file)]) == 0
    assert settings.loads(EdgeSettings, capsys.readouterr().out.partition("\n")[2], source="show") == EdgeSettings()


@pytest.mark.parametrize("arguments", [[], ["nope"], ["config"], ["join"], ["join", "--cloud", "x"]])
def test_wrong_usage_is_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: edgecore" in capsys.readouterr().err


# config check


def test_a_good_configuration(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "mappers.d").mkdir()
    (file.parent / "mappers.d" / "meter.toml").write_text(METER.format(unit=1, register="HoldingRegister"))
    add(file, '[node]\nname = "edge-1"\n[mqtt]\nmosquitto = "true"\n')
    assert main(["config", "check", "--config", str(file)]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == f"{file}: ok"
    assert second.endswith("1 devices, 1 models, 0 errors")
    assert third.startswith("node edge-1, cloud none")


def test_everything_wrong_with_the_keys_at_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(file, '[mqtt]\nport = "x"\nmod = "both"\n[twin]\ncommit_interval = nan\n[node]\nname = "Bad"\n')
    assert main(["config", "check", "--config", str(file)]) == 1
    err = capsys.readouterr().err
    assert str(file) in err
    for key in ("mqtt.port", "mqtt.mod: unknown key; did you mean mode?", "twin.commit_interval", "node.name"):
        assert key in err


def test_files_and_programs_that_are_not_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(file, '[mqtt]\nmosquitto = "/nowhere/mosquitto"\n')
    assert main(["config", "check", "--config", str(file)]) == 1
    assert "mqtt.mosquitto: /nowhere/mosquitto is not installed" in capsys.readouterr().out
    add(file, 'mode = "external"\nuser = "u"\npassword_file = "/nowhere/p"\ntls = {ca_file = "/nowhere/ca"}\n')
    assert main(["config", "check", "--config", str(file)]) == 1
    out = capsys.readouterr().out
    assert "mqtt.password_file: /nowhere/p: No such file" in out
    assert "mqtt.tls.ca_file: /nowhere/ca: No such file" in out
    assert "mosquitto is not installed" not in out


def test_local_devices_are_checked_as_the_mapper_would(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "mappers.d").mkdir()
    (file.parent / "mappers.d" / "a.toml").write_text(METER.format(unit=999, register="HoldingRegistr"))
    (file.parent / "mappers.d" / "b.toml").write_text("not toml")
    add(file, '[mqtt]\nmosquitto = "true"\n')
    assert main(["config", "check", "--config", str(file)]) == 1
    out = capsys.readouterr().out
    assert "b.toml" in out
    assert "device default/meter-1: " in out
    assert "slaveID" in out
    assert "HoldingRegistr" in out


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = = 3"])
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.toml").write_bytes(content)
    assert main(["--config", str(tmp_path / "x.toml"), "config", "check"]) == 1
    assert "x.toml cannot be" in capsys.readouterr().err
    assert main(["--config", str(tmp_path), "config", "check"]) == 1
    assert "Is a directory" in capsys.readouterr().err


# join


async def join(file: Path, cloud: KubeEdgeCloud | int, token: str, *more: str, host: str = "127.0.0.1") -> int:
    port = cloud if isinstance(cloud, int) else cloud.http_port
    arguments = ["join", "--config", str(file), "--cloud", host, "--enroll-port", str(port), "--token", token, *more]
    return await asyncio.to_thread(main, arguments)


async def test_join(file: Path, kubeedge: KubeEdgeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    token = file.parent / "token"
    token.write_text(kubeedge.token() + "\n")
    assert await join(file, kubeedge, f"@{token}", "--name", "edge-7") == 0
    out = capsys.readouterr().out
    assert "as node edge-7" in out
    assert "start it with: edgecore run" in out
    joined = Joined("127.0.0.1:10000", f"127.0.0.1:{kubeedge.http_port}", "edge-7")
    assert read_joined(file.parent / "state") == joined
    assert main(["config", "check", "--config", str(file)]) in (0, 1)
    assert "node edge-7, cloud 127.0.0.1:10000" in capsys.readouterr().out


async def test_a_running_edgecore_must_be_restarted(
    file: Path, kubeedge: KubeEdgeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    async def status(arguments):
        return {}

    (file.parent / "run").mkdir()
    server = ControlServer(path=file.parent / "run" / "control.sock", verbs={"status": status})
    await server.start()
    assert await join(file, kubeedge, kubeedge.token()) == 0
    assert "restart it" in capsys.readouterr().out
    await server.stop()


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("", "the join token is not one"),
        ("a.b.c.d", "the join token is not one"),
        ("@/nowhere/token", "/nowhere/token: No such file"),
        ("@/bin/true", "/bin/true: holds no text"),
        ("@/", "Is a directory"),
    ],
)
async def test_a_token_that_is_none(file: Path, token: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await join(file, free_port(), token) == 1
    err = capsys.readouterr().err
    assert says in err
    assert "what to do:" in err
    assert read_joined(file.parent / "state") == Joined()


async def test_an_expired_token_of_another_cloud_and_a_name_too_long(
    file: Path, kubeedge: KubeEdgeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await join(file, kubeedge, kubeedge.token(expires_in=-1)) == 1
    assert "expired at" in capsys.readouterr().err
    assert await join(file, kubeedge, Authority().token()) == 1
    assert "is not the one of the join token" in capsys.readouterr().err
    assert await join(file, kubeedge, kubeedge.token(), "--name", "a" * 254) == 1
    assert "no more than 253 characters" in capsys.readouterr().err
    assert not (file.parent / "state" / "pki").exists()


async def test_a_host_name_that_is_a_node_already_takes_a_word_of_the_operator(
    file: Path, kubeedge: KubeEdgeCloud, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "raspberrypi")
    kubeedge.objects["null/node/raspberrypi"] = {}
    assert await join(file, kubeedge, kubeedge.token()) == 1
    assert "the cloud has a node 'raspberrypi' already" in capsys.readouterr().err
    assert kubeedge.enrolments == []
    assert await join(file, kubeedge, kubeedge.token(), "--name", "raspberrypi") == 0
    assert await join(file, kubeedge, kubeedge.token()) == 0  # it is that node now, and may get a new certificate


@pytest.mark.parametrize("host", ["foo..bar", "x" * 80, "https://a", "a b", "a:99999"])
async def test_an_address_that_is_none(file: Path, host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await join(file, 10002, Authority().token(), host=host) == 1
    assert "--cloud: " in capsys.readouterr().err


async def test_nobody_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await join(file, free_port(), Authority().token()) == 1
    assert "cannot be reached" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        await join(file, 99999, "x")
    assert ended.value.code == 2


async def test_a_configuration_that_says_otherwise_goes_before(
    file: Path, kubeedge: KubeEdgeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    add(file, '[node]\nname = "edge-1"\n[cloud]\nhub = "other.example.org"\n')
    assert await join(file, kubeedge, kubeedge.token(), "--name", "edge-2") == 1
    assert "node.name in the configuration is edge-1" in capsys.readouterr().err
    assert await join(file, kubeedge, kubeedge.token(), "--name", "edge-1") == 1
    assert "cloud.hub in the configuration is other.example.org" in capsys.readouterr().err


async def test_a_state_directory_that_cannot_be(
    file: Path, kubeedge: KubeEdgeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    (file.parent / "state").touch()
    assert await join(file, kubeedge, kubeedge.token()) == 1
    assert "set state_dir" in capsys.readouterr().err


# status, devices


def test_nobody_answers(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("status", "devices"):
        assert main([verb, "--config", str(file)]) == 1
        assert "start it with: edgecore run" in capsys.readouterr().err


def test_the_command_line_starts_quickly(file: Path) -> None:
    """What answers a person loads neither the daemon nor the MQTT client nor certificates."""
    code = (
        "import sys; from edgeappliance.cli.main import main; "
        f"main(['status', '--config', {str(file)!r}]); "
        "print(sorted(name for name in ('paho', 'apsw', 'websockets', 'cryptography', 'prometheus_client', "
        "'pymodbus', 'aiohttp') if name in sys.modules))"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("arguments", [["config", "show"], ["version"]])
def test_a_disk_without_room_for_the_output(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgeappliance", *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "edgecore: the output cannot be written: No space left on device\n"
        "  what to do: make room where it goes, or send it elsewhere\n"
    )


def test_a_reader_that_left_is_no_fault() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "edgeappliance", "config", "show"],
        stdout=write, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
