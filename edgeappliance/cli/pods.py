"""`edgecore pods` and `edgecore logs`: what kubectl shows, asked of the kubelet API on this box. Works offline."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from edgeappliance.cli.output import say, write_all
from edgeappliance.cli.status import short, table
from edgeappliance.cli.troubles import troubles
from edgeappliance.kernel import control
from edgeappliance.kernel.errors import ApplianceError, OperatorError, PermanentError
from edgeappliance.kernel.web.client import HttpUnreachable, Response, request
from edgeappliance.kubeapi.pod_printer import POD_COLUMNS

MAX_PODS = 64 * 1024 * 1024
MAX_REFUSAL = 64 * 1024
MAX_WHY = 600
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"


async def get_pods(socket: Path) -> list[dict[str, Any]]:
    """All pods of this node. Raises OperatorError when nobody answers."""
    async with _answer(socket, "/pods") as body:
        items = msgspec.json.decode(await body.read(MAX_PODS)).get("items")
    return [item for item in items or [] if isinstance(item, dict)]


def pods(socket: Path, *, control_socket: Path, namespace: str, everywhere: bool, output: str) -> int:
    """Print the pods of a namespace, or of all."""
    found = [pod for pod in asyncio.run(get_pods(socket)) if everywhere or _namespace(pod) == namespace]
    found.sort(key=lambda pod: (_namespace(pod), str(pod["metadata"].get("name"))))
    if output == "json":
        say(json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": found}, indent=2))
        return 0
    if found:
        lines = render_pods(found, wide=output == "wide", everywhere=everywhere, now_ms=_now_ms())
        lines += render_troubles(found)
    else:
        lines = ["no pods here" if everywhere else f"no pods in namespace {namespace}; all: edgecore pods -A"]
    say("\n".join(lines + asyncio.run(_edged(control_socket))))
    return 0


def render_troubles(found: list[dict[str, Any]]) -> list[str]:
    """Below the table: for every pod that is not well, why."""
    lines = []
    for pod in found:
        for container, why in troubles(pod):
            where = f"{_namespace(pod)}/{pod['metadata'].get('name')}"
            lines.append(short(f"{where} {container}".rstrip() + f": {' '.join(why.split())}", MAX_WHY))
    return ["", *lines] if lines else []


async def _edged(socket: Path) -> list[str]:
    """What keeps edgecore from looking after its pods: then the table is as old as that."""
    try:
        parts = (await control.call(socket, "status"))["components"]
        part = next(parts[name] for name in ("docker", "edged") if parts[name]["state"] != "running")
    except (ApplianceError, KeyError, StopIteration):
        return []
    lines = ["", f"as last seen: {part['reason']}"]
    return [*lines, f"  what to do: {part['next_step']}"] if part["next_step"] else lines


def render_pods(found: list[dict[str, Any]], *, wide: bool, everywhere: bool, now_ms: int) -> list[str]:
    """The table that kubectl prints."""
    columns = [column for column in POD_COLUMNS if wide or not column.priority]
    head = [column.name.upper() for column in columns]
    rows = [[short(str(column.read(pod, now_ms)), 253) for column in columns] for pod in found]
    if everywhere:
        head.insert(0, "NAMESPACE")
        for row, pod in zip(rows, found, strict=True):
            row.insert(0, short(_namespace(pod), 63))
    return table(head, rows)


def pick_container(found: list[dict[str, Any]], *, namespace: str, pod: str, container: str) -> str:
    """The container that is meant: the one named, the pod's default, or its first. Raises PermanentError."""
    value = next((one for one in found if _namespace(one) == namespace and one["metadata"].get("name") == pod), None)
    if value is None:
        others = ", ".join(sorted(str(one["metadata"].get("name")) for one in found if _namespace(one) == namespace))
        raise PermanentError(
            f"no pod {pod} in namespace {namespace} on this box", next_step=f"pods there: {others or 'none'}"
        )
    spec = value.get("spec") or {}
    apps = [str(one.get("name")) for one in spec.get("containers") or []]
    names = apps + [str(one.get("name")) for one in spec.get("initContainers") or []]
    if container:
        if container not in names:
            raise PermanentError(
                f"container {container} is not valid for pod {pod}", next_step=f"containers: {', '.join(names)}"
            )
        return container
    chosen = (value["metadata"].get("annotations") or {}).get(DEFAULT_CONTAINER, "")
    if chosen in names:
        return str(chosen)
    if not apps:
        raise PermanentError(f"pod {pod} has no container")
    if len(names) > 1:
        print(f'Defaulted container "{apps[0]}" out of: {", ".join(names)}', file=sys.stderr)
    return apps[0]


def logs(socket: Path, *, namespace: str, pod: str, container: str, options: Mapping[str, str]) -> int:
    """Write a container's log to stdout; `options` are the kubelet API's."""
    return asyncio.run(_logs(socket, namespace, pod, container, options))


async def _logs(socket: Path, namespace: str, pod: str, container: str, options: Mapping[str, str]) -> int:
    chosen = pick_container(await get_pods(socket), namespace=namespace, pod=pod, container=container)
    target = f"/containerLogs/{quote(namespace)}/{quote(pod)}/{quote(chosen)}?{urlencode(options)}"
    async with _answer(socket, target) as body:
        async for data in body:
            await asyncio.to_thread(write_all, 1, data)
    return 0


@contextlib.asynccontextmanager
async def _answer(socket: Path, target: str) -> AsyncIterator[Response]:
    """An answer with status 200. Raises OperatorError when nobody answers, PermanentError when it is refused."""
    asking = request(socket, "GET", target)
    try:
        response = await asking.__aenter__()
    except HttpUnreachable as error:
        raise no_answer(socket, error) from None
    try:
        if response.status != 200:
            raise refusal(response.status, await response.read(MAX_REFUSAL))
        yield response
    finally:
        await asking.__aexit__(None, None, None)


def no_answer(socket: Path, error: HttpUnreachable) -> OperatorError:
    """What a person reads when the kubelet API cannot be asked."""
    if isinstance(error.__context__, PermissionError):
        return OperatorError(f"no permission for {socket}", next_step="run as root or as a member of its group")
    if isinstance(error.__context__, FileNotFoundError | ConnectionRefusedError):
        step = "is edgecore running with edged.enable = true? start it with: edgecore run"
        return OperatorError(f"nothing answers on {socket}", next_step=step)
    return OperatorError(f"no answer: {error.message}", next_step="see: edgecore status")


def refusal(status: int, body: bytes) -> PermanentError:
    """What a person reads when the kubelet API refuses; 503: it cannot, for now, and `status` says what is missing."""
    text = body.decode("utf-8", "replace").strip() or f"status {status}"
    return PermanentError(text, next_step="see: edgecore status" if status == 503 else "")


def _namespace(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"].get("namespace") or "default")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
