"""Status reports of peers older than KubeEdge 1.21 (reference 1.4 B and D, deprecated forms)."""

from typing import Any

import msgspec

from edgeappliance.wire import gojson
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.message import Message


class PodStatusReport(msgspec.Struct):
    """One pod's status, whole; `Name` is set where the resource name of the message is not."""

    UID: str = ""
    Name: str = ""
    Status: dict[str, Any] = msgspec.field(default_factory=dict)


class NodeStatusReport(msgspec.Struct):
    """A node's status, whole."""

    UID: str = ""
    Status: dict[str, Any] = msgspec.field(default_factory=dict)


def pod_status_reports(message: Message, name: str) -> list[PodStatusReport]:
    """The reports of a `podstatus` message: one for pod `name`, or an array when `name` is empty.

    Raises WireError, also for a report that names no pod.
    """
    content = message.content_bytes()
    if name:
        report = gojson.loads(content, PodStatusReport, field="content")
        return [msgspec.structs.replace(report, Name=name)]
    reports = gojson.loads(content, list[PodStatusReport], field="content")
    if not all(report.Name for report in reports):
        raise WireError("names no pod", field="content.Name")
    return reports


def node_status_report(message: Message) -> NodeStatusReport:
    """The content of a `nodestatus` update. Raises WireError."""
    return gojson.loads(message.content_bytes(), NodeStatusReport, field="content")
