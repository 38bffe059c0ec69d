"""What the tests of volumes share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgeappliance.edged.pods.spec import Pod
from edgeappliance.kernel.errors import ApplianceError

UID = "8a1c6f0e-0001-4e6f-9a55-1f1f1f1f1f1f"


def pod(*, volumes: list[dict[str, Any]] | None = None, mounts: list[dict[str, Any]] | None = None, **spec: Any) -> Pod:
    """A pod with one container `app`."""
    obj = {
        "metadata": {"name": "web", "namespace": "default", "uid": UID, "labels": {"app": "web"}},
        "spec": {
            "containers": [{"name": "app", "image": "bb:1", "volumeMounts": mounts or []}],
            "volumes": volumes or [],
            **spec,
        },
    }
    return msgspec.convert(obj, Pod)


@dataclass
class StoredObjects:
    """Objects as they are on the node: a dictionary in the place of the database."""

    values: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    troubles: dict[tuple[str, str, str], str] = field(default_factory=dict)

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return self.values.get((kind, namespace, name))

    def trouble(self, kind: str, namespace: str, name: str) -> str:
        return self.troubles.get((kind, namespace, name), "")


@dataclass
class EngineVolumes:
    """The engine's volumes; the real ones are in test_on_docker.py."""

    directory: Path
    sizes: dict[str, int | None] = field(default_factory=dict)

    async def create_volume(self, name: str, *, size: int | None, group: int | None = None) -> None:
        self.sizes[name] = size

    async def remove_volume(self, name: str) -> None:
        del self.sizes[name]

    async def volumes(self) -> list[tuple[str, Mapping[str, str]]]:
        return [(name, {}) for name in self.sizes]

    async def root(self) -> Path:
        return self.directory


@dataclass
class IssuedTokens:
    """Tokens as the cloud gives them; the road to it is in test_tokens.py."""

    wanted: list[tuple[str, str, int]] = field(default_factory=list)
    error: ApplianceError | None = None

    async def token(self, pod: Pod, *, audience: str, seconds: int) -> str:
        self.wanted.append((pod.uid, audience, seconds))
        if self.error is not None:
            raise self.error
        return f"token-{len(self.wanted)}"

    def due(self, now: float) -> set[str]:
        return {uid for uid, _, _ in self.wanted}

    async def forget(self, uid: str) -> None:
        self.wanted = [item for item in self.wanted if item[0] != uid]
