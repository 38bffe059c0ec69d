"""The link over real TLS against the scripted, unmodified edgecore."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator

import pytest

from cloudgateway.cloudhub.dispatch import Destination
from cloudgateway.cloudhub.hub import OURS_HEADER, STORE_HEADER
from cloudgateway.cloudhub.needs import HubSettings
from edgeappliance.wire.message import Message
from tests.support import kubeedge_edge as edge
from tests.support.hub import HubSite, MemoryRecords, OpenRelations, running_hub


@pytest.fixture
async def site() -> AsyncIterator[HubSite]:
    async with running_hub() as running:
        yield running


def config_map(uid: str, version: int, *, operation: str = "update", data: str = "v") -> Message:
    content = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"cm-{uid}", "namespace": "default", "uid": uid, "resourceVersion": str(version)},
        "data": {"key": data},
    }
    return Message.new(
        source="edgecontroller",
        group="resource",
        operation=operation,
        resource=f"default/configmap/cm-{uid}",
        content=content,
        resource_version=str(version),
    )


async def test_a_session_a_push_and_its_acknowledgement(site: HubSite) -> None:
    core = await site.connect("edge-1")
    assert core.response_headers.keys() >= {"Upgrade", "Connection", "Sec-WebSocket-Accept"}
    assert not core.response_headers.keys() & {"Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol", OURS_HEADER}
    assert site.hub.connected("edge-1")
    site.hub.push("edge-1", config_map("u1", 7))
    got = await core.wait_for("default/configmap/cm-u1")
    assert got["header"]["resourceversion"] == "7"
    assert got["content"]["data"] == {"key": "v"}
    await site.until(lambda: site.records.of.get("edge-1") == {"u1": 7})
    assert site.records.log == [("edge-1", "u1", 0), ("edge-1", "u1", 7)]
    site.hub.push("edge-1", config_map("u1", 7))
    site.hub.push("edge-1", config_map("u1", 0, operation="delete"))
    await core.wait_for("default/configmap/cm-u1", operation="delete")
    await site.until(lambda: site.records.of.get("edge-1") == {})
    assert len(core.received) == 2, "the known version was not sent again"
    await core.close()
    await site.until(lambda: not site.hub.connected("edge-1"))
    assert [up for _, up, _ in site.sessions] == [True, False]


async def test_large_messages_travel_in_upstreams_fragments_both_ways(site: HubSite) -> None:
    core = await site.connect("edge-1")
    text = "x" * 200_000 + "<&>\u2028é"
    site.hub.push("edge-1", config_map("u1", 1, data=text))
    got = await core.wait_for("default/configmap/cm-u1")
    assert got["content"]["data"]["key"] == text
    first, *rest, last = core.frames
    assert first == (False, 1, 4082)
    assert set(rest) == {(False, 0, 4082)}
    assert last[:2] == (True, 0)
    await core.send(edge.message("bus", "user", "upload", "a/b", text))
    node, message = await site.controllers[Destination.ROUTER].messages.get()
    assert (node, message.resource, message.content_as(str)) == ("edge-1", "a/b", text)
    await core.close()


async def test_requests_are_answered_by_their_controllers(site: HubSite) -> None:
    core = await site.connect("edge-1")
    site.controllers[Destination.EDGECONTROLLER].reply = lambda node, message: site.hub.push(
        node,
        message.reply({"Object": {"metadata": {"name": node}}, "Err": None}, source="edgecontroller", group="resource"),
    )
    site.controllers[Destination.DEVICECONTROLLER].reply = lambda node, message: site.hub.push(
        node, message.reply("OK", source="devicecontroller", group="twin", resource="twin")
    )
    reply = await core.register({"metadata": {"name": "edge-1"}})
    assert reply["route"] == {
        "source": "edgecontroller",
        "group": "resource",
        "operation": "response",
        "resource": "null/node/edge-1",
    }
    assert reply["content"]["Object"]["metadata"]["name"] == "edge-1"
    site.relations.devices["default", "d1"] = "edge-1"
    reply = await core.report_twin("default/d1", {"t": {"actual": {"value": "1"}}})
    assert (reply["route"]["group"], reply["route"]["resource"], reply["content"]) == ("twin", "twin", "OK")
    reply = await core.request("query", "k8s/ca.crt", source="metamanager")
    assert (reply["route"]["source"], reply["content"]) == ("cloudhub", "-----BEGIN CERTIFICATE-----\n")
    reply = await core.request("ping", "x")
    assert (reply["route"]["operation"], reply["content"]) == ("response", "ack")
    await core.close()


async def test_a_node_may_only_speak_of_itself(site: HubSite) -> None:
    core = await site.connect("edge-1")
    site.relations.pods["default", "theirs"] = "edge-2"
    reply = await core.request("query", "kube-system/secret/root")
    assert reply["content"]["ErrStatus"]["code"] == 403
    assert reply["content"]["ErrStatus"]["reason"] == "Forbidden"
    reply = await core.request("patch", "default/podpatch/theirs", "{}")
    assert reply["content"]["Object"] is None
    assert reply["content"]["Err"]["ErrStatus"]["code"] == 403
    assert site.controllers[Destination.EDGECONTROLLER].messages.empty()
    assert site.traffic.denied == 2
    await core.close()


async def test_what_comes_before_the_mirrors_are_read_is_judged_after() -> None:
    class Late(OpenRelations):
        def __init__(self) -> None:
            super().__init__()
            self.read = asyncio.Event()

        async def wait_synced(self) -> None:
            await self.read.wait()

    relations = Late()
    async with running_hub(relations=relations) as site:
        core = edge.EdgeCore("edge-1")
        await core.connect(site.hub.port, site.identity("edge-1").context())
        await core.send(edge.message("edged", "meta", "query", "default/configmap/mine", None))
        await core.send(edge.message("edged", "meta", "patch", "default/podpatch/theirs", "{}"))
        await site.until(lambda: site.traffic.messages_in >= 2)
        relations.used.add(("edge-1", "configmap", "default", "mine"))
        relations.pods["default", "theirs"] = "edge-2"
        relations.read.set()
        denied = await core.wait_for("default/podpatch/theirs")
        assert denied["content"]["Err"]["ErrStatus"]["code"] == 403
        _, message = await asyncio.wait_for(site.controllers[Destination.EDGECONTROLLER].messages.get(), 5)
        assert message.resource == "default/configmap/mine"
        assert site.controllers[Destination.EDGECONTROLLER].messages.empty()
        await core.close()


async def test_the_certificate_must_be_the_nodes(site: HubSite) -> None:
    core, identity = edge.EdgeCore("edge-2"), site.identity("edge-1")
    with pytest.raises(edge.ConnectionRefused) as refused:
        await core.connect(site.hub.port, identity.context())
    assert refused.value.status == 403
    for headers, status in [({"Node_id": ""}, 400), ({"Node_id": "../x"}, 400), ({"Connectionuse": "str"}, 400)]:
        core = edge.EdgeCore("edge-1")
        with pytest.raises(edge.ConnectionRefused) as refused:
            await core.connect(site.hub.port, identity.context(), headers=headers)
        assert refused.value.status == status
    core = edge.EdgeCore("edge-1")
    with pytest.raises((edge.ConnectionRefused, ssl.SSLError)):
        await core.connect(site.hub.port, edge.trusting(identity.ca))
    assert site.hub.nodes() == []


async def test_a_new_connection_takes_over(site: HubSite) -> None:
    first = await site.connect("edge-1")
    second = await site.connect("edge-1")
    await asyncio.wait_for(first.closed.wait(), 5)
    assert first.close_frame is None
    assert [up for _, up, _ in site.sessions] == [True, False, True]
    site.hub.push("edge-1", config_map("u1", 1))
    await second.wait_for("default/configmap/cm-u1")
    await first.close()
    await second.close()


async def test_silence_ends_the_session_without_a_close_frame() -> None:
    settings = HubSettings(host="127.0.0.1", port=0, node_limit=5, keepalive=0.6)
    async with running_hub(settings=settings) as site:
        lively = await site.connect("edge-1", keepalive=0.1)
        silent = await site.connect("edge-2", keepalive=None)
        await asyncio.wait_for(silent.closed.wait(), 5)
        assert silent.close_frame is None
        assert site.hub.nodes() == ["edge-1"]
        await lively.close()
        await silent.close()


async def test_the_node_limit_counts_nodes() -> None:
    async with running_hub(settings=HubSettings(host="127.0.0.1", port=0, node_limit=1)) as site:
        core = await site.connect("edge-1")
        with pytest.raises(edge.ConnectionRefused) as refused:
            await site.connect("edge-2")
        assert refused.value.status == 503
        again = await site.connect("edge-1")
        await core.close()
        await again.close()


async def test_a_refused_object_does_not_stop_the_node(site: HubSite) -> None:
    core = await site.connect("edge-1")
    core.refuse = {"default/configmap/cm-bad"}
    site.hub.push("edge-1", config_map("bad", 1))
    site.hub.push("edge-1", config_map("good", 1))
    await core.wait_for("default/configmap/cm-good")
    await site.until(lambda: site.records.of["edge-1"] == {"bad": 0, "good": 1})
    core.refuse = set()
    await core.wait_for("default/configmap/cm-bad", count=2)
    await site.until(lambda: site.records.of["edge-1"] == {"bad": 1, "good": 1})
    await core.close()


async def test_ours_has_a_window_and_a_foreign_peer_does_not(site: HubSite) -> None:
    ours = await site.connect("edge-1", headers={OURS_HEADER: "1"})
    theirs = await site.connect("edge-2")
    assert ours.response_headers[OURS_HEADER] == "1"
    assert {node: info.ours for node, _, info in site.sessions} == {"edge-1": True, "edge-2": False}
    for core in (ours, theirs):
        core.acknowledge = False
        for number in range(40):
            site.hub.push(core.node, config_map(f"u{number}", 1))
    await ours.wait_for("default/configmap/cm-u31")
    await theirs.wait_for("default/configmap/cm-u0")
    assert (len(ours.received), len(theirs.received)) == (32, 1)
    await ours.close()
    await theirs.close()


async def test_a_node_that_takes_nothing_is_waited_for_without_buffering(site: HubSite) -> None:
    core = await site.connect("edge-1")
    core.reading.clear()
    count, text = 240, "x" * 100_000
    for number in range(count):
        site.hub.push(
            "edge-1",
            Message.new(
                source="router_eventbus", group="user", operation="publish", resource=f"t/{number}", content=text
            ),
        )
    session = site.hub._sessions["edge-1"]
    await site.until(lambda: session.connection.stuck)
    transport = session.connection._transport
    assert transport is not None
    assert transport.get_write_buffer_size() < 200_000
    assert session.queue.size > 10_000_000
    core.reading.set()
    await core.wait_for(f"t/{count - 1}")
    assert [one["route"]["resource"] for one in core.received] == [f"t/{number}" for number in range(count)]
    assert all(one["content"] == text for one in core.received)
    assert session.queue.size == 0
    await core.close()


async def test_a_full_queue_turns_away_and_asks_for_everything_later(site: HubSite) -> None:
    core = await site.connect("edge-1")
    core.acknowledge = False
    for number in range(4100):
        site.hub.push("edge-1", config_map(f"u{number}", 1))
    assert site.traffic.drops["full"] == 4
    await core.wait_for("default/configmap/cm-u0")
    core.acknowledge = True
    await core.acknowledge_all()
    await site.until(lambda: [info.resync for _, _, info in site.sessions] == [False, True])
    await core.close()


async def test_a_deleted_node_is_disconnected(site: HubSite) -> None:
    core = await site.connect("edge-1")
    site.hub.push(
        "edge-1",
        Message.new(source="edgecontroller", group="resource", operation="delete", resource="null/node/edge-1"),
    )
    await asyncio.wait_for(core.closed.wait(), 5)
    assert core.received == []
    await core.close()


async def test_rubbish_is_dropped_and_the_session_lives(site: HubSite) -> None:
    core = await site.connect("edge-1")
    for payload in (
        b"",
        b"{",
        b"[]",
        b'{"header":{"msg_id":5}}',
        b"\xff\xfe",
        b'{"route":{"resource":"' + b"a" * 9000 + b'"}}',
    ):
        await core.send_text(payload)
    await core.send(edge.message("edged", "meta", "query", "one-segment", None))
    await core.send(edge.message("", "", "", "", None, msg_id=""))
    await core.send(edge.message("bus", "user", "upload", "still/here", "x"))
    _, message = await site.controllers[Destination.ROUTER].messages.get()
    assert message.resource == "still/here"
    assert site.traffic.drops["unreadable"] >= 5
    await core.close()


async def test_a_frame_that_announces_too_much_ends_the_connection(site: HubSite) -> None:
    core = await site.connect("edge-1")
    core.send_raw(b"\x81\xff" + (2**40).to_bytes(8, "big") + b"\0\0\0\0")
    await asyncio.wait_for(core.closed.wait(), 5)
    await core.close()


async def test_bytes_that_are_no_websocket_end_only_their_own_connection(site: HubSite) -> None:
    bystander = await site.connect("edge-9")
    rubbish = random.Random(7)
    for number in range(12):
        core = await site.connect("edge-1")
        core.send_raw(rubbish.randbytes(1 + number * 300))
        core.send_raw(b"\x88\x80\0\0\0\0" * 3)
        await core.close()
    site.hub.push("edge-9", config_map("u1", 1))
    await bystander.wait_for("default/configmap/cm-u1")
    await bystander.close()


async def test_a_controller_that_fails_answers_and_goes_on(site: HubSite) -> None:
    core = await site.connect("edge-1")

    def fail(_node: str, _message: Message) -> None:
        raise RuntimeError("broken")

    site.controllers[Destination.EDGECONTROLLER].reply = fail
    reply = await core.request("query", "null/node/edge-1")
    assert (reply["route"]["operation"], reply["content"]) == ("error", "broken")
    site.controllers[Destination.EDGECONTROLLER].reply = None
    await core.send(edge.message("edged", "meta", "query", "null/node/edge-1", None))
    await site.until(lambda: site.controllers[Destination.EDGECONTROLLER].messages.qsize() == 2)
    await core.close()


async def test_a_fast_talker_is_slowed_down_not_buffered(site: HubSite) -> None:
    core = await site.connect("edge-1")
    gate = asyncio.Event()

    async def hold(_node: str, _message: Message) -> None:
        await gate.wait()

    router = site.controllers[Destination.ROUTER]
    router.reply = hold
    uploads = [edge.message("bus", "user", "upload", "t", "x" * 20_000) for _ in range(600)]
    sender = asyncio.create_task(_send_many(core, uploads))
    session = site.hub._sessions["edge-1"]
    await site.until(lambda: session.paused)
    assert session.inbox_bytes < 5_000_000
    gate.set()
    await site.until(lambda: router.messages.qsize() == 600)
    await sender
    assert site.hub.connected("edge-1")
    await core.close()


async def _send_many(core: edge.EdgeCore, messages: list[dict[str, object]]) -> None:
    for message in messages:
        await core.send(message)


class Leases:
    """`hub.Leases` played: which store each node had."""

    def __init__(self) -> None:
        self.stores: dict[str, str] = {}
        self.held: list[str] = []
        self.taken = lambda node: None

    def watch(self, taken: object) -> None:
        self.taken = taken  # type: ignore[assignment]

    async def claim(self, node: str, store: str) -> bool:
        self.held.append(node)
        same = not store or self.stores.get(node) == store
        self.stores[node] = store
        return same

    async def release(self, node: str) -> None:
        self.held.remove(node)


async def test_an_edge_with_a_new_store_gets_everything_again() -> None:
    records = MemoryRecords()
    records.of["edge-1"] = {"u1": 7}
    leases = Leases()
    leases.stores["edge-1"] = "first"
    async with running_hub(records=records, leases=leases) as site:
        core = await site.connect("edge-1", headers={OURS_HEADER: "1", STORE_HEADER: "first"})
        site.hub.push("edge-1", config_map("u1", 7))
        await core.close()
        await site.until(lambda: leases.held == [])
        assert core.received == []
        core = await site.connect("edge-1", headers={OURS_HEADER: "1", STORE_HEADER: "second"})
        site.hub.push("edge-1", config_map("u1", 7))
        await core.wait_for("default/configmap/cm-u1")
        await core.close()
        await site.until(lambda: leases.held == [])


async def test_a_fault_while_opening_ends_only_that_session() -> None:
    class Broken(Leases):
        async def claim(self, node: str, store: str) -> bool:
            if node == "edge-bad":
                raise KeyError("metadata")
            return await super().claim(node, store)

    async with running_hub(leases=Broken()) as site:
        good = await site.connect("edge-1")
        bad = edge.EdgeCore("edge-bad")
        await bad.connect(site.hub.port, site.identity("edge-bad").context())
        await asyncio.wait_for(bad.closed.wait(), 5)
        assert site.hub.nodes() == ["edge-1"]
        await good.close()
        await bad.close()


async def test_a_fault_while_judging_ends_only_that_session() -> None:
    class Broken(OpenRelations):
        def pod_node(self, namespace: str, name: str) -> str | None:
            raise KeyError("spec")

    async with running_hub(relations=Broken()) as site:
        good, bad = await site.connect("edge-1"), await site.connect("edge-bad")
        await bad.send(edge.message("edged", "meta", "patch", "default/podpatch/p", "{}"))
        await asyncio.wait_for(bad.closed.wait(), 5)
        await site.until(lambda: site.hub.nodes() == ["edge-1"])
        assert not good.closed.is_set()
        await good.close()
        await bad.close()


async def test_a_session_that_another_replica_took_ends_here() -> None:
    leases = Leases()
    async with running_hub(leases=leases) as site:
        core = await site.connect("edge-1")
        leases.taken("edge-1")
        await asyncio.wait_for(core.closed.wait(), 5)
        assert not site.hub.connected("edge-1")
        await core.close()
