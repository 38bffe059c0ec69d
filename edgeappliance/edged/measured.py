"""What has been measured of the machine and its pods, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeappliance.edged.cgroups import Interface, Usage
from edgeappliance.edged.pods.observed import ObservedContainer
from edgeappliance.edged.pods.spec import Pod


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system, in bytes."""

    capacity: int = 0
    available: int = 0
    inodes: int = 0
    inodes_free: int = 0


@dataclass(frozen=True, slots=True)
class Network:
    """Of a pod, or of the machine; `default` names the interface of the default route."""

    default: str = ""
    interfaces: tuple[Interface, ...] = ()


@dataclass(frozen=True, slots=True)
class MeasuredContainer:
    """A container that runs; `group` is the path of its control group."""

    container: ObservedContainer
    usage: Usage
    group: str


@dataclass(frozen=True, slots=True)
class MeasuredPod:
    """A pod with its running containers; `sandbox` is what its own process uses."""

    pod: Pod
    started_ms: int
    containers: tuple[MeasuredContainer, ...]
    sandbox: MeasuredContainer | None
    network: Network | None

    @property
    def usage(self) -> Usage:
        """All of it together."""
        parts = [item.usage for item in self.containers]
        parts += [self.sandbox.usage] if self.sandbox is not None else []
        return sum(parts, Usage())


@dataclass(frozen=True, slots=True)
class Look:
    """Everything at one moment."""

    at: float
    wall_ms: int
    boot_ms: int
    machine: Usage
    available_memory: int
    node_fs: FileSystem
    image_fs: FileSystem
    network: Network
    pods: tuple[MeasuredPod, ...] = ()
    rates: Mapping[str, int] = field(default_factory=dict)
    """Nanocores by container id, those of the machine under "", of a pod under its UID."""
