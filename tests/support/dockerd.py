"""A real Docker Engine of its own for the tests, with registries; nothing of it outlives the test run.

It lives in its own mount and network namespaces, so that several test runs on one machine do not meet and the host's
iptables stay as they are. A veth pair leads into the network namespace: the addresses of containers and the ports
that they publish (on `Dockerd.address`) are reachable from the test process.
"""

import asyncio
import contextlib
import io
import json
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker

from tests.support.docker_keeper import descendants

KEEPER = Path(__file__).with_name("docker_keeper.py")
_APPLETS = """
    sh cat ls echo sleep true false id env hostname nc wget httpd touch mkdir rm mv cp ln stat grep head tail tr wc kill
    ps printf seq yes dd date ip ifconfig nslookup mount umount df find sed awk sync test pwd whoami stty od vi tar
    usleep mkfifo chmod chown readlink sort uniq xargs timeout trap expr nproc uname
"""
# Containers of this machine's kind may not have CAP_SYS_RESOURCE when the machine itself lacks it.
_RUNTIME = """#!/bin/sh
previous=
bundle=
create=
for argument in "$@"; do
    case "$previous" in --bundle|-b|--process|-p) bundle="$bundle $argument" ;; esac
    case "$argument" in create|exec) create=1 ;; esac
    previous=$argument
done
if [ -n "$create" ]; then
    for file in $bundle; do
        [ -d "$file" ] && file=$file/config.json
        sed -i 's/"CAP_SYS_RESOURCE",//g; s/,"CAP_SYS_RESOURCE"//g' "$file"
    done
fi
exec runc "$@"
"""


class DockerdFailed(Exception):
    """dockerd did not come up; the text is the end of its log."""


class Dockerd:
    """One Docker Engine. `start` returns when it answers; `kill` is kill -9 of dockerd alone: containers stay as the
    kernel leaves them; `stop` ends it as an operator would; `close` ends everything.

    network: a bridge with iptables; without it only host networking works and it starts faster.
    live_restore: containers go on while dockerd is down.
    """

    def __init__(self, *, network: bool = True, live_restore: bool = False, arguments: Sequence[str] = ()) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="dk", dir="/tmp"))
        self.socket = self.root / "docker.sock"
        self.address = "127.0.0.1"
        """Where published ports are."""
        self.network = network
        self.pid = 0
        self._arguments = [
            *(["--live-restore"] if live_restore else []),
            *(["--ip6tables=false"] if network else ["--bridge=none", "--iptables=false"]),
            *arguments,
        ]
        self._keeper: subprocess.Popen[str] | None = None
        self._cgroup = self.root.name

    @property
    def base_url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def enter(self) -> tuple[str, ...]:
        """Put before a command line, it runs in the engine's network namespace."""
        assert self._keeper is not None
        return ("nsenter", f"--net=/proc/{self._keeper.pid}/ns/net") if self.network else ()

    async def start(self) -> "Dockerd":
        await asyncio.to_thread(self.start_now)
        return self

    async def kill(self) -> None:
        await asyncio.to_thread(self.kill_now)

    async def stop(self) -> None:
        await asyncio.to_thread(self.stop_now)

    async def power_cut(self) -> None:
        """dockerd, containerd and every container die at once, as with the machine; `start` is the boot after it."""
        await asyncio.to_thread(self.power_cut_now)

    async def close(self) -> None:
        await asyncio.to_thread(self.close_now)

    async def __aenter__(self) -> "Dockerd":
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start_now(self) -> None:
        """As `start`, from code without an event loop."""
        if self._keeper is None:
            self._keep()
        keeper = self._keeper
        assert keeper is not None
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        command = [
            "dockerd", "--data-root", f"{self.root}/data", "--exec-root", f"{self.root}/exec",
            "--pidfile", f"{self.root}/pid", "--host", self.base_url, "--log-level", "warn",
            "--storage-driver", "overlay2", "--add-runtime", f"bounded={self.root}/runtime",
            "--default-runtime", "bounded", "--cgroup-parent", f"/{self._cgroup}", *self._arguments,
        ]  # fmt: skip
        # The containerd of a dockerd that was killed may still be there when the next one looks for it: try again.
        for _ in range(4):
            (self.root / "pid").unlink(missing_ok=True)
            keeper.stdin.write(json.dumps(command) + "\n")
            keeper.stdin.flush()
            self.pid = int(keeper.stdout.readline())
            if self._wait_ready():
                return
        log = (self.root / "dockerd.log").read_text(errors="replace")
        raise DockerdFailed(log[-3000:])

    def _keep(self) -> None:
        runtime = self.root / "runtime"
        runtime.write_text(_RUNTIME)
        runtime.chmod(0o755)
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", *(["--net"] if self.network else []),
             sys.executable, "-I", str(KEEPER), str(self.root), self._cgroup],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the test run; this one ends when its stdin does
        )  # fmt: skip
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != "ready\n":
            raise DockerdFailed("its namespaces could not be made (root is needed)")
        if self.network:
            self._connect()

    def _connect(self) -> None:
        """A veth pair into the namespace; the host's end of it names, and so reserves, the addresses."""
        assert self._keeper is not None
        while True:
            number = random.SystemRandom().randrange(4096)
            name, high, low = f"eadk{number}", number >> 8, number & 255
            made = subprocess.run(
                ["ip", "link", "add", name, "type", "veth", "peer", "name", "up0", "netns", str(self._keeper.pid)],
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode == 0:
                break
            if "File exists" not in made.stderr:
                raise DockerdFailed(made.stderr)
        self.address = f"10.{100 + high}.{low}.2"
        bridge = f"10.{120 + high}.{low}"
        self._arguments.append(f"--bip={bridge}.1/24")
        for command in (
            ["ip", "address", "add", f"10.{100 + high}.{low}.1/30", "dev", name],
            ["ip", "link", "set", name, "up"],
            [*self.enter, "ip", "link", "set", "lo", "up"],
            [*self.enter, "ip", "address", "add", f"{self.address}/30", "dev", "up0"],
            [*self.enter, "ip", "link", "set", "up0", "up"],
            ["ip", "route", "add", f"{bridge}.0/24", "via", self.address],
            # Docker lets nobody from outside reach a port that is not published.
            [*self.enter, "iptables", "-w", "-N", "DOCKER-USER"],
            [*self.enter, "iptables", "-w", "-A", "DOCKER-USER", "-i", "up0", "-j", "ACCEPT"],
        ):
            subprocess.run(command, check=True, capture_output=True)

    def _wait_ready(self, seconds: float = 20.0) -> bool:
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            if not _alive(self.pid):
                return False
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(2)
                probe.connect(str(self.socket))
                probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                if b" 200 " in probe.recv(4096):
                    return True
            time.sleep(0.03)
        self.kill_now()
        return False

    def kill_now(self) -> None:
        """As `kill`, from code without an event loop."""
        self._signal(signal.SIGKILL)

    def power_cut_now(self) -> None:
        """As `power_cut`, from code without an event loop."""
        assert self._keeper is not None
        give_up = time.monotonic() + 30
        while found := [pid for pid in descendants(self._keeper.pid) if _alive(pid)]:
            assert time.monotonic() < give_up, "the engine's processes do not end"
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        self.pid = 0

    def stop_now(self) -> None:
        """As `stop`, from code without an event loop."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if not self.pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        give_up = time.monotonic() + 30
        while _alive(self.pid):
            assert time.monotonic() < give_up, "dockerd does not end"
            time.sleep(0.01)
        self.pid = 0

    def close_now(self) -> None:
        """As `close`, from code without an event loop."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        keeper.stdin.close()
        keeper.stdout.close()
        keeper.wait(20)
        self.pid = 0

    @property
    def running(self) -> bool:
        return bool(self.pid) and _alive(self.pid)

    @contextlib.contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        """docker-py on this engine: synchronous, so not on the event loop."""
        client = docker.DockerClient(base_url=self.base_url, timeout=60)
        try:
            yield client
        finally:
            client.close()

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """One method of docker-py's low-level client: `await dockerd.call("containers", all=True)`."""

        def work() -> Any:
            with self.client() as client:
                return getattr(client.api, method)(*arguments, **options)

        return await asyncio.to_thread(work)

    async def image(
        self, name: str, files: Mapping[str, str | bytes] | None = None, *, changes: Sequence[str] = ()
    ) -> str:
        """Make a busybox image called `name`, without a registry; its id.

        files: path -> content, executable when it begins with `#!`. changes: lines of a Dockerfile.
        """
        return await asyncio.to_thread(self.image_now, name, files, changes=changes)

    def image_now(
        self, name: str, files: Mapping[str, str | bytes] | None = None, *, changes: Sequence[str] = ()
    ) -> str:
        """As `image`, from code without an event loop."""
        repository, _, tag = name.rpartition(":")
        with self.client() as client:
            client.api.import_image_from_data(
                busybox(files or {}), repository=repository, tag=tag, changes=list(changes)
            )
            return str(client.images.get(name).id)

    def clean_now(self) -> None:
        """Remove all containers and volumes; starts dockerd when it is down."""
        if not self.running:
            self.start_now()
        with self.client() as client:
            for container in client.api.containers(all=True):
                with contextlib.suppress(docker.errors.APIError):
                    client.api.remove_container(container["Id"], force=True, v=True)
            for volume in client.api.volumes()["Volumes"] or ():
                with contextlib.suppress(docker.errors.APIError):
                    client.api.remove_volume(volume["Name"], force=True)


def busybox(files: Mapping[str, str | bytes]) -> bytes:
    """A root file system as a tar: busybox under its usual names, /etc/passwd, /tmp, and `files`."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:

        def add(name: str, content: bytes, mode: int) -> None:
            info = tarfile.TarInfo(name.lstrip("/"))
            info.size, info.mode = len(content), mode
            tar.addfile(info, io.BytesIO(content))

        for directory, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("dev", 0o755), ("proc", 0o755)):
            info = tarfile.TarInfo(directory)
            info.type, info.mode = tarfile.DIRTYPE, mode
            tar.addfile(info)
        add("bin/busybox", _program("busybox"), 0o755)
        for applet in _APPLETS.split():
            info = tarfile.TarInfo(f"bin/{applet}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(info)
        add("etc/passwd", b"root:x:0:0:root:/:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n", 0o644)
        add("etc/group", b"root:x:0:\napp:x:1000:\ndialout:x:20:app\n", 0o644)
        for name, text in files.items():
            content = text.encode() if isinstance(text, str) else text
            add(name, content, 0o755 if content.startswith(b"#!") else 0o644)
    return output.getvalue()


def _program(name: str) -> bytes:
    path = next(p for p in (Path("/bin", name), Path("/usr/bin", name)) if p.exists())
    assert stat.S_ISREG(path.stat().st_mode)
    return path.read_bytes()


def _alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


@contextlib.contextmanager
def running_dockerd(**options: Any) -> Iterator[Dockerd]:
    """A Docker Engine for a block of code without an event loop."""
    engine = Dockerd(**options)
    try:
        engine.start_now()
        yield engine
    finally:
        engine.close_now()


def wait_listening(pid: int, port: int, *, seconds: float = 10.0) -> None:
    """Return when something listens on `port` in the network namespace of `pid`."""
    listening = re.compile(rf" [0-9A-F]+:{port:04X} 0+:0000 0A ")  # of /proc/net/tcp: local, remote, LISTEN
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        tables = (Path(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6"))
        if any(listening.search(table.read_text()) for table in tables if table.exists()):
            return
        time.sleep(0.02)
    raise DockerdFailed(f"nothing listens on port {port}")


class Registry:
    """Debian's docker-registry where the engine sees it: on 127.0.0.1:`port` of its network namespace."""

    def __init__(self, engine: Dockerd, *, port: int = 5000, users: Mapping[str, str] | None = None) -> None:
        self.name = f"127.0.0.1:{port}"
        self._port = port
        self._engine = engine
        self._directory = Path(tempfile.mkdtemp(prefix="rg", dir=engine.root))
        self._process: subprocess.Popen[bytes] | None = None
        self._auth: dict[str, str] | None = None
        config: dict[str, Any] = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": f"{self._directory}/data"}, "delete": {"enabled": True}},
            "http": {"addr": self.name},
            "log": {"level": "error"},
        }
        if users:
            passwords = "".join(
                subprocess.run(
                    ["htpasswd", "-nbB", "-C", "4", name, password], capture_output=True, text=True, check=True
                ).stdout.strip()
                + "\n"
                for name, password in users.items()
            )
            (self._directory / "htpasswd").write_text(passwords)
            config["auth"] = {"htpasswd": {"realm": "test", "path": f"{self._directory}/htpasswd"}}
            name, password = next(iter(users.items()))
            self._auth = {"username": name, "password": password}
        (self._directory / "config.yml").write_text(json.dumps(config))  # JSON is YAML

    async def start(self) -> "Registry":
        self._process = subprocess.Popen(
            [*self._engine.enter, "setpriv", "--pdeathsig", "KILL",
             "docker-registry", "serve", str(self._directory / "config.yml")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        await asyncio.to_thread(wait_listening, self._process.pid, self._port)
        return self

    async def kill(self) -> None:
        """kill -9: pulls fail until it is started again; what was pushed stays."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)

    async def push(self, image: str, name: str) -> str:
        """Push the engine's `image` as `name` (`app:1`); the name to pull it by."""
        repository, _, tag = name.rpartition(":")
        target = f"{self.name}/{repository}"

        def work() -> None:
            with self._engine.client() as client:
                client.api.tag(image, target, tag)
                for step in client.api.push(target, tag, stream=True, decode=True, auth_config=self._auth):
                    if "error" in step:
                        raise DockerdFailed(step["error"])
                client.api.remove_image(f"{target}:{tag}", noprune=True)

        await asyncio.to_thread(work)
        return f"{target}:{tag}"

    async def __aenter__(self) -> "Registry":
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


@contextlib.asynccontextmanager
async def engine_of_its_own(**options: Any) -> AsyncIterator[Dockerd]:
    """A Docker Engine for one test: what it does to dockerd harms no other."""
    async with Dockerd(**options) as engine:
        yield engine
