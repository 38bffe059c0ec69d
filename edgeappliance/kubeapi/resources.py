"""Which resources an API serves: one `ResourceType` per group, version and plural, and the registry of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgeappliance.kubeapi.columns import Column
from edgeappliance.kubeapi.schema import Schema

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Subresource:
    """What discovery says of a subresource: its name, the kind of its body or answer, and the verbs."""

    name: str
    kind: str
    verbs: tuple[str, ...]
    group: str = ""
    version: str = "v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceType:
    """One served resource in one version.

    `key` (`plural` or `plural.group`) names the stored collection: the versions of a resource share it.
    `fields` are the field selectors it knows besides metadata.name and metadata.namespace, as dotted paths.
    `subresources` are those besides status, which `status` stands for.
    `refusal`, when set, says why every request for it is refused and what to do instead.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    singular: str = ""
    list_kind: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = VERBS
    status: bool = False
    subresources: tuple[Subresource, ...] = ()
    custom: bool = False
    storage: bool = True
    generation: bool = False
    upsert: bool = False
    fields: tuple[str, ...] = ()
    schema: Schema | None = None
    columns: tuple[Column, ...] = ()
    component: str = ""
    refusal: str = ""
    deprecation: str = ""

    @property
    def api_version(self) -> str:
        """`v1` or `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def key(self) -> str:
        """Name of the collection: `pods`, `devices.devices.kubeedge.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def path(self) -> str:
        """URL prefix of the group and version: `/api/v1`, `/apis/apps/v1`."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


class Registry:
    """The resources served now. Custom ones come and go with their definitions."""

    def __init__(self, types: Iterable[ResourceType] = ()) -> None:
        self._types: dict[tuple[str, str, str], ResourceType] = {}
        self._stored: dict[str, ResourceType] = {}
        self.revision = 0
        """Grows with every change; caches of discovery documents compare it."""
        for resource in types:
            self.add(resource)

    def add(self, resource: ResourceType) -> None:
        """Serve a resource from now on, in place of one with the same group, version and plural."""
        self._types[(resource.group, resource.version, resource.plural)] = resource
        if resource.storage:
            self._stored[resource.key] = resource
        self.revision += 1

    def remove(self, group: str, plural: str) -> None:
        """Serve no version of a resource any more."""
        doomed = [key for key in self._types if key[0] == group and key[2] == plural]
        for key in doomed:
            self._stored.pop(self._types.pop(key).key, None)
        self.revision += bool(doomed)

    def get(self, group: str, version: str, plural: str) -> ResourceType | None:
        """The resource at a URL; None when nothing is served there."""
        return self._types.get((group, version, plural))

    def stored(self, key: str) -> ResourceType | None:
        """The storage version of a collection."""
        return self._stored.get(key)

    def __iter__(self) -> Iterator[ResourceType]:
        return iter(tuple(self._types.values()))

    def group_versions(self) -> dict[str, list[str]]:
        """Versions by group, each in order of preference (v1 before v1beta1 before v1alpha1)."""
        found: dict[str, set[str]] = {}
        for resource in self._types.values():
            found.setdefault(resource.group, set()).add(resource.version)
        return {group: sorted(versions, key=version_rank) for group, versions in sorted(found.items())}


def version_rank(version: str) -> tuple[int, int, int, str]:
    """Sort key of API versions: stable first, then beta, then alpha, higher numbers first, other names last."""
    text = version[1:] if version[:1] == "v" else ""
    for stage, word in enumerate(("", "beta", "alpha")):
        major, found, minor = text.partition(word) if word else (text, "", "")
        if major.isdecimal() and (not word or (found and (minor.isdecimal() or not minor))):
            return (stage, -int(major), -int(minor or 0), version)
    return (3, 0, 0, version)
