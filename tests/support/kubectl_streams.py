"""kubectl as a client of streams: new, new over SPDY, and Debian's old one, each as a running process."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.kubectl import TIMEOUT, Done, binary

VERSIONS = ("1.37", "1.37 over SPDY", "1.20")
_SPDY = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "false"}


@dataclass
class Client:
    """A kubectl of some version. `settings`: environment beside the usual."""

    program: str
    kubeconfig: Path
    settings: dict[str, str]
    speaks_spdy: bool

    async def start(self, *args: str) -> asyncio.subprocess.Process:
        home = str(self.kubeconfig.parent)
        return await asyncio.create_subprocess_exec(
            "setpriv", "--pdeathsig", "KILL", self.program, "--kubeconfig", str(self.kubeconfig), *args,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": home, **self.settings},
        )  # fmt: skip

    async def run(self, *args: str, stdin: bytes = b"") -> Done:
        process = await self.start(*args)
        try:
            async with asyncio.timeout(TIMEOUT):
                out, err = await process.communicate(stdin)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        return Done(process.returncode or 0, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    @contextlib.asynccontextmanager
    async def running(self, *args: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await self.start(*args)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


def client_of(version: str, kubeconfig: Path) -> Client:
    """One of VERSIONS; the old one is fetched when it is not there."""
    if version != "1.20":
        spdy = "SPDY" in version
        return Client(binary(), kubeconfig, _SPDY if spdy else {}, spdy)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    program = cache / "edgeappliance" / "kubectl-1.20" / "kubectl"
    if not program.exists():
        subprocess.run(["bash", str(Path(__file__).with_name("fetch_old_kubectl.sh"))], check=True)
    return Client(str(program), kubeconfig, {}, True)
