"""The event bus on a real mosquitto."""

import asyncio
import ssl
from pathlib import Path

import pytest

from edgeappliance.config.settings import MqttTls
from edgeappliance.eventbus.broker import password_hash
from edgeappliance.kernel.database import StorageError
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.store import SubscriptionStore, open_store
from edgeappliance.wire.message import Message
from tests.support.broker import Mosquitto, MqttApp, broker
from tests.support.net import free_port
from tests.unit.eventbus.parts import event_bus, external


def order(operation: str, resource: str, content: object = None) -> Message:
    return Message.new(source="router_eventbus", group="user", operation=operation, resource=resource, content=content)


async def test_twin_messages_come_in_and_answers_go_out(mosquitto: Mosquitto, tmp_path: Path):
    async with event_bus(external(mosquitto.port), tmp_path) as (bus, _, watcher), MqttApp(mosquitto.port) as app:
        inbox: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        bus.twin_inbox(lambda topic, payload: inbox.put_nowait((topic, payload)))
        await watcher.wait(True)
        await app.subscribe("$hw/events/device/+/+/twin/update/result")
        app.publish("$hw/events/device/default/d1/twin/update", b'{"x":1}')
        assert await inbox.get() == ("$hw/events/device/default/d1/twin/update", b'{"x":1}')
        assert bus.publish("$hw/events/device/default/d1/twin/update/result", b"\x00\xff")
        assert await app.wait(1) == [("$hw/events/device/default/d1/twin/update/result", b"\x00\xff")]
        assert inbox.empty()


async def test_app_data_is_uploaded_as_text(mosquitto: Mosquitto, tmp_path: Path):
    async with event_bus(external(mosquitto.port), tmp_path) as (bus, cloud, watcher), MqttApp(mosquitto.port) as app:
        await watcher.wait(True)
        app.publish("default/user/x", "hello <b>")
        app.publish("default/user/x", b"\xff\xfe")
        app.publish("SYS/dis/upload_records", "hi")
        app.publish("$hw/events/upload/abc", "")
        sent = await cloud.wait(3)
        assert [(item.source, item.group, item.operation, item.resource, item.content_value()) for item in sent] == [
            ("bus", "user", "upload", "default/user/x", "hello <b>"),
            ("bus", "user", "upload", "SYS/dis/upload_records", "hi"),
            ("bus", "user", "upload", "$hw/events/upload/abc", ""),
        ]
        assert bus.health().details["uploads_dropped_total"] == 1


async def test_orders_of_the_cloud(mosquitto: Mosquitto, tmp_path: Path):
    async with event_bus(external(mosquitto.port), tmp_path) as (bus, cloud, watcher), MqttApp(mosquitto.port) as app:
        await watcher.wait(True)
        await app.subscribe("t/#")
        await bus.handle(order("publish", "t/one/more", 'he"llo <x>'))
        await bus.handle(order("publish", "t/dropped", {"an": "object"}))
        await bus.handle(order("publish", "t/dropped", None))
        await bus.handle(order("publish", "t/+", "x"))
        await bus.handle(order("message", "", {"message": {"z": "<", "topic": "t/two", "a": 1}}))
        await bus.handle(order("message", "", {"message": {}}))
        await bus.handle(order("get_result", "auth_info", "x"))
        assert await app.wait(2) == [
            ("t/one/more", b'he"llo <x>'),
            ("t/two", b'{"a":1,"topic":"t/two","z":"\\u003c"}'),
        ]
        await bus.handle(order("subscribe", "default/up"))
        bus.publish("default/up", b"1")  # on the same connection, hence after the subscription
        (upload,) = await cloud.wait(1)
        assert upload.resource == "default/up"
        await bus.handle(order("subscribe", "bad/#/filter"))
        await bus.handle(order("unsubscribe", "default/up"))
        bus.publish("default/up", b"2")
        bus.publish("default/user/after", b"3")
        (upload,) = await cloud.wait(1)
        assert upload.resource == "default/user/after"


async def test_a_rule_holds_on_a_full_disk(mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def full(self: SubscriptionStore, topic: str) -> None:
        raise StorageError("disk is full")

    monkeypatch.setattr(SubscriptionStore, "add", full)
    async with event_bus(external(mosquitto.port), tmp_path) as (bus, cloud, watcher):
        await watcher.wait(True)
        await bus.handle(order("subscribe", "default/up"))
        bus.publish("default/up", b"x")  # on the same connection, hence after the subscription
        (upload,) = await cloud.wait(1)
        assert upload.resource == "default/up"


async def test_rules_survive_a_restart(mosquitto: Mosquitto, tmp_path: Path):
    async with event_bus(external(mosquitto.port), tmp_path) as (bus, _, watcher):
        await watcher.wait(True)
        await bus.handle(order("subscribe", "default/up"))
    async with event_bus(external(mosquitto.port), tmp_path) as (_, cloud, watcher), MqttApp(mosquitto.port) as app:
        await watcher.wait(True)
        app.publish("default/up", "again")
        assert (await cloud.wait(1))[0].content_value() == "again"


async def test_own_subscriptions(mosquitto: Mosquitto, tmp_path: Path):
    async with event_bus(external(mosquitto.port), tmp_path) as (bus, cloud, watcher):
        got: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        bus.subscribe("early/#", lambda topic, payload: got.put_nowait((topic, payload)))
        await watcher.wait(True)
        bus.subscribe("late/+", lambda topic, payload: got.put_nowait((topic, payload)))
        bus.subscribe("late/+", lambda topic, payload: 1 / 0)
        bus.publish("early/a/b", b"1")
        bus.publish("late/c", b"2")
        bus.publish("late/d", b"3")
        assert [await got.get() for _ in range(3)] == [("early/a/b", b"1"), ("late/c", b"2"), ("late/d", b"3")]
        assert bus.connected
        assert cloud.sent == []


async def test_many_messages_keep_their_order(mosquitto: Mosquitto, tmp_path: Path):
    async with event_bus(external(mosquitto.port), tmp_path) as (bus, _, watcher):
        got: list[int] = []
        done = asyncio.Event()

        def take(_: str, payload: bytes) -> None:
            got.append(int(payload[:8]))
            if len(got) == 3000:
                done.set()

        bus.subscribe("load", take)
        await watcher.wait(True)
        padding = b"x" * 2000
        for number in range(3000):
            assert bus.publish("load", b"%08d" % number + padding)
        async with asyncio.timeout(30):
            await done.wait()
        assert got == list(range(3000))


async def test_no_broker_is_no_failure(tmp_path: Path):
    port = free_port()
    async with event_bus(external(port), tmp_path) as (bus, _, watcher):
        assert not bus.connected
        assert not bus.publish("t", b"x")
        async with broker(port=port):
            await watcher.wait(True)
            assert bus.health().state == "running"
        await watcher.wait(False)
        async with asyncio.timeout(10):
            while "Connection refused" not in bus.health().reason:
                await asyncio.sleep(0.05)
        assert bus.health().state == "degraded"
        assert bus.health().details["messages_lost_total"] == 1


async def test_broker_killed_and_back(mosquitto: Mosquitto, tmp_path: Path):
    async with event_bus(external(mosquitto.port), tmp_path) as (bus, cloud, watcher):
        await watcher.wait(True)
        await bus.handle(order("subscribe", "default/up"))
        got: asyncio.Queue[bytes] = asyncio.Queue()
        bus.subscribe("own", lambda _, payload: got.put_nowait(payload))
        for round_number in range(3):
            before = len(watcher.seen)
            await mosquitto.kill()
            await watcher.wait(False, after=before)
            assert not bus.publish("own", b"lost")
            await mosquitto.start()
            await watcher.wait(True, after=before)
            assert bus.publish("own", b"%d" % round_number)
            async with asyncio.timeout(5):
                assert await got.get() == b"%d" % round_number
            async with MqttApp(mosquitto.port) as app:
                app.publish("default/up", "still here")
                await cloud.wait(1)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A CA, a server certificate for 127.0.0.1 and a client certificate."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)
    folder = tmp_path / "tls"
    folder.mkdir()
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])

    def certificate(name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool = False) -> None:
        subject = ca_name if ca else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .sign(ca_key, hashes.SHA256())
        )
        (folder / f"{name}.crt").write_bytes(built.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    certificate("ca", ca_key, ca=True)
    for name in ("server", "client"):
        certificate(name, ec.generate_private_key(ec.SECP256R1()))
    return folder


async def test_external_broker_with_tls_and_password(certificates: Path, tmp_path: Path):
    passwords = tmp_path / "passwords"
    passwords.write_text(f"edge:{password_hash('secret')}\n")
    extra = "\n".join(
        [
            "allow_anonymous false",
            f"password_file {passwords}",
            f"cafile {certificates}/ca.crt",
            f"certfile {certificates}/server.crt",
            f"keyfile {certificates}/server.key",
            "require_certificate true",
        ]
    )
    (tmp_path / "good").write_text("secret\n")
    (tmp_path / "bad").write_text("guess\n")
    tls = MqttTls(
        ca_file=str(certificates / "ca.crt"),
        cert_file=str(certificates / "client.crt"),
        key_file=str(certificates / "client.key"),
    )
    async with broker(extra=extra) as server:
        settings = external(server.port, user="edge", password_file=str(tmp_path / "good"), tls=tls)
        async with event_bus(settings, tmp_path / "a") as (bus, _, watcher):
            got: asyncio.Queue[bytes] = asyncio.Queue()
            bus.subscribe("load", lambda _, payload: got.put_nowait(payload[:4]))
            await watcher.wait(True)
            for number in range(500):
                assert bus.publish("load", b"%04d" % number + b"x" * 1500)
            async with asyncio.timeout(10):
                assert [await got.get() for _ in range(500)] == [b"%04d" % number for number in range(500)]

        settings = external(server.port, user="edge", password_file=str(tmp_path / "bad"), tls=tls)
        async with event_bus(settings, tmp_path / "b") as (bus, _, _):
            async with asyncio.timeout(10):
                while "refused" not in bus.health().reason:
                    await asyncio.sleep(0.02)
            assert "authori" in bus.health().reason.lower()

        context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
        assert context.verify_mode is ssl.CERT_REQUIRED
        settings = external(server.port, user="edge", tls=MqttTls(ca_file="/etc/ssl/certs/ca-certificates.crt"))
        async with event_bus(settings, tmp_path / "c") as (bus, _, _):
            async with asyncio.timeout(10):
                while "CERTIFICATE_VERIFY_FAILED" not in bus.health().reason:
                    await asyncio.sleep(0.02)


async def test_unreadable_credentials_are_named(tmp_path: Path):
    for settings in (
        external(1, password_file=str(tmp_path / "none")),
        external(1, tls=MqttTls(ca_file=str(tmp_path / "none"))),
    ):
        with pytest.raises(OperatorError, match="mqtt"):
            async with event_bus(settings, tmp_path / "db"):
                pass


async def test_topics_are_stored_durably(mosquitto: Mosquitto, tmp_path: Path):
    async with event_bus(external(mosquitto.port), tmp_path) as (bus, _, _):
        await bus.handle(order("subscribe", "a/b"))
        await bus.handle(order("subscribe", "c/#"))
        await bus.handle(order("unsubscribe", "a/b"))
    database = await open_store(tmp_path)
    assert await SubscriptionStore(database).topics() == ["c/#"]
    await database.close()


async def test_a_subscription_while_the_connection_comes_up_is_not_lost(mosquitto: Mosquitto, tmp_path: Path):
    """Between the broker's CONNACK and its SUBACK: the list of filters has gone out, `connected` is not true yet."""
    async with event_bus(external(mosquitto.port), tmp_path) as (bus, _, watcher):
        client = bus._client
        assert client is not None
        async with asyncio.timeout(10):
            while not client._session:
                await asyncio.sleep(0)
        got: asyncio.Queue[bytes] = asyncio.Queue()
        bus.subscribe("late", lambda _, payload: got.put_nowait(payload))
        await watcher.wait(True)
        bus.publish("late", b"x")
        async with asyncio.timeout(5):
            assert await got.get() == b"x"
