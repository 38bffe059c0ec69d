"""The link over real TLS: headers, frames, acknowledgements, losses, certificates."""

import asyncio
import datetime
import re
import time
from pathlib import Path

import pytest
import uvloop
from websockets.exceptions import ConnectionClosed

from edgeappliance.edgehub import link as link_module
from edgeappliance.edgehub import session as session_module
from edgeappliance.edgehub.hub import EdgeHub, LinkDown, RequestTimeout
from edgeappliance.edgehub.identity import IdentityFiles
from edgeappliance.edgehub.session import Pace
from edgeappliance.kernel.clock import ManualClock
from edgeappliance.kernel.component import State
from edgeappliance.wire.limits import MAX_MESSAGE
from edgeappliance.wire.message import Message
from tests.support.edge_identity import NODE, edge, enrolment_for
from tests.support.kubeedge_cloud import KubeEdgeCloud, kubeedge_cloud
from tests.support.relay import relay

OURS = {"Edge-Appliance": "1"}


def query(resource: str = "default/configmap/x") -> Message:
    return Message.new(source="edged", group="meta", operation="query", resource=resource)


async def test_upgrade_headers_identity_and_first_keepalive(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with edge(kubeedge, tmp_path / "id") as running:
        keepalive = await kubeedge.wait_message("node", "keepalive")
        session = kubeedge.sessions[0]
        assert session.headers["node_id"] == NODE
        assert session.headers["project_id"] == link_module.DEFAULT_PROJECT
        assert session.headers["connectionuse"] == "msg"
        assert session.headers["edge-appliance"] == "1"
        assert session.headers["edge-appliance-store"] == "store-1"
        assert "sec-websocket-extensions" not in session.headers
        assert session.common_name == f"system:node:{NODE}"
        assert session.connection.request is not None
        assert session.connection.request.path == f"/{link_module.DEFAULT_PROJECT}/{NODE}/events"
        assert keepalive.route == {
            "source": "websocket",
            "group": "resource",
            "operation": "keepalive",
            "resource": "node",
        }
        assert keepalive.content == "ping"
        assert running.hub.connected
        assert not running.hub.ours
        assert running.hub.local_address == "127.0.0.1"
        assert running.hub.health().state is State.RUNNING


async def test_peer_of_this_project_is_recognised(tmp_path: Path) -> None:
    async with kubeedge_cloud(tmp_path, upgrade_headers=OURS) as cloud, edge(cloud, tmp_path / "id") as running:
        await running.connected()
        assert running.hub.ours


async def test_fragmented_message_arrives_whole_and_in_its_group(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    got: asyncio.Queue[Message] = asyncio.Queue()
    async with edge(kubeedge, tmp_path / "id", prepare=lambda hub, _: hub.route("user", got.put)):
        text = "ä<&>" * 30_000
        await kubeedge.send(kubeedge.message("publish", "a/b", text, source="router_eventbus", group="user"))
        async with asyncio.timeout(5):
            message = await got.get()
        assert message.content_value() == text
        assert message.source == "router_eventbus"


async def test_request_is_completed_by_its_answer_and_acknowledged(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with edge(kubeedge, tmp_path / "id") as running:
        await running.connected()
        kubeedge.objects["default/configmap/x"] = kubeedge.object("ConfigMap", "default", "x")
        answer = await running.hub.request(query(), 5.0)
        assert answer.content_value()["metadata"]["name"] == "x"
        ack = await kubeedge.wait_message("default/configmap/x", "response")
        assert ack.parent == answer.id
        assert ack.content == "OK"


async def test_requests_end_with_time_or_with_the_link(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    kubeedge.silent = re.compile("configmap")
    async with edge(kubeedge, tmp_path / "id") as running:
        await running.connected()
        with pytest.raises(RequestTimeout):
            await running.hub.request(query(), 0.05)
        waiting = asyncio.create_task(running.hub.request(query("default/configmap/y"), 30.0))
        await kubeedge.wait_message("default/configmap/y", "query")
        kubeedge.cut()
        with pytest.raises(LinkDown):
            await waiting
    with pytest.raises(LinkDown):
        await running.hub.request(query(), 1.0)
    assert not running.hub.send(query())


async def test_late_reply_is_acknowledged(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    """KubeEdge's edge forgets it and is sent it again for ever (reference 2.8)."""
    async with edge(kubeedge, tmp_path / "id") as running:
        await running.connected()
        reply = kubeedge.object("Secret", "default", "s")
        ack = await kubeedge.push("response", "default/secret/s", reply, parent="nobody-waits")
        assert ack["content"] == "OK"


async def test_answers_to_patches_are_not_acknowledged(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with edge(kubeedge, tmp_path / "id") as running:
        await running.connected()
        message = Message.new(
            source="edged", group="meta", operation="patch", resource="null/nodepatch/edge-1", content='{"status":{}}'
        )
        answer = await running.hub.request(message, 5.0)
        kubeedge.objects["default/configmap/x"] = kubeedge.object("ConfigMap", "default", "x")
        await running.hub.request(query(), 5.0)
        await kubeedge.wait_message("default/configmap/x", "response")
        assert not [item for item in kubeedge.received if item.parent == answer.id]


async def test_transport_operations_are_answered_with_ack(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with edge(kubeedge, tmp_path / "id") as running:
        await running.connected()
        message = kubeedge.message("ping", "node", "x")
        await kubeedge.send(message)
        answer = await kubeedge.wait_message(parent=message["header"]["msg_id"])
        assert (answer.operation, answer.content) == ("response", "ack")


def test_uvloop_carries_the_link_too(tmp_path: Path) -> None:
    """Its transports are not asyncio's."""

    async def main() -> None:
        async with kubeedge_cloud(tmp_path) as cloud, edge(cloud, tmp_path / "id") as running:
            await running.connected()
            cloud.objects["default/configmap/x"] = cloud.object("ConfigMap", "default", "x")
            answer = await running.hub.request(query(), 5.0)
            assert answer.content_value()["metadata"]["name"] == "x"

    uvloop.run(main())


async def test_rubbish_is_refused_and_the_link_stays(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with edge(kubeedge, tmp_path / "id") as running:
        await running.connected()
        for data in (b"{", b"[]", b'{"header":5}', b"{}", b'"x"', "\U0001f600".encode()):
            await kubeedge.send_raw(data)
        await kubeedge.send(kubeedge.message("insert", "a/b/c", {}, group="nobody"))
        await kubeedge.send(kubeedge.message("ping", "node", "x"))
        await kubeedge.wait(lambda cloud: [item for item in cloud.received if item.content == "ack"])
        assert running.hub.connected
        assert running.hub.health().details["connections_total"] == 1
        assert running.hub.health().details["messages_refused_total"] >= 5


@pytest.mark.parametrize("kind", ["too long", "too many fragments"])
async def test_what_would_eat_the_memory_ends_the_link(kubeedge: KubeEdgeCloud, tmp_path: Path, kind: str) -> None:
    seen: asyncio.Queue[bool] = asyncio.Queue()
    async with edge(kubeedge, tmp_path / "id", prepare=lambda hub, _: hub.on_connection(seen.put_nowait)):
        async with asyncio.timeout(20):
            assert await seen.get() is True
            connection = kubeedge.sessions[0].connection
            try:
                if kind == "too long":
                    await connection.send(b"x" * (MAX_MESSAGE + 1), text=True)
                else:
                    await connection.send([b"x"] * (link_module.MAX_FRAGMENTS + 1), text=True)
            except ConnectionClosed:
                pass  # the edge hung up in the middle, which is what is asked of it
            assert await seen.get() is False
            assert await seen.get() is True


async def test_poisoned_message_costs_only_itself(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    good: asyncio.Queue[Message] = asyncio.Queue()

    async def receiver(message: Message) -> None:
        if message.resource.endswith("bad"):
            raise ZeroDivisionError("boom")
        await good.put(message)

    async with edge(kubeedge, tmp_path / "id", prepare=lambda hub, _: hub.route("resource", receiver)):
        bad = kubeedge.message("insert", "default/pod/bad", {})
        await kubeedge.send(bad)
        await kubeedge.send(kubeedge.message("insert", "default/pod/good", {}))
        async with asyncio.timeout(5):
            assert (await good.get()).resource == "default/pod/good"
        answer = await kubeedge.wait_message(parent=bad["header"]["msg_id"])
        assert (answer.operation, answer.content) == ("error", "boom")


async def test_loss_is_told_and_the_link_comes_back(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    seen: asyncio.Queue[bool] = asyncio.Queue()
    async with edge(kubeedge, tmp_path / "id", prepare=lambda hub, _: hub.on_connection(seen.put_nowait)) as running:
        async with asyncio.timeout(10):
            assert await seen.get() is True
            kubeedge.cut()
            assert await seen.get() is False
            assert await seen.get() is True
            await kubeedge.stop_ws()
            assert await seen.get() is False
            await kubeedge.start_ws()
            assert await seen.get() is True
        assert running.hub.health().details["connections_total"] == 3


async def test_no_cloud_at_start_is_no_failure(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with edge(kubeedge, tmp_path / "id"):
        pass
    await kubeedge.stop_ws()
    before = time.monotonic()
    async with edge(kubeedge, tmp_path / "id") as running:
        assert time.monotonic() - before < 1.0
        assert running.supervisor.health()["edgehub"].state in (State.STARTING, State.DEGRADED)
        await kubeedge.start_ws()
        await running.connected()


async def test_black_hole_is_noticed_by_an_unanswered_ping(
    kubeedge: KubeEdgeCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "SILENCE_LIMIT", 0.2)
    lost = asyncio.Event()
    async with (
        relay(kubeedge.ws_port) as line,
        edge(
            kubeedge,
            tmp_path / "id",
            port=line.port,
            pace=Pace(keepalive=0.3),
            prepare=lambda hub, _: hub.on_connection(lambda up: None if up else lost.set()),
        ) as running,
    ):
        await running.connected()
        await kubeedge.wait(lambda cloud: len(cloud.messages("node", "keepalive")) >= 3)
        assert running.hub.health().details["connections_total"] == 1  # pings of a healthy link are answered
        line.black_hole()
        async with asyncio.timeout(3):
            await lost.wait()
        line.black_hole(False)
        line.cut()
        await running.connected()


async def test_foreign_cloud_is_spared_ours_is_not(tmp_path: Path) -> None:
    for headers, limited in (({}, True), (OURS, False)):
        directory = tmp_path / str(limited)
        directory.mkdir()
        async with (
            kubeedge_cloud(directory, upgrade_headers=headers) as cloud,
            edge(cloud, directory / "id") as running,
        ):
            await running.connected()
            started = time.monotonic()
            for number in range(90):
                assert running.hub.send(
                    Message.new(source="bus", group="user", operation="upload", resource=f"t/{number}")
                )
            await cloud.wait(lambda cloud: len(cloud.messages("", "upload")) == 90)
            took = time.monotonic() - started
            assert [item.resource for item in cloud.messages("", "upload")] == [f"t/{n}" for n in range(90)]
            assert (took > 0.8) is limited, took


async def test_all_of_one_turn_leaves_in_one_record(tmp_path: Path) -> None:
    async with kubeedge_cloud(tmp_path, upgrade_headers=OURS) as cloud, edge(cloud, tmp_path / "id") as running:
        await running.connected()
        before = running.hub.traffic.bytes_sent
        messages = [Message.new(operation="upload", group="user", source="bus", resource="t") for _ in range(50)]
        assert all(running.hub.send(message) for message in messages)
        assert running.hub.traffic.bytes_sent == before  # not one by one
        await cloud.wait(lambda cloud: len(cloud.messages("t", "upload")) == 50)
        assert running.hub.traffic.bytes_sent > before
        assert running.hub.traffic.messages_sent >= 50


async def test_joins_with_the_token_file_which_then_is_gone(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(kubeedge.token() + "\n")
    async with edge(kubeedge, tmp_path / "id", join=False, token_file=token) as running:
        await running.connected()
        assert not token.exists()
        assert IdentityFiles(tmp_path / "id").load() is not None


async def test_without_identity_and_token_it_says_what_to_do(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with edge(kubeedge, tmp_path / "id", join=False) as running:
        health = await until(running.hub, lambda hub: hub.health().next_step)
        assert "edgecore join" in health
        assert running.hub.health().state is State.DEGRADED


async def test_certificate_of_another_name_is_said_or_replaced(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    """node.name was changed: KubeEdge joins anew under the new name (reference 3.4)."""
    await enrolment_for(kubeedge, tmp_path / "id", node="old-name").join(kubeedge.token())
    async with edge(kubeedge, tmp_path / "id") as running:
        assert "join under the new name" in await until(running.hub, lambda hub: hub.health().next_step)
        assert "system:node:old-name" in running.hub.health().reason
    token = tmp_path / "token"
    token.write_text(kubeedge.token())
    async with edge(kubeedge, tmp_path / "id", token_file=token) as running:
        await running.connected()
    assert kubeedge.enrolments == [("old-name", "token"), (NODE, "token")]


async def test_certificate_rotates_late_in_its_life_and_the_link_changes_to_it(tmp_path: Path) -> None:
    """At 70-90 %: a certificate of a thousand seconds that is 950 old is due, one of 100 is not."""
    life = datetime.timedelta(seconds=1000)
    async with kubeedge_cloud(tmp_path, certificate_lifetime=life, certificate_age=life * 0.95) as cloud:
        async with edge(cloud, tmp_path / "id", join=True) as running:
            cloud.certificate_age = life * 0.1
            await cloud.wait(lambda cloud: (NODE, "certificate") in cloud.enrolments)
            await running.connected()
            await cloud.wait(lambda cloud: cloud.sessions)
            assert cloud.enrolments[-1] == (NODE, "certificate")
        assert cloud.enrolments.count((NODE, "certificate")) == 1


async def test_clock_of_1970_connects(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with edge(kubeedge, tmp_path / "id"):
        pass
    async with edge(kubeedge, tmp_path / "id", clock=RunningClock(1000)) as running:
        await running.connected()
    assert kubeedge.enrolments == [(NODE, "token")]  # an implausible clock does not make a certificate due


async def test_expired_certificate_that_is_not_renewed_is_said_with_the_way_out(tmp_path: Path) -> None:
    old = datetime.timedelta(days=400)
    async with kubeedge_cloud(tmp_path, certificate_age=old) as cloud, edge(cloud, tmp_path / "id") as running:
        step = await until(running.hub, lambda hub: hub.health().next_step)
        assert "edgecore join" in step
        assert "does not renew this certificate" in running.hub.health().reason
        assert running.hub.health().state is State.DEGRADED


async def test_expired_certificate_is_renewed_by_proof_of_the_old_key(tmp_path: Path) -> None:
    """A cloud with a grace period (ours); the link then comes up with the new certificate."""
    old = datetime.timedelta(days=400)
    async with kubeedge_cloud(tmp_path, certificate_age=old) as cloud:
        cloud.renews_expired = True
        await enrolment_for(cloud, tmp_path / "id").join(cloud.token())
        cloud.certificate_age = datetime.timedelta(0)
        async with edge(cloud, tmp_path / "id") as running:
            await running.connected()
            assert cloud.enrolments == [(NODE, "token"), (NODE, "certificate")]


async def test_a_clock_that_runs_behind_does_not_hide_an_expired_certificate(tmp_path: Path) -> None:
    """Our clock says the certificate is good, the cloud drops us without a word: the old key is tried."""
    old = datetime.timedelta(days=400)
    async with kubeedge_cloud(tmp_path, certificate_age=old) as cloud:
        cloud.renews_expired = True
        await enrolment_for(cloud, tmp_path / "id").join(cloud.token())
        cloud.certificate_age = datetime.timedelta(0)
        behind = RunningClock(round((time.time() - 200 * 86400) * 1000))
        async with edge(cloud, tmp_path / "id", clock=behind) as running:
            await running.connected()
            assert cloud.enrolments == [(NODE, "token"), (NODE, "certificate")]


class RunningClock(ManualClock):
    """Right in its monotonic part, wrong in its wall part."""

    def __init__(self, wall_ms: int) -> None:
        super().__init__(wall_ms=wall_ms)

    def monotonic(self) -> float:
        return time.monotonic()


async def until(hub: EdgeHub, question: object, timeout: float = 5.0) -> str:
    """The first true answer to `question(hub)`; asked again every few turns of the loop."""
    assert callable(question)
    async with asyncio.timeout(timeout):
        while not (answer := question(hub)):
            await asyncio.sleep(0.01)
    return str(answer)
