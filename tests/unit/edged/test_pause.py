"""The program that holds a sandbox, on every architecture, and its image."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeappliance.edged.pause import archive as pause
from edgeappliance.kernel.errors import OperatorError

BINARIES = Path(pause.__file__).parent / "bin"
RUNNERS = {"amd64": [], "arm64": ["qemu-aarch64-static"], "arm": ["qemu-arm-static"]}

# Becomes the program, with three children: two that end at once and one that lives on.
_WITH_CHILDREN = """
import os, sys, time
for seconds in (0.1, 0.1, 60):
    if os.fork() == 0:
        time.sleep(seconds)
        os._exit(0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(params=pause.ARCHITECTURES)
def command(request: pytest.FixtureRequest) -> list[str]:
    """How the program of an architecture is run here."""
    return [*RUNNERS[request.param], str(BINARIES / f"pause-{request.param}")]


@pytest.fixture
def program(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", _WITH_CHILDREN, *command], start_new_session=True)
    yield process
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def children(pid: int) -> list[str]:
    """States of the child processes: S sleeps, Z has ended and waits to be collected."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(fields[0])
    return sorted(found)


def wait_for(pid: int, wanted: list[str]) -> None:
    give_up = time.monotonic() + 10
    while (found := children(pid)) != wanted:
        assert time.monotonic() < give_up, found
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_with_0(program: subprocess.Popen[bytes], number: signal.Signals) -> None:
    wait_for(program.pid, ["S"])  # so it waits for signals already
    before = time.monotonic()
    program.send_signal(number)
    assert program.wait(5) == 0
    assert time.monotonic() - before < 1


def test_it_collects_children_that_ended_and_goes_on(program: subprocess.Popen[bytes]) -> None:
    wait_for(program.pid, ["S"])
    assert program.poll() is None


def test_it_collects_what_ended_before_it_listened(command: list[str]) -> None:
    early = _WITH_CHILDREN.replace("os.execvp", "time.sleep(0.5)\nos.execvp")
    process = subprocess.Popen([sys.executable, "-c", early, *command], start_new_session=True)
    try:
        wait_for(process.pid, ["S", "Z", "Z"])
        wait_for(process.pid, ["S"])
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_it_goes_on_after_being_stopped(program: subprocess.Popen[bytes]) -> None:
    wait_for(program.pid, ["S"])
    program.send_signal(signal.SIGSTOP)
    program.send_signal(signal.SIGCONT)
    time.sleep(0.2)
    assert program.poll() is None
    program.send_signal(signal.SIGTERM)
    assert program.wait(5) == 0


def test_it_takes_no_processor_time(program: subprocess.Popen[bytes]) -> None:
    wait_for(program.pid, ["S"])

    def ticks() -> int:
        fields = Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(0.5)
    assert ticks() - before <= 1


@pytest.mark.parametrize("architecture", pause.ARCHITECTURES)
def test_the_image_is_the_same_every_time_and_holds_the_program(architecture: str) -> None:
    image = pause.archive(architecture)
    assert image == pause.archive(architecture)
    assert len(image) < 32 * 1024
    with tarfile.open(fileobj=io.BytesIO(image)) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    (manifest,) = json.loads(files["manifest.json"])
    assert manifest["RepoTags"] == [pause.IMAGE]
    config = json.loads(files[manifest["Config"]])
    assert config["architecture"] == architecture
    (layer,) = manifest["Layers"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(files[layer]).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(files[layer])) as tar:
        (entry,) = tar.getmembers()
        assert (entry.name, entry.mode, entry.mtime, entry.uid) == ("pause", 0o755, 0, 0)
        assert tar.extractfile(entry).read() == (BINARIES / f"pause-{architecture}").read_bytes()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("machine", "bits", "wanted"),
    [
        ("x86_64", 64, "amd64"),
        ("aarch64", 64, "arm64"),
        ("aarch64", 32, "arm"),
        ("armv7l", 32, "arm"),
        ("armv6l", 32, "arm"),
        ("riscv64", 64, ""),
    ],
)
def test_the_architecture_is_that_of_the_programs(
    monkeypatch: pytest.MonkeyPatch, machine: str, bits: int, wanted: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("sys.maxsize", 2 ** (bits - 1) - 1)
    assert pause.architecture() == wanted


def test_an_architecture_without_a_program_is_named() -> None:
    with pytest.raises(OperatorError, match="riscv64"):
        pause.archive("riscv64")
