"""Who may ask a kubelet through the stream port: as a kubelet with webhook authorization decides it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.resources import GVR

REVIEWS = GVR("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False)
REMEMBERED = 10.0
"""Seconds for which an answer is kept."""

MOST = 1024


@dataclass(frozen=True, slots=True)
class Subject:
    """CN and every O of a verified client certificate."""

    name: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is asked for: `verb` on the `subresource` of one node."""

    verb: str
    subresource: str
    node: str


def subject_of(certificate: object) -> Subject | None:
    """Of a certificate as `ssl` describes it; None without one, or without a single CN."""
    if not isinstance(certificate, dict):
        return None
    parts = cast("tuple[tuple[tuple[str, str], ...], ...]", certificate.get("subject", ()))
    pairs = [pair for part in parts for pair in part]
    names = [value for key, value in pairs if key == "commonName"]
    groups = tuple(value for key, value in pairs if key == "organizationName")
    return Subject(names[0], groups) if len(names) == 1 and names[0] else None


def attributes(method: str, path: str, node: str) -> Attributes:
    """Verb and subresource of a request to a kubelet (Kubernetes, "Kubelet authentication/authorization")."""
    first = path.strip("/").partition("/")[0]
    subresource = first if first in ("stats", "metrics") else "proxy"
    return Attributes("create" if method == "POST" else "get", subresource, node)


class Access:
    """Asks the cluster by SubjectAccessReview."""

    def __init__(self, client: KubeClient, *, now: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._now = now
        self._known: dict[tuple[Subject, Attributes], tuple[float, bool]] = {}

    async def allowed(self, subject: Subject, asked: Attributes) -> bool:
        """Whether the subject may. Raises ApplianceError when the cluster does not answer."""
        key = (subject, asked)
        now = self._now()
        found = self._known.get(key)
        if found is not None and now - found[0] < REMEMBERED:
            return found[1]
        review = {
            "apiVersion": REVIEWS.api_version,
            "kind": REVIEWS.kind,
            "spec": {
                "user": subject.name,
                "groups": [*subject.groups, "system:authenticated"],
                "resourceAttributes": {
                    "verb": asked.verb,
                    "version": "v1",
                    "resource": "nodes",
                    "subresource": asked.subresource,
                    "name": asked.node,
                },
            },
        }
        answer = await self._client.create(REVIEWS, review)
        allowed = bool((answer.get("status") or {}).get("allowed"))
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[key] = (now, allowed)
        return allowed
