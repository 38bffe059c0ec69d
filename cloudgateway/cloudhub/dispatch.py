"""Who answers what a node sends (reference 1.3), first match wins. Pure."""

import re
from enum import Enum

from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import KUBE_CA, Group, Operation, Source

_VOLUME = re.compile(r"\w[-\w.+]*/volume/\w[-\w.+]*")
_TRANSPORT = frozenset({Operation.PING, Operation.PONG, Operation.CONFIG})
_TASKS = frozenset({Operation.PREPULL, Operation.UPGRADE, Operation.NODE_ACTION_STATUS})


class Destination(Enum):
    """Where an upstream message goes."""

    TRANSPORT = "transport"
    """Answered by the connection itself with "ack"."""
    KEEPALIVE = "keepalive"
    VOLUME = "volume"
    ACKNOWLEDGEMENT = "acknowledgement"
    ERROR = "error"
    ROUTER = "router"
    TASKMANAGER = "taskmanager"
    KUBE_CA = "kube ca"
    DYNAMICCONTROLLER = "dynamiccontroller"
    DEVICECONTROLLER = "devicecontroller"
    EDGECONTROLLER = "edgecontroller"


def destination(message: Message) -> Destination:
    """The one receiver of an upstream message; `message.resource` as on the socket."""
    route = message.route
    operation = route.operation
    if operation == Operation.KEEPALIVE:
        return Destination.KEEPALIVE
    if operation in _TRANSPORT:
        return Destination.TRANSPORT
    if _VOLUME.match(route.resource):
        return Destination.VOLUME
    if operation == Operation.RESPONSE:
        return Destination.ACKNOWLEDGEMENT
    if operation == Operation.ERROR:
        return Destination.ERROR
    if operation == Operation.UPLOAD and route.group == Group.USER:
        return Destination.ROUTER
    if operation in _TASKS:
        return Destination.TASKMANAGER
    if route.resource == KUBE_CA:
        return Destination.KUBE_CA
    if route.source == Source.METASERVER:
        return Destination.DYNAMICCONTROLLER
    if route.source == Source.TWIN:
        return Destination.DEVICECONTROLLER
    return Destination.EDGECONTROLLER
