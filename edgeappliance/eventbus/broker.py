"""mosquitto as a supervised child: its configuration, its life, and what to tell a person when it does not start."""

import asyncio
import base64
import contextlib
import hashlib
import os
import re
import secrets
import signal
from collections import deque
from pathlib import Path
from typing import Literal

from edgeappliance.config.settings import Mqtt, MqttListener
from edgeappliance.kernel import hostcmd
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Condition, Health, State
from edgeappliance.kernel.errors import ApplianceError, OperatorError, TransientError
from edgeappliance.kernel.files import make_directory, replace_file
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope

READY_TIMEOUT = 10.0
STOP_TIMEOUT = 3.0
PROBE_PAUSE = 0.02

PASSWORD_ITERATIONS = 101
"""What mosquitto_passwd uses; logins happen once per connection on a small CPU."""


_NOTE = re.compile(r"(\d+: )?Note: ")


class Broker:
    """Runs `mosquitto` on 127.0.0.1, and on a second listener if configured.

    `start` returns once it accepts; when it dies it is started again with back-off on the same port. A broker that a
    killed edgecore left behind is found by its pid file and ended first.
    """

    def __init__(self, *, settings: Mqtt, runtime: Path, scope: TaskScope, clock: Clock) -> None:
        self._settings = settings
        self._directory = runtime / "mqtt"
        self._scope = scope
        self._clock = clock
        self._backoff = Backoff(initial=0.1, maximum=5.0)
        self._process: asyncio.subprocess.Process | None = None
        self._last_lines: deque[str] = deque(maxlen=5)
        self._condition = Condition(clock)
        self._log = get_logger("broker")
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start the broker. Raises OperatorError: not installed, port taken, configuration refused."""
        await asyncio.to_thread(self._prepare)
        await self._end_leftover()
        await self._check_ports()
        try:
            await self._launch()
        except BaseException:
            await self._end()
            raise
        self._scope.spawn(self._keep_running(), name="mosquitto")
        self._condition.set(State.RUNNING)

    async def stop(self) -> None:
        """End the broker."""
        await self._scope.cancel()
        await self._end()
        self._condition.set(State.STOPPED)

    def health(self) -> Health:
        pid = "" if self.pid is None else str(self.pid)
        address = f"127.0.0.1:{self._settings.port}"
        return self._condition.health({"address": address, "pid": pid, "mosquitto_restarts_total": self.restarts})

    # Configuration.

    @property
    def _config_file(self) -> Path:
        return self._directory / "mosquitto.conf"

    @property
    def _pid_file(self) -> Path:
        return self._directory / "mosquitto.pid"

    def _prepare(self) -> None:
        """Write the configuration; on a thread."""
        make_directory(self._directory, next_step="check runtime_dir and its owner")
        pods = self._settings.pods
        password_file = self._directory / "passwords"
        if pods.address:
            try:
                password = Path(pods.password_file).read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise OperatorError(
                    f"mqtt.pods.password_file cannot be read: {error}", next_step="correct the key or write the file"
                ) from None
            replace_file(password_file, f"{pods.user}:{password_hash(password)}\n".encode())
        text = configuration(self._settings, password_file=password_file, root=os.geteuid() == 0)
        replace_file(self._config_file, text.encode())

    # Life.

    async def _launch(self) -> None:
        self._last_lines.clear()
        try:
            process = await hostcmd.spawn([self._settings.mosquitto, "-c", self._config_file])
        except OperatorError as error:
            raise OperatorError(
                f"the MQTT broker cannot be started: {error.message}",
                next_step='run "apt-get install -y mosquitto && systemctl disable --now mosquitto",'
                ' or set mqtt.mode = "external"',
            ) from None
        self._process = process
        await asyncio.to_thread(replace_file, self._pid_file, f"{process.pid}\n".encode())
        drain = self._scope.spawn(self._drain(process), name="mosquitto-stderr")
        await self._ready(process, drain)

    async def _ready(self, process: asyncio.subprocess.Process, drain: "asyncio.Task[None]") -> None:
        deadline = self._clock.monotonic() + READY_TIMEOUT
        while process.returncode is None:
            if await _accepts("127.0.0.1", self._settings.port):
                return
            if self._clock.monotonic() > deadline:
                raise TransientError(f"mosquitto does not accept on port {self._settings.port}")
            await asyncio.sleep(PROBE_PAUSE)
        await asyncio.wait([drain], timeout=1.0)
        said = "; ".join(self._last_lines) or f"it ended with code {process.returncode}"
        raise OperatorError(
            f"mosquitto did not start: {said}", next_step=f"correct the [mqtt] settings; see {self._config_file}"
        )

    async def _drain(self, process: asyncio.subprocess.Process) -> None:
        if process.stderr is None:
            return
        while line := await process.stderr.readline():
            text = line.decode(errors="replace").strip()
            if not text:
                continue
            level = line_level(text)
            if level != "debug":
                self._last_lines.append(text)
            getattr(self._log, level)("mosquitto", says=text)

    async def _keep_running(self) -> None:
        while True:
            process, began = self._process, self._clock.monotonic()
            if process is not None:
                code = await process.wait()
                self._backoff.succeeded(self._clock.monotonic() - began)
                self._report(TransientError(f"mosquitto ended with code {code}", next_step="it is started again"))
            await asyncio.sleep(self._backoff.next_delay())
            self.restarts += 1
            try:
                await self._launch()
            except ApplianceError as error:
                await self._end()
                self._process = None
                self._report(error)
            else:
                self._condition.set(State.RUNNING)

    def _report(self, error: ApplianceError) -> None:
        self._log.error("the MQTT broker is down", reason=error.message)
        self._condition.degrade(error)

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _end_leftover(self) -> None:
        """End the broker of an edgecore that was killed: it holds the port and may have an old configuration."""
        pid = await asyncio.to_thread(_leftover, self._pid_file, self._config_file)
        if pid is None:
            return
        self._log.warning("ending the broker that an earlier edgecore left behind", pid=pid)
        for number, wait in ((signal.SIGTERM, STOP_TIMEOUT), (signal.SIGKILL, STOP_TIMEOUT)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = self._clock.monotonic() + wait
            while self._clock.monotonic() < deadline:
                if await asyncio.to_thread(_leftover, self._pid_file, self._config_file) is None:
                    return
                await asyncio.sleep(PROBE_PAUSE)

    async def _check_ports(self) -> None:
        pods = self._settings.pods
        listeners = [("mqtt.port", "127.0.0.1", self._settings.port)]
        if pods.address:
            listeners.append(("mqtt.pods.port", pods.address, pods.port))
        for key, address, port in listeners:
            if await _accepts("127.0.0.1" if address in ("0.0.0.0", "::") else address, port):  # noqa: S104 - compared
                raise OperatorError(
                    f"port {port} of {address} is taken by another program",
                    next_step=f"stop it (ss -ltnp 'sport = :{port}' names it), choose another {key},"
                    ' or set mqtt.mode = "external" to use it as the broker',
                )


def configuration(settings: Mqtt, *, password_file: Path, root: bool) -> str:
    """mosquitto.conf: an anonymous listener on loopback and, if configured, one with user, password and ACL."""
    lines = [
        "# Written by edgecore at every start; changes here are lost.",
        "per_listener_settings true",
        *(["user root"] if root else []),
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_timestamp false",
        # Small answers leave at once instead of waiting for TCP's delayed acknowledgements.
        "set_tcp_nodelay true",
        "max_inflight_messages 0",
        "max_queued_messages 20000",
        "max_queued_bytes 33554432",
        f"listener {settings.port} 127.0.0.1",
        "allow_anonymous true",
        "persistence false",
        "message_size_limit 12582912",
    ]
    return "\n".join([*lines, *_pods_listener(settings.pods, password_file)]) + "\n"


def _pods_listener(pods: MqttListener, password_file: Path) -> list[str]:
    if not pods.address:
        return []
    return [
        f"listener {pods.port} {pods.address}",
        "allow_anonymous false",
        f"password_file {password_file}",
        *([f"acl_file {pods.acl_file}"] if pods.acl_file else []),
    ]


def line_level(line: str) -> Literal["debug", "warning", "error"]:
    """How loud a line of mosquitto is in our log. Its notes on our own configuration say nothing to an operator."""
    if _NOTE.match(line) or "should not be run as root" in line:
        return "debug"
    return "error" if line.startswith("Error") else "warning"


def password_hash(password: str) -> str:
    """A password as mosquitto 2 keeps it: PBKDF2 with SHA-512 (format 7 of mosquitto_passwd)."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, PASSWORD_ITERATIONS, 64)
    return "$".join(
        ("", "7", str(PASSWORD_ITERATIONS), base64.b64encode(salt).decode(), base64.b64encode(digest).decode())
    )


def _leftover(pid_file: Path, config_file: Path) -> int | None:
    """The pid in the file, if it is still a broker with our configuration."""
    try:
        pid = int(pid_file.read_text("ascii"))
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(") ")[2][:1]
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(config_file) in command and state != "Z" else None


async def _accepts(address: str, port: int) -> bool:
    try:
        async with asyncio.timeout(1.0):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
