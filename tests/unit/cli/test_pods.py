"""`edgecore pods`, `logs` and `exec`, the real command line on real containers."""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgeappliance.cli.main import count, seconds
from edgeappliance.cli.pods import pick_container, render_pods
from edgeappliance.kernel.control import ControlServer
from edgeappliance.kernel.errors import PermanentError
from tests.support.dockerd import Dockerd
from tests.unit.edged.kubelet.conftest import Stand


@pytest.fixture
async def stand(dockerd: Dockerd, tmp_path: Path) -> AsyncIterator[Stand]:
    async with Stand(dockerd, tmp_path) as stand:
        (tmp_path / "edgecore.toml").write_text(f'runtime_dir = "{tmp_path}"\nstate_dir = "{tmp_path}"\n')
        yield stand


def command_line(stand: Stand, *arguments: str) -> list[str]:
    config = str(stand.directory / "edgecore.toml")
    return [sys.executable, "-m", "edgeappliance.cli.main", "--config", config, *arguments]


async def edgecore(stand: Stand, *arguments: str, text: bytes = b"") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command_line(stand, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        out, err = await process.communicate(text)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_pods(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"], side=["sleep", "1000"])
    stand.object("default", "web")["status"] |= {"phase": "Running", "podIP": "10.0.0.9"}  # type: ignore[index]
    code, out, err = await edgecore(stand, "pods")
    assert code == 0, err
    head, row = out.splitlines()
    assert head.split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert row.split()[:4] == ["web", "0/2", "Running", "0"]
    assert "10.0.0.9" in (await edgecore(stand, "pods", "-A", "-o", "wide"))[1]
    assert json.loads((await edgecore(stand, "pods", "-o", "json"))[1])["items"][0]["metadata"]["name"] == "web"
    assert (await edgecore(stand, "pods", "-n", "other"))[1] == "no pods in namespace other; all: edgecore pods -A\n"


async def test_logs(stand: Stand) -> None:
    await stand.pod("web", c=["sh", "-c", "seq 1 5; sleep 1000"], side=["sh", "-c", "echo beside; sleep 1000"])
    async with asyncio.timeout(10):
        while not (await stand.get("/containerLogs/default/web/side"))[1]:
            await asyncio.sleep(0.05)
    code, out, err = await edgecore(stand, "logs", "web", "--tail", "2")
    assert (code, out) == (0, "4\n5\n")
    assert err == 'Defaulted container "c" out of: c, side\n'
    assert (await edgecore(stand, "logs", "web", "-c", "side", "--since", "1h"))[1] == "beside\n"
    assert (await edgecore(stand, "logs", "web", "-c", "side", "--timestamps"))[1].endswith("Z beside\n")
    code, _, err = await edgecore(stand, "logs", "-p", "web", "-c", "c")
    assert (code, err) == (1, 'edgecore: previous terminated container "c" in pod "web" not found\n')
    code, _, err = await edgecore(stand, "logs", "nope")
    assert (code, "no pod nope in namespace default" in err, "pods there: web" in err) == (1, True, True)
    code, _, err = await edgecore(stand, "logs", "web", "-c", "nope")
    assert (code, "containers: c, side" in err) == (1, True)


async def test_following_ends_with_the_container(stand: Stand) -> None:
    await stand.pod("web", c=["sh", "-c", "echo one; sleep 1; echo two"])
    assert await edgecore(stand, "logs", "-f", "web") == (0, "one\ntwo\n", "")


async def test_a_reader_of_logs_that_leaves(stand: Stand) -> None:
    await stand.pod("web", c=["yes"])
    process = await asyncio.create_subprocess_exec(
        *command_line(stand, "logs", "-f", "web"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        assert await process.wait() == 0
        assert await process.stderr.read() == b""


async def test_a_reader_of_a_command_that_leaves(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    process = await asyncio.create_subprocess_exec(
        *command_line(stand, "exec", "web", "--", "yes"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        assert await process.wait() == 128 + signal.SIGPIPE
        assert await process.stderr.read() == b""


async def test_output_that_finds_no_room(stand: Stand) -> None:
    await stand.pod("web", c=["yes"])
    for verb in (["logs", "web"], ["exec", "web", "--", "yes"], ["pods"]):
        with Path("/dev/full").open("wb") as full:
            process = await asyncio.create_subprocess_exec(
                *command_line(stand, *verb), stdout=full, stderr=asyncio.subprocess.PIPE
            )
        async with asyncio.timeout(20):
            _, err = await process.communicate()
        assert process.returncode == 1
        assert err.startswith(b"edgecore: the output cannot be written: No space left on device\n"), err


async def test_pods_of_an_edgecore_without_an_engine_are_shown_as_last_seen(stand: Stand) -> None:
    async def status(_: Any) -> Any:
        docker = {"state": "degraded", "reason": "no Docker Engine", "next_step": "start it"}
        return {"components": {"docker": docker, "edged": {"state": "degraded", "reason": "see docker"}}}

    server = ControlServer(path=stand.directory / "control.sock", verbs={"status": status})
    await server.start()
    try:
        await stand.pod("web", c=["sleep", "1000"])
        out = (await edgecore(stand, "pods"))[1]
    finally:
        await server.stop()
    assert out.endswith("\nas last seen: no Docker Engine\n  what to do: start it\n")


async def test_exec_passes_everything_on(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    code, out, err = await edgecore(stand, "exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (code, out, err) == (7, "out\n", "err\ncommand terminated with exit code 7\n")
    text = os.urandom(400_000).hex().encode()
    assert await edgecore(stand, "exec", "-i", "web", "--", "cat", text=text) == (0, text.decode(), "")
    assert await edgecore(stand, "exec", "-i", "web", "--", "true", text=text) == (0, "", "")
    assert (await edgecore(stand, "exec", "web", "--", "echo", "-n", "-t", "*"))[1] == "-t *"
    code, _, err = await edgecore(stand, "exec", "web", "--", "/nope")
    assert code in (1, 126, 127)
    assert err


async def test_exec_with_a_terminal(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    before = termios.tcgetattr(slave)
    process = await asyncio.create_subprocess_exec(
        *command_line(stand, "exec", "-it", "web", "--", "sh"), stdin=slave, stdout=slave, stderr=slave
    )
    loop = asyncio.get_running_loop()
    seen = bytearray()
    arrived = asyncio.Event()

    def take() -> None:
        with contextlib.suppress(OSError):
            seen.extend(os.read(master, 65536))
            arrived.set()

    async def until(text: bytes) -> None:
        async with asyncio.timeout(15):
            while text not in seen:
                arrived.clear()
                await arrived.wait()

    loop.add_reader(master, take)
    try:
        await until(b"# ")
        os.write(master, b"sleep 0.3; stty size\n")
        await until(b"40 120")
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
        process.send_signal(28)  # SIGWINCH: the process has no controlling terminal here
        os.write(master, b"sleep 0.3; stty size\n")
        await until(b"30 90")
        os.write(master, b"sleep 100\n")
        await asyncio.sleep(0.3)
        os.write(master, b"\x03")  # reaches the command, not edgecore
        os.write(master, b"exit 9\n")
        async with asyncio.timeout(15):
            assert await process.wait() == 9
    finally:
        loop.remove_reader(master)
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


async def test_a_terminal_is_put_right_when_we_are_ended(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    process = await asyncio.create_subprocess_exec(
        *command_line(stand, "exec", "-it", "web", "--", "cat"), stdin=slave, stdout=slave, stderr=slave
    )
    async with asyncio.timeout(15):
        while "cat" not in (await stand.get("/run/default/web/c?cmd=ps"))[1]:
            await asyncio.sleep(0.1)
        assert termios.tcgetattr(slave) != before
        process.terminate()
        assert await process.wait() == 143
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


async def test_exec_without_a_terminal_of_our_own(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    code, out, err = await edgecore(stand, "exec", "-it", "web", "--", "sh", "-c", "test -t 0 || echo none; exit 1")
    assert (out, code) == ("none\n", 1)
    assert err.startswith("Unable to use a TTY")


async def test_nobody_answers(tmp_path: Path, dockerd: Dockerd) -> None:
    stand = Stand(dockerd, tmp_path)
    (tmp_path / "edgecore.toml").write_text(f'runtime_dir = "{tmp_path}"\n')
    for verb in (["pods"], ["logs", "web"], ["exec", "web", "--", "ls"]):
        code, out, err = await edgecore(stand, *verb)
        assert (code, out) == (1, "")
        assert "kubelet.sock" in err
        assert "what to do: is edgecore running" in err


def test_the_container_that_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    pod = {
        "metadata": {"name": "web", "annotations": {"kubectl.kubernetes.io/default-container": "b"}},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
    }

    def pick(container: str) -> str:
        return pick_container([pod], namespace="default", pod="web", container=container)

    assert (pick(""), pick("i")) == ("b", "i")
    assert capsys.readouterr().err == ""
    with pytest.raises(PermanentError, match="containers: a, b, i"):
        pick("x")
    del pod["metadata"]["annotations"]  # type: ignore[attr-defined]
    assert pick("") == "a"
    assert capsys.readouterr().err == 'Defaulted container "a" out of: a, b, i\n'
    pod["spec"] = {}
    with pytest.raises(PermanentError, match="has no container"):
        pick("")


def test_names_do_not_steer_the_terminal() -> None:
    pod = {"metadata": {"name": "a\x1b[31m", "namespace": "x"}, "spec": {}, "status": {"phase": "\x07"}}
    assert all(line.isprintable() for line in render_pods([pod], wide=True, everywhere=True, now_ms=0))


def test_spans_and_counts() -> None:
    assert [seconds(text) for text in ("90", "90s", "15m", "2h")] == [90, 90, 900, 7200]
    assert count("0") == 0
    for bad in ("", "0", "x", "-1", "1d", "1.5h", "²"):
        with pytest.raises(Exception, match="is not a time"):
            seconds(bad)
    for bad in ("", "-1", "x", "9" * 10):
        with pytest.raises(Exception, match="is not a number"):
            count(bad)


async def test_without_an_engine_the_next_step_is_named(dockerd: Dockerd, stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    await dockerd.kill()
    async with asyncio.timeout(20):
        while "answers" not in stand.engine.trouble:
            await asyncio.sleep(0.05)
    for verb in (["logs", "web"], ["exec", "web", "--", "true"]):
        assert await edgecore(stand, *verb) == (
            1,
            "",
            f"edgecore: no Docker Engine answers at {dockerd.socket}: Connection refused\n"
            "  what to do: see: edgecore status\n",
        )
