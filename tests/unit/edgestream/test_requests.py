"""What the cloud may ask of the kubelet API."""

import pytest

from edgeappliance.edgestream.requests import kubelet_request
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.tunnel import ConnectRequest, FrameType, TunnelURL


def asked(path: str, query: str = "", **more: object) -> ConnectRequest:
    return ConnectRequest(MessID=1, url=TunnelURL(Host="evil.example:1", Path=path, RawQuery=query), **more)  # type: ignore[arg-type]


def test_exec_becomes_an_upgrade_without_credentials() -> None:
    headers = {
        "Authorization": ["Bearer x"],
        "Host": ["evil"],
        "X-Stream-Protocol-Version": ["v4.channel.k8s.io", "v3.channel.k8s.io"],
        "Connection": ["close"],
    }
    wanted = kubelet_request(
        FrameType.EXEC_CONNECT, asked("/exec/ns/p/c d", "command=a%20b", method="POST", header=headers)
    )
    assert wanted.head() == (
        b"POST /exec/ns/p/c%20d?command=a%20b HTTP/1.1\r\nHost: localhost\r\n"
        b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Stream-Protocol-Version: v3.channel.k8s.io\r\n"
        b"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n"
    )


def test_a_websocket_stays_one() -> None:
    headers = {"upgrade": ["websocket"], "Sec-Websocket-Protocol": ["v5.channel.k8s.io"]}
    wanted = kubelet_request(FrameType.EXEC_CONNECT, asked("/exec/ns/p/c", method="GET", header=headers))
    assert ("Upgrade", "websocket") in wanted.headers
    assert b"Content-Length" not in wanted.head()


def test_logs_are_read_whatever_the_method_says() -> None:
    wanted = kubelet_request(FrameType.LOGS_CONNECT, asked("/containerLogs/ns/p/c", "follow=true", method="DELETE"))
    assert (wanted.method, wanted.raw, wanted.target) == ("GET", False, "/containerLogs/ns/p/c?follow=true")


@pytest.mark.parametrize(
    ("kind", "request_", "field"),
    [
        (FrameType.LOGS_CONNECT, asked("/exec/ns/p/c"), "connect.url.Path"),
        (FrameType.EXEC_CONNECT, asked("/run/ns/p/c"), "connect.url.Path"),
        (FrameType.METRIC_CONNECT, asked("/stats/../exec/ns/p/c"), "connect.url.Path"),
        (FrameType.EXEC_CONNECT, asked("/exec/ns/p/c", method="PUT"), "connect.method"),
        (FrameType.EXEC_CONNECT, asked("/exec/ns/p/c", "a=b HTTP/1.1\r\nX: y"), "connect.url.RawQuery"),
        (FrameType.EXEC_CONNECT, asked("/exec/ns/p/c", "a#b"), "connect.url.RawQuery"),
        (FrameType.EXEC_CONNECT, asked("/exec/ns/p/c", "x" * 60_000), "connect.url"),
        (FrameType.EXEC_CONNECT, asked("/exec/ns/p/c", header={"Accept": ["a\r\nb: c"]}), "connect.header.Accept"),
        (FrameType.EXEC_CONNECT, asked("/exec/ns/p/c", header={"Accept": ["a"] * 65}), "connect.header"),
    ],
)
def test_what_is_refused_is_named(kind: FrameType, request_: ConnectRequest, field: str) -> None:
    with pytest.raises(WireError) as caught:
        kubelet_request(kind, request_)
    assert caught.value.field == field


def test_a_path_cannot_end_the_request_line() -> None:
    wanted = kubelet_request(FrameType.LOGS_CONNECT, asked("/containerLogs/ns/p/c HTTP\r\nX: y?z#f"))
    assert wanted.target == "/containerLogs/ns/p/c%20HTTP%0D%0AX:%20y%3Fz%23f"
