"""Subresources that a node's kubelet answers: the log of a pod, its streams, and the node's own pages."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlencode

from cloudgateway.apiserver.podcalls import kubelet_failure, log_call, stream_call
from cloudgateway.apiserver.store import ObjectStore
from cloudgateway.cloudstream.kubelet import KubeletAnswer, KubeletCall
from edgeappliance.kernel.errors import ApplianceError, TransientError
from edgeappliance.kernel.web.client import Upgraded
from edgeappliance.kubeapi.errors import StatusFailure, method_not_allowed, not_found
from edgeappliance.kubeapi.request import ApiRequest, ApiResponse, Target
from edgeappliance.wire.tunnel import FrameType

PODS = "pods"
NODES = "nodes"
TEXT = "text/plain"
MAX_REFUSAL = 16 * 1024
"""Bytes of a kubelet's refusal that are told on."""


class Kubelets(Protocol):
    """The way to the kubelets: `cloudstream.CloudStream`. Raises TransientError."""

    async def get(self, node: str, call: KubeletCall) -> KubeletAnswer: ...

    async def upgrade(self, node: str, call: KubeletCall) -> Upgraded: ...


class PodStreams:
    """Answers from kubelets. What a client may is its caller's to know."""

    def __init__(self, store: ObjectStore, kubelets: Kubelets) -> None:
        self._store = store
        self._kubelets = kubelets

    async def log(self, request: ApiRequest, target: Target) -> ApiResponse:
        """GET pods/log: the body as it comes. Raises StatusFailure."""
        pod = self._pod(target)
        call = log_call(pod, request.query)
        if call is None:
            return ApiResponse(200, b"", TEXT)
        answer = await self._get(pod["spec"]["nodeName"], call)
        if answer.status != 200:
            raise await _refused(answer)
        return ApiResponse(200, answer, TEXT)

    async def connect(
        self, target: Target, query: Mapping[str, Sequence[str]], *, protocols: Sequence[str]
    ) -> Upgraded:
        """A stream to the kubelet for pods/exec, attach, portforward; with a status other than 101 the kubelet's own
        refusal. Raises StatusFailure."""
        pod = self._pod(target)
        call = stream_call(pod, target.subresource, query, protocols=protocols)
        try:
            return await self._kubelets.upgrade(pod["spec"]["nodeName"], call)
        except TransientError as error:
            raise _unavailable(error) from None

    async def node_page(self, request: ApiRequest, node: str, path: str) -> ApiResponse:
        """GET nodes/NAME/proxy/PATH, as the kubelet answers it. Raises StatusFailure."""
        if self._store.get(NODES, "", node) is None:
            raise not_found("", NODES, node)
        if request.method not in ("GET", "HEAD"):
            raise method_not_allowed("only GET reaches a node of the embedded API of cloudgateway")
        kind = FrameType.LOGS_CONNECT if path.startswith("/containerLogs/") else FrameType.METRIC_CONNECT
        answer = await self._get(node, KubeletCall(kind=kind, path=path, query=urlencode(request.query)))
        if answer.status == 403:
            raise await _refused(answer)
        return ApiResponse(answer.status, answer, answer.content_type)

    def _pod(self, target: Target) -> dict[str, Any]:
        entry = self._store.get(PODS, target.namespace, target.name)
        if entry is None:
            raise not_found("", PODS, target.name)
        return entry.object()

    async def _get(self, node: str, call: KubeletCall) -> KubeletAnswer:
        try:
            return await self._kubelets.get(node, call)
        except TransientError as error:
            raise _unavailable(error) from None


async def _refused(answer: KubeletAnswer) -> StatusFailure:
    try:
        text = (await answer.read(MAX_REFUSAL)).decode("utf-8", "replace")
    except OSError as error:
        text = str(error)
    await answer.close()
    return kubelet_failure(answer.status, text)


def _unavailable(error: ApplianceError) -> StatusFailure:
    return StatusFailure(503, "ServiceUnavailable", str(error))
