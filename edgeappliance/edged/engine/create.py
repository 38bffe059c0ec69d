"""From a pod and what has been prepared for it to the engine's words. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mount:
    """Something of this machine that a container sees at `target`.

    source: an absolute path, or the name of an engine volume where `volume` is set.
    propagation: `rprivate`, `rslave`, `rshared`, "" for the engine's default.
    device: the host's device node when `source` is one: the container is also permitted to use it.
    create: the engine makes `source` a directory if there is nothing.
    """

    source: str
    target: str
    read_only: bool = False
    propagation: str = ""
    volume: bool = False
    device: str = ""
    create: bool = False
