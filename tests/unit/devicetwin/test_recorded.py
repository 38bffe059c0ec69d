"""The reports of a real KubeEdge 1.23 edgecore, reproduced from the requests that caused them."""

import json
from pathlib import Path
from typing import Any

from edgeappliance.wire.message import decode
from tests.unit.devicetwin.parts import NOW, twin_rig

DEVICE = "$hw/events/device/default/dev-1"

REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("twin/update", {"twin": {"k1": {"expected": {"value": "5"}, "metadata": {"type": "int"}}}}),
    ("twin/update", {"twin": {"k1": {"actual": {"value": "5"}}}}),
    ("twin/update", {"twin": {"k1": {"actual": {"value": "5"}}}}),
    ("twin/update", {"twin": {"k1": {"actual": {"value": "6"}, "optional": False}}}),
    ("twin/update", {"twin": {"k2": {"actual": {"value": "x"}}}}),
    ("twin/update", {"twin": {"k2": None}}),
    ("twin/update", {"twin": {"k2": None}}),
    ("twin/update", {"twin": {"k2": {"expected": {"value": "y"}}}}),
    ("twin/update", {"twin": {"k5": {}}}),
    ("state/update", {"state": "Online"}),
    ("state/update", {"state": "offline"}),
]
"""What the app published, in the order of the recording."""


def comparable(content: Any) -> Any:
    """The content with ids and times replaced; a content that is text stays recognisable as text."""
    if isinstance(content, str):
        return ("text", without_ids(json.loads(content)))
    return without_ids(content)


def without_ids(content: Any) -> Any:
    if isinstance(content, dict):
        replaced = {"event_id": "ID", "timestamp": 0, "lastOnlineTime": "T"}
        return {key: replaced[key] if key in replaced else without_ids(item) for key, item in content.items()}
    return content


async def test_same_reports_as_recorded(tmp_path: Path):
    lines = (Path(__file__).parent / "recorded.jsonl").read_text().splitlines()
    recorded = [decode(line) for line in lines]
    ours = []
    async with twin_rig(tmp_path, connected=False) as rig:
        await rig.member("default/dev-1")
        rig.bus.take()
        rig.cloud.connected = True
        rig.twin.connection(True)
        ours += rig.cloud.take()
        for topic, body in REQUESTS:
            rig.mqtt(f"{DEVICE}/{topic}", body)
            await rig.bus.wait(1)
            (report,) = rig.cloud.take()
            ours.append(report)
            await rig.acknowledge(report)
            assert rig.cloud.take() == []
    assert [message.route for message in ours] == [message.route for message in recorded]
    for mine, theirs in zip(ours, recorded, strict=True):
        assert comparable(mine.content_value()) == comparable(theirs.content_value())


async def test_device_messages_of_f7(tmp_path: Path):
    down = (
        b'{"header":{"msg_id":"G","timestamp":1700000003000},"route":{"source":"devicecontroller","group":"twin",'
        b'"operation":"update","resource":"membership"},"content":{"event_id":"e1","timestamp":1700000000123,'
        b'"added_devices":[{"id":"default/d1","name":"d1"}],"removed_devices":null}}\n'
    )
    async with twin_rig(tmp_path) as rig:
        rig.cloud.take()
        await rig.twin.handle(decode(down))
        ((topic, payload),) = rig.bus.published
        assert topic == "$hw/events/node/edge-1/membership/updated"
        new_id = json.loads(payload)["event_id"]
        assert payload.decode() == (
            f'{{"event_id":"{new_id}","timestamp":{NOW},'
            '"added_devices":[{"id":"default/d1","name":"d1"}],"removed_devices":null}'
        )
        assert rig.cloud.take() == []
