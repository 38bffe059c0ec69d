"""Joining a cloud with a token, and renewing the certificate by proof of the old key (reference 3.3, 3.4)."""

import asyncio
import hashlib
import ssl
import time
from typing import NoReturn

from edgeappliance.edgehub import https
from edgeappliance.edgehub.certificates import accept_issued, new_request
from edgeappliance.edgehub.identity import NO_CHECK_TIME, Identity, IdentityFiles, clock_is_implausible
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.errors import ApplianceError, OperatorError, TransientError
from edgeappliance.kubeapi.names import subdomain_error
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.token import JoinToken, parse_token

PORT = 10002
"""The enrolment port of KubeEdge (reference 3.5)."""

_JOIN_ANEW = (
    "get a new token from the cloud (`cloudgateway token create`, on KubeEdge `keadm gettoken`) and run "
    "`edgecore join --cloud HOST --token TOKEN`"
)


def check_node_name(node: str) -> None:
    """Raises OperatorError unless `node` is a Kubernetes node name (RFC 1123 subdomain)."""
    error = subdomain_error(node)
    if error:
        raise OperatorError(
            f"{node!r} is no node name: {error}", next_step="name the node another way: `edgecore join --name NAME`"
        )


class Enrolment:
    """Gets this node its certificate from `https://host:port`."""

    def __init__(
        self, *, files: IdentityFiles, host: str, node: str, clock: Clock, port: int = PORT, timeout: float = 30.0
    ) -> None:
        self._files = files
        self._host = host
        self._port = port
        self._node = node
        self._clock = clock
        self._timeout = timeout

    async def join(self, text: str, *, as_new: bool = False) -> Identity:
        """Enrol with the token `text`: check it, fetch and check the CA, get a certificate, keep both.

        `as_new`: the cloud must not have a node of this name yet, because nobody chose the name: two boxes of one
        host name would take the node from each other without end.

        Raises OperatorError with the check that failed and what to do, or TransientError when the cloud cannot be
        reached. Nothing is written before everything was checked.
        """
        check_node_name(self._node)
        try:
            token = parse_token(text)
        except WireError as error:
            raise OperatorError(
                f"the join token is not one: {error}",
                next_step="copy the whole token, in one piece, from the cloud's `token create` (KubeEdge: `keadm "
                "gettoken`); it has four parts with dots between them",
            ) from error
        now = self._clock.wall_ms() / 1000
        ignore_dates = clock_is_implausible(now, None)
        if not ignore_dates and token.expires_at <= now:
            when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(token.expires_at))
            raise OperatorError(f"the join token expired at {when}", next_step=_JOIN_ANEW)
        ca_der = await self._fetch_ca(token)
        ca_pem = ssl.DER_cert_to_PEM_cert(ca_der)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if ignore_dates:
            context.verify_flags |= NO_CHECK_TIME
        context.load_verify_locations(cadata=ca_pem)
        if as_new:
            await self._check_unknown(context)
        return await self._request(context, ca_pem=ca_pem.encode(), bearer=token.jwt)

    async def renew(self, identity: Identity) -> Identity:
        """A new certificate for a new key, by proof of the old one, which may have expired.

        Whether an expired certificate still counts is the cloud's decision (its grace period).
        """
        now = self._clock.wall_ms() / 1000
        ignore_dates = clock_is_implausible(now, identity.facts)
        context = await asyncio.to_thread(identity.client_context, ignore_dates=ignore_dates)
        ca_pem = await asyncio.to_thread(identity.ca_file.read_bytes)
        return await self._request(context, ca_pem=ca_pem, bearer="")

    async def _check_unknown(self, context: ssl.SSLContext) -> None:
        # KubeEdge's `keadm join` asks the same (reference 8.3); any other answer than "found" is no objection.
        answer = await self._get(f"/node/{self._node}", context)
        if answer.status == 200:
            raise OperatorError(
                f"the cloud has a node {self._node!r} already, which is this machine's host name",
                next_step="give this machine a name of its own with --name NAME; or, if it shall take the place of "
                f"that node, say so with --name {self._node}",
            )

    async def _fetch_ca(self, token: JoinToken) -> bytes:
        # Nothing is trusted yet: the hash in the token decides whether this is the right CA.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        answer = await self._get("/ca.crt", context)
        if answer.status != 200:
            raise TransientError(
                f"{self._where} answered GET /ca.crt with status {answer.status}: {_text(answer.body)}",
                next_step="check the address and the enrolment port (KubeEdge: 10002)",
            )
        found = hashlib.sha256(answer.body).hexdigest()
        if found != token.ca_hash:
            raise OperatorError(
                f"the CA of {self._where} is not the one of the join token "
                f"(token {token.ca_hash[:16]}..., cloud {found[:16]}...)",
                next_step="the token is of another cloud, or somebody stands between: check the address, "
                "then " + _JOIN_ANEW,
            )
        return answer.body

    async def _request(self, context: ssl.SSLContext, *, ca_pem: bytes, bearer: str) -> Identity:
        request = await asyncio.to_thread(new_request, self._node)
        headers = {"NodeName": self._node}
        if bearer:
            headers["Authorization"] = f"Bearer {bearer}"
        answer = await self._get("/edge.crt", context, headers=headers, body=request.request_der)
        if answer.status != 200:
            self._refused(answer, renewal=not bearer)
        certificate_pem = await asyncio.to_thread(
            accept_issued, answer.body, key_pem=request.key_pem, ca_pem=ca_pem, node=self._node
        )
        try:
            await asyncio.to_thread(
                self._files.save, ca_pem=ca_pem, key_pem=request.key_pem, certificate_pem=certificate_pem
            )
        except OSError as error:
            raise TransientError(
                f"the new certificate cannot be written: {error}",
                next_step="check the file system of the state directory and its owner",
            ) from error
        identity = await asyncio.to_thread(self._files.load)
        if identity is None:
            raise TransientError("the certificate that was just written is gone")
        return identity

    def _refused(self, answer: https.Answer, *, renewal: bool) -> NoReturn:
        text = _text(answer.body)
        if answer.status == 401 and renewal:
            raise OperatorError(f"{self._where} does not renew this certificate: {text}", next_step=_JOIN_ANEW)
        if answer.status in (400, 401, 403):
            raise OperatorError(
                f"{self._where} refused node {self._node!r} (status {answer.status}): {text}", next_step=_JOIN_ANEW
            )
        raise TransientError(
            f"{self._where} could not issue a certificate (status {answer.status}): {text}",
            next_step="look into the cloud's log",
        )

    async def _get(
        self, path: str, context: ssl.SSLContext, *, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> https.Answer:
        try:
            return await https.get(
                self._host,
                self._port,
                path,
                context=context,
                headers=headers,
                body=body,
                timeout=self._timeout,
            )
        except ssl.SSLCertVerificationError as error:
            raise self._not_verified(error) from error
        except ssl.SSLError as error:
            raise TransientError(
                f"TLS with {self._where} failed: {error.reason or error}",
                next_step="check the address and the enrolment port (KubeEdge: 10002)",
            ) from error
        except TimeoutError as error:
            raise TransientError(
                f"{self._where} did not answer within {self._timeout:.0f} s",
                next_step="check the address and that no firewall drops TCP port " + str(self._port),
            ) from error
        except OSError as error:
            raise TransientError(
                f"{self._where} cannot be reached: {error.strerror or error}",
                next_step="check the address, the network, and that the cloud is running",
            ) from error
        except https.AnswerError as error:
            raise TransientError(
                f"{self._where}: {error}", next_step="check the address and the enrolment port (KubeEdge: 10002)"
            ) from error

    def _not_verified(self, error: ssl.SSLCertVerificationError) -> ApplianceError:
        reason = error.verify_message
        if "mismatch" in reason.lower():
            step = (
                f"the cloud's certificate does not name {self._host!r}: join with a name or address that it does, "
                "or add this one to the cloud's certificate"
            )
        elif "not yet valid" in reason or "expired" in reason:
            step = "check the clock of this machine (`date`) and of the cloud"
        else:
            step = "the server does not hold a certificate of the CA in the token: check the address"
        return OperatorError(f"the certificate of {self._where} was not accepted: {reason}", next_step=step)

    @property
    def _where(self) -> str:
        return f"{self._host}:{self._port}"


def _text(body: bytes) -> str:
    """The first line of a plain-text answer, short enough for a log line."""
    return body[:300].decode("utf-8", "replace").strip().split("\n")[0]
