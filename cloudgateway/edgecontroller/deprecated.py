"""Status reports of edges older than KubeEdge 1.21, brought to the API (reference 1.4 B and D)."""

from __future__ import annotations

from cloudgateway.cloudstream.endpoint import Endpoint, redirected
from cloudgateway.kube.client import KubeClient, KubeObject
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.resources import NODES, PODS
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import Group, Operation, ResourceType, Source
from edgeappliance.wire.reports import PodStatusReport, node_status_report, pod_status_reports
from edgeappliance.wire.resource import ResourceName

__all__ = ["pod_statuses", "replace_node_status"]

_MAY_BE_ANOTHER = frozenset({409, 422})
"""What an API server answers to a patch whose UID is not the object's: Invalid, or Conflict."""


async def pod_statuses(client: KubeClient, resource: ResourceName, message: Message) -> list[Message]:
    """Writes the reported statuses; gives a delete for each pod that is gone or another one by now.

    Raises WireError and ApplianceError.
    """
    gone: list[Message] = []
    for report in pod_status_reports(message, resource.name):
        if not await _written(client, resource.namespace, report):
            gone.append(_deletion(resource.namespace, report))
    return gone


async def replace_node_status(
    client: KubeClient, resource: ResourceName, message: Message, endpoint: Endpoint | None
) -> None:
    """Writes a whole node status, with `endpoint` for its kubelet. Raises WireError and ApplianceError."""
    status = node_status_report(message).Status
    if endpoint is not None:
        status = redirected(status, endpoint)
    await client.patch(NODES, None, resource.name, {"status": status}, subresource="status")


async def _written(client: KubeClient, namespace: str, report: PodStatusReport) -> bool:
    patch: KubeObject = {"status": report.Status}
    if report.UID:
        patch["metadata"] = {"uid": report.UID}  # a precondition
    try:
        await client.patch(PODS, namespace, report.Name, patch, subresource="status")
    except ApiError as error:
        if error.not_found:
            return False
        if error.code not in _MAY_BE_ANOTHER or await _is_there(client, namespace, report):
            raise
        return False
    return True


async def _is_there(client: KubeClient, namespace: str, report: PodStatusReport) -> bool:
    """Whether the pod of that name is the reported one."""
    try:
        pod = await client.get(PODS, namespace, report.Name)
    except ApiError as error:
        if error.not_found:
            return False
        raise
    return not report.UID or pod["metadata"].get("uid") == report.UID


def _deletion(namespace: str, report: PodStatusReport) -> Message:
    metadata = {"name": report.Name, "namespace": namespace, "uid": report.UID}
    return Message.new(
        source=Source.EDGECONTROLLER,
        group=Group.RESOURCE,
        operation=Operation.DELETE,
        resource=str(ResourceName(namespace, ResourceType.POD, report.Name)),
        content={"apiVersion": PODS.api_version, "kind": PODS.kind, "metadata": metadata},
    )
