"""HTTP around the embedded API: TLS, who is asking, and the bytes in both directions. Nothing else."""

import asyncio
import hmac
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from cloudgateway.apiserver.entrance import Entrance
from cloudgateway.apiserver.upgrades import IMPERSONATION, Connect, Upgrades
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.web.server import keep_alive, serve
from edgeappliance.kubeapi.errors import StatusFailure, bad_request, too_large, unauthorized
from edgeappliance.kubeapi.request import BODY_LIMIT, ApiRequest, ApiResponse, User

Handle = Callable[[ApiRequest], Awaitable[ApiResponse]]
SHUTDOWN_SECONDS = 0.5
"""Grace for requests under way; watches never end by themselves."""
BODY_SECONDS = 60.0
"""How long a client may take for a body."""
LINGER_SECONDS = 1.0
"""How long the rest of a refused body is read, so that its sender sees the answer."""
LINE_LIMIT = 64 * 1024
"""Bytes of a request line: a selector alone may have 8 KB."""
PUBLIC = (["healthz"], ["livez"], ["readyz"], ["version"])


class _Door(web.Server):
    """aiohttp's server behind an entrance of our own: the first head of a connection says who serves it."""

    def __init__(
        self, serve: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], upgraded: Callable[[Entrance], None]
    ) -> None:
        # A watcher that hangs up is noticed at once and its stream ended. Compressed bodies are not read: Kubernetes
        # knows none, and a few bytes of them are many.
        super().__init__(
            serve,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            max_line_size=LINE_LIMIT,
            lingering_time=LINGER_SECONDS,
        )
        self._upgraded = upgraded

    def __call__(self) -> asyncio.Protocol:  # type: ignore[override] # aiohttp hands it to create_server, no more
        return Entrance(super().__call__, self._upgraded)


class HttpShell:
    """Serves a handler over HTTPS. Stop it with `await shell.close()`."""

    def __init__(self, handle: Handle, tokens: dict[str, User], connect: Connect) -> None:
        self._handle = handle
        self._tokens = tokens
        self._upgrades = Upgrades(connect, self._identify)
        self._upgraded: set[asyncio.Task[None]] = set()
        self._runner: web.ServerRunner | None = None
        self._log = get_logger("apiserver")
        self.port = 0
        """The port that is listened on."""

    async def start(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        """Listen; port 0 takes a free one. Raises OSError when the address cannot be had."""
        door = _Door(self._serve, self._begin_upgrade)
        self._runner = web.ServerRunner(door, shutdown_timeout=SHUTDOWN_SECONDS)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=context)
        try:
            await site.start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self.port = int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stop listening and end every request. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        streams = list(self._upgraded)
        for task in streams:
            task.cancel()
        if streams:
            await asyncio.wait(streams, timeout=SHUTDOWN_SECONDS)

    def _begin_upgrade(self, entrance: Entrance) -> None:
        """Serve a connection that begins with an upgrade request; this shell owns the task, `close` ends it."""
        reader, writer, first = entrance.streams()
        keep_alive(writer)  # a terminal that nobody types in must not outlive its client for ever
        work = serve(reader, writer, self._upgrades.serve, first=first)
        task = asyncio.get_running_loop().create_task(work, name="apiserver/stream")
        self._upgraded.add(task)
        task.add_done_callback(self._upgraded.discard)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            asked = await self._asked(request)
        except StatusFailure as failure:
            answer = _plain(ApiResponse(failure.code, failure.encode()))
            answer.force_close()  # what is left of the body is not waited for
            return answer
        answered = await self._handle(asked)
        if isinstance(answered.body, bytes):
            return _plain(answered)
        return await self._stream(request, answered)

    async def _asked(self, request: web.BaseRequest) -> ApiRequest:
        """The request with its body; StatusFailure for what is not even looked at."""
        user = self._user(request)
        if user is None and request.path.split("/", 2)[1:2] not in PUBLIC:
            raise unauthorized()  # before anything of a stranger's body is kept
        if any(name.lower().startswith("impersonate-") for name in request.headers):
            raise StatusFailure(403, "Forbidden", IMPERSONATION)
        if request.headers.get(hdrs.UPGRADE, "").lower() in ("websocket", "spdy/3.1"):
            raise bad_request("an upgrade must be the first request of its connection")
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise StatusFailure(415, "UnsupportedMediaType", "the body of a request must not be compressed")
        body = b""
        if request.body_exists:
            if (request.content_length or 0) > BODY_LIMIT:
                raise too_large(BODY_LIMIT)
            body = await self._read(request)
        return ApiRequest.of(
            request.method,
            request.raw_path,
            body=body,
            content_type=_text(request.headers.get(hdrs.CONTENT_TYPE, "")),
            accept=_text(",".join(request.headers.getall(hdrs.ACCEPT, ()))),
            user=user,
        )

    async def _read(self, request: web.BaseRequest) -> bytes:
        """The body; StatusFailure when it is too large, too slow or broken."""
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        parts, size = [], 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.content.iter_chunked(65536):
                    parts.append(chunk)
                    size += len(chunk)
                    if size > BODY_LIMIT:
                        raise too_large(BODY_LIMIT)
        except TimeoutError:
            raise StatusFailure(408, "Timeout", f"the body did not come within {BODY_SECONDS:g} s") from None
        except web.RequestPayloadError as error:
            raise bad_request(f"the body of the request cannot be read: {error}") from None
        return b"".join(parts)

    async def _stream(self, request: web.BaseRequest, answer: ApiResponse) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers={hdrs.CONTENT_TYPE: answer.content_type})
        response.enable_chunked_encoding()
        frames = answer.body
        if isinstance(frames, bytes):
            raise TypeError("a stream is expected here")
        try:
            await response.prepare(request)
            async for frame in frames:
                await response.write(frame)
            await response.write_eof()
        except ConnectionError as error:
            self._log.debug("stream broke", path=request.path, error=error)
            if request.transport is not None:
                request.transport.abort()  # a body without its end: the client must not take it for whole
        finally:
            close = getattr(frames, "aclose", None)
            if close is not None:
                await close()
        return response

    def _user(self, request: web.BaseRequest) -> User | None:
        """Who asks: the bearer token's user, or the certificate's. StatusFailure 401 for a token nobody has."""
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        return self._identify(request.headers.get(hdrs.AUTHORIZATION, ""), certificate)

    def _identify(self, header: str, certificate: object) -> User | None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() == "bearer":
            given = token.strip().encode("utf-8", "surrogateescape")  # whatever bytes came
            for known, user in self._tokens.items():
                if hmac.compare_digest(known.encode(), given):
                    return user
            raise unauthorized()
        return _certificate_user(certificate) if isinstance(certificate, dict) and certificate else None


def _certificate_user(certificate: dict[str, object]) -> User | None:
    """CN and every O of a verified client certificate."""
    name, groups = "", []
    subject = certificate.get("subject", ())
    for part in subject if isinstance(subject, tuple) else ():
        for key, value in part:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                groups.append(value)
    return User(name, tuple(groups)) if name else None


def _text(header: str) -> str:
    """A header without what is no UTF-8 and could not be said again."""
    return header.encode("utf-8", "replace").decode()


def _plain(answer: ApiResponse) -> web.Response:
    body = answer.body if isinstance(answer.body, bytes) else b""
    response = web.Response(status=answer.status, body=body, headers={hdrs.CONTENT_TYPE: answer.content_type})
    for warning in answer.warnings:
        text = warning.replace("\\", "\\\\").replace('"', '\\"').replace("\r", " ").replace("\n", " ")
        response.headers.add("Warning", f'299 - "{text}"')
    return response
