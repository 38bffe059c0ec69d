"""The embedded API under kill -9, on a full disk and with a damaged database; the ledger is kept by its clients."""

import asyncio
import json
import random
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.faults.conftest import ROUNDS
from tests.support.programs import output
from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 15 * ROUNDS)]

MAPS = "/api/v1/namespaces/default/configmaps"
MERGE = {"Content-Type": "application/merge-patch+json"}
NAMES = 8
"""Objects of each writer: few, so that each lives through many creations, changes and deletions."""


@dataclass
class Known:
    """What a writer was told of one object, and what it asked for since without an answer."""

    version: int = 0
    value: str | None = None
    asked: list[str | None] = field(default_factory=list)


class Client:
    """The API over HTTP with the administrator's token."""

    def __init__(self, stand: Stand) -> None:
        directory = stand.api_directory
        context = ssl.create_default_context(cafile=str(directory / "pki" / "ca.crt"))
        token = (directory / "admin.token").read_text().strip()
        self._http = aiohttp.ClientSession(
            f"https://127.0.0.1:{stand.api_port}",
            connector=aiohttp.TCPConnector(ssl=context),
            headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=20),
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.close()

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """Status and object; 0 when no whole answer came."""
        data = None if body is None else json.dumps(body).encode()
        headers = MERGE if method == "PATCH" else {"Content-Type": "application/json"}
        try:
            async with self._http.request(method, path, data=data, headers=headers) as answer:
                return answer.status, json.loads(await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return 0, {}

    async def listed(self) -> tuple[dict[str, dict[str, Any]], int]:
        """All config maps of the ledger by name, and the version of the list."""
        code, value = await self.ask("GET", f"{MAPS}?labelSelector=ledger")
        assert code == 200, value
        return {item["metadata"]["name"]: item for item in value["items"]}, int(value["metadata"]["resourceVersion"])

    async def watched(self, version: int) -> AsyncIterator[dict[str, Any]]:
        """Events until the server or the connection ends."""
        path = f"{MAPS}?labelSelector=ledger&watch=1&resourceVersion={version}&timeoutSeconds=60"
        try:
            async with self._http.get(path) as answer:
                async for line in answer.content:
                    yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return


class Writer:
    """Creates, patches and deletes its own objects, and remembers what it was told."""

    def __init__(self, number: int, client: Client, dice: random.Random) -> None:
        self._client = client
        self._dice = dice
        self._number = number
        self.known = {f"w{number}-{index}": Known() for index in range(NAMES)}
        self.acknowledged = 0
        self.refused: list[dict[str, Any]] = []
        self.versions: set[int] = set()
        self._serial = 0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.step(self._dice.choice(list(self.known)))

    async def step(self, name: str, *, size: int = 0) -> None:
        known = self.known[name]
        self._serial += 1
        text = f"{self._number}:{self._serial}" + "x" * size
        if known.asked:
            await self._look(name)  # a write without an answer may have happened: go on from what is there
            return
        if known.value is None:
            wanted: str | None = text
            body = {"metadata": {"name": name, "labels": {"ledger": ""}}, "data": {"n": text}}
            request = ("POST", MAPS, body)
        elif self._dice.random() < 0.2:
            wanted, request = None, ("DELETE", f"{MAPS}/{name}", None)
        else:
            wanted, request = text, ("PATCH", f"{MAPS}/{name}", {"data": {"n": text}})
        known.asked.append(wanted)
        code, value = await self._client.ask(*request)
        if 200 <= code < 300:
            known.asked.clear()
            known.value = wanted
            self.acknowledged += 1
            if wanted is not None:
                self._told(known, value)
        elif code:
            known.asked.clear()
            self.refused.append(value)
            assert code in (503, 507), value  # nobody else touches these objects
            await asyncio.sleep(0.05)
        else:
            await asyncio.sleep(0.05)

    async def _look(self, name: str) -> None:
        known = self.known[name]
        code, value = await self._client.ask("GET", f"{MAPS}/{name}")
        if code not in (200, 404):
            await asyncio.sleep(0.05)
            return
        found = value["data"]["n"] if code == 200 else None
        assert found == known.value or found in known.asked, f"{name}: {found} is neither {known}"
        if code == 200 and int(value["metadata"]["resourceVersion"]) != known.version:
            self._told(known, value)
        known.value = found
        known.asked.clear()

    def _told(self, known: Known, value: dict[str, Any]) -> None:
        version = int(value["metadata"]["resourceVersion"])
        assert version > known.version, f"the resourceVersion went back: {version} after {known.version}"
        assert version not in self.versions, f"the resourceVersion {version} was given out twice"
        self.versions.add(version)
        known.version = version


def compare(writers: list[Writer], listed: dict[str, dict[str, Any]]) -> list[str]:
    """What the API lost or made up, by the writers' ledgers."""
    wrong = []
    for writer in writers:
        for name, known in writer.known.items():
            item = listed.get(name)
            found = item["data"]["n"] if item is not None else None
            if found != known.value and found not in known.asked:
                wrong.append(f"{name}: {found!r}, acknowledged {known}")
            elif item is not None and int(item["metadata"]["resourceVersion"]) < known.version:
                wrong.append(f"{name}: an older version than {known}")
    return wrong


class Watcher:
    """A client that follows the collection as client-go does: list, watch, list again after 410."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.objects: dict[str, str] = {}
        self.version = 0
        self.lists = 0

    async def run(self) -> None:
        while True:
            try:
                listed, version = await self._client.listed()
            except AssertionError:
                await asyncio.sleep(0.05)
                continue
            assert version >= self.version, f"the list's resourceVersion went back: {version} after {self.version}"
            self.objects = {name: item["metadata"]["resourceVersion"] for name, item in listed.items()}
            self.version = version
            self.lists += 1
            while await self._follow():
                await asyncio.sleep(0.02)

    async def _follow(self) -> bool:
        """Watch to the end of the connection; False when it must list again."""
        async for event in self._client.watched(self.version):
            if event.get("type") == "ERROR" or event.get("kind") == "Status":
                return False
            metadata = event["object"]["metadata"]
            version = int(metadata["resourceVersion"])
            assert version > self.version, f"{event['type']} {version} after {self.version}"
            assert (metadata["name"] in self.objects) is (event["type"] != "ADDED"), event
            self.version = version
            if event["type"] == "DELETED":
                del self.objects[metadata["name"]]
            else:
                self.objects[metadata["name"]] = metadata["resourceVersion"]
        return True


async def test_gateway_killed_while_clients_write(stand: Stand, dice: random.Random) -> None:
    await stand.start_gateway()
    async with Client(stand) as client:
        writers = [Writer(number, client, random.Random(dice.random())) for number in range(4)]
        watcher = Watcher(client)
        watching = asyncio.create_task(watcher.run(), name="watcher")
        for number in range(ROUNDS):
            stop = asyncio.Event()
            writing = [asyncio.create_task(writer.run(stop), name="writer") for writer in writers]
            before = sum(writer.acknowledged for writer in writers)
            await asyncio.sleep(dice.uniform(0.0, 0.8))
            await stand.gateway.kill()
            stop.set()
            await asyncio.gather(*writing)
            await stand.start_gateway()
            listed, _ = await client.listed()
            wrong = compare(writers, listed)
            assert not wrong, f"after kill {number}: {wrong}"
            assert not watching.done(), await watching
            print(f"kill {number}: {sum(writer.acknowledged for writer in writers) - before} acknowledged")
        assert sum(writer.acknowledged for writer in writers) > 10 * ROUNDS
        versions = [version for writer in writers for version in writer.versions]
        assert len(versions) == len(set(versions)), "a resourceVersion was given out twice"

        async def followed() -> bool:
            assert not watching.done(), await watching
            listed, _ = await client.listed()
            return watcher.objects == {name: item["metadata"]["resourceVersion"] for name, item in listed.items()}

        await eventually(followed, what="the watcher's copy equal to the list")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@pytest.fixture
async def small_disk(stand: Stand) -> AsyncIterator[Path]:
    """A file system of 8 MB for the API's directory; gone when the gateway is."""
    where = stand.api_directory
    where.mkdir()
    code, _, _ = await output("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", where)
    if code:
        pytest.skip("a small file system can only be mounted as root")
    yield where
    await stand.gateway.stop()
    code, _, err = await output("umount", "-l", where)
    assert code == 0, err


async def test_a_full_disk_refuses_and_recovers(stand: Stand, small_disk: Path, dice: random.Random) -> None:
    await stand.start_gateway()
    async with Client(stand) as client:
        writers = [Writer(number, client, random.Random(dice.random())) for number in range(2)]
        for writer in writers:
            for _ in range(20):
                await writer.step(dice.choice(list(writer.known)))
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass  # that is what full means
        async with asyncio.timeout(30):
            while not all(writer.refused for writer in writers):
                for writer in writers:
                    await writer.step(dice.choice(list(writer.known)), size=50_000)
        for writer in writers:
            status = writer.refused[0]
            assert (status["kind"], status["code"], status["reason"]) == ("Status", 503, "ServiceUnavailable")
            assert "disk is full; free space" in status["message"]
        assert not compare(writers, (await client.listed())[0])  # reads go on
        refused = [len(writer.refused) for writer in writers]
        ballast.unlink()
        for writer in writers:  # by itself, at once
            for _ in range(10):
                await writer.step(dice.choice(list(writer.known)))
        assert [len(writer.refused) for writer in writers] == refused
        await stand.gateway.kill()
        await stand.start_gateway()
        assert not compare(writers, (await client.listed())[0])


async def test_a_damaged_database_stops_the_gateway_and_is_left_alone(stand: Stand) -> None:
    await stand.start_gateway()
    await stand.kubectl("create", "configmap", "precious")
    await stand.gateway.stop()
    database = stand.api_directory / "objects.db"
    good = database.read_bytes()
    spoiled = bytearray(good)
    spoiled[4096:] = b"\xa5" * (len(good) - 4096)
    database.write_bytes(spoiled)
    for _ in range(2):  # not even at the second attempt
        code, _, err = await stand.cloudgateway("run", "--embedded", str(stand.api_directory))
        assert code != 0
        assert "nothing can fill it again" in err
        assert "put a good copy in its place" in err
        assert "Traceback" not in err
    assert database.read_bytes() == spoiled
    database.write_bytes(good)
    await stand.start_gateway()
    assert "precious" in await stand.kubectl("get", "configmaps", "-o", "name")
