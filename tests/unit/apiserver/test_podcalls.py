"""What a kubelet is asked for a pod's subresources."""

from typing import Any
from urllib.parse import parse_qs

import pytest

from cloudgateway.apiserver.podcalls import container_name, kubelet_failure, log_call, stream_call
from edgeappliance.kubeapi.errors import StatusFailure
from edgeappliance.wire.tunnel import FrameType


def pod(*containers: str, init: tuple[str, ...] = (), node: str = "edge-1") -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {
            "nodeName": node,
            "containers": [{"name": name} for name in containers],
            "initContainers": [{"name": name} for name in init],
        },
    }


def test_log_options_reach_the_kubelet_under_their_names() -> None:
    query = {
        "follow": "true", "previous": "false", "tailLines": "0", "limitBytes": "10", "timestamps": "1",
        "sinceTime": "2026-01-01T00:00:00Z", "pretty": "true", "container": "c",
    }  # fmt: skip
    call = log_call(pod("c"), query)
    assert call is not None
    assert (call.kind, call.path, call.method) == (FrameType.LOGS_CONNECT, "/containerLogs/ns/p/c", "GET")
    assert parse_qs(call.query) == {
        "follow": ["true"], "tailLines": ["0"], "limitBytes": ["10"], "sinceTime": ["2026-01-01T00:00:00Z"],
        "timestamps": ["true"],
    }  # fmt: skip


def test_a_pod_without_a_node_has_an_empty_log_and_no_terminal() -> None:
    assert log_call(pod("c", node=""), {}) is None
    with pytest.raises(StatusFailure, match="pod p does not have a host assigned"):
        stream_call(pod("c", node=""), "exec", {"command": ["sh"]}, protocols=())


@pytest.mark.parametrize(
    ("query", "code", "text"),
    [
        ({"tailLines": "-1"}, 422, "tailLines: Invalid value: -1: must be greater than or equal to 0"),
        ({"limitBytes": "0"}, 422, "limitBytes: Invalid value: 0: must be greater than 0"),
        ({"sinceSeconds": "0"}, 422, "sinceSeconds: Invalid value: 0: must be greater than 0"),
        ({"sinceSeconds": "5", "sinceTime": "x"}, 422, "at most one of `sinceTime` or `sinceSeconds`"),
        ({"stream": "Stdout"}, 422, "stream: Unsupported value"),
        ({"tailLines": "x"}, 400, "tailLines: 'x' is not a number"),
        ({"tailLines": "9" * 30}, 400, "is not a number"),
        ({"follow": "maybe"}, 400, "follow: 'maybe' is neither true nor false"),
        ({"container": "x"}, 400, "container x is not valid for pod p"),
    ],
)
def test_log_options_that_cannot_be(query: dict[str, str], code: int, text: str) -> None:
    with pytest.raises(StatusFailure) as caught:
        log_call(pod("c"), query)
    assert caught.value.code == code
    assert text in str(caught.value)


def test_which_container_is_meant() -> None:
    assert container_name(pod("only", init=("first",)), "") == "only"
    assert container_name(pod("a", "b", init=("first",)), "first") == "first"
    with pytest.raises(StatusFailure) as caught:
        container_name(pod("a", "b", init=("i", "j")), "")
    text = "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i j]"
    assert caught.value.message == text


def test_exec_keeps_every_word_of_the_command() -> None:
    query = {"command": ["sh", "-c", "echo a & b = c; d"], "stdin": ["true"], "stdout": ["1"], "stderr": ["true"]}
    call = stream_call(pod("c"), "exec", query, protocols=("v4.channel.k8s.io",))
    assert (call.kind, call.path, call.method) == (FrameType.EXEC_CONNECT, "/exec/ns/p/c", "POST")
    assert parse_qs(call.query) == {
        "input": ["1"], "output": ["1"], "error": ["1"], "command": ["sh", "-c", "echo a & b = c; d"],
    }  # fmt: skip
    request = call.connect()
    assert request.header is not None
    assert request.header["X-Stream-Protocol-Version"] == ["v4.channel.k8s.io"]


def test_a_terminal_has_one_output() -> None:
    query = {"stdin": ["true"], "stdout": ["true"], "stderr": ["true"], "tty": ["true"]}
    call = stream_call(pod("c"), "attach", query, protocols=())
    assert parse_qs(call.query) == {"input": ["1"], "output": ["1"], "tty": ["1"]}


def test_commands_that_cannot_be() -> None:
    with pytest.raises(StatusFailure, match="at least one command"):
        stream_call(pod("c"), "exec", {}, protocols=())
    with pytest.raises(StatusFailure, match="command: longer than"):
        stream_call(pod("c"), "exec", {"command": ["x" * 40_000]}, protocols=())


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [(400, 400, "BadRequest"), (404, 404, "NotFound"), (500, 500, "InternalError"), (502, 500, "InternalError")],
)
def test_refusals_of_the_kubelet(status: int, code: int, reason: str) -> None:
    failure = kubelet_failure(status, " why\n")
    assert (failure.code, failure.reason, failure.message) == (code, reason, "why")
    assert kubelet_failure(status, "").message == f"the kubelet answered with status {status}"
