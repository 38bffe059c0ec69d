"""Which container is meant, in a kubelet's words; options of a query; who may ask."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.edged.engine.api import LogQuery
from edgeappliance.edged.kubelet import guard, lookup
from edgeappliance.edged.kubelet.query import LogOptions, StreamOptions, log_options, stream_options
from edgeappliance.edged.pods.observed import Kind, ObservedContainer, Phase
from edgeappliance.kernel.web.exchange import HttpError, Request, read_request

RUNNING: dict[str, Any] = {"state": {"running": {}}, "containerID": "docker://new"}
ENDED: dict[str, Any] = {"terminated": {"containerID": "docker://old"}}


def pod(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "web", "uid": "u"},
        "spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]},
        "status": {"containerStatuses": [{"name": "c", **status}]} if status else {},
    }


def waiting(reason: str) -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason}}}


@pytest.mark.parametrize(
    ("status", "previous", "found"),
    [
        (RUNNING, False, "new"),
        (RUNNING | {"lastState": ENDED}, False, "new"),
        (RUNNING | {"lastState": ENDED}, True, "old"),
        ({"state": ENDED}, False, "old"),
        (waiting("CrashLoopBackOff") | {"lastState": ENDED}, False, "old"),
        (waiting("CrashLoopBackOff") | {"lastState": ENDED}, True, "old"),
        (RUNNING, True, 'previous terminated container "c" in pod "web" not found'),
        (waiting("ContainerCreating"), False, 'container "c" in pod "web" is waiting to start: ContainerCreating'),
        (waiting("ErrImagePull"), False, 'container "c" in pod "web" is waiting to start: image can\'t be pulled'),
        (
            waiting("ImagePullBackOff"),
            False,
            'container "c" in pod "web" is waiting to start: trying and failing to pull image',
        ),
        (waiting(""), False, 'container "c" in pod "web" is waiting to start - no logs yet'),
        ({"state": {"terminated": {}}}, False, 'container "c" in pod "web" is terminated'),
        ({}, False, 'container "c" in pod "web" is not available'),
    ],
)
def test_whose_log_is_meant(status: dict[str, Any], previous: bool, found: str) -> None:
    if " " not in found:
        assert lookup.log_source(pod(**status), "c", previous=previous) == found
        return
    with pytest.raises(HttpError) as refused:
        lookup.log_source(pod(**status), "c", previous=previous)
    assert (refused.value.status, refused.value.message) == (400, found)


def container(attempt: int, phase: Phase, kind: Kind = Kind.APP, name: str = "c") -> ObservedContainer:
    return ObservedContainer(
        id=f"{kind}-{attempt}",
        name=name,
        kind=kind,
        pod_uid="u",
        namespace="default",
        pod_name="web",
        attempt=attempt,
        phase=phase,
    )


def test_what_runs() -> None:
    seen = [
        container(1, Phase.RUNNING),
        container(0, Phase.EXITED),
        container(0, Phase.RUNNING, Kind.SANDBOX, ""),
        container(1, Phase.EXITED, Kind.SANDBOX, ""),
    ]
    assert lookup.running(seen, "c").id == "app-1"
    assert lookup.sandbox(seen, "web").id == "sandbox-0"
    with pytest.raises(HttpError, match=r'container not found \("x"\)'):
        lookup.running(seen, "x")
    with pytest.raises(HttpError, match='container not found \\(""\\)'):
        lookup.running(seen, "")
    with pytest.raises(HttpError, match='sandbox of pod "web" is not running'):
        lookup.sandbox(seen[:2], "web")


def ask(query: str) -> Request:
    return read_request(b"GET", f"/x?{query}".encode(), [(b"Host", b"x")])


def test_log_options() -> None:
    query = "follow=true&tailLines=5&timestamps=1&previous=&limitBytes=7&sinceSeconds=60"
    assert log_options(ask(query), now_ms=100_000) == LogOptions(
        query=LogQuery(follow=True, tail=5, since_ms=40_000, timestamps=True), previous=True, limit=7
    )
    assert log_options(ask("follow=false&timestamps=0"), now_ms=0) == LogOptions(query=LogQuery())
    assert log_options(ask("sinceTime=1970-01-01T00:00:05.123456789Z"), now_ms=0).query.since_ms == 5123


def test_stream_options() -> None:
    assert stream_options(ask("command=a&command=b%20c&input=1&output=true&error=1&tty=1")) == StreamOptions(
        stdin=True, stdout=True, stderr=False, tty=True, command=("a", "b c")
    )
    with pytest.raises(HttpError, match="command: longer than"):
        stream_options(ask("stdout=1&command=" + "x" * 300_000))


@given(st.binary(max_size=100), st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=5))
def test_any_request_is_read_or_refused(target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    try:
        request = read_request(b"GET", target, headers)
    except HttpError as error:
        assert error.status == 400
        return
    for check in (
        lambda: log_options(request, now_ms=0),
        lambda: stream_options(request),
        lambda: guard.check(request, token="t", open_to_all=False),
    ):
        try:
            check()
        except HttpError as error:
            assert error.status in (400, 401, 403, 422)
