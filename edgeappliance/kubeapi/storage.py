"""What the API machinery needs of a storage: entries, changes, and the Protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import msgspec


class ChangeType(StrEnum):
    """Kind of a change, in the words of a watch."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One stored object: its JSON and what selectors and indexes ask of it. Never changed in place."""

    resource: str
    namespace: str
    name: str
    uid: str
    version: int
    value: bytes
    api_version: str
    labels: Mapping[str, str]
    fields: Mapping[str, str]
    owners: tuple[str, ...] = ()
    deleting: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return (self.namespace, self.name)

    def object(self) -> dict[str, Any]:
        """A fresh copy of the object."""
        result: dict[str, Any] = msgspec.json.decode(self.value)
        return result


@dataclass(slots=True, eq=False)
class Change:
    """One step of a collection's history. `frames` keeps its encoded watch frames, made once for all watchers."""

    type: ChangeType
    entry: Entry
    previous: Entry | None
    version: int
    frames: dict[Any, bytes] = field(default_factory=dict)


class History(Protocol):
    """The recent changes of a collection, read by position (`edgeappliance.kubeapi.history` is one)."""

    @property
    def floor(self) -> int:
        """Changes up to this resourceVersion are no longer known."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the collection is served no more."""
        ...

    @property
    def end(self) -> int:
        """The position of the next change."""
        ...

    def position_after(self, version: int) -> int | None:
        """Where to read on after a resourceVersion; None when changes since then are forgotten."""
        ...

    def read(self, position: int) -> list[Change] | None:
        """The changes from a position on; None when the reader has fallen behind."""
        ...

    async def wait(self, timeout: float) -> None:
        """Return at the next change, or after `timeout` seconds."""
        ...


class Storage(Protocol):
    """Reading side of a storage, as lists, gets and watches need it."""

    @property
    def version(self) -> int:
        """The newest visible resourceVersion."""
        ...

    def get(self, resource: str, namespace: str, name: str) -> Entry | None:
        """One object, or None."""
        ...

    def entries(self, resource: str, namespace: str = "") -> Sequence[Entry]:
        """All objects of a collection (of one namespace), ordered by namespace and name."""
        ...

    def history(self, resource: str) -> History:
        """The recent changes of a collection, for watches."""
        ...
