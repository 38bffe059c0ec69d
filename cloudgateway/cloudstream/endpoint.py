"""Where an API server finds the kubelet of an edge node: at the gateway that holds its tunnel. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TUNNEL = "edgeappliance.io/tunnel"
"""Annotation of a node: address:port of the gateway that holds its tunnel. The last to write it has it."""

NODE_IP = "edgeappliance.io/node-ip"
"""Annotation of a node: the box's own address, which its InternalIP is not."""

INTERNAL = "InternalIP"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address and port that a node's status names for its kubelet."""

    address: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Endpoint | None":
        """From the annotation's value."""
        address, _, port = text.rpartition(":")
        if not address or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            return None
        return cls(address, int(port))

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"

    def status(self) -> dict[str, Any]:
        """The strategic merge patch of a node's status."""
        return {
            "addresses": [{"type": INTERNAL, "address": self.address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
        }

    def named_by(self, node: Mapping[str, Any]) -> bool:
        """Whether a Node's status leads here."""
        status = node.get("status") or {}
        addresses = [item.get("address") for item in status.get("addresses") or () if item.get("type") == INTERNAL]
        port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port")
        return addresses == [self.address] and port == self.port


def redirected(status: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """What a node reports of itself, whole or as a patch, with `endpoint` in place of its own address and port."""
    changed = dict(status)
    addresses = status.get("addresses")
    if isinstance(addresses, list):
        others = [item for item in addresses if not (isinstance(item, dict) and item.get("type") == INTERNAL)]
        changed["addresses"] = [{"type": INTERNAL, "address": endpoint.address}, *others]
    if status.get("daemonEndpoints") is not None:
        changed["daemonEndpoints"] = {"kubeletEndpoint": {"Port": endpoint.port}}
    return changed
