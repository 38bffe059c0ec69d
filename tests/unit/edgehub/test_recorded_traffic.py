"""Recorded traffic of a real cloudcore, replayed against the edge: who gets it, and what is acknowledged."""

import asyncio
import json
from pathlib import Path
from typing import Any

from edgeappliance.edgehub.hub import EdgeHub
from edgeappliance.kernel.supervisor import Supervisor
from edgeappliance.metamanager.metamanager import MetaManager
from edgeappliance.store import MetaStore, open_store
from edgeappliance.wire.message import Message, decode
from tests.support.edge_identity import edge
from tests.support.kubeedge_cloud import kubeedge_cloud
from tests.vectors import messages

WAITING_SOURCES = {"edged", "metaserver", "servicebus"}
"""Whose requests wait for their answer; twin messages are confirmed to the twin module instead (reference 1.4 K)."""


def recorded() -> list[tuple[str, str, dict[str, Any]]]:
    """(direction, text, message) of every whole message with a resource, in order."""
    found = [(item.direction, item.text, json.loads(item.text)) for item in messages()]
    return [item for item in found if "resource" in item[2].get("route", {})]


async def test_every_downstream_message_is_routed_and_acknowledged_as_recorded(tmp_path: Path) -> None:
    traffic = recorded()
    sent_up = {m["header"]["msg_id"]: m for direction, _, m in traffic if direction == "up"}
    acknowledged = {
        m["header"]["parent_msg_id"]: m
        for direction, _, m in traffic
        if direction == "up" and m["route"].get("operation") == "response"
    }
    received: list[tuple[str, str]] = []
    parts: dict[str, Any] = {}
    database = await open_store(tmp_path)

    def prepare(hub: EdgeHub, supervisor: Supervisor) -> None:
        meta = supervisor.add("metamanager", lambda scope: MetaManager(scope, store=MetaStore(database), cloud=hub))
        parts.update(meta=meta)
        for group in ("twin", "user", "taskmanager"):
            hub.route(group, lambda message, group=group: note(group, message))
        hub.route("resource", lambda message: to_meta(meta, message))

    async def note(group: str, message: Message) -> None:
        received.append((group, message.id))

    async def to_meta(meta: MetaManager, message: Message) -> None:
        received.append(("meta", message.id))
        await meta.receive(message)

    # The header that marks our own cloud lifts the rate limit; nothing else depends on it here.
    async with (
        kubeedge_cloud(tmp_path, upgrade_headers={"Edge-Appliance": "1"}) as cloud,
        edge(cloud, tmp_path / "id", prepare=prepare) as running,
    ):
        await running.connected()
        cloud.mute = True
        answers: dict[str, asyncio.Task[Message]] = {}
        expected: list[tuple[str, str]] = []
        for direction, text, message in traffic:
            header, route = message["header"], message["route"]
            if direction == "up":
                if route.get("source") in WAITING_SOURCES and "parent_msg_id" not in header:
                    request = running.hub.request(decode(text), 30.0)
                    answers[header["msg_id"]] = asyncio.create_task(request)
                    await cloud.wait_message(route["resource"], after=0)
                continue
            parent = header.get("parent_msg_id", "")
            await cloud.send_raw(text.encode())
            if parent and sent_up[parent]["route"]["source"] in WAITING_SOURCES:
                async with asyncio.timeout(5):
                    answer = await answers[parent]
                assert answer.id == header["msg_id"]
                assert answer.content_value() == message["content"]
                continue
            group = {"resource": "meta", "func": "meta"}.get(route["group"], route["group"])
            expected.append((group, header["msg_id"]))
        for task in answers.values():
            if not task.done():
                task.cancel()
        await asyncio.gather(*answers.values(), return_exceptions=True)
        # A message of another kind that is acknowledged last: everything before it has been handled.
        last = cloud.object("Pod", "default", "last")
        await cloud.push("insert", "default/pod/last", last)
        received = [item for item in received if item[1] in {ident for _, ident in expected}]
        assert sorted(received) == sorted(expected)
        for group in {group for group, _ in expected}:
            assert [i for g, i in received if g == group] == [i for g, i in expected if g == group]

        downstream = {m["header"]["msg_id"]: m for direction, _, m in traffic if direction == "down"}
        ours = {item.parent: item.message for item in cloud.received if item.parent in downstream}
        # Answers of servicebus to the router are that component's, not acknowledgements.
        wanted = {
            ident: m
            for ident, m in acknowledged.items()
            if ident in downstream and m["route"]["source"] != "servicebus"
        }
        assert ours.keys() == wanted.keys()
        for ident, message in wanted.items():
            assert ours[ident]["route"] == message["route"]
            assert ours[ident]["content"] == message["content"] == "OK"
            assert ours[ident]["header"].keys() == message["header"].keys()
        assert not running.hub.health().details["messages_refused_total"]
    await database.close()
