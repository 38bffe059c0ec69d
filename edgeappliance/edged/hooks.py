"""Lifecycle hooks of a container, postStart and preStop, with a kubelet's words for what goes wrong."""

import asyncio
from enum import StrEnum

from edgeappliance.edged.pods.observed import ObservedContainer
from edgeappliance.edged.pods.spec import Container, Exec, HttpGet, LifecycleHandler
from edgeappliance.edged.probes.attempt import Runner, Target, UnknownPort, url_of
from edgeappliance.edged.probes.http import HttpFailed, get
from edgeappliance.kernel.errors import ApplianceError, TransientError

AGENT = "kube-lifecycle/1.32"
POST_START_LIMIT = 600.0
"""Seconds for a postStart hook. A kubelet waits without end; here the container would hang for as long in a start that
nothing shows, so that it is ended and tried again."""


class Hook(StrEnum):
    """Which hook; `reason` is the event's."""

    POST_START = "PostStart"
    PRE_STOP = "PreStop"

    @property
    def reason(self) -> str:
        return f"Failed{self.value}Hook"


class HookFailed(TransientError):
    """A hook did not do what it is for. The message is that of the event."""


class Hooks:
    """Carries hooks out."""

    def __init__(self, engine: Runner) -> None:
        self._engine = engine

    async def run(
        self,
        handler: LifecycleHandler,
        container: ObservedContainer,
        spec: Container,
        *,
        pod_ip: str,
        host_network: bool = False,
        timeout: float,
    ) -> None:
        """For at most `timeout` seconds. Raises HookFailed."""
        pod = f"{container.pod_name}_{container.namespace}({container.pod_uid})"
        where = f'for Container "{spec.name}" in Pod "{pod}" failed'
        address = pod_ip or "127.0.0.1" if host_network else pod_ip
        try:
            async with asyncio.timeout(timeout):
                if handler.exec is not None:
                    await self._exec(handler.exec, container.id, timeout, where)
                elif handler.http_get is not None:
                    await _http(handler.http_get, Target(container.id, spec, address), where)
                elif handler.sleep is not None:
                    await asyncio.sleep(handler.sleep.seconds)
                else:  # tcpSocket is in the API and documented to fail at run time
                    raise HookFailed(f"Cannot run handler: invalid handler {where}")
        except TimeoutError:
            raise HookFailed(f"Lifecycle hook {where} - error: not completed within {timeout:g}s") from None

    async def _exec(self, action: Exec, id: str, timeout: float, where: str) -> None:
        command = " ".join(action.command)
        what = f"Exec lifecycle hook ([{command}]) {where} - error: "
        try:
            code, output = await self._engine.run(id, action.command, timeout=timeout)
        except ApplianceError as error:
            raise HookFailed(f"{what}{error.message}, message: {_quoted(b'')}") from None
        if code != 0:
            raise HookFailed(f"{what}command '{command}' exited with {code}: , message: {_quoted(output)}")


async def _http(action: HttpGet, target: Target, where: str) -> None:
    """Any answer will do, whatever its status: the hook has been delivered."""
    try:
        await get(url_of(action, target), action.http_headers, agent=AGENT)
    except (HttpFailed, UnknownPort) as error:
        raise HookFailed(
            f"HTTP lifecycle hook ({action.path}) {where} - error: {error}, message: {_quoted(b'')}"
        ) from None


def _quoted(output: bytes) -> str:
    text = output.decode("utf-8", "replace").replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + '"'
