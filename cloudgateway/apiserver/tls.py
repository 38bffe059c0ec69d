"""The API's own certificates: a CA apart from the site's, so that no edge certificate opens the API.

Everything lies in one directory, keys readable by the owner alone. This module is imported only when the API is
served or a kubeconfig is written.
"""

import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=365)
RENEW_BEFORE = timedelta(days=120)
"""A leaf is made anew at a start when less than this is left."""
SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate and its key as PEM."""

    certificate: bytes
    key: bytes


class ApiCertificates:
    """The CA, server and admin certificates in a directory; made when they are not there or run out.

    Raises OSError when the directory cannot be used, ValueError for files that are no certificates.
    """

    def __init__(self, directory: Path, *, wall_ms: int, names: Iterable[str] = ()) -> None:
        self._directory = directory
        self._now = datetime.fromtimestamp(wall_ms / 1000, UTC)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._ca = self._load("ca") or self._make_ca()
        hosts = {"localhost", "127.0.0.1", "::1", socket.gethostname(), *names}
        server = self._load("server")
        if server is None or not self._lasts(server) or not hosts <= _names(server):
            server = self._issue("server", "cloudgateway-api", names=sorted(hosts))
        self.server = server

    @property
    def ca_pem(self) -> bytes:
        """The CA certificate that clients trust."""
        return self._ca.certificate

    def admin(self, user: str, group: str) -> Leaf:
        """The client certificate of an administrator (CN user, O group)."""
        leaf = self._load("admin")
        if leaf is None or not self._lasts(leaf):
            leaf = self._issue("admin", user, group=group)
        return leaf

    def server_context(self) -> ssl.SSLContext:
        """TLS of the API: a client certificate of our CA may come, a bearer token does as well."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self._ca.certificate.decode())
        context.load_cert_chain(self._directory / "server.crt", self._directory / "server.key")
        return context

    def _load(self, name: str) -> Leaf | None:
        try:
            leaf = Leaf((self._directory / f"{name}.crt").read_bytes(), (self._directory / f"{name}.key").read_bytes())
        except FileNotFoundError:
            return None
        key = serialization.load_pem_private_key(leaf.key, None)
        certificate = x509.load_pem_x509_certificate(leaf.certificate)
        if _spki(key.public_key()) != _spki(certificate.public_key()):
            return None  # a crash between the two files of an issue: make both anew
        if name != "ca" and certificate.issuer != x509.load_pem_x509_certificate(self._ca.certificate).subject:
            return None
        return leaf

    def _store(self, name: str, leaf: Leaf) -> Leaf:
        for suffix, content in (("key", leaf.key), ("crt", leaf.certificate)):
            write_private(self._directory / f"{name}.{suffix}", content)
        return leaf

    def _make_ca(self) -> Leaf:
        key = ec.generate_private_key(ec.SECP256R1())
        # The serial in the name tells a CA made anew from the one that clients may still trust.
        serial = x509.random_serial_number()
        subject = _subject(f"cloudgateway-api-ca-{serial & 0xFFFFFFFF:08x}", "")
        certificate = (
            self._builder(subject, subject, key.public_key(), serial, CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return self._store("ca", _leaf(certificate, key))

    def _issue(self, file: str, name: str, *, group: str = "", names: Iterable[str] = ()) -> Leaf:
        issuer = x509.load_pem_x509_certificate(self._ca.certificate)
        signer = serialization.load_pem_private_key(self._ca.key, None)
        if not isinstance(signer, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{self._directory / 'ca.key'} is no EC key")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(
            _subject(name, group), issuer.subject, key.public_key(), x509.random_serial_number(), LEAF_LIFE
        )
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(item) for item in names]), False)
        return self._store(file, _leaf(builder.sign(signer, hashes.SHA256()), key))

    def _builder(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePublicKey,
        serial: int,
        life: timedelta,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(self._now - SKEW)
            .not_valid_after(self._now + life)
        )

    def _lasts(self, leaf: Leaf) -> bool:
        certificate = x509.load_pem_x509_certificate(leaf.certificate)
        return certificate.not_valid_after_utc - self._now > RENEW_BEFORE


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)


def _names(leaf: Leaf) -> set[str]:
    certificate = x509.load_pem_x509_certificate(leaf.certificate)
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in extension}


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _subject(name: str, group: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )


def _leaf(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Leaf:
    return Leaf(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _spki(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return b""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
