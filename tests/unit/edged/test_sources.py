"""Config maps, secrets and tokens over a real link: from the store, from the cloud, and from neither."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgeappliance.edged.objects import Objects
from edgeappliance.edged.tokens import TokenRefused, Tokens
from edgeappliance.edgehub.hub import EdgeHub
from edgeappliance.kernel.clock import ManualClock
from edgeappliance.kernel.errors import TransientError
from edgeappliance.kernel.supervisor import Supervisor
from edgeappliance.kubeapi.times import rfc3339
from edgeappliance.metamanager.metamanager import MetaManager
from edgeappliance.store import MetaStore, open_store
from tests.support.edge_identity import Edge, edge
from tests.support.kubeedge_cloud import KubeEdgeCloud
from tests.unit.edged.volumes.parts import UID, pod

TOKEN = "default/serviceaccounttoken/default"


@dataclass
class Box:
    edge: Edge
    store: MetaStore
    objects: Objects
    tokens: Tokens
    clock: ManualClock
    told: list[tuple[str, str, str]]


@asynccontextmanager
async def box(cloud: KubeEdgeCloud, directory: Path, *, clock: ManualClock | None = None) -> AsyncIterator[Box]:
    directory.mkdir(exist_ok=True)
    database = await open_store(directory)
    clock = clock or ManualClock()
    parts: dict[str, Any] = {}

    def prepare(hub: EdgeHub, supervisor: Supervisor) -> None:
        store = MetaStore(database)
        meta = supervisor.add("metamanager", lambda scope: MetaManager(scope, store=store, cloud=hub))
        hub.route("resource", meta.receive)
        objects = Objects(source=meta, link=hub, clock=clock)
        tokens = Tokens(source=meta, store=store, link=hub, clock=clock, random=lambda: 0.0)
        told: list[tuple[str, str, str]] = []
        objects.on_change(lambda *key: told.append(key))
        parts.update(store=store, objects=objects, tokens=tokens, told=told)

    try:
        async with edge(cloud, directory / "id", prepare=prepare) as running:
            yield Box(edge=running, clock=clock, **parts)
    finally:
        await database.close()


async def test_an_object_is_asked_for_once_and_found_offline_then(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with box(kubeedge, tmp_path / "box") as here:
        await here.edge.connected()
        kubeedge.objects["default/configmap/cm"] = kubeedge.object("ConfigMap", "default", "cm", data={"a": "1"})
        found = await asyncio.gather(*(here.objects.get("configmap", "default", "cm") for _ in range(5)))
        assert all(item is not None and item["data"] == {"a": "1"} for item in found)
        assert len(kubeedge.messages("default/configmap/cm", "query")) == 1
    await kubeedge.stop_ws()
    async with box(kubeedge, tmp_path / "box") as here:
        assert (await here.objects.get("configmap", "default", "cm") or {})["data"] == {"a": "1"}
        assert here.objects.trouble("configmap", "default", "cm") == ""


async def test_a_missing_one_is_asked_for_now_and_then(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with box(kubeedge, tmp_path / "box") as here:
        await here.edge.connected()

        async def asked() -> int:
            for _ in range(3):
                assert await here.objects.get("secret", "default", "none") is None
            return len(kubeedge.messages("default/secret/none", "query"))

        assert await asked() == 1
        assert here.objects.trouble("secret", "default", "none") == ""
        here.clock.advance(2.0)
        assert await asked() == 2
        here.clock.advance(2.0)  # the second wait is longer
        assert await asked() == 2
        await kubeedge.push("update", "default/secret/none", kubeedge.object("Secret", "default", "none", data={}))
        assert await here.objects.get("secret", "default", "none") is not None
        assert here.told == [("secret", "default", "none")]
        await kubeedge.push("delete", "default/secret/none", None)
        assert await here.objects.get("secret", "default", "none") is None
        assert here.told == [("secret", "default", "none")] * 2


async def test_a_new_link_is_worth_asking_again(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with box(kubeedge, tmp_path / "joined") as here:
        await here.edge.connected()
    await kubeedge.stop_ws()
    async with box(kubeedge, tmp_path / "joined") as here:
        assert await here.objects.get("configmap", "default", "cm") is None
        assert here.objects.trouble("configmap", "default", "cm") == "not connected to the cloud"
        kubeedge.objects["default/configmap/cm"] = kubeedge.object("ConfigMap", "default", "cm", data={})
        await kubeedge.start_ws()
        await here.edge.connected()
        assert here.told == [("configmap", "default", "cm")]
        assert await here.objects.get("configmap", "default", "cm") is not None
        assert here.objects.trouble("configmap", "default", "cm") == ""


async def test_what_nobody_asks_for_any_more_is_forgotten(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with box(kubeedge, tmp_path / "box") as here:
        await here.edge.connected()
        for number in range(5):
            assert await here.objects.get("configmap", "default", f"cm{number}") is None
        here.clock.advance(1000)
        assert await here.objects.get("configmap", "default", "last") is None
        await kubeedge.stop_ws()
        await kubeedge.start_ws()
        await here.edge.connected()
        async with asyncio.timeout(5):
            while not here.told:
                await asyncio.sleep(0.01)
        assert here.told == [("configmap", "default", "last")]


@pytest.mark.parametrize("name", ["", "a/b", "x/secret/y"])
async def test_names_that_are_none_ask_nobody(kubeedge: KubeEdgeCloud, tmp_path: Path, name: str) -> None:
    async with box(kubeedge, tmp_path / "box") as here:
        await here.edge.connected()
        assert await here.objects.get("configmap", "default", name) is None
        assert not [item for item in kubeedge.received if "configmap" in item.resource]


def issue(cloud: KubeEdgeCloud, token: str, clock: ManualClock, *, seconds: int = 3607) -> None:
    """The cloud's next answer to a token request."""
    expires = rfc3339(clock.wall_ms() + seconds * 1000)
    cloud.objects[TOKEN] = {
        "metadata": {"resourceVersion": ""},
        "spec": {"expirationSeconds": seconds},
        "status": {"token": token, "expirationTimestamp": expires},
    }


async def test_a_token_is_renewed_when_four_fifths_of_its_life_are_over(
    kubeedge: KubeEdgeCloud, tmp_path: Path
) -> None:
    async with box(kubeedge, tmp_path / "box") as here:
        await here.edge.connected()

        async def token(audience: str = "", seconds: int = 3607) -> str:
            return await here.tokens.token(pod(), audience=audience, seconds=seconds)

        issue(kubeedge, "one", here.clock)
        assert await token() == "one"
        asked = kubeedge.messages(TOKEN, "query")[0].content
        assert asked["spec"] == {
            "audiences": None,
            "expirationSeconds": 3607,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": UID},
        }
        issue(kubeedge, "two", here.clock)
        here.clock.advance(2800)
        assert await token() == "one"
        assert here.tokens.due(here.clock.monotonic()) == set()
        here.clock.advance(100)
        assert here.tokens.due(here.clock.monotonic()) == {UID}
        assert await token() == "two"
        issue(kubeedge, "for the vault", here.clock)
        assert await token(audience="vault") == "for the vault"
        assert kubeedge.messages(TOKEN, "query")[-1].content["spec"]["audiences"] == ["vault"]
        issue(kubeedge, "for days", here.clock, seconds=1_000_000)
        assert await token(seconds=1_000_000) == "for days"
        issue(kubeedge, "after a day", here.clock, seconds=1_000_000)
        here.clock.advance(24 * 3600)
        assert await token(seconds=1_000_000) == "after a day"
        assert len(await here.store.list("serviceaccounttoken")) == 3
        await here.tokens.forget(UID)
        assert not await here.store.list("serviceaccounttoken")
        assert here.tokens.due(here.clock.monotonic()) == set()


async def test_after_a_cold_boot_without_a_link_the_pod_has_its_token(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with box(kubeedge, tmp_path / "box") as here:
        await here.edge.connected()
        issue(kubeedge, "old", here.clock)
        await here.tokens.token(pod(), audience="", seconds=3607)
    await kubeedge.stop_ws()
    clock = ManualClock(monotonic=5.0)
    clock.jump(clock.wall_ms() + 100_000_000)  # the night over
    async with box(kubeedge, tmp_path / "box", clock=clock) as here:
        assert await here.tokens.token(pod(), audience="", seconds=3607) == "old"
        with pytest.raises(TransientError, match="not connected to the cloud"):
            await here.tokens.token(pod(), audience="other", seconds=3607)
        assert here.tokens.due(clock.monotonic()) == set()  # tried a moment ago
        issue(kubeedge, "new", clock)
        await kubeedge.start_ws()
        await here.edge.connected()
        assert here.tokens.due(clock.monotonic()) == {UID}
        assert await here.tokens.token(pod(), audience="", seconds=3607) == "new"


async def test_a_restart_does_not_ask_for_tokens_that_are_young(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    clock = ManualClock()
    async with box(kubeedge, tmp_path / "box", clock=clock) as here:
        await here.edge.connected()
        issue(kubeedge, "one", clock)
        await here.tokens.token(pod(), audience="", seconds=3607)
    clock = ManualClock(monotonic=7.0)
    clock.advance(60)
    async with box(kubeedge, tmp_path / "box", clock=clock) as here:
        await here.edge.connected()
        assert await here.tokens.token(pod(), audience="", seconds=3607) == "one"
        assert len(kubeedge.messages(TOKEN, "query")) == 1
        clock.jump(0)  # a clock without a battery, before it is set: the running life counts
        assert await here.tokens.token(pod(), audience="", seconds=3607) == "one"


async def test_what_the_cloud_refuses(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with box(kubeedge, tmp_path / "box") as here:
        await here.edge.connected()
        with pytest.raises(TokenRefused, match='serviceaccounttokens "default" not found'):
            await here.tokens.token(pod(), audience="", seconds=3607)
        with pytest.raises(TokenRefused, match="not found"):  # not asked again at once
            await here.tokens.token(pod(), audience="", seconds=3607)
        assert len(kubeedge.messages(TOKEN, "query")) == 1
        here.clock.advance(10)
        kubeedge.objects[TOKEN] = {"metadata": {"resourceVersion": ""}, "status": {"token": ""}}
        with pytest.raises(TransientError, match="without a token"):
            await here.tokens.token(pod(), audience="", seconds=3607)
        here.clock.advance(20)
        issue(kubeedge, "good", here.clock)
        assert await here.tokens.token(pod(), audience="", seconds=3607) == "good"
        del kubeedge.objects[TOKEN]
        here.clock.advance(3000)
        assert await here.tokens.token(pod(), audience="", seconds=3607) == "good"  # it is valid still
        here.clock.advance(1000)
        for _ in range(2):
            with pytest.raises(TokenRefused):
                await here.tokens.token(pod(), audience="", seconds=3607)


async def test_a_silent_cloud_is_not_waited_for_twice(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with box(kubeedge, tmp_path / "box") as here:
        await here.edge.connected()
        kubeedge.silent = re.compile("configmap/slow")
        asking = [asyncio.create_task(here.objects.get("configmap", "default", "slow")) for _ in range(3)]
        question = await kubeedge.wait_message("default/configmap/slow", "query")
        await kubeedge.send(
            kubeedge.message("error", "default/configmap/slow", "boom", source="", group="resource", parent=question.id)
        )
        assert await asyncio.gather(*asking) == [None] * 3
        assert "boom" in here.objects.trouble("configmap", "default", "slow")
        assert len(kubeedge.messages("default/configmap/slow", "query")) == 1
