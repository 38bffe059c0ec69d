"""Running host programs: argument lists only, never a shell, with the environment the freezer changed put back."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeappliance.kernel.errors import OperatorError, TransientError

MAX_OUTPUT = 1024 * 1024
"""Bytes of each output stream that are kept."""


@dataclass(frozen=True, slots=True)
class Completed:
    """Exit code and output of a finished program."""

    code: int
    out: bytes
    err: bytes


class CommandFailed(TransientError):
    """The program ended with a code other than 0, or did not end in time."""


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a child: what PyInstaller put into LD_LIBRARY_PATH does not leak into host programs."""
    environment = dict(os.environ)
    for name in ("LD_LIBRARY_PATH", "LD_PRELOAD"):
        original = environment.pop(f"{name}_ORIG", None)
        if original is not None:
            environment[name] = original
        elif "_PYI_ARCHIVE_FILE" in environment or "_MEIPASS2" in environment:
            environment.pop(name, None)
    for name in [name for name in environment if name.startswith("_PYI_") or name == "_MEIPASS2"]:
        del environment[name]
    environment.update(extra or {})
    return environment


async def spawn(
    arguments: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    stdin: int | None = asyncio.subprocess.DEVNULL,
    stdout: int | None = asyncio.subprocess.DEVNULL,
    stderr: int | None = asyncio.subprocess.PIPE,
    directory: Path | None = None,
) -> asyncio.subprocess.Process:
    """Start a program and return its process. Raises OperatorError when it is not installed."""
    program = str(arguments[0])
    try:
        return await asyncio.create_subprocess_exec(
            *map(str, arguments),
            env=clean_environment(environment),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=directory,
        )
    except FileNotFoundError:
        raise OperatorError(f"{program} is not installed", next_step=f"install {program} or correct its path") from None
    except PermissionError:
        raise OperatorError(f"{program} may not be run by this user", next_step="check its mode and the unit") from None


async def run(
    arguments: Sequence[str | Path],
    *,
    timeout: float,
    input: bytes | None = None,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Run a program to its end. Raises CommandFailed on time-out (s) and, with `check`, on a code other than 0."""
    process = await spawn(
        arguments,
        environment=environment,
        stdin=asyncio.subprocess.PIPE if input is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate(input)
    except BaseException as error:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise CommandFailed(f"{arguments[0]} did not end within {timeout:g} s") from None
        raise
    code = process.returncode
    if code is None:  # communicate() returned, so the process has ended
        raise CommandFailed(f"{arguments[0]} has no exit code")
    if check and code != 0:
        tail = err.decode(errors="replace").strip().splitlines()[-1:] or [""]
        raise CommandFailed(f"{arguments[0]} ended with code {code}: {tail[0][:500]}", code=code)
    return Completed(code, out[:MAX_OUTPUT], err[:MAX_OUTPUT])
