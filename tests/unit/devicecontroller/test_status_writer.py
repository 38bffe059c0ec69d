"""The writer when the API is slow, away, or refuses."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from cloudgateway.devicecontroller.status_writer import DeviceKey, Report, StatusWriter
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.resources import DEVICE_STATUSES, DEVICES
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.wire.twin import DeviceState, MsgTwin, TwinUpdate, TwinValue
from tests.support.kube_client import FaultyTransport


class Site:
    """A writer on the embedded API behind a transport that can be made to fail."""

    def __init__(self, client: KubeClient, line: FaultyTransport) -> None:
        self.line = line
        self.client = client
        self.answers: asyncio.Queue[str] = asyncio.Queue()
        self.writer = StatusWriter(
            client,
            self,
            clock=SystemClock(),
            answer=lambda report: self.answers.put_nowait(report.message_id),
            unknown=lambda node, key: None,
        )

    async def device(self, key: DeviceKey) -> Mapping[str, Any] | None:
        return await self.client.get(DEVICES, *key)

    def properties(self, device: Mapping[str, Any]) -> Collection[str]:
        return {"a"}

    def report(self, number: int) -> None:
        update = TwinUpdate(twin={"a": MsgTwin(actual=TwinValue(str(number)))})
        self.writer.twins(("default", "d"), Report("edge-1", str(number)), update)

    async def answered(self, *numbers: int) -> None:
        got = {await asyncio.wait_for(self.answers.get(), 10) for _ in numbers}
        assert got == {str(number) for number in numbers}

    async def value(self) -> str:
        status = await self.client.get(DEVICE_STATUSES, "default", "d")
        return str(status["status"]["twins"][0]["reported"]["value"])


@pytest.fixture
async def site(faulty_client: tuple[KubeClient, FaultyTransport]) -> Site:
    client, line = faulty_client
    body = {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": "d"},
        "spec": {"nodeName": "edge-1"},
    }
    await client.create(DEVICES, body, namespace="default")
    return Site(client, line)


async def test_while_one_request_is_in_flight_the_rest_is_merged(site: Site, scope: TaskScope) -> None:
    site.writer.start(scope)
    site.report(0)
    await site.answered(0)
    site.line.hold("PATCH")
    site.report(1)
    await site.line.held()
    for number in range(2, 50):
        site.report(number)
    assert site.answers.empty()
    site.line.release()
    await site.answered(*range(1, 50))
    assert await site.value() == "49"
    assert site.writer.figures.writes == 3
    assert site.writer.figures.superseded == 47


async def test_an_api_that_is_away_costs_time_and_no_value(site: Site, scope: TaskScope) -> None:
    site.writer.start(scope)
    site.line.fail("PATCH", times=3)
    site.report(1)
    site.report(2)
    await site.answered(1, 2)
    assert await site.value() == "2"


async def test_an_answer_that_was_lost_is_written_again(site: Site, scope: TaskScope) -> None:
    site.writer.start(scope)
    site.line.lose_answers("PATCH", times=1)
    site.report(1)
    await site.answered(1)
    assert await site.value() == "1"


async def test_a_refused_status_is_not_answered_and_holds_nothing_up(site: Site, scope: TaskScope) -> None:
    site.writer.start(scope)
    site.line.refuse("PATCH", times=1)
    site.report(1)
    await site.line.refused()
    site.report(2)
    await site.answered(2)
    assert site.answers.empty()
    assert site.writer.figures.dropped == 1


async def test_a_fault_at_one_device_ends_nothing(
    site: Site, scope: TaskScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    def properties(device: Mapping[str, Any]) -> Collection[str]:
        raise KeyError("spec")

    site.writer.start(scope)
    with monkeypatch.context() as broken:
        broken.setattr(site, "properties", properties)
        site.report(1)
        async with asyncio.timeout(5):
            while not site.writer.figures.dropped:
                await asyncio.sleep(0.01)
    assert site.answers.empty()
    site.report(2)
    assert await asyncio.wait_for(site.answers.get(), 5) == "2"


async def test_a_restart_of_the_component_loses_nothing(site: Site) -> None:
    failures: list[BaseException] = []
    first = TaskScope("first", failures.append)
    site.writer.start(first)
    site.line.hold("PATCH")
    site.report(1)
    await site.line.held()
    site.report(2)
    site.writer.stop()
    await first.cancel()
    site.line.release()
    site.report(3)
    assert site.answers.empty()
    second = TaskScope("second", failures.append)
    site.writer.start(second)
    await site.answered(1, 2, 3)
    assert await site.value() == "3"
    await second.cancel()
    assert not failures


async def test_reports_that_nobody_can_write_are_bounded(site: Site, scope: TaskScope) -> None:
    for number in range(1500):
        site.report(number)
    assert site.writer.waiting == 1000
    assert site.writer.figures.dropped == 500
    site.writer.state(("default", "d"), Report("edge-1", "s"), DeviceState(state="ok"))
    site.writer.start(scope)
    await site.answered(*range(501, 1500))
    assert await asyncio.wait_for(site.answers.get(), 5) == "s"
    assert await site.value() == "1499"
