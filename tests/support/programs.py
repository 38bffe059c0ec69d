"""Real programs as children: started with a log file, found ready, killed by pid, never left behind."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = str(ROOT / ".venv" / "bin" / "python")
KUBECTL = str(ROOT / ".venv" / "bin" / "kubectl")


class ProgramFailed(Exception):
    """A program ended or did not do what was waited for; the message carries the end of its log."""


class Program:
    """One child process. It can be started again after it ended."""

    def __init__(
        self, name: str, arguments: Sequence[str | Path], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        # A test run that is killed takes its programs along; SIGTERM, so that they take theirs.
        self._arguments = ["setpriv", "--pdeathsig", "TERM", *(str(argument) for argument in arguments)]
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self.log = log
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; its output is appended to the log."""
        if self.running:
            raise ProgramFailed(f"{self.name} runs already")
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self._arguments, stdout=log, stderr=log, env=self.environment, cwd=ROOT, start_new_session=True
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def stop(self, *, timeout: float = 15.0) -> int:
        """SIGTERM and wait; SIGKILL to the whole session when it does not end. The exit code."""
        return await self._end(signal.SIGTERM, timeout)

    async def kill(self) -> None:
        """kill -9, this process only: its children are left to whoever cares for them."""
        if self.running:
            assert self.process is not None
            self.process.kill()
            await self.process.wait()

    async def _end(self, sent: signal.Signals, timeout: float) -> int:
        if self.process is None:
            return 0
        if self.running:
            self.process.send_signal(sent)
        try:
            async with asyncio.timeout(timeout):
                await self.process.wait()
        except TimeoutError:
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()
            raise ProgramFailed(f"{self.name} did not end within {timeout} s\n{self.tail()}") from None
        finally:
            self.sweep()
        return self.process.returncode or 0

    def sweep(self) -> None:
        """Kill what is left of its session (the children of a program that was killed)."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def tail(self, lines: int = 40) -> str:
        """The end of the log."""
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        return f"--- {self.name} ---\n" + "\n".join(text.splitlines()[-lines:])

    async def until(self, condition: Callable[[], Awaitable[bool]], *, what: str, timeout: float = 20.0) -> None:
        """Wait for a condition; ProgramFailed when the program ends or time runs out first."""
        deadline = time.monotonic() + timeout
        while not await condition():
            if not self.running:
                raise ProgramFailed(f"{self.name} ended while waiting for {what}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ProgramFailed(f"{self.name}: {what} did not come within {timeout} s\n{self.tail()}")
            await asyncio.sleep(0.05)


async def output(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float = 30.0,
) -> tuple[int, str, str]:
    """Run a program to its end: exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        cwd=ROOT,
    )
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate(stdin.encode() if stdin is not None else None)
    except BaseException as error:
        process.kill()
        await process.communicate()
        if isinstance(error, TimeoutError):
            raise ProgramFailed(f"{arguments[0]} did not end within {timeout} s") from None
        raise
    return process.returncode or 0, out.decode(), err.decode()
