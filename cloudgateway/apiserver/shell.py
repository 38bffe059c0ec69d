"""HTTP around the embedded API: TLS, who is asking, and the bytes in both directions. Nothing else."""

import hmac
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from edgeappliance.kernel.log import get_logger
from edgeappliance.kubeapi.errors import StatusFailure, too_large, unauthorized
from edgeappliance.kubeapi.request import BODY_LIMIT, ApiRequest, ApiResponse, User

Handle = Callable[[ApiRequest], Awaitable[ApiResponse]]
SHUTDOWN_SECONDS = 0.5
"""Grace for requests under way; watches never end by themselves."""


class HttpShell:
    """Serves a handler over HTTPS. Stop it with `await shell.close()`."""

    def __init__(self, handle: Handle, tokens: dict[str, User]) -> None:
        self._handle = handle
        self._tokens = tokens
        self._runner: web.ServerRunner | None = None
        self._log = get_logger("apiserver")
        self.port = 0
        """The port that is listened on."""

    async def start(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        """Listen; port 0 takes a free one. Raises OSError when the address cannot be had."""
        # A watcher that hangs up is noticed at once and its stream ended.
        server = web.Server(self._serve, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_SECONDS)
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

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            user = self._user(request)
        except PermissionError:
            return _plain(ApiResponse(401, unauthorized().encode()))
        body = b""
        if request.body_exists:
            if (request.content_length or 0) > BODY_LIMIT:
                return _plain(ApiResponse(413, too_large(BODY_LIMIT).encode()))
            body = await self._read(request)
            if len(body) > BODY_LIMIT:
                return _plain(ApiResponse(413, too_large(BODY_LIMIT).encode()))
        try:
            asked = ApiRequest.of(
                request.method,
                request.raw_path,
                body=body,
                content_type=request.headers.get(hdrs.CONTENT_TYPE, ""),
                accept=",".join(request.headers.getall(hdrs.ACCEPT, ())),
                user=user,
            )
        except StatusFailure as failure:
            return _plain(ApiResponse(failure.code, failure.encode()))
        answer = await self._handle(asked)
        if isinstance(answer.body, bytes):
            return _plain(answer)
        return await self._stream(request, answer)

    async def _read(self, request: web.BaseRequest) -> bytes:
        """The body, but no more than one byte above the limit."""
        parts, size = [], 0
        async for chunk in request.content.iter_chunked(65536):
            parts.append(chunk)
            size += len(chunk)
            if size > BODY_LIMIT:
                break
        return b"".join(parts)

    async def _stream(self, request: web.BaseRequest, answer: ApiResponse) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers={hdrs.CONTENT_TYPE: answer.content_type})
        response.enable_chunked_encoding()
        await response.prepare(request)
        frames = answer.body
        if isinstance(frames, bytes):
            raise TypeError("a stream is expected here")
        try:
            async for frame in frames:
                await response.write(frame)
            await response.write_eof()
        except ConnectionError:
            self._log.debug("watcher hung up", path=request.path)
        finally:
            close = getattr(frames, "aclose", None)
            if close is not None:
                await close()
        return response

    def _user(self, request: web.BaseRequest) -> User | None:
        """Who asks: the bearer token's user, or the certificate's. PermissionError for a token nobody has."""
        header = request.headers.get(hdrs.AUTHORIZATION, "")
        scheme, _, token = header.partition(" ")
        if scheme.lower() == "bearer":
            for known, user in self._tokens.items():
                if hmac.compare_digest(known.encode(), token.strip().encode()):
                    return user
            raise PermissionError
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        return _certificate_user(certificate) if certificate else None


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


def _plain(answer: ApiResponse) -> web.Response:
    body = answer.body if isinstance(answer.body, bytes) else b""
    response = web.Response(status=answer.status, body=body, headers={hdrs.CONTENT_TYPE: answer.content_type})
    for warning in answer.warnings:
        text = warning.replace("\\", "\\\\").replace('"', '\\"').replace("\r", " ").replace("\n", " ")
        response.headers.add("Warning", f'299 - "{text}"')
    return response
