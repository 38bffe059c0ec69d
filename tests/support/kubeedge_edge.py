"""An unmodified KubeEdge 1.23 edgecore as the gateway meets it, written from the reference alone (2, 3.4, 1.4).

It may not import edgeappliance.wire: what it sends and expects is spelled out here, byte by byte.
"""

import asyncio
import base64
import hashlib
import http.client
import json
import os
import ssl
import struct
import tempfile
import time
import uuid
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PROJECT = "e632aba927ea4ac2b575ec1603d56f10"


@dataclass(frozen=True)
class HttpAnswer:
    """Status, content type and body of one answer."""

    status: int
    content_type: str
    body: bytes


@dataclass
class Identity:
    """What edgecore keeps in /etc/kubeedge: CA, certificate and key, as PEM."""

    node: str
    ca: bytes
    certificate: bytes
    key: bytes

    def context(self) -> ssl.SSLContext:
        """Client side of the mutual TLS of ports 10000 and 10002."""
        context = trusting(self.ca)
        with tempfile.NamedTemporaryFile() as file:
            file.write(self.certificate + self.key)
            file.flush()
            context.load_cert_chain(file.name)
        return context


def request(
    port: int,
    method: str,
    path: str,
    *,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    context: ssl.SSLContext | None = None,
) -> HttpAnswer:
    """One HTTPS request to 127.0.0.1; without `context` the server is not verified, as in step 2 of enrolment."""
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return HttpAnswer(answer.status, answer.getheader("Content-Type", ""), answer.read())
    finally:
        connection.close()


def trusting(ca_pem: bytes) -> ssl.SSLContext:
    """A context that verifies the server against the CA and shows no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca_pem.decode())
    return context


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """`EC PRIVATE KEY`."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def csr(
    key: ec.EllipticCurvePrivateKey,
    node: str,
    *,
    organization: str = "system:nodes",
    names: tuple[x509.GeneralName, ...] = (),
) -> bytes:
    """DER of the request of reference 3.4 step 4."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CN"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Hangzhou"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "Zhejiang"),
            # Go does not know X.520's limit of 64 characters.
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}", _validate=False),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def enrol(port: int, node: str, token: str) -> Identity:
    """Reference 3.4, steps 2 to 6, blocking. Raises AssertionError where edgecore would panic."""
    ca_hash, _, jwt = token.partition(".")
    answer = request(port, "GET", "/ca.crt")
    assert answer.status == 200, answer
    assert hashlib.sha256(answer.body).hexdigest() == ca_hash, "the CA is not the token's"
    ca = x509.load_der_x509_certificate(answer.body).public_bytes(serialization.Encoding.PEM)
    key = new_key()
    answer = request(
        port,
        "GET",
        "/edge.crt",
        headers={"Authorization": f"Bearer {jwt}", "NodeName": node},
        body=csr(key, node),
        context=trusting(ca),
    )
    assert answer.status == 200, answer
    certificate = x509.load_der_x509_certificate(answer.body)
    return Identity(node, ca, certificate.public_bytes(serialization.Encoding.PEM), key_pem(key))


async def enrolled(port: int, node: str, token: str) -> Identity:
    """`enrol` off the event loop."""
    return await asyncio.to_thread(enrol, port, node, token)


# --- the link (reference 2.3, 2.4, 2.8, 1.2) ---------------------------------------------------------------------

FRAGMENT = 4082
_GO_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def go_json(value: Any) -> bytes:
    """JSON as Go's encoder writes it into a websocket message: escaped, newline at the end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char, escape in _GO_ESCAPES.items():
        text = text.replace(char, escape)
    return text.encode() + b"\n"


def message(
    source: str,
    group: str,
    operation: str,
    resource: str,
    content: Any,
    *,
    parent: str = "",
    msg_id: str | None = None,
) -> dict[str, Any]:
    """A message as edgecore builds it; empty members are left out."""
    header: dict[str, Any] = {"msg_id": msg_id or str(uuid.uuid4())}
    if parent:
        header["parent_msg_id"] = parent
    header["timestamp"] = time.time_ns() // 1_000_000
    route = {"source": source, "group": group, "operation": operation, "resource": resource}
    return {"header": header, "route": {k: v for k, v in route.items() if v}, "content": content}


class ConnectionRefused(Exception):
    """The upgrade was not answered with 101; `status` is the HTTP status (0: connection closed)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status


class EdgeCore:
    """One session of an unmodified edgecore.

    It stores what metamanager would store (`rows`: resource -> content) and acknowledges as metamanager does:
    everything of group resource without a parent, and replies that somebody waits for. Set `acknowledge` to False
    to be a node that does not answer, clear `reading` to be one that takes nothing, or give resources to `refuse`
    with an `error`.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self.rows: dict[str, Any] = {}
        self.received: list[dict[str, Any]] = []
        self.frames: list[tuple[bool, int, int]] = []
        self.acknowledge = True
        self.refuse: set[str] = set()
        self.reading = asyncio.Event()
        self.reading.set()
        self.response_headers: dict[str, str] = {}
        self.closed = asyncio.Event()
        self.close_frame: bytes | None = None
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._arrived = asyncio.Condition()
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(
        self,
        port: int,
        context: ssl.SSLContext,
        *,
        headers: dict[str, str] | None = None,
        keepalive: float | None = 15.0,
    ) -> None:
        """Dial, upgrade, send the first keepalive and go on every `keepalive` seconds (None: never one)."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=2**20)
        lines = {
            "Host": f"127.0.0.1:{port}",
            "User-Agent": "Go-http-client/1.1",
            "Connection": "Upgrade",
            "Connectionuse": "msg",
            "Node_id": self.node,
            "Project_id": PROJECT,
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
            "Upgrade": "websocket",
        } | (headers or {})
        head = f"GET /{PROJECT}/{self.node}/events HTTP/1.1\r\n"
        head += "".join(f"{key}: {value}\r\n" for key, value in lines.items() if value)
        try:
            self._writer.write(head.encode() + b"\r\n")
            answer = await self._reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError) as error:
            self._writer.close()
            raise ConnectionRefused(0, str(error)) from None
        status, *rest = answer.decode("latin-1").split("\r\n")
        if " 101 " not in status + " ":
            self._writer.close()
            raise ConnectionRefused(int(status.split(" ")[1]), status)
        self.response_headers = dict(line.split(": ", 1) for line in rest if ": " in line)
        self._tasks = [asyncio.create_task(self._read(), name="edge-read")]
        if keepalive is not None:
            await self.keepalive()
            self._tasks.append(asyncio.create_task(self._beat(keepalive), name="edge-beat"))

    async def close(self) -> None:
        """Cut the connection as a killed process would."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []
        if hasattr(self, "_writer"):
            self._writer.transport.abort()
            await asyncio.sleep(0)

    async def keepalive(self) -> None:
        await self.send(message("websocket", "resource", "keepalive", "node", "ping"))

    async def send(self, value: dict[str, Any]) -> None:
        await self.send_text(go_json(value))

    async def send_text(self, payload: bytes) -> None:
        """One websocket message in frames of 4082 bytes, masked."""
        for start in range(0, max(1, len(payload)), FRAGMENT):
            part = payload[start : start + FRAGMENT]
            self._writer.write(self._frame(part, first=start == 0, last=start + FRAGMENT >= len(payload)))
        await self._writer.drain()

    def send_raw(self, data: bytes) -> None:
        """Bytes under the websocket layer."""
        self._writer.write(data)

    @staticmethod
    def _frame(part: bytes, *, first: bool, last: bool) -> bytes:
        head = bytes([(0x80 if last else 0) | (1 if first else 0)])
        if len(part) < 126:
            head += bytes([0x80 | len(part)])
        else:
            head += bytes([0x80 | 126]) + struct.pack(">H", len(part))
        mask = os.urandom(4)
        size = len(part)
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        return head + mask + (int.from_bytes(part, "big") ^ key).to_bytes(size, "big")

    async def request(
        self, operation: str, resource: str, content: Any = None, *, source: str = "edged", group: str = "meta"
    ) -> dict[str, Any]:
        """Send and wait for the reply, as a SendSync does."""
        asked = message(source, group, operation, resource, content)
        future = asyncio.get_running_loop().create_future()
        self._waiting[asked["header"]["msg_id"]] = future
        await self.send(asked)
        async with asyncio.timeout(10):
            reply: dict[str, Any] = await future
        return reply

    def expect(self, msg_id: str) -> None:
        """Be the asker of a request that was sent elsewhere: its reply will be acknowledged."""
        self._waiting[msg_id] = asyncio.get_running_loop().create_future()

    async def wait_for(self, resource: str, *, operation: str = "", count: int = 1) -> dict[str, Any]:
        """The newest of at least `count` received messages about a resource."""

        def found() -> list[dict[str, Any]]:
            return [
                one
                for one in self.received
                if one["route"].get("resource") == resource
                and (not operation or one["route"]["operation"] == operation)
            ]

        async with asyncio.timeout(15), self._arrived:
            await self._arrived.wait_for(lambda: len(found()) >= count)
        return found()[-1]

    async def _beat(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self.keepalive()

    async def _read(self) -> None:
        parts: list[bytes] = []
        try:
            while True:
                await self.reading.wait()
                first, second = await self._reader.readexactly(2)
                size = second & 0x7F
                if size == 126:
                    size = struct.unpack(">H", await self._reader.readexactly(2))[0]
                elif size == 127:
                    size = struct.unpack(">Q", await self._reader.readexactly(8))[0]
                data = await self._reader.readexactly(size)
                self.frames.append((bool(first & 0x80), first & 0x0F, size))
                if first & 0x0F == 8:
                    self.close_frame = data
                    break
                parts.append(data)
                if first & 0x80:
                    text, parts = b"".join(parts), []
                    await self._deliver(json.loads(text))
        except (OSError, asyncio.IncompleteReadError):
            pass  # the link is gone: that is what `closed` says
        finally:
            self.closed.set()
            self._writer.transport.abort()

    async def _deliver(self, one: dict[str, Any]) -> None:
        header, route = one["header"], one["route"]
        parent = header.get("parent_msg_id", "")
        waiter = self._waiting.pop(parent, None) if parent else None
        if waiter is not None and not waiter.done():
            waiter.set_result(one)
        if route.get("group") == "resource" and self.acknowledge and (waiter is not None or not parent):
            await self._answer(one)
        async with self._arrived:
            self.received.append(one)
            self._arrived.notify_all()

    async def acknowledge_all(self) -> None:
        """Answer everything received so far, as a node that was only slow."""
        for one in self.received:
            await self._answer(one)

    async def _answer(self, one: dict[str, Any]) -> None:
        header, route = one["header"], one["route"]
        resource, operation = route.get("resource", ""), route.get("operation", "")
        if resource in self.refuse:
            await self.send(message("", "", "error", resource, "cannot store it", parent=header["msg_id"]))
            return
        if operation == "delete":
            self.rows.pop(resource, None)
        elif one["content"] != "OK":
            self.rows[resource] = one["content"]
        await self.send(
            message(
                route.get("source", ""),
                route.get("group", ""),
                "response",
                resource,
                "OK",
                parent=header["msg_id"],
            )
        )

    # what edgecore says by itself

    async def register(self, node: dict[str, Any]) -> dict[str, Any]:
        """Reference 1.4 D."""
        return await self.request("insert", f"null/node/{self.node}", node)

    async def report_twin(self, device: str, twin: dict[str, Any]) -> dict[str, Any]:
        """Reference 1.4 I: an edge_updated and its "OK"."""
        content = {"event_id": str(uuid.uuid4()), "timestamp": time.time_ns() // 1_000_000, "twin": twin}
        return await self.request(
            "update", f"device/{device}/twin/edge_updated", content, source="twin", group="resource"
        )
