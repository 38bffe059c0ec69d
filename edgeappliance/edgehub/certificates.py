"""Keys, signing requests and issued certificates. The only place on the edge that loads `cryptography`,
and only while one of them is handled: at joining and at a rotation."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from edgeappliance.kernel.errors import PermanentError


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A new private key (PEM, `EC PRIVATE KEY`) and the DER of the signing request made with it."""

    key_pem: bytes
    request_der: bytes


@contextlib.contextmanager
def _names_of_any_length() -> Iterator[None]:
    """X.520 gives a common name 64 characters; Kubernetes gives a node 253, and its peers do not mind.
    `cryptography` does, loudly."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attribute's length")
        yield


def new_request(node: str) -> KeyRequest:
    """A P-256 key and a request for CN `system:node:<node>`, O `system:nodes`, no SANs (reference 3.4)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    with _names_of_any_length():
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}", _validate=False),
            ]
        )
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return KeyRequest(
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        ),
        request_der=request.public_bytes(serialization.Encoding.DER),
    )


def accept_issued(der: bytes, *, key_pem: bytes, ca_pem: bytes, node: str) -> bytes:
    """The issued certificate as PEM, once it is ours: for our key, our name, signed by our CA.

    Raises PermanentError that says which of the checks failed.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import serialization
    from cryptography.x509.oid import NameOID

    try:
        certificate = x509.load_der_x509_certificate(der)
        public_key = certificate.public_key()
        with _names_of_any_length():
            names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (ValueError, TypeError) as error:
        raise PermanentError(f"the cloud answered with something that is no certificate: {error}") from error
    ours = serialization.load_pem_private_key(key_pem, password=None).public_key()
    if public_key != ours:
        raise PermanentError("the cloud's certificate is for another key than the one it was asked for")
    if [name.value for name in names] != [f"system:node:{node}"]:
        raise PermanentError(f"the cloud's certificate is not for system:node:{node}")
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise PermanentError("the cloud's certificate is not signed by the cloud's own CA") from error
    return certificate.public_bytes(serialization.Encoding.PEM)
