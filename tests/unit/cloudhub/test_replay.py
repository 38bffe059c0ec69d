"""The recorded traffic of a real pair, played through a real hub: every message up and down, in order."""

import json

from cloudgateway.cloudhub.dispatch import Destination
from edgeappliance.wire.message import decode
from tests import vectors
from tests.support.hub import running_hub

RECORDED = list(vectors.messages())


async def test_everything_a_real_edge_sent_reaches_its_receiver() -> None:
    async with running_hub() as site:
        site.relations.devices["default", "dev-1"] = "edge-1"
        for one in RECORDED:
            parts = decode(one.text).resource.split("/")
            if len(parts) == 3:
                site.relations.used.add(("edge-1", parts[1], parts[0], parts[2]))
        core = await site.connect("edge-1", keepalive=None)
        expected: dict[Destination, list[str]] = {to: [] for to in site.controllers}
        for one in RECORDED:
            if one.direction != "up":
                continue
            await core.send_text(one.text.encode())
            message = decode(one.text)
            if message.operation in ("keepalive", "response", "") or message.source == "metaserver":
                continue
            to = {"twin": Destination.DEVICECONTROLLER}.get(message.source, Destination.EDGECONTROLLER)
            expected[Destination.ROUTER if message.operation == "upload" else to].append(message.id)
        for to, ids in expected.items():
            got = []
            for _ in ids:
                node, message = await site.controllers[to].messages.get()
                assert node == "edge-1"
                got.append(message.id)
            assert got == ids
        assert site.hub.connected("edge-1")
        assert site.traffic.denied == 0
        assert "unreadable" not in site.traffic.drops
        await core.close()


async def test_everything_a_real_cloud_sent_arrives_as_it_was() -> None:
    down = [one for one in RECORDED if one.direction == "down"]
    async with running_hub() as site:
        core = await site.connect("edge-1")
        newest: dict[str, int] = {}
        wanted = []
        for one in down:
            message = decode(one.text)
            await site.until(lambda: len(site.hub._sessions["edge-1"].queue) == 0)
            if message.parent_id:
                core.expect(message.parent_id)  # or nobody acknowledges the reply
            site.hub.push("edge-1", message)
            content = json.loads(one.text)["content"]
            uid = content.get("metadata", {}).get("uid", "") if isinstance(content, dict) else ""
            version = int(message.resource_version or 0)
            if message.operation in ("insert", "update") and uid and version:
                if version <= newest.get(uid, 0):
                    continue
                newest[uid] = version
            wanted.append(json.loads(one.text))
        await site.until(lambda: len(core.received) >= len(wanted))
        assert core.received == wanted
        await core.close()
