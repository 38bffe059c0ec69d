"""Discovery documents: the legacy lists per group version, and the aggregated form (apidiscovery.k8s.io/v2)."""

from typing import Any

from edgeappliance.kubeapi.resources import Registry, ResourceType, Subresource

AGGREGATED_TYPE = "application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"


def api_versions() -> dict[str, Any]:
    """`/api`."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def api_group_list(registry: Registry) -> dict[str, Any]:
    """`/apis`."""
    groups = [_group(name, versions) for name, versions in registry.group_versions().items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def api_group(registry: Registry, name: str) -> dict[str, Any] | None:
    """`/apis/<group>`; None for a group that is not served."""
    versions = registry.group_versions().get(name)
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)} if name and versions else None


def _group(name: str, versions: list[str]) -> dict[str, Any]:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def api_resource_list(registry: Registry, group: str, version: str) -> dict[str, Any] | None:
    """`/api/v1`, `/apis/<group>/<version>`; None when nothing is served there."""
    resources: list[dict[str, Any]] = []
    for resource in _of(registry, group, version):
        resources.append(
            {
                "name": resource.plural,
                "singularName": resource.singular,
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": list(resource.verbs),
                **({"shortNames": list(resource.short_names)} if resource.short_names else {}),
                **({"categories": list(resource.categories)} if resource.categories else {}),
            }
        )
        if resource.status:
            resources.append(
                {
                    "name": f"{resource.plural}/status",
                    "singularName": "",
                    "namespaced": resource.namespaced,
                    "kind": resource.kind,
                    "verbs": ["get", "patch", "update"],
                }
            )
        resources += [
            {
                "name": f"{resource.plural}/{item.name}",
                "singularName": "",
                "namespaced": resource.namespaced,
                **({} if (item.group, item.version) == (group, version) else _other(item)),
                "kind": item.kind,
                "verbs": list(item.verbs),
            }
            for item in resource.subresources
        ]
    if not resources:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": resources,
    }


def aggregated(registry: Registry, *, core: bool, version: str) -> dict[str, Any]:
    """The APIGroupDiscoveryList of `/api` (core) or `/apis`; `version` is v2 or v2beta1."""
    items = []
    for name, versions in registry.group_versions().items():
        if bool(name) is core:
            continue
        items.append(
            {
                "metadata": {"name": name, "creationTimestamp": None},
                "versions": [
                    {
                        "version": item,
                        "resources": [_aggregated_resource(resource) for resource in _of(registry, name, item)],
                        "freshness": "Current",
                    }
                    for item in versions
                ],
            }
        )
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _aggregated_resource(resource: ResourceType) -> dict[str, Any]:
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    entry: dict[str, Any] = {
        "resource": resource.plural,
        "responseKind": kind,
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    below = [{"subresource": "status", "responseKind": kind, "verbs": ["get", "patch", "update"]}]
    below = below if resource.status else []
    for item in resource.subresources:
        body = {**_other(item), "kind": item.kind}
        below.append({"subresource": item.name, "responseKind": body, "verbs": list(item.verbs)})
    if below:
        entry["subresources"] = below
    return entry


def _other(item: Subresource) -> dict[str, str]:
    return {"group": item.group, "version": item.version}


def _of(registry: Registry, group: str, version: str) -> list[ResourceType]:
    found = [item for item in registry if item.group == group and item.version == version]
    return sorted(found, key=lambda item: item.plural)
