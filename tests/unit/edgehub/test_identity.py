"""Certificates read without a library, files that survive, clocks that lie."""

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.edgehub.identity import (
    EARLIEST_NOW,
    CertificateFacts,
    IdentityFiles,
    clock_is_implausible,
    read_certificate,
)
from edgeappliance.kernel.errors import OperatorError


def certificate(start: datetime.datetime, end: datetime.datetime, name: str = "system:node:edge-1") -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CN"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "KubeEdge")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(("first", "last"), [(1999, 2049), (2026, 2027), (2049, 2126)])
def test_dates_and_names_of_both_centuries(first: int, last: int) -> None:
    start = datetime.datetime(first, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    end = datetime.datetime(last, 7, 8, 9, 10, 11, tzinfo=datetime.UTC)
    facts = read_certificate(certificate(start, end))
    assert facts == CertificateFacts("system:node:edge-1", "system:nodes", start.timestamp(), end.timestamp())


@given(st.data())
def test_damaged_certificates_give_a_value_or_a_named_error(data: st.DataObject) -> None:
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    der = bytearray(SAMPLE or certificate(start, start + datetime.timedelta(days=1)))
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(der)))
    for text in (bytes(der), bytes(der[:cut])):
        try:
            assert isinstance(read_certificate(text), CertificateFacts)
        except ValueError as error:
            assert str(error)


SAMPLE = certificate(
    datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
)


def test_no_files_is_no_identity(tmp_path: Path) -> None:
    assert IdentityFiles(tmp_path).load() is None


@pytest.mark.parametrize("text", ["", "rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_damaged_files_name_themselves_and_the_way_out(tmp_path: Path, text: str) -> None:
    files = IdentityFiles(tmp_path)
    files.ca_file.write_text("x")
    files.node_file.write_text(text)
    with pytest.raises(OperatorError, match=r"node\.pem") as caught:
        files.load()
    assert "edgecore join" in caught.value.next_step


def test_files_that_do_not_fit_are_an_operator_error(tmp_path: Path) -> None:
    files = IdentityFiles(tmp_path)
    files.save(ca_pem=b"no pem", key_pem=b"", certificate_pem=ssl.DER_cert_to_PEM_cert(SAMPLE).encode())
    identity = files.load()
    assert identity is not None
    with pytest.raises(OperatorError, match="cannot be used"):
        identity.client_context(ignore_dates=False)


def test_an_identity_that_cannot_be_read_is_the_operators(tmp_path: Path) -> None:
    files = IdentityFiles(tmp_path)
    (tmp_path / "node.pem").mkdir()  # a test as root may read every file; a directory refuses it too
    (tmp_path / "ca.crt").touch()
    with pytest.raises(OperatorError, match="cannot be read"):
        files.load()


def test_a_clock_before_our_certificate_is_implausible() -> None:
    facts = CertificateFacts("n", "o", not_before=EARLIEST_NOW + 86400.0, not_after=EARLIEST_NOW + 86400.0 * 365)
    assert clock_is_implausible(0.0, facts)
    assert clock_is_implausible(EARLIEST_NOW + 3600.0, facts)
    assert not clock_is_implausible(EARLIEST_NOW + 86400.0 - 60, facts)  # clocks differ by minutes
    assert not clock_is_implausible(EARLIEST_NOW + 86400.0 * 1000, facts)
    assert clock_is_implausible(EARLIEST_NOW - 1.0, None)
    assert not clock_is_implausible(EARLIEST_NOW + 1.0, None)
