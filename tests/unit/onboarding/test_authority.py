"""The CA against OpenSSL's own eyes and the reference's words."""

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudgateway.onboarding.authority import (
    CertificateAuthority,
    CertificateRefused,
    KeyPair,
    RequestRefused,
    alternative_names,
    node_of,
    parse_usages,
)
from tests.support import kubeedge_edge as edge

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CLIENT = [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    return CertificateAuthority.generate(NOW)


def sign(ca: CertificateAuthority, request: bytes, **changes: object) -> bytes:
    arguments = {"node": "edge-1", "usages": CLIENT, "days": 365, "now": NOW, **changes}
    return ca.sign_request(request, **arguments)  # type: ignore[arg-type]


def test_the_ca_is_what_the_reference_says(ca: CertificateAuthority) -> None:
    certificate = x509.load_der_x509_certificate(ca.certificate_der)
    assert certificate.subject.rfc4514_string() == "CN=KubeEdge"
    assert certificate.serial_number == 1024
    assert certificate.not_valid_after_utc - NOW == timedelta(days=36400)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_encipherment, usage.key_cert_sign) == (True, True, True)
    key = serialization.load_der_private_key(ca.pair.key, None)
    sec1 = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    assert sec1 == ca.pair.key, "the stored key is SEC1, the HMAC key of every token"
    assert CertificateAuthority(ca.pair).fingerprint == ca.fingerprint


def test_a_key_of_another_ca_is_refused(ca: CertificateAuthority) -> None:
    other = CertificateAuthority.generate(NOW)
    with pytest.raises(ValueError, match="does not belong"):
        CertificateAuthority(KeyPair(ca.pair.certificate, other.pair.key))


def test_signed_certificate_names_the_node_and_drops_the_rest(ca: CertificateAuthority) -> None:
    request = edge.csr(edge.new_key(), "edge-1", names=(x509.IPAddress(ipaddress.ip_address("10.0.0.9")),))
    certificate = x509.load_der_x509_certificate(sign(ca, request))
    assert certificate.subject.rfc4514_string() == "CN=system:node:edge-1,O=system:nodes"
    assert alternative_names(sign(ca, request)) == ["10.0.0.9"]
    assert certificate.not_valid_after_utc == NOW + timedelta(days=365)
    assert 0 < certificate.serial_number < 2**63
    assert node_of(sign(ca, request)) == "edge-1"


@pytest.mark.filterwarnings("ignore:Attribute's length")
def test_a_node_name_longer_than_x520_has_room_for(ca: CertificateAuthority) -> None:
    """Go does not mind; 253 characters are a valid Kubernetes node name."""
    node = ".".join(["a" * 60] * 4)
    der = sign(ca, edge.csr(edge.new_key(), node), node=node)
    assert node_of(der) == node
    ca.verify_node(der, node=node, now=NOW, grace=timedelta(0))


@pytest.mark.parametrize(
    ("request_node", "organization", "header"),
    [("edge-2", "system:nodes", "edge-1"), ("edge-1", "system:masters", "edge-1"), ("edge-1", "system:nodes", "")],
)
def test_a_csr_for_somebody_else_is_refused(
    ca: CertificateAuthority, request_node: str, organization: str, header: str
) -> None:
    request = edge.csr(edge.new_key(), request_node, organization=organization)
    with pytest.raises(RequestRefused):
        sign(ca, request, node=header)


def test_a_node_cannot_get_the_gateways_names(ca: CertificateAuthority) -> None:
    for name in (
        x509.DNSName("gate.example"),
        x509.DNSName("GATE.Example."),
        x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
        x509.DNSName("*.x"),
    ):
        request = edge.csr(edge.new_key(), "edge-1", names=(name,))
        with pytest.raises(RequestRefused, match="belongs to the gateway"):
            sign(ca, request, reserved=("gate.example", "10.0.0.1"))


@given(st.binary(max_size=200))
@settings(max_examples=60)
def test_any_bytes_as_csr_are_refused_by_name(body: bytes) -> None:
    with pytest.raises(RequestRefused):
        sign(_SHARED, body)


_SHARED = CertificateAuthority.generate(NOW)


@given(st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=80)
def test_a_csr_with_one_byte_changed_is_refused_or_means_the_same_node(position: int, value: int) -> None:
    request = bytearray(_REQUEST)
    request[position % len(request)] = value
    try:
        certificate = sign(_SHARED, bytes(request))
    except RequestRefused:
        return
    assert node_of(certificate) == "edge-1"


_REQUEST = edge.csr(edge.new_key(), "edge-1")


def test_usages_header() -> None:
    assert parse_usages(None) == CLIENT
    assert parse_usages("[2,1,2]") == [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    for bad in ("x", "{}", "[0]", '["2"]', "[true]", "[99]"):
        with pytest.raises(RequestRefused):
            parse_usages(bad)


def test_renewal_is_possible_until_the_grace_ends(ca: CertificateAuthority) -> None:
    certificate = sign(ca, edge.csr(edge.new_key(), "edge-1"), days=10)
    grace = timedelta(days=5)
    for day in (0, 9, 11, 14):
        ca.verify_node(certificate, node="edge-1", now=NOW + timedelta(days=day), grace=grace)
    for day in (-2, 16):
        with pytest.raises(CertificateRefused, match="expired or is not yet valid"):
            ca.verify_node(certificate, node="edge-1", now=NOW + timedelta(days=day), grace=grace)
    with pytest.raises(CertificateRefused, match="request node name is not match with the certificate"):
        ca.verify_node(certificate, node="edge-2", now=NOW, grace=grace)
    with pytest.raises(CertificateRefused, match="unknown authority"):
        CertificateAuthority.generate(NOW).verify_node(certificate, node="edge-1", now=NOW, grace=grace)
    server = ca.issue_server(["127.0.0.1"], NOW)
    with pytest.raises(CertificateRefused, match="key usage"):
        ca.verify_node(server.certificate, node="edge-1", now=NOW, grace=grace)


def test_openssl_takes_the_server_certificate_even_in_strict_mode(ca: CertificateAuthority) -> None:
    pair = CertificateAuthority.generate(datetime.now(UTC)).issue_server(["127.0.0.1", "gate.example"], NOW)
    assert alternative_names(pair.certificate) == ["127.0.0.1", "gate.example"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=ca.certificate_pem.decode())
    assert context.cert_store_stats()["x509_ca"] == 1
