"""A scripted KubeEdge 1.23 cloudcore: enrolment on HTTPS, one websocket per node, sequential acknowledgements.

Written from the interface reference (files 1-3) and the recorded traffic, with the standard library,
`websockets` and `cryptography` only: it must not share code with what it judges.
"""

import asyncio
import contextlib
import datetime
import json
import re
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.support.kubeedge_authority import Authority
from tests.support.kubeedge_pods import patched

Json = dict[str, Any]

FRAGMENT = 4082
"""Payload bytes of gorilla's 4096-byte write buffer: longer messages are fragmented (reference 2.3)."""

NO_CHECK_TIME = 0x200000
ZERO_NODE_STATUS = {
    "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
    "nodeInfo": {"machineID": "", "kubeletVersion": ""},
}


def go_json(value: Any) -> bytes:
    """The way Go's encoder writes: no spaces, `<>&` and the line separators escaped, one newline at the end."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode() + b"\n"


def status_error(code: int, reason: str, message: str, *, name: str = "", kind: str = "") -> Json:
    """A Kubernetes API error as Go marshals it inside a message (reference F4)."""
    details = {"name": name, "kind": kind}
    return {
        "ErrStatus": {
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details,
            "code": code,
        }
    }


@dataclass
class Received:
    """One message of the edge, as parsed JSON."""

    message: Json
    at: float

    @property
    def route(self) -> Json:
        return dict(self.message.get("route", {}))

    @property
    def resource(self) -> str:
        return str(self.route.get("resource", ""))

    @property
    def operation(self) -> str:
        return str(self.route.get("operation", ""))

    @property
    def id(self) -> str:
        return str(self.message["header"]["msg_id"])

    @property
    def parent(self) -> str:
        return str(self.message["header"].get("parent_msg_id", ""))

    @property
    def content(self) -> Any:
        return self.message["content"]


@dataclass
class Session:
    """One accepted websocket of a node."""

    connection: ServerConnection
    node: str
    headers: dict[str, str]
    common_name: str
    acked: dict[str, asyncio.Event] = field(default_factory=dict)


class KubeEdgeCloud:
    """The cloud side. `objects` (by resource as on the wire) is its API server; `received` what edges sent."""

    def __init__(
        self,
        directory: Path,
        *,
        resend_after: float = 5.0,
        certificate_lifetime: datetime.timedelta = datetime.timedelta(days=365),
        certificate_age: datetime.timedelta = datetime.timedelta(0),
        upgrade_headers: dict[str, str] | None = None,
        push_node: bool = True,
        address: str = "127.0.0.1",
    ) -> None:
        self.authority = Authority()
        self.resend_after = resend_after
        self.certificate_lifetime = certificate_lifetime
        self.certificate_age = certificate_age
        self.objects: dict[str, Json] = {}
        self.received: list[Received] = []
        self.sends: list[tuple[float, Json]] = []
        self.enrolments: list[tuple[str, str]] = []  # (node, "token" | "certificate")
        self.sessions: list[Session] = []
        self.silent: re.Pattern[str] | None = None
        self.mute = False  # answers nothing on its own: the test speaks
        self.renews_expired = False  # what our own gateway does within its grace period; KubeEdge never
        self._upgrade_headers = upgrade_headers or {}
        self._push_node = push_node
        self._address = address
        self._directory = directory
        self._changed = asyncio.Condition()
        self._version = 50000
        self._tasks: set[asyncio.Task[None]] = set()
        self._queue: asyncio.Queue[tuple[Json, asyncio.Future[Json]]] = asyncio.Queue()
        self._http: asyncio.Server | None = None
        self._ws: Server | None = None
        self.http_port = 0
        self.ws_port = 0

    # -- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._files = self.authority.server_files(self._directory, address=self._address)
        (self._directory / "ca.pem").write_text(self.authority.pem)
        await self.start_http()
        await self.start_ws()
        self._spawn(self._deliver())

    async def start_http(self) -> None:
        self._http = await asyncio.start_server(
            self._serve_http, "127.0.0.1", self.http_port, ssl=self._context(ssl.CERT_OPTIONAL, ignore_dates=True)
        )
        self.http_port = self._http.sockets[0].getsockname()[1]

    async def start_ws(self) -> None:
        self._ws = await serve(
            self._serve_ws,
            "127.0.0.1",
            self.ws_port,
            ssl=self._context(ssl.CERT_REQUIRED),
            compression=None,
            server_header=None,
            ping_interval=None,
            max_size=None,
            close_timeout=0.2,
            process_response=self._add_headers,
        )
        self.ws_port = next(iter(self._ws.sockets)).getsockname()[1]

    async def stop_ws(self) -> None:
        """The message server goes away; its port stays reserved for `start_ws`."""
        self.cut()
        if self._ws is not None:
            self._ws.close()
            await self._ws.wait_closed()
            self._ws = None

    async def stop_http(self) -> None:
        if self._http is not None:
            self._http.close()
            await self._http.wait_closed()
            self._http = None

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.stop_ws()
        await self.stop_http()

    def cut(self) -> None:
        """End every session the way cloudcore does: TCP gone, no close frame (reference 2.4)."""
        for session in self.sessions:
            session.connection.transport.abort()

    # -- what a test asks ---------------------------------------------------------------------------------

    def token(self, *, expires_in: float = 86400.0) -> str:
        return self.authority.token(expires_in=expires_in)

    async def wait(self, predicate: Callable[["KubeEdgeCloud"], Any], timeout: float = 10.0) -> Any:
        """The first true value of `predicate(self)`; re-evaluated whenever something arrives."""
        async with asyncio.timeout(timeout), self._changed:
            while True:
                value = predicate(self)
                if value:
                    return value
                await self._changed.wait()

    async def wait_message(
        self, resource: str = "", operation: str = "", *, parent: str = "", after: int = 0, timeout: float = 10.0
    ) -> Received:
        """The first message since index `after` that matches what is given."""

        def find(cloud: "KubeEdgeCloud") -> Received | None:
            for item in cloud.received[after:]:
                if resource and item.resource != resource:
                    continue
                if operation and item.operation != operation:
                    continue
                if parent and item.parent != parent:
                    continue
                return item
            return None

        found: Received = await self.wait(find, timeout)
        return found

    def messages(self, resource: str = "", operation: str = "") -> list[Received]:
        return [
            item
            for item in self.received
            if (not resource or item.resource == resource) and (not operation or item.operation == operation)
        ]

    def next_version(self) -> str:
        self._version += 1
        return str(self._version)

    def object(self, kind: str, namespace: str, name: str, **rest: Any) -> Json:
        """A fresh object with uid and resourceVersion."""
        metadata = {"name": name, "uid": str(uuid.uuid4()), "resourceVersion": self.next_version()}
        if namespace != "null":
            metadata["namespace"] = namespace
        return {"kind": kind, "apiVersion": "v1", "metadata": metadata, **rest}

    def push(
        self,
        operation: str,
        resource: str,
        content: Any,
        *,
        source: str = "edgecontroller",
        group: str = "resource",
        parent: str = "",
    ) -> "asyncio.Future[Json]":
        """Queue an acknowledged message; one at a time is under way (reference 2.8). Resolves with the ack."""
        version = ""
        if isinstance(content, dict):
            version = str(content.get("metadata", {}).get("resourceVersion", ""))
        message = self.message(operation, resource, content, source=source, group=group, parent=parent, version=version)
        done: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((message, done))
        return done

    def message(
        self,
        operation: str,
        resource: str,
        content: Any,
        *,
        source: str = "edgecontroller",
        group: str = "resource",
        parent: str = "",
        version: str = "",
    ) -> Json:
        header: Json = {"msg_id": str(uuid.uuid4())}
        if parent:
            header["parent_msg_id"] = parent
        header["timestamp"] = time.time_ns() // 1_000_000
        if version:
            header["resourceversion"] = version
        route: Json = {}
        if source:
            route["source"] = source
        if group:
            route["group"] = group
        route["operation"] = operation
        route["resource"] = resource
        return {"header": header, "route": route, "content": content}

    async def send(self, message: Json) -> None:
        """Straight to the newest session, no queue; long messages are fragmented."""
        session = await self.wait(lambda cloud: cloud.sessions[-1] if cloud.sessions else None)
        await self._write(session, message)

    async def send_raw(self, data: bytes) -> None:
        session = await self.wait(lambda cloud: cloud.sessions[-1] if cloud.sessions else None)
        await session.connection.send(data, text=True)

    # -- HTTPS 10002 --------------------------------------------------------------------------------------

    def _context(self, verify: ssl.VerifyMode, *, ignore_dates: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._files)
        context.load_verify_locations(self._directory / "ca.pem")
        context.verify_mode = verify
        if ignore_dates:
            # Go asks for a certificate without judging it; here the handler judges the dates.
            context.verify_flags |= NO_CHECK_TIME
        return context

    async def _serve_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request, *lines = head.split("\r\n")
            method, path, _ = request.split(" ")
            headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines) if k}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            status, content_type, answer = self._answer_http(method, path, headers, body, der)
            writer.write(
                f"HTTP/1.1 {status} x\r\nContent-Type: {content_type}\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
                + answer
            )
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            return  # the edge went away: its business
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
                await writer.wait_closed()

    def _answer_http(
        self, method: str, path: str, headers: dict[str, str], body: bytes, der: bytes | None
    ) -> tuple[int, str, bytes]:
        text = "text/plain; charset=utf-8"
        if method != "GET":
            return 405, text, b"405: Method Not Allowed"
        if path == "/ca.crt":
            return 200, "application/octet-stream", self.authority.der
        if path == "/edge.crt":
            node = headers.get("nodename", "")
            refusal = self._refuse(node, headers.get("authorization", ""), der)
            if refusal:
                return 401, text, refusal.encode()
            now = datetime.datetime.now(datetime.UTC)
            start = now - self.certificate_age
            try:
                signed = self.authority.sign(body, not_before=start, not_after=start + self.certificate_lifetime)
            except ValueError as error:
                return 500, text, f"failed to sign certs for edgenode {node}, err: {error}".encode()
            self.enrolments.append((node, "certificate" if der else "token"))
            return 200, "application/octet-stream", signed
        if path.startswith("/node/"):
            found = f"null{path}" in self.objects
            return (200, text, b"Node found") if found else (404, text, b"Node not found")
        return 404, text, b"404: Page Not Found"

    def _refuse(self, node: str, authorization: str, der: bytes | None) -> str:
        if der is not None:
            certificate = x509.load_der_x509_certificate(der)
            name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
            prefix = f"failed to verify the certificate for edgenode: {node}, err: "
            if not self.renews_expired and certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
                return prefix + "x509: certificate has expired or is not yet valid"
            if name != f"system:node:{node}":
                return prefix + "request node name is not match with the certificate"
            return ""
        if not authorization:
            return "token validation failure, token is empty"
        kind, _, jwt = authorization.partition(" ")
        if kind != "Bearer":
            return "token validation failure, token cannot be split"
        reason = self.authority.check_jwt(jwt)
        return f"token validation failure, err: {reason}" if reason else ""

    # -- wss 10000 ----------------------------------------------------------------------------------------

    def _add_headers(self, connection: ServerConnection, request: Request, response: Response) -> Response:
        for name, value in self._upgrade_headers.items():
            response.headers[name] = value
        return response

    async def _serve_ws(self, connection: ServerConnection) -> None:
        request = connection.request
        assert request is not None
        headers = {name.lower(): value for name, value in request.headers.raw_items()}
        der = connection.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        certificate = x509.load_der_x509_certificate(der)
        common_name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        session = Session(connection, headers.get("node_id", ""), headers, common_name)
        for other in [s for s in self.sessions if s.node == session.node]:
            other.connection.transport.abort()
        self.sessions.append(session)
        await self._notify()
        if headers.get("connectionuse") != "msg":
            await connection.wait_closed()
            return
        try:
            async for data in connection:
                text = data if isinstance(data, str) else data.decode()
                await self._take(session, json.loads(text))
        except ConnectionClosed:
            pass  # ends the way tests end it: without a close frame
        finally:
            self.sessions.remove(session)
            await self._notify()

    async def _take(self, session: Session, message: Json) -> None:
        item = Received(message, time.monotonic())
        self.received.append(item)
        if item.operation in ("response", "error"):
            waiting = session.acked.get(item.parent)
            if waiting is not None and item.operation == "response":
                waiting.set()
        elif (
            item.operation != "keepalive" and not self.mute and not (self.silent and self.silent.search(item.resource))
        ):
            answer = self._answer(session, item)
            if answer is not None:
                await self._write(session, answer)
        await self._notify()

    def _keeps_silent(self, resource: str) -> bool:
        return self.mute or bool(self.silent and self.silent.search(resource))

    async def _deliver(self) -> None:
        """One acknowledged message at a time: 5 sends, then to the back of the queue (reference 2.8)."""
        while True:
            message, done = await self._queue.get()
            ident = message["header"]["msg_id"]
            for _ in range(5):
                session: Session = await self.wait(
                    lambda cloud: cloud.sessions[-1] if cloud.sessions else None, timeout=3600
                )
                event = session.acked.setdefault(ident, asyncio.Event())
                try:
                    await self._write(session, message)
                    async with asyncio.timeout(self.resend_after):  # wait_for may lose a cancellation
                        await event.wait()
                except (TimeoutError, ConnectionClosed):
                    await asyncio.sleep(0)
                    continue
                break
            if not event.is_set():
                self._queue.put_nowait((message, done))
                continue
            if not done.done():
                done.set_result(
                    next(r.message for r in self.received if r.parent == ident and r.operation == "response")
                )

    async def _write(self, session: Session, message: Json) -> None:
        data = go_json(message)
        self.sends.append((time.monotonic(), message))
        if len(data) <= FRAGMENT:
            await session.connection.send(data, text=True)
            return
        await session.connection.send(
            [data[start : start + FRAGMENT] for start in range(0, len(data), FRAGMENT)], text=True
        )

    # -- the controllers ----------------------------------------------------------------------------------

    def _answer(self, session: Session, item: Received) -> Json | None:
        source = item.route.get("source")
        if source == "twin":
            if item.resource.endswith(("/twin/edge_updated", "/state/update")):
                return self.message("response", "twin", "OK", source="devicecontroller", group="twin", parent=item.id)
            return None
        if item.resource == "k8s/ca.crt":
            return self.message("response", item.resource, self.authority.pem, source="cloudhub", parent=item.id)
        parts = item.resource.split("/")
        if len(parts) != 3 or item.operation == "upload":
            return None
        content, version = self._controller(session, item, *parts)
        if content is None:
            return None
        return self.message("response", item.resource, content, parent=item.id, version=version)

    def _controller(self, session: Session, item: Received, namespace: str, kind: str, name: str) -> tuple[Any, str]:
        match item.operation, kind:
            case "insert", "node":
                return self._insert_node(name, item.content), ""
            case "patch", "nodepatch":
                return self._patch_node(name, json.loads(item.content))
            case (("insert" | "update" | "query"), "lease"):
                return self._lease(item.operation, item.resource, name, item.content), ""
            case "patch", "podpatch":
                pod = self.objects.get(f"{namespace}/pod/{name}")
                if pod is None:
                    return {"Object": None, "Err": status_error(404, "NotFound", "no pod", name=name, kind="pods")}, ""
                patch = json.loads(item.content)
                if patch.get("metadata", {}).get("uid", pod["metadata"]["uid"]) != pod["metadata"]["uid"]:
                    error = status_error(409, "Conflict", "the UID is another one", name=name, kind="pods")
                    return {"Object": None, "Err": error}, ""
                pod["status"] = patched(pod.get("status", {}), patch.get("status", {}))
                pod["metadata"]["resourceVersion"] = self.next_version()
                return {"Object": pod, "Err": None}, pod["metadata"]["resourceVersion"]
            case "insert", "pod":
                return self._insert_pod(item.resource, namespace, name, item.content), ""
            case "delete", "pod":
                self._delete_pod(item.resource, item.content)
                return "OK", ""
            case "query", _:
                found = self.objects.get(item.resource)
                if found is None:
                    message = f'{kind}s "{name}" not found'
                    return status_error(404, "NotFound", message, name=name, kind=f"{kind}s"), ""
                return found, found["metadata"]["resourceVersion"]
        return None, ""

    def _insert_pod(self, key: str, namespace: str, name: str, content: Json) -> Json:
        """A mirror pod (reference 1.4 C); the informer then pushes it down."""
        if key in self.objects:
            error = status_error(409, "AlreadyExists", f'pods "{name}" already exists', name=name, kind="pods")
            return {"Object": {"metadata": {}, "spec": {}, "status": {}}, "Err": error}
        metadata = {**content["metadata"], "uid": str(uuid.uuid4()), "resourceVersion": self.next_version()}
        pod = {**content, "metadata": metadata, "status": {"phase": "Pending"}}
        self.objects[key] = pod
        self.push("insert", key, json.loads(json.dumps(pod)))
        return {"Object": pod, "Err": None}

    def _delete_pod(self, key: str, options: Any) -> None:
        """Not found and another UID are no errors for an edge; what is deleted is told it by the informer."""
        uid = options.get("preconditions", {}).get("uid") if isinstance(options, dict) else options
        pod = self.objects.get(key)
        if pod is None or uid not in (None, "", pod["metadata"]["uid"]):
            return
        del self.objects[key]
        self.push("delete", key, pod)

    def _insert_node(self, name: str, content: Json) -> Json:
        key = f"null/node/{name}"
        if key in self.objects:
            zero = {"metadata": {"creationTimestamp": None}, "spec": {}, "status": ZERO_NODE_STATUS}
            error = status_error(409, "AlreadyExists", f'nodes "{name}" already exists', name=name, kind="nodes")
            return {"Object": zero, "Err": error}
        metadata = {**content["metadata"], "uid": str(uuid.uuid4()), "resourceVersion": self.next_version()}
        node = {**content, "kind": "Node", "apiVersion": "v1", "metadata": metadata}
        self.objects[key] = node
        self._announce_node(key)
        return {"Object": node, "Err": None}

    def _patch_node(self, name: str, patch: Json) -> tuple[Json, str]:
        key = f"null/node/{name}"
        node = self.objects.get(key)
        if node is None:
            error = status_error(404, "NotFound", f'nodes "{name}" not found', name=name, kind="nodes")
            return {"Object": {"metadata": {}}, "Err": error}, ""
        status = node.setdefault("status", {})
        for part, value in patch.get("status", {}).items():
            if part == "conditions":
                merged = {c["type"]: c for c in status.get("conditions", [])}
                for condition in value:
                    merged[condition["type"]] = {**merged.get(condition["type"], {}), **condition}
                status["conditions"] = list(merged.values())
            elif not part.startswith("$"):
                status[part] = value
        node["metadata"]["resourceVersion"] = self.next_version()
        self._announce_node(key)
        return {"Object": node, "Err": None}, node["metadata"]["resourceVersion"]

    def _announce_node(self, key: str) -> None:
        if self._push_node:
            self.push("update", key, json.loads(json.dumps(self.objects[key])))

    def _lease(self, operation: str, key: str, name: str, content: Any) -> Json:
        stored = self.objects.get(key)
        if operation == "query":
            if stored is None:
                error = status_error(404, "NotFound", f'leases "{name}" not found', name=name, kind="leases")
                return {"Object": {"metadata": {}, "spec": {}}, "Err": error}
            return {"Object": stored, "Err": None}
        if operation == "insert" and stored is not None:
            error = status_error(409, "AlreadyExists", f'leases "{name}" already exists', name=name, kind="leases")
            return {"Object": {"metadata": {}, "spec": {}}, "Err": error}
        if operation == "update":
            sent = content["metadata"].get("resourceVersion")
            if stored is None or (sent and sent != stored["metadata"]["resourceVersion"]):
                error = status_error(409, "Conflict", "the object has been modified", name=name, kind="leases")
                return {"Object": {"metadata": {}, "spec": {}}, "Err": error}
        metadata = {**content["metadata"], "resourceVersion": self.next_version()}
        metadata.setdefault("uid", str(uuid.uuid4()))
        self.objects[key] = {**content, "metadata": metadata}
        return {"Object": self.objects[key], "Err": None}

    # -- small things -------------------------------------------------------------------------------------

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@contextlib.asynccontextmanager
async def kubeedge_cloud(directory: Path, **options: Any) -> AsyncIterator[KubeEdgeCloud]:
    """A running cloud on two ports of 127.0.0.1."""
    cloud = KubeEdgeCloud(directory, **options)
    await cloud.start()
    try:
        yield cloud
    finally:
        await cloud.stop()


@pytest.fixture
async def kubeedge(tmp_path: Path) -> AsyncIterator[KubeEdgeCloud]:
    """An unmodified KubeEdge cloud, as the reference describes it."""
    directory = tmp_path / "cloudcore"
    directory.mkdir()
    async with kubeedge_cloud(directory) as cloud:
        yield cloud
