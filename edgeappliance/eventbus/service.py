"""eventbus: the node's place on the MQTT broker.

Routes what arrives (twin, upload to the cloud, subscriptions inside the process), publishes for everybody, and does
what rules of the cloud ask for (KubeEdge reference 4.1).
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec

from edgeappliance.config.settings import Mqtt
from edgeappliance.eventbus.client import MqttClient
from edgeappliance.eventbus.routing import Callback, Router, Way, filter_refused, topic_refused
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock, SystemClock
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.database import StorageError
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.store import SubscriptionStore
from edgeappliance.wire import gojson
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.limits import MAX_MESSAGE, MAX_RESOURCE
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import Group, Operation, Source

RECEIVED, PUBLISHED, NOT_PUBLISHED = "messages_received_total", "messages_published_total", "messages_lost_total"
UPLOADED, NOT_UPLOADED = "messages_uploaded_total", "uploads_dropped_total"
"""Figures of `health`. Lost: nobody was there to publish to; dropped: the cloud was away, or it is no text."""

MAX_UPLOAD = MAX_MESSAGE * 3 // 4
"""Bytes of one upload: escaped it must still be one message of the link."""


class Cloud(Protocol):
    """What eventbus needs of the link."""

    def send(self, message: Message) -> bool:
        """Hand a message to the link; False when there is none."""
        ...


class EventBus:
    """The MQTT client of edgecore; what others see of it is `publish`, `subscribe`, `on_connection`, `connected`."""

    def __init__(
        self,
        *,
        settings: Mqtt,
        node: str,
        cloud: Cloud,
        subscriptions: SubscriptionStore,
        scope: TaskScope,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._node = node
        self._cloud = cloud
        self._subscriptions = subscriptions
        self._scope = scope
        self._clock = clock or SystemClock()
        self._router = Router()
        self._twin: Callback | None = None
        self._watchers: list[Callable[[bool], None]] = []
        self._client: MqttClient | None = None
        self._since_ms = 0
        self._counts = dict.fromkeys((RECEIVED, PUBLISHED, NOT_PUBLISHED, UPLOADED, NOT_UPLOADED), 0)
        self._log = get_logger("eventbus")

    # For other components.

    @property
    def connected(self) -> bool:
        """Whether the broker is there and has granted our subscriptions."""
        return self._client is not None and self._client.connected

    def publish(self, topic: str, payload: bytes) -> bool:
        """Publish with QoS 1, not retained. False: no broker, queue full, or a topic that nobody may publish on."""
        sent = False
        if self._client is not None and self._client.connected:
            try:
                sent = self._client.publish(topic, payload)
            except ValueError as error:
                self._log.warning("not published", topic=topic, reason=error)
        self._counts[PUBLISHED if sent else NOT_PUBLISHED] += 1
        return sent

    def subscribe(self, topic_filter: str, callback: Callback) -> None:
        """Call `callback(topic, payload)` for every message that matches. Raises ValueError for a bad filter."""
        if self._router.subscribe(topic_filter, callback) and self._client is not None:
            self._client.subscribe([topic_filter])

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """Call `callback(up)` when the connection comes and goes, and now if it is up."""
        self._watchers.append(callback)
        if self.connected:
            callback(True)

    def twin_inbox(self, inbox: Callback) -> None:
        """Who gets messages on device and node topics."""
        self._twin = inbox

    # Component.

    async def start(self) -> None:
        """Start connecting; the broker may come later. Raises OperatorError for unusable TLS or password files."""
        self._router.set_rules(await self._subscriptions.topics())
        settings = self._settings
        external = settings.mode == "external"
        tls, password = await asyncio.to_thread(_credentials, settings) if external else (None, "")
        self._client = MqttClient(
            host=settings.host if external else "127.0.0.1",
            port=settings.port,
            client_id=f"edgecore-{self._node}",
            clock=self._clock,
            filters=self._router.filters,
            on_message=self._received,
            on_connection=self._connection,
            user=settings.user if external else "",
            password=password,
            tls=tls,
            # Our own broker is back within moments, and asking on loopback costs nothing.
            backoff=Backoff(initial=0.2, maximum=10.0) if external else Backoff(initial=0.1, maximum=1.0),
        )
        self._since_ms = self._clock.wall_ms()
        self._scope.spawn(self._client.run(), name="mqtt")

    async def stop(self) -> None:
        """Leave the broker."""
        await self._scope.cancel()
        self._client = None

    def health(self) -> Health:
        client = self._client
        if client is None:
            return Health(State.STOPPED)
        details = {"broker": client.where, "mode": self._settings.mode, **self._counts}
        if client.connected:
            return Health(State.RUNNING, since_ms=self._since_ms, details=details)
        step = "see the broker's own log" if self._settings.mode == "external" else "see component broker"
        reason = client.failure or "connecting to the broker"
        return Health(State.DEGRADED, reason, step, self._since_ms, details)

    # Messages of the broker.

    def _received(self, topic: str, payload: bytes) -> None:
        self._counts[RECEIVED] += 1
        way, callbacks = self._router.route(topic)
        for callback in callbacks:
            callback(topic, payload)
        if way is Way.TWIN:
            if self._twin is not None:
                self._twin(topic, payload)
        elif way is Way.UPLOAD:
            self._upload(topic, payload)

    def _upload(self, topic: str, payload: bytes) -> None:
        reason = ""
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            reason = "the payload is not UTF-8"
        else:
            if len(payload) > MAX_UPLOAD or len(topic) > MAX_RESOURCE:
                reason = "it is too long for the link"
        if not reason:
            message = Message.new(
                source=Source.BUS, group=Group.USER, operation=Operation.UPLOAD, resource=topic, content=text
            )
            if self._cloud.send(message):
                self._counts[UPLOADED] += 1
                return
            reason = "the cloud is not connected"
        self._counts[NOT_UPLOADED] += 1
        self._log.debug("not uploaded", topic=topic, reason=reason)

    def _connection(self, up: bool) -> None:
        self._since_ms = self._clock.wall_ms()
        for watcher in list(self._watchers):
            watcher(up)

    # Messages of the cloud.

    async def handle(self, message: Message) -> None:
        """An order of the cloud's router (group `user`, source `router_eventbus`); bad ones are logged and dropped."""
        try:
            await self._handle(message)
        except (WireError, ValueError) as error:
            self._log.warning(
                "message of the cloud refused", operation=message.operation, resource=message.resource, error=error
            )

    async def _handle(self, message: Message) -> None:
        topic = message.resource
        if message.operation == Operation.PUBLISH:
            self._publish_for_cloud(topic, message.content_as(str).encode())
        elif message.operation == Operation.MESSAGE:
            inner = message.content_as(_Enclosed).message
            name = inner.get("topic")
            if not isinstance(name, str):
                raise WireError("is missing or not text", field="content.message.topic")
            body = gojson.escape(msgspec.json.encode(inner, order="sorted"))
            self._publish_for_cloud(name, body)
        elif message.operation == Operation.SUBSCRIBE:
            _checked(filter_refused(topic))
            if self._router.add_rule(topic) and self._client is not None:
                self._client.subscribe([topic])
            await self._remember(self._subscriptions.add(topic), topic)
        elif message.operation == Operation.UNSUBSCRIBE:
            if self._router.remove_rule(topic) and self._client is not None:
                self._client.unsubscribe(topic)
            await self._remember(self._subscriptions.remove(topic), topic)
        else:
            raise WireError("is none of publish, message, subscribe, unsubscribe", field="route.operation")

    async def _remember(self, saved: Awaitable[None], topic: str) -> None:
        """The cloud says it once and waits for no answer: on a full disk it holds until the restart, at least."""
        try:
            await saved
        except StorageError as error:
            self._log.error("subscription of the cloud not saved", topic=topic, error=error)

    def _publish_for_cloud(self, topic: str, payload: bytes) -> None:
        _checked(topic_refused(topic))
        if not self.publish(topic, payload):
            self._log.warning("message of the cloud not published: no broker", topic=topic)


class _Enclosed(msgspec.Struct):
    """Content of a `message` order."""

    message: dict[str, object] = {}


def _checked(reason: str) -> None:
    if reason:
        raise WireError(reason, field="route.resource")


def _credentials(settings: Mqtt) -> tuple[ssl.SSLContext | None, str]:
    """TLS and password of an external broker, read from their files; on a thread."""
    password = ""
    if settings.password_file:
        try:
            password = Path(settings.password_file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError(
                f"mqtt.password_file cannot be read: {error}", next_step="correct the key or write the file"
            ) from None
    tls = settings.tls
    if not tls.ca_file:
        return None, password
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file or None)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise OperatorError(
            f"the [mqtt.tls] files cannot be used: {error}", next_step="check ca_file, cert_file and key_file"
        ) from None
    return context, password
