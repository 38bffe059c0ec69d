"""A site whose node runs pods, and what tests of pods ask of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.dockerd import Dockerd
from tests.support.pods import Object, condition
from tests.support.programs import KUBECTL, output
from tests.support.stand import Stand, eventually


class PodSite(Stand):
    """A Stand with words for pods. All names are of the namespace default."""

    async def apply(self, *objects: Object) -> None:
        """kubectl apply of all of them at once."""
        document = {"apiVersion": "v1", "kind": "List", "items": objects}
        await self.kubectl("apply", "-f", "-", stdin=json.dumps(document))

    async def until(self, name: str, holds: Callable[[Object], Any], what: str, *, timeout: float = 40) -> Object:
        """The pod, once `holds(pod)` is true of it."""

        async def look() -> Object:
            obj = await self.get("pod", name)
            return obj if obj.get("status") and holds(obj) else {}

        found: Object = await eventually(look, what=f"{name}: {what}", timeout=timeout, every=0.2)
        return found

    async def ready(self, *names: str) -> list[Object]:
        """The pods, once all are ready."""
        return await asyncio.gather(
            *(self.until(name, lambda obj: condition(obj, "Ready") == "True", "ready") for name in names)
        )

    async def ended(self, name: str) -> Object:
        """The pod, once it has succeeded or failed."""
        return await self.until(name, lambda obj: obj["status"]["phase"] in ("Succeeded", "Failed"), "ended")

    async def log(self, name: str, container: str = "main") -> str:
        return await self.kubectl("logs", name, "-c", container)

    async def run(self, name: str, *command: str, container: str = "main") -> str:
        """stdout of a command in a container, without the last line's end; the end of stderr when it fails."""
        words = ("exec", name, "-c", container, "--", *command)
        code, out, err = await output(KUBECTL, *words, environment=self.kubectl_environment())
        return out.rstrip("\n") if code == 0 else f"{out}{err}".rstrip("\n")

    async def sh(self, name: str, script: str, container: str = "main") -> str:
        return await self.run(name, "sh", "-c", script, container=container)

    async def events(self, name: str) -> list[tuple[str, str, str]]:
        """Type, reason and message of the events of a pod, in their order."""
        text = await self.kubectl(
            "get",
            "events",
            "--field-selector",
            f"involvedObject.name={name}",
            "--sort-by=.firstTimestamp",
            "-o",
            "json",
        )
        return [(item["type"], item["reason"], item["message"]) for item in json.loads(text)["items"]]

    async def told(self, name: str, *event: str) -> None:
        """Return when a pod has an event of this type, reason and message."""

        async def look() -> bool:
            return event in await self.events(name)

        try:
            await eventually(look, what=f"event {event}", timeout=15, every=0.3)
        except AssertionError:
            lines = "\n".join(map(str, await self.events(name)))
            raise AssertionError(f"{name} has no event {event}, but\n{lines}") from None


@asynccontextmanager
async def pod_site(dockerd: Dockerd, directory: Path | None = None) -> AsyncIterator[PodSite]:
    """Gateway and edge joined, with an engine for pods."""
    async with PodSite(directory, docker=dockerd.socket) as site:
        await site.start_gateway()
        await site.join()
        await site.start_edge()
        yield site
