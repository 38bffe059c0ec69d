"""The CA of a KubeEdge cloud, and its join tokens (reference 3.1, 3.2). Shares no code with what it judges."""

import base64
import datetime
import hashlib
import hmac
import ipaddress
import json
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Authority:
    """The cloud's CA: signs its own server certificate and the edges' requests (reference 3.1, 3.2)."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "KubeEdge")])
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(1024)
            .not_valid_before(now - datetime.timedelta(days=3650))
            .not_valid_after(now + datetime.timedelta(days=36400))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(sign=True), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.der).hexdigest()

    def token(self, *, expires_in: float = 86400.0) -> str:
        """`<caHash>.<jwt>`, HS256 over the CA key's SEC1 DER, claims only exp (reference 3.1)."""
        secret = self.key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        head = _b64(b'{"alg":"HS256","typ":"JWT"}')
        claims = _b64(json.dumps({"exp": int(time.time() + expires_in)}, separators=(",", ":")).encode())
        signed = f"{head}.{claims}"
        return f"{self.hash}.{signed}.{_b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"

    def check_jwt(self, jwt: str) -> str:
        """Empty when the token is good, else the reason."""
        secret = self.key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        parts = jwt.split(".")
        if len(parts) != 3:
            return "token contains an invalid number of segments"
        good = _b64(hmac.new(secret, f"{parts[0]}.{parts[1]}".encode(), hashlib.sha256).digest())
        if not hmac.compare_digest(good, parts[2]):
            return "signature is invalid"
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return "" if claims["exp"] > time.time() else "Token is expired"

    def server_files(self, directory: Path, *, address: str = "127.0.0.1") -> Path:
        """A PEM file with key and certificate for `address` and localhost."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, "KubeEdge"),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "KubeEdge"),
            ]
        )
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            self._builder(
                name, key.public_key(), now - datetime.timedelta(days=3650), now + datetime.timedelta(days=36000)
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address)), x509.DNSName("localhost")]),
                critical=False,
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        path = directory / "server.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path

    def sign(self, csr_der: bytes, *, not_before: datetime.datetime, not_after: datetime.datetime) -> bytes:
        """Signs what the CSR asks: CN and O are copied, the rest of the subject is dropped (reference 3.3)."""
        request = x509.load_der_x509_csr(csr_der)
        kept = [a for a in request.subject if a.oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)]
        builder = self._builder(x509.Name(kept), request.public_key(), not_before, not_after).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def _builder(
        self, subject: x509.Name, key: Any, not_before: datetime.datetime, not_after: datetime.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number() >> 96)
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(_key_usage(sign=False), critical=True)
        )


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _key_usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        key_cert_sign=sign,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
