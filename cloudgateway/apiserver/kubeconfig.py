"""The kubeconfig with which an administrator's kubectl reaches the embedded API."""

import base64
from pathlib import Path
from typing import Any

from cloudgateway.apiserver.tls import ApiCertificates, write_private

CONTEXT = "edge-appliance"
ADMIN = "edge-appliance-admin"
ADMIN_GROUP = "system:masters"


def write_kubeconfig(path: Path, *, server: str, certificates: ApiCertificates) -> None:
    """Write a kubeconfig (mode 0600) for `server` (`https://127.0.0.1:6443`) with an admin certificate."""
    import yaml  # only where a kubeconfig is written

    leaf = certificates.admin(ADMIN, ADMIN_GROUP)
    value: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": CONTEXT,
                "cluster": {"server": server, "certificate-authority-data": _base64(certificates.ca_pem)},
            }
        ],
        "users": [
            {
                "name": ADMIN,
                "user": {
                    "client-certificate-data": _base64(leaf.certificate),
                    "client-key-data": _base64(leaf.key),
                },
            }
        ],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": ADMIN}}],
        "current-context": CONTEXT,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, yaml.safe_dump(value, sort_keys=False).encode())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
