"""The site's certificate authority: what it is made of and what it signs (reference 3.2, 3.3).

Pure: time is an argument.
"""

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

NODE_PREFIX = "system:node:"
NODES_GROUP = "system:nodes"
CA_NAME = "KubeEdge"
CA_SERIAL = 1024
LONG_VALIDITY = timedelta(days=36_400)
"""Upstream's 24h*364*100, for the CA and the server certificate."""
CLOCK_SKEW = timedelta(minutes=5)
"""How far an edge's clock may be behind ours when it checks notBefore."""
USAGES: dict[int, ObjectIdentifier] = {
    1: ExtendedKeyUsageOID.SERVER_AUTH,
    2: ExtendedKeyUsageOID.CLIENT_AUTH,
}
"""Go's x509.ExtKeyUsage numbers that an edge may ask for. "Any" and the signing usages are not for nodes."""

_MALFORMED = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for bytes that are not what they should be."""


class RequestRefused(Exception):
    """The request cannot be signed; the text says why (it goes into the 500 answer)."""


class CertificateRefused(Exception):
    """The presented certificate does not prove the node; the text goes into the 401 answer."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, both DER; the key in SEC1 form as Go writes EC keys."""

    certificate: bytes
    key: bytes

    def pem(self) -> bytes:
        """Key and certificate chain for `ssl.SSLContext.load_cert_chain`."""
        private = load_key(self.key)
        return private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ) + der_to_pem(self.certificate)


class CertificateAuthority:
    """The CA key and certificate, and everything that is signed with them."""

    def __init__(self, pair: KeyPair) -> None:
        """Raises ValueError when the pair is not a usable CA (bad DER, not EC, key and certificate apart)."""
        self.pair = pair
        self._certificate = x509.load_der_x509_certificate(pair.certificate)
        self._key = load_key(pair.key)
        if _spki(self._certificate.public_key()) != _spki(self._key.public_key()):
            raise ValueError("the CA key does not belong to the CA certificate")

    @classmethod
    def generate(cls, now: datetime) -> "CertificateAuthority":
        """A new CA as upstream makes it: P-256, CN KubeEdge, serial 1024, 36 400 days."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CA_NAME)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(CA_SERIAL)
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + LONG_VALIDITY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(KeyPair(certificate.public_bytes(serialization.Encoding.DER), key_to_der(key)))

    @property
    def certificate_der(self) -> bytes:
        return self.pair.certificate

    @property
    def certificate_pem(self) -> bytes:
        return der_to_pem(self.pair.certificate)

    @property
    def fingerprint(self) -> str:
        """Lower-case hex SHA-256 of the certificate's DER: the first part of every join token."""
        return hashlib.sha256(self.pair.certificate).hexdigest()

    def issue_server(self, addresses: Sequence[str], now: datetime) -> KeyPair:
        """A server certificate for IP addresses and DNS names. CN and O KubeEdge, as upstream."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, CA_NAME),
                x509.NameAttribute(NameOID.COMMON_NAME, CA_NAME),
            ]
        )
        builder = self._builder(subject, key.public_key(), [ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.not_valid_before(now - CLOCK_SKEW).not_valid_after(now + LONG_VALIDITY)
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(address) for address in addresses]), critical=False
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        return KeyPair(certificate.public_bytes(serialization.Encoding.DER), key_to_der(key))

    def serves(self, pair: KeyPair, addresses: Iterable[str], now: datetime) -> bool:
        """Whether a stored server certificate is ours, in date for a month, and names every address."""
        try:
            certificate = x509.load_der_x509_certificate(pair.certificate)
            if _spki(certificate.public_key()) != _spki(load_key(pair.key).public_key()):
                return False
            certificate.verify_directly_issued_by(self._certificate)
        except _MALFORMED:
            return False
        if certificate.not_valid_after_utc < now + timedelta(days=30):
            return False
        return set(addresses) <= set(alternative_names(pair.certificate))

    def sign_request(
        self,
        request: bytes,
        *,
        node: str,
        usages: Sequence[ObjectIdentifier],
        days: int,
        now: datetime,
        reserved: Iterable[str] = (),
    ) -> bytes:
        """Sign a node's CSR (DER) and return the certificate (DER).

        CN and O must be the node's own; `reserved` are the gateway's names and addresses, which no node may carry
        (it could pose as the gateway to its neighbours). Raises RequestRefused.
        """
        try:
            csr = x509.load_der_x509_csr(request)
            if not csr.is_signature_valid:
                raise RequestRefused("the CSR is not signed with its own key")
            public = csr.public_key()
        except _MALFORMED as error:
            raise RequestRefused(f"the body is not a CSR in DER form: {error}") from None
        if not isinstance(public, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
            raise RequestRefused("the CSR's key must be EC, Ed25519 or RSA")
        if isinstance(public, rsa.RSAPublicKey) and public.key_size < 2048:
            raise RequestRefused("the CSR's RSA key is shorter than 2048 bits")
        check_subject(csr.subject, node)
        names = _requested_names(csr, {name.lower() for name in reserved})
        # Its own attributes, as upstream copies them: made anew, a name beyond X.520's 64 characters would be refused.
        subject = x509.Name(
            csr.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
            + csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        )
        builder = self._builder(subject, public, usages)
        end = min(now + timedelta(days=days), self._certificate.not_valid_after_utc)
        builder = builder.not_valid_before(now - CLOCK_SKEW).not_valid_after(end)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def verify_node(self, certificate: bytes, *, node: str, now: datetime, grace: timedelta) -> None:
        """Check that a client certificate (DER) proves `node`; dates are judged here, not by TLS.

        An expired one passes for `grace` after its end: who holds the old key may renew. Raises CertificateRefused.
        """
        try:
            leaf = x509.load_der_x509_certificate(certificate)
            leaf.verify_directly_issued_by(self._certificate)
            usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except _MALFORMED:
            raise CertificateRefused("x509: certificate signed by unknown authority") from None
        except x509.ExtensionNotFound:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
            raise CertificateRefused("x509: certificate specifies an incompatible key usage")
        if leaf.not_valid_before_utc > now + CLOCK_SKEW or leaf.not_valid_after_utc + grace < now:
            raise CertificateRefused(
                "x509: certificate has expired or is not yet valid: "
                f"current time {now:%Y-%m-%dT%H:%M:%SZ} is outside {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
                f" to {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ} (renewal grace {grace.days} days)"
            )
        try:
            check_subject(leaf.subject, node)
        except RequestRefused:
            raise CertificateRefused("request node name is not match with the certificate") from None

    def _builder(
        self,
        subject: x509.Name,
        public: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey,
        usages: Sequence[ObjectIdentifier],
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number() >> 97)  # 63 bits, as Go's int63
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def parse_usages(header: str | None) -> list[ObjectIdentifier]:
    """The ExtKeyUsages header: a JSON array of Go's numbers; absent or empty means clientAuth.

    Raises RequestRefused.
    """
    if not header:
        return [ExtendedKeyUsageOID.CLIENT_AUTH]
    try:
        numbers = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"ExtKeyUsages is not JSON: {error}") from None
    if not isinstance(numbers, list) or any(type(number) is not int for number in numbers):
        raise RequestRefused("ExtKeyUsages is not an array of numbers")
    unknown = [number for number in numbers if number not in USAGES]
    if unknown:
        raise RequestRefused(f"ExtKeyUsages {unknown}: a node may ask for 1 (serverAuth) and 2 (clientAuth)")
    return [USAGES[number] for number in dict.fromkeys(numbers)] or [ExtendedKeyUsageOID.CLIENT_AUTH]


def check_subject(subject: x509.Name, node: str) -> None:
    """CN `system:node:<node>` and O `system:nodes`, each exactly once. Raises RequestRefused."""
    names = [attribute.value for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = [attribute.value for attribute in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    if names != [NODE_PREFIX + node]:
        raise RequestRefused(f"CN is {names}, node {node!r} needs {NODE_PREFIX + node!r}")
    if groups != [NODES_GROUP]:
        raise RequestRefused(f"O is {groups}, a node needs {NODES_GROUP!r}")


def node_of(certificate: bytes) -> str:
    """The node that a certificate (DER) names in its CN; empty when it names none."""
    names = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    text = str(names[0].value) if len(names) == 1 else ""
    return text.removeprefix(NODE_PREFIX) if text.startswith(NODE_PREFIX) else ""


def alternative_names(certificate: bytes) -> list[str]:
    """The addresses and DNS names of a certificate (DER), empty ones left out."""
    try:
        names = (
            x509.load_der_x509_certificate(certificate)
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value
        )
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return addresses + [name for name in names.get_values_for_type(x509.DNSName) if name]


def _requested_names(csr: x509.CertificateSigningRequest, reserved: set[str]) -> list[x509.GeneralName]:
    try:
        extension = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    except _MALFORMED as error:
        raise RequestRefused(f"the CSR's extensions cannot be read: {error}") from None
    kept: list[x509.GeneralName] = []
    for name in extension:
        if not isinstance(name, x509.DNSName | x509.IPAddress):
            continue  # upstream copies DNS names and addresses only
        text = str(name.value).lower().removesuffix(".")
        if text in reserved or text.startswith("*"):
            raise RequestRefused(f"the CSR asks for {text}, which belongs to the gateway")
        kept.append(name)
    return kept


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        key_cert_sign=signs_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _spki(key: object) -> bytes:
    if not hasattr(key, "public_bytes"):
        raise ValueError("not a public key")
    encoded: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded


def load_key(der: bytes) -> ec.EllipticCurvePrivateKey:
    """An EC key from SEC1 or PKCS#8 DER. Raises ValueError."""
    key = serialization.load_der_private_key(der, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an EC key")
    return key


def key_to_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    """SEC1, the form that upstream stores and that token signatures are keyed with."""
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def der_to_pem(certificate: bytes) -> bytes:
    """`CERTIFICATE` PEM of a DER certificate."""
    return x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)
