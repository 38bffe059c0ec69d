"""The MQTT client: paho on the event loop, QoS 1, one connection.

paho's sockets are read and written by the loop itself; only connecting (DNS, TCP and TLS handshake, all blocking in
paho) happens on a thread. Nothing is published while there is no connection: what an app or a mapper says then, it
says again (KubeEdge reference 4.1; upstream's clean session and no retained messages are kept).
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.log import get_logger

KEEPALIVE = 30
CONNECT_TIMEOUT = 10.0
"""Seconds for DNS, TCP and TLS, and again for the broker's answers."""

MAX_QUEUED = 20_000
"""Messages without a PUBACK that are held at most; one more is refused."""

MISC_EVERY = 5.0
"""Seconds between looks at the keepalive."""

READS_PER_TURN = 64
"""Packets read before other work of the loop gets its turn."""


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho drops the socket open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class MqttClient:
    """Keeps one connection to a broker.

    `on_message(topic, payload)` and `on_connection(up)` are called on the loop and must not block. `filters()` is
    asked for everything to subscribe whenever a connection comes up; up means that the broker has granted it.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        client_id: str,
        clock: Clock,
        filters: Callable[[], Sequence[str]],
        on_message: Callable[[str, bytes], None],
        on_connection: Callable[[bool], None],
        backoff: Backoff,
        user: str = "",
        password: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._clock = clock
        self._filters = filters
        self._take = on_message
        self._tell = on_connection
        self._backoff = backoff
        self._tls = tls is not None
        self._tcp = False
        self._log = get_logger("eventbus")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: Any = None
        self._flushing = False
        self._writing = False
        self._subscribing: int | None = None
        self._answered = asyncio.Event()
        self._down = asyncio.Event()
        self._leaving = False
        self._session = False  # the broker took the CONNECT; what is subscribed from now on goes out at once
        self._failure = ""
        self.connected = False
        self.where = f"{host}:{port}"
        self._client = self._make(host, port, client_id, user, password, tls)

    def _make(
        self, host: str, port: int, client_id: str, user: str, password: str, tls: ssl.SSLContext | None
    ) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, reconnect_on_failure=False)
        client.connect_timeout = CONNECT_TIMEOUT
        # Sent at once, held until acknowledged: paho's own window costs a walk over the queue for each PUBACK.
        client.max_inflight_messages_set(0)
        client.max_queued_messages_set(MAX_QUEUED)
        if user:
            client.username_pw_set(user, password or None)
        if tls is not None:
            tls.sslsocket_class = _ClosingSocket
            client.tls_set_context(tls)
        client.connect_async(host, port, keepalive=KEEPALIVE)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_socket_register_write = self._on_want_write
        client.on_socket_unregister_write = self._on_written
        client.on_socket_close = self._on_socket_close
        return client

    @property
    def failure(self) -> str:
        """Why there is no connection, empty while there is one."""
        return self._failure

    # For callers on the loop.

    def publish(self, topic: str, payload: bytes) -> bool:
        """Publish with QoS 1, not retained; False without a connection or with a full queue.

        Raises ValueError for a topic with wildcards.
        """
        if not self.connected:
            return False
        return self._client.publish(topic, payload, qos=1).rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def subscribe(self, filters: Iterable[str]) -> None:
        """Subscribe now; without a connection the next one brings it."""
        wanted = [(topic_filter, 1) for topic_filter in filters]
        if self._session and wanted:
            self._client.subscribe(wanted)

    def unsubscribe(self, topic_filter: str) -> None:
        """Unsubscribe now."""
        if self._session:
            self._client.unsubscribe(topic_filter)

    # The connection.

    async def run(self) -> None:
        """Connect, stay connected, connect again; ends by cancellation."""
        self._loop = asyncio.get_running_loop()
        self._leaving = False
        try:
            while True:
                began = self._clock.monotonic()
                await self._one_connection()
                self._backoff.succeeded(self._clock.monotonic() - began)
                await asyncio.sleep(self._backoff.next_delay())
        finally:
            self._leave()

    async def _one_connection(self) -> None:
        self._answered.clear()
        self._down.clear()
        try:
            if not await self._open():
                return
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    await self._answered.wait()
            except TimeoutError:
                self._failed("the broker does not answer")
            while not self._down.is_set():
                try:
                    async with asyncio.timeout(MISC_EVERY):
                        await self._down.wait()
                except TimeoutError:
                    self._client.loop_misc()
        finally:
            self._detach()

    async def _open(self) -> bool:
        connecting = asyncio.ensure_future(asyncio.to_thread(self._client.reconnect))
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            await asyncio.wait([connecting])  # bounded by the connect time-out
            raise
        except (OSError, ValueError) as error:
            self._failed(f"cannot connect to {self.where}: {error}")
            return False
        self._attach()
        return True

    def _attach(self) -> None:
        sock: Any = self._client.socket()
        if sock is None or self._loop is None:
            self._failed("the connection was closed while it was made")
            return
        self._tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        if self._tcp:  # small packets go out at once and do not wait for each other's TCP acknowledgement
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._loop.add_reader(sock, self._readable)
        self._flush()

    def _detach(self) -> None:
        self._session = False
        sock, self._socket = self._socket, None
        if sock is None or self._loop is None:
            return
        self._loop.remove_reader(sock)
        if self._writing:
            self._writing = False
            self._loop.remove_writer(sock)

    def _failed(self, reason: str) -> None:
        if reason != self._failure and not self._leaving:
            self._log.warning("no MQTT connection", broker=self.where, reason=reason)
        self._failure = reason
        self._set_connected(False)
        self._down.set()
        self._answered.set()

    def _set_connected(self, up: bool) -> None:
        if up == self.connected:
            return
        self.connected = up
        if up:
            self._failure = ""
            self._log.info("MQTT connected", broker=self.where)
        self._tell(up)

    def _leave(self) -> None:
        self._leaving = True
        if self.connected:
            self._client.disconnect()
            self._flush()
        self._detach()
        self._set_connected(False)
        left = self._client.socket()
        if left is not None:  # the broker has not taken the DISCONNECT
            left.close()

    # Called by the loop.

    def _readable(self) -> None:
        self._flushing = True  # what reading causes to be written goes out together, below
        try:
            for _ in range(READS_PER_TURN):
                if self._client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS or not self._pending():
                    break
        except Exception as error:  # noqa: BLE001 - paho raises struct errors and more for malformed packets
            self._detach()
            self._failed(f"the broker sent what is not MQTT: {error}")
        self._flush()

    def _pending(self) -> bool:
        """TLS holds decrypted bytes that the loop does not see."""
        return self._tls and self._socket is not None and self._socket.pending() > 0

    def _flush(self) -> None:
        self._flushing = False
        sock = self._socket
        if sock is None or self._loop is None or not self._client.want_write():
            return
        # paho sends packet by packet, and each would wake the broker: corked, they leave as one.
        self._cork(sock, 1)
        self._client.loop_write()
        if self._socket is None:  # writing found the connection dead
            return
        self._cork(sock, 0)
        if self._client.want_write() and not self._writing:
            self._writing = True
            self._loop.add_writer(sock, self._flush)

    def _cork(self, sock: Any, on: int) -> None:
        if self._tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)

    # Called by paho.

    def _on_want_write(self, *_: Any) -> None:
        # On the connecting thread there is no socket of ours yet; _attach flushes.
        if self._socket is not None and not self._flushing and self._loop is not None:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _on_written(self, _client: Any, _data: Any, sock: Any) -> None:
        if self._writing and self._loop is not None:
            self._writing = False
            self._loop.remove_writer(sock)

    def _on_socket_close(self, *_: Any) -> None:
        self._detach()

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._failed(f"the broker refused the connection: {code}")
            return
        self._session = True
        _, self._subscribing = client.subscribe([(topic_filter, 1) for topic_filter in self._filters()])

    def _on_subscribe(self, _client: Any, _data: Any, mid: int, codes: Any, _properties: Any) -> None:
        refused = sum(1 for code in codes if code.is_failure)
        if refused:
            self._log.warning("the broker refused subscriptions", count=refused, broker=self.where)
        if mid == self._subscribing:
            self._subscribing = None
            self._set_connected(True)
            self._answered.set()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self._detach()
        self._failed(self._failure or f"the connection ended: {code}")

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            self._log.warning("message with a topic that is not UTF-8 dropped")
            return
        try:
            self._take(topic, bytes(message.payload))
        except Exception as error:  # noqa: BLE001 - one receiver's fault must not cost the connection
            self._log.error("message failed in a receiver", topic=topic, error=error, exc_info=error)
