"""An unmodified KubeEdge 1.23 edgecore as the gateway meets it, written from the reference alone (2, 3.4, 1.4).

It may not import edgeappliance.wire: what it sends and expects is spelled out here, byte by byte.
"""

import asyncio
import hashlib
import http.client
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
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
    _folder: Any = field(default_factory=tempfile.TemporaryDirectory, repr=False)

    def files(self) -> tuple[Path, Path]:
        """Paths of the CA and of certificate with key."""
        folder = Path(self._folder.name)
        (folder / "ca.pem").write_bytes(self.ca)
        (folder / "node.pem").write_bytes(self.certificate + self.key)
        return folder / "ca.pem", folder / "node.pem"

    def context(self) -> ssl.SSLContext:
        """Client side of the mutual TLS of ports 10000 and 10002."""
        ca, node = self.files()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(ca)
        context.load_cert_chain(node)
        return context

    def close(self) -> None:
        self._folder.cleanup()


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
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}"),
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
