"""What metamanager does when the store or a subscriber fails: nothing is acknowledged that is not on the disk."""

import asyncio
from pathlib import Path
from typing import Any

from edgeappliance.edgehub.hub import EdgeHub
from edgeappliance.kernel.component import State
from edgeappliance.kernel.database import StorageError
from edgeappliance.kernel.supervisor import Supervisor
from edgeappliance.metamanager.metamanager import MetaManager
from edgeappliance.metamanager.objects import Change, is_remote
from edgeappliance.store import MetaRow, MetaStore, open_store
from edgeappliance.wire.message import Message
from tests.support.edge_identity import edge
from tests.support.kubeedge_cloud import kubeedge_cloud


class Wire:
    """A link that notes what is sent."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.connected = True

    def send(self, message: Message) -> bool:
        self.sent.put_nowait(message)
        return True

    async def request(self, message: Message, timeout: float, *, acknowledge: bool = True) -> Message:
        raise AssertionError("nobody asks here")


class FullDisk(MetaStore):
    """A store whose disk is full while `full`."""

    full = True

    async def put(self, row: MetaRow) -> None:
        if self.full:
            raise StorageError("disk is full", next_step="free space")
        await super().put(row)


def push(name: str, operation: str = "insert") -> Message:
    content: dict[str, Any] = {"metadata": {"name": name, "uid": f"uid-{name}"}}
    return Message.new(
        source="edgecontroller",
        group="resource",
        operation=operation,
        resource=f"default/pod/{name}",
        content=content,
        resource_version="5",
    )


async def test_full_disk_is_an_error_to_the_cloud_and_heals(tmp_path: Path) -> None:
    database = await open_store(tmp_path)
    wire, store, supervisor = Wire(), FullDisk(database), Supervisor()
    meta = supervisor.add("metamanager", lambda scope: MetaManager(scope, store=store, cloud=wire))
    told: list[Change] = []

    async def note(change: Change) -> None:
        told.append(change)

    meta.subscribe("pod", note)
    await supervisor.start()
    message = push("web")
    await meta.receive(message)
    answer = await wire.sent.get()
    assert (answer.operation, answer.parent_id, answer.content_value()) == ("error", message.id, "disk is full")
    assert meta.health().state is State.DEGRADED
    assert meta.health().next_step == "free space"
    assert told == []
    store.full = False
    await meta.receive(message)
    answer = await wire.sent.get()
    assert (answer.operation, answer.content_value()) == ("response", "OK")
    assert await store.get("default/pod/web") is not None
    assert meta.health().state is State.RUNNING
    await supervisor.stop()
    await database.close()


async def test_many_are_acknowledged_in_order_and_a_broken_subscriber_does_not_matter(tmp_path: Path) -> None:
    database = await open_store(tmp_path)
    wire, store, supervisor = Wire(), MetaStore(database), Supervisor()
    meta = supervisor.add("metamanager", lambda scope: MetaManager(scope, store=store, cloud=wire))
    told: list[str] = []

    async def breaks(change: Change) -> None:
        raise RuntimeError("subscriber")

    async def note(change: Change) -> None:
        told.append(f"{change.operation} {change.resource.name}")

    meta.subscribe("pod", breaks)
    meta.subscribe("pod", note)
    await supervisor.start()
    messages = [push(f"p{number}") for number in range(150)] + [push("p7", "delete"), push("p7")]
    for message in messages:
        await meta.receive(message)
    answers = [await wire.sent.get() for _ in messages]
    assert [answer.parent_id for answer in answers] == [message.id for message in messages]
    assert told == [f"{message.operation} {message.resource.split('/')[2]}" for message in messages]
    assert len(await meta.objects("pod")) == 150
    await supervisor.stop()
    await database.close()


def test_types_that_are_asked_of_the_cloud() -> None:
    assert is_remote("default/configmap/x")
    assert is_remote("null/persistentvolume/x")
    assert is_remote("k8s/ca.crt")
    assert not is_remote("default/pod/x")
    assert not is_remote("null/node/x")
    assert not is_remote("a/configmap/b/c")
    assert not is_remote("")


async def test_cloud_sends_again_until_it_is_on_the_disk(tmp_path: Path) -> None:
    """An error reply changes nothing for a KubeEdge cloud: the same message comes again after its pause."""
    directory = tmp_path / "cloud"
    directory.mkdir()
    database = await open_store(tmp_path)
    store = FullDisk(database)

    def prepare(hub: EdgeHub, supervisor: Supervisor) -> None:
        meta = supervisor.add("metamanager", lambda scope: MetaManager(scope, store=store, cloud=hub))
        hub.route("resource", meta.receive)

    async with (
        kubeedge_cloud(directory, resend_after=0.2) as cloud,
        edge(cloud, tmp_path / "id", prepare=prepare),
    ):
        done = cloud.push("insert", "default/pod/web", cloud.object("Pod", "default", "web"))
        await cloud.wait(lambda cloud: len(cloud.messages("default/pod/web", "error")) == 2)
        assert not done.done()
        store.full = False
        assert (await done)["content"] == "OK"
        assert await store.get("default/pod/web") is not None
        assert len({message["header"]["msg_id"] for _, message in cloud.sends}) == 1
    await database.close()
