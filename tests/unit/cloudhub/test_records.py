"""ObjectSync records: memory at once, the API with the newest only, on the embedded API and on one that fails."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloudgateway.apiserver.embedded import EmbeddedApi
from cloudgateway.cloudhub.delivery import Subject
from cloudgateway.cloudhub.leases import PREFIX, ROLE, STORE, SessionLeases
from cloudgateway.cloudhub.queue import Record
from cloudgateway.cloudhub.records import RecordBook
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.errors import ApiError, ApiUnavailable
from cloudgateway.kube.informers import Informers
from cloudgateway.kube.local_transport import LocalTransport
from cloudgateway.kube.reflector import Watched
from cloudgateway.kube.resources import CLUSTER_OBJECT_SYNCS, GVR, LEASES, OBJECT_SYNCS
from cloudgateway.site import Mirrors, prepare
from edgeappliance.kernel.component import State
from edgeappliance.kernel.supervisor import Supervisor


def subject(uid: str, namespace: str = "default") -> Subject:
    return Subject(uid, namespace, "v1", "ConfigMap" if namespace else "Node", f"name-{uid}")


class CountingClient:
    """A client that counts writes, and fails them while `down`."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self.writes: list[tuple[str, str]] = []
        self.down = False

    def _count(self, verb: str, name: str) -> None:
        if self.down:
            raise ApiUnavailable("no answer")
        self.writes.append((verb, name))

    async def create(self, gvr: GVR, body: Any, *, namespace: str | None = None) -> Any:
        self._count("create", body["metadata"]["name"])
        return await self._client.create(gvr, body, namespace=namespace)

    async def patch(self, gvr: GVR, namespace: str | None, name: str, body: Any, *, subresource: str = "") -> Any:
        self._count("patch", name)
        return await self._client.patch(gvr, namespace, name, body, subresource=subresource)

    async def delete(self, gvr: GVR, namespace: str | None, name: str) -> Any:
        self._count("delete", name)
        return await self._client.delete(gvr, namespace, name)


class Books:
    def __init__(self, client: KubeClient, supervisor: Supervisor) -> None:
        self.client = client
        self.supervisor = supervisor
        self.counting = CountingClient(client)
        self.informers = supervisor.add("mirrors", lambda tasks: Mirrors(Informers(client, tasks))).informers
        self.book = supervisor.add(
            "records", lambda tasks: RecordBook(api=self.counting, informers=self.informers, tasks=tasks)
        )

    async def version(self, name: str, gvr: GVR = OBJECT_SYNCS) -> str | None:
        """The version in the API, None without a record."""
        try:
            found = await self.client.get(gvr, "default" if gvr.namespaced else None, name)
        except ApiError as error:
            if error.not_found:
                return None
            raise
        return str((found.get("status") or {}).get("objectResourceVersion"))

    async def until(self, name: str, version: str | None, gvr: GVR = OBJECT_SYNCS) -> None:
        async with asyncio.timeout(10):
            while await self.version(name, gvr) != version:
                await asyncio.sleep(0.01)


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    api = await EmbeddedApi.open(tmp_path / "api")
    client = KubeClient(LocalTransport(api))
    await prepare(client, crds=True)
    supervisor = Supervisor()
    made = Books(client, supervisor)
    await supervisor.start()
    await made.book.wait_synced()
    yield made
    await supervisor.stop()
    await api.close()


async def test_a_record_lives_from_enqueue_to_delete(books: Books) -> None:
    books.book.note("edge.with.dots", Record(subject("u1"), 0))
    assert books.book.versions("edge.with.dots") == {"u1": 0}
    await books.until("edge.with.dots.u1", "0")
    books.book.note("edge.with.dots", Record(subject("u1"), 12))
    await books.until("edge.with.dots.u1", "12")
    stored = await books.client.get(OBJECT_SYNCS, "default", "edge.with.dots.u1")
    assert stored["spec"] == {"objectAPIVersion": "v1", "objectKind": "ConfigMap", "objectName": "name-u1"}
    books.book.note("edge.with.dots", Record(subject("u1"), None))
    assert books.book.versions("edge.with.dots") == {}
    await books.until("edge.with.dots.u1", None)


async def test_cluster_scoped_objects_have_records_of_their_own_kind(books: Books) -> None:
    books.book.note("edge-1", Record(subject("n1", ""), 5))
    await books.until("edge-1.n1", "5", CLUSTER_OBJECT_SYNCS)


async def test_only_the_newest_version_is_written(books: Books) -> None:
    for version in range(1, 500):
        books.book.note("edge-1", Record(subject("u1"), version))
    await books.until("edge-1.u1", "499")
    assert len(books.counting.writes) <= 4


async def test_an_object_without_a_kind_is_not_recorded(books: Books) -> None:
    books.book.note("edge-1", Record(Subject("u1", "default", "", "", "x"), 3))
    assert books.book.versions("edge-1") == {}


async def test_writes_wait_for_an_api_that_is_away(books: Books) -> None:
    books.counting.down = True
    books.book.note("edge-1", Record(subject("u1"), 7))
    async with asyncio.timeout(5):
        while books.book.health().state is not State.DEGRADED:
            await asyncio.sleep(0.01)
    assert books.book.versions("edge-1") == {"u1": 7}
    books.counting.down = False
    await books.until("edge-1.u1", "7")


async def test_what_others_wrote_is_known(books: Books) -> None:
    body = {
        "apiVersion": OBJECT_SYNCS.api_version,
        "kind": "ObjectSync",
        "metadata": {"name": "edge-9.abc", "namespace": "default"},
        "spec": {"objectAPIVersion": "v1", "objectKind": "Pod", "objectName": "p"},
    }
    await books.client.create(OBJECT_SYNCS, body, namespace="default")
    await books.client.patch(
        OBJECT_SYNCS, "default", "edge-9.abc", {"status": {"objectResourceVersion": "41"}}, subresource="status"
    )
    async with asyncio.timeout(5):
        while books.book.versions("edge-9") != {"abc": 41}:
            await asyncio.sleep(0.01)
    books.book.note("edge-9", Record(Subject("abc", "default", "v1", "Pod", "p"), 42))
    await books.until("edge-9.abc", "42")
    await books.client.delete(OBJECT_SYNCS, "default", "edge-9.abc")
    async with asyncio.timeout(5):
        while books.book.versions("edge-9"):
            await asyncio.sleep(0.01)


async def test_a_record_that_vanished_is_made_again(books: Books) -> None:
    books.book.note("edge-1", Record(subject("u1"), 1))
    await books.until("edge-1.u1", "1")
    await books.client.delete(OBJECT_SYNCS, "default", "edge-1.u1")
    books.book.note("edge-1", Record(subject("u1"), 2))
    await books.until("edge-1.u1", "2")


async def test_leases_name_the_last_who_claimed_and_remember_the_store(books: Books) -> None:
    first = SessionLeases(api=books.client, informers=books.informers, replica="a")
    second = SessionLeases(api=books.client, informers=books.informers, replica="b")
    taken: list[str] = []
    first.watch(taken.append)
    assert not await first.claim("edge-1", "store-1"), "never seen before: it has nothing"
    assert await first.claim("edge-1", "store-1")
    assert not await second.claim("edge-1", "store-2")
    async with asyncio.timeout(5):
        while not taken:
            await asyncio.sleep(0.01)
    lease = await books.client.get(LEASES, "kubeedge", PREFIX + "edge-1")
    assert lease["spec"]["holderIdentity"] == "b"
    assert lease["metadata"]["annotations"][STORE] == "store-2"
    assert await second.claim("edge-1", ""), "a foreign peer tells no store"
    await first.release("edge-1")
    await second.release("edge-1")
    lease = await books.client.get(LEASES, "kubeedge", PREFIX + "edge-1")
    assert not (lease.get("spec") or {}).get("holderIdentity")
    assert lease["metadata"]["annotations"][STORE] == "store-2"


async def test_many_claims_at_once_end_with_one_holder(books: Books) -> None:
    replicas = [SessionLeases(api=books.client, informers=books.informers, replica=name) for name in "abcd"]
    await asyncio.gather(*(leases.claim("edge-1", "") for leases in replicas))
    lease = await books.client.get(LEASES, "kubeedge", PREFIX + "edge-1")
    assert lease["spec"]["holderIdentity"] in "abcd"


class LeaseApi:
    """KubeClient's leases, with the reads counted."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self.reads = 0
        self.create, self.update = client.create, client.update

    async def get(self, gvr: GVR, namespace: str | None, name: str) -> Any:
        self.reads += 1
        return await self._client.get(gvr, namespace, name)


async def test_a_mirrored_lease_is_claimed_without_reading_it_first(books: Books) -> None:
    api = LeaseApi(books.client)
    leases = SessionLeases(api=api, informers=books.informers, replica="a")
    leases.watch(lambda _: None)
    mirror = books.informers.of(Watched(LEASES, "kubeedge", label_selector=f"{ROLE}=session"))
    assert not await leases.claim("edge-1", "store-1")
    reads, name = api.reads, PREFIX + "edge-1"
    async with asyncio.timeout(5):
        while mirror.get("kubeedge", name) is None:
            await asyncio.sleep(0.01)
    assert await leases.claim("edge-1", "store-1")
    assert api.reads == reads
    # The mirror lags: somebody else's claim is not in it yet, and must not be overwritten unseen.
    stale = mirror.get("kubeedge", name)
    await SessionLeases(api=books.client, informers=books.informers, replica="b").claim("edge-1", "store-2")
    mirror._objects["kubeedge", name] = stale  # type: ignore[assignment]
    assert not await leases.claim("edge-1", "store-1")
    assert api.reads == reads + 1
