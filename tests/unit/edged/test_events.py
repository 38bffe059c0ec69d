"""Events: what is sent, how repetitions are counted, what is dropped."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeappliance.edged.events import BURST, LIFETIME, REFILL, WAITING, EventRecorder, Regarding
from edgeappliance.edged.pods.spec import Container, Metadata, Pod, PodSpec
from edgeappliance.edgehub.hub import EdgeHub
from edgeappliance.kernel.clock import ManualClock, SystemClock
from edgeappliance.kernel.supervisor import Supervisor
from edgeappliance.wire.message import Message
from tests.support.edge_identity import NODE, edge
from tests.support.kubeedge_cloud import KubeEdgeCloud, Received


class Link:
    """The narrow face of edgehub, with room for so many messages."""

    def __init__(self) -> None:
        self.connected = True
        self.room = 1_000_000
        self.sent: list[Message] = []
        self._callbacks: list[Callable[[bool], None]] = []

    def send(self, message: Message) -> bool:
        if not self.connected or len(self.sent) >= self.room:
            return False
        self.sent.append(message)
        return True

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        self._callbacks.append(callback)

    def up(self, connected: bool) -> None:
        self.connected = connected
        for callback in self._callbacks:
            callback(connected)

    def contents(self) -> list[dict[str, Any]]:
        return [message.content_value() for message in self.sent]


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def recorder(link: Link, clock: ManualClock) -> EventRecorder:
    return EventRecorder(cloud=link, node="edge-1", clock=clock)


POD = Pod(
    metadata=Metadata(name="web", namespace="shop", uid="u1"),
    spec=PodSpec(containers=[Container(name="app")], init_containers=[Container(name="first")]),
)


def test_an_event_is_the_object_that_a_kubelet_makes(link: Link, recorder: EventRecorder) -> None:
    recorder.pod(POD, "Normal", "Started", "Started container app", container="app")
    message = link.sent[0]
    event = message.content_value()
    name = event["metadata"]["name"]
    assert name.startswith("web.")
    assert (message.source, message.group, message.operation) == ("edged", "meta", "insert")
    assert message.resource == f"shop/event/{name}"
    assert event == {
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop"},
        "involvedObject": {
            "kind": "Pod",
            "namespace": "shop",
            "name": "web",
            "uid": "u1",
            "apiVersion": "v1",
            "fieldPath": "spec.containers{app}",
        },
        "reason": "Started",
        "message": "Started container app",
        "source": {"component": "kubelet", "host": "edge-1"},
        "firstTimestamp": "2023-11-14T22:13:20Z",
        "lastTimestamp": "2023-11-14T22:13:20Z",
        "count": 1,
        "type": "Normal",
        "reportingComponent": "kubelet",
        "reportingInstance": "edge-1",
    }


def test_a_repetition_is_counted_by_a_patch(link: Link, recorder: EventRecorder, clock: ManualClock) -> None:
    recorder.pod(POD, "Warning", "BackOff", "Back-off restarting", container="first")
    clock.advance(5)
    recorder.pod(POD, "Warning", "BackOff", "Back-off restarting", container="first")
    first, second = link.sent
    assert second.operation == "patch"
    assert second.resource == first.resource
    content = second.content_value()
    assert content["event"]["involvedObject"]["fieldPath"] == "spec.initContainers{first}"
    assert msgspec.json.decode(content["patchData"]) == {
        "count": 2,
        "lastTimestamp": "2023-11-14T22:13:25Z",
        "message": "Back-off restarting",
    }


def test_what_has_expired_at_the_api_is_made_anew(link: Link, recorder: EventRecorder, clock: ManualClock) -> None:
    recorder.pod(POD, "Warning", "BackOff", "again")
    clock.advance(LIFETIME + 1)
    recorder.pod(POD, "Warning", "BackOff", "again")
    assert [message.operation for message in link.sent] == ["insert", "insert"]
    assert link.sent[0].resource != link.sent[1].resource


def test_events_of_the_node_are_in_namespace_default(link: Link, recorder: EventRecorder) -> None:
    recorder.event(Regarding.node("edge-1"), "Warning", "EvictionThresholdMet", "Attempting to reclaim memory")
    event = link.contents()[0]
    assert event["metadata"]["namespace"] == "default"
    assert event["involvedObject"] == {"kind": "Node", "name": "edge-1", "uid": "edge-1", "apiVersion": "v1"}


def test_offline_events_wait_and_a_repeated_one_is_one_message(
    link: Link, recorder: EventRecorder, clock: ManualClock
) -> None:
    link.connected = False
    for _ in range(3):
        recorder.pod(POD, "Warning", "BackOff", "again")
        clock.advance(1)
    recorder.pod(POD, "Normal", "Pulled", "there")
    assert recorder.waiting == 2
    link.up(True)
    assert recorder.waiting == 0
    assert [(event["reason"], event["count"]) for event in link.contents()] == [("BackOff", 3), ("Pulled", 1)]
    assert link.contents()[0]["lastTimestamp"] > link.contents()[0]["firstTimestamp"]


def test_the_oldest_make_room_and_are_counted(link: Link, recorder: EventRecorder) -> None:
    link.connected = False
    for number in range(WAITING + 7):
        recorder.event(Regarding(kind="Pod", name=f"p{number}", namespace="a"), "Normal", "Pulled", "x")
    assert (recorder.waiting, recorder.dropped) == (WAITING, 7)
    link.up(True)
    assert link.contents()[0]["involvedObject"]["name"] == "p7"


def test_an_overloaded_link_loses_nothing(link: Link, recorder: EventRecorder) -> None:
    link.room = 1
    for number in range(3):
        recorder.pod(POD, "Normal", "Pulled", f"image {number}")
    assert recorder.waiting == 2
    link.room = 10
    recorder.flush()
    assert [event["message"] for event in link.contents()] == [f"image {number}" for number in range(3)]


def test_one_object_may_not_flood(link: Link, recorder: EventRecorder, clock: ManualClock) -> None:
    for number in range(BURST + 5):
        recorder.pod(POD, "Normal", "Pulled", f"image {number}")
    assert len(link.sent) == BURST
    assert recorder.dropped == 5
    recorder.event(Regarding.node("edge-1"), "Normal", "Starting", "another object has its own measure")
    assert len(link.sent) == BURST + 1
    clock.advance(REFILL)
    recorder.pod(POD, "Normal", "Pulled", "one more")
    recorder.pod(POD, "Normal", "Pulled", "two more")
    assert len(link.sent) == BURST + 2


def test_long_messages_are_cut_between_letters(link: Link, recorder: EventRecorder) -> None:
    recorder.pod(POD, "Warning", "Failed", "ä" * 1000)
    assert link.contents()[0]["message"] == "ä" * 512


def test_switched_off_nothing_is_sent(link: Link, clock: ManualClock) -> None:
    EventRecorder(cloud=link, node="n", clock=clock, enabled=False).pod(POD, "Normal", "Pulled", "x")
    assert link.sent == []


def test_names_are_unique_while_the_clock_stands_still(link: Link, recorder: EventRecorder, clock: ManualClock) -> None:
    recorder.pod(POD, "Normal", "Pulled", "a")
    clock.jump(0)
    recorder.pod(POD, "Normal", "Pulled", "b")
    assert len({message.resource for message in link.sent}) == 2


async def test_events_reach_a_kubeedge_cloud_also_those_of_an_outage(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    recorders: list[EventRecorder] = []

    def prepare(hub: EdgeHub, supervisor: Supervisor) -> None:
        recorders.append(EventRecorder(cloud=hub, node=NODE, clock=SystemClock()))

    async with edge(kubeedge, tmp_path / "id", prepare=prepare) as part:
        (recorder,) = recorders
        await part.connected()
        recorder.pod(POD, "Normal", "Started", "Started container app", container="app")
        sent = await kubeedge.wait(lambda cloud: events_of(cloud, "insert"))
        kubeedge.cut()
        await gone(part.hub)
        recorder.pod(POD, "Normal", "Started", "Started container app", container="app")
        recorder.pod(POD, "Warning", "BackOff", "Back-off restarting failed container")
        await kubeedge.wait(lambda cloud: len(events_of(cloud, "insert")) == 2)
        (patch,) = events_of(kubeedge, "patch")
        assert patch.resource == sent[0].resource
        assert msgspec.json.decode(patch.content["patchData"])["count"] == 2
        assert recorder.waiting == 0


async def gone(hub: EdgeHub) -> None:
    async with asyncio.timeout(10):
        while hub.connected:
            await asyncio.sleep(0.01)


def events_of(cloud: KubeEdgeCloud, operation: str) -> list[Received]:
    return [item for item in cloud.messages(operation=operation) if "/event/" in item.resource]
