"""Who this node is: the CA it trusts and its own key and certificate, as files and as facts.

Reads certificates without the `cryptography` package (8 MB): an idle edgecore needs two dates and a name.
"""

import calendar
import re
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.files import replace_file

NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which the ssl module has no name for."""

EARLIEST_NOW = 1_767_225_600
"""2026-01-01 UTC. A clock before it was never set: boards without a battery start in 1970 or at their build."""

CLOCK_SLACK = 300.0
"""Seconds that our clock may lie before the start of our own certificate and still count as right."""

_COMMON_NAME = bytes.fromhex("550403")
_ORGANIZATION = bytes.fromhex("55040a")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What the edge needs to know of a certificate. Dates are Unix seconds."""

    common_name: str
    organization: str
    not_before: float
    not_after: float

    def expired(self, now: float) -> bool:
        """Whether the certificate's life is over at `now` (Unix seconds)."""
        return now > self.not_after


@dataclass(frozen=True, slots=True)
class Identity:
    """A usable identity: facts of the node's certificate and where the files lie."""

    facts: CertificateFacts
    ca_file: Path
    node_file: Path

    def client_context(self, *, ignore_dates: bool) -> ssl.SSLContext:
        """TLS as this node: the cloud is verified against our CA, we show our certificate.

        `ignore_dates` only while the clock is implausible: everything else is still checked.
        Raises OperatorError when the files do not fit together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if ignore_dates:
            context.verify_flags |= NO_CHECK_TIME
        try:
            context.load_verify_locations(self.ca_file)
            context.load_cert_chain(self.node_file)
        except (ssl.SSLError, OSError) as error:
            raise OperatorError(
                f"the node's certificate files cannot be used: {error}",
                next_step=f"check {self.ca_file} and {self.node_file}, or enrol again with `edgecore join`",
            ) from error
        return context


class IdentityFiles:
    """The files of an identity in one directory: `ca.crt`, and `node.pem` with key and certificate.

    Key and certificate share a file so that a rotation is one rename: no power cut leaves a pair that
    does not fit. Both are mode 0600. All methods block on the disk; call them from a thread.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ca_file = directory / "ca.crt"
        self.node_file = directory / "node.pem"

    def load(self) -> Identity | None:
        """The identity on disk; None when the node never joined. Raises OperatorError when it is damaged."""
        try:
            text = self.node_file.read_bytes()
            self.ca_file.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OperatorError(
                f"the node's certificate cannot be read: {error.filename}: {error.strerror}",
                next_step="check the owner and the mode of the directory; edgecore must run as the user that joined",
            ) from error
        found = _PEM.search(text)
        if found is None:
            raise _damaged(self.node_file, "holds no certificate")
        try:
            facts = read_certificate(ssl.PEM_cert_to_DER_cert(found.group().decode("ascii") + "\n"))
        except (ValueError, UnicodeDecodeError) as error:
            raise _damaged(self.node_file, str(error)) from error
        return Identity(facts, self.ca_file, self.node_file)

    def save(self, *, ca_pem: bytes, key_pem: bytes, certificate_pem: bytes) -> None:
        """Put a new identity in place; the CA first, so that a crash in between leaves one to join again with."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.ca_file.exists() or self.ca_file.read_bytes() != ca_pem:
            replace_file(self.ca_file, ca_pem)
        replace_file(self.node_file, key_pem + certificate_pem)


def clock_is_implausible(now: float, facts: CertificateFacts | None) -> bool:
    """Whether `now` (Unix seconds) cannot be the time: before this program, or before our own certificate."""
    floor = EARLIEST_NOW if facts is None else max(EARLIEST_NOW, facts.not_before - CLOCK_SLACK)
    return now < floor


def read_certificate(der: bytes) -> CertificateFacts:
    """Subject and dates of an X.509 certificate (RFC 5280, 4.1). Raises ValueError when it is not one."""
    try:
        _, start, _ = _element(der, 0, 0x30)
        _, at, _ = _element(der, start, 0x30)
        if der[at] == 0xA0:
            at = _element(der, at)[2]  # version
        for _ in range(3):
            at = _element(der, at)[2]  # serial number, signature algorithm, issuer
        _, first, at = _element(der, at, 0x30)
        not_before, second = _time(der, first)
        not_after, _ = _time(der, second)
        names = _names(der, at)
    except IndexError:
        raise ValueError("the certificate is cut off") from None
    return CertificateFacts(
        common_name=names.get(_COMMON_NAME, ""),
        organization=names.get(_ORGANIZATION, ""),
        not_before=not_before,
        not_after=not_after,
    )


def _names(der: bytes, at: int) -> dict[bytes, str]:
    names: dict[bytes, str] = {}
    _, at, end = _element(der, at, 0x30)
    while at < end:
        _, attribute, at = _element(der, at, 0x31)
        _, inner, _ = _element(der, attribute, 0x30)
        _, oid, value = _element(der, inner, 0x06)
        _, text, text_end = _element(der, value)
        names.setdefault(der[oid:value], der[text:text_end].decode("utf-8", "replace"))
    return names


def _element(der: bytes, at: int, tag: int | None = None) -> tuple[int, int, int]:
    """Tag, start and end of the content of the DER element at `at`."""
    found = der[at]
    if tag is not None and found != tag:
        raise ValueError(f"not a certificate: tag {found:#x} where {tag:#x} belongs")
    length = der[at + 1]
    start = at + 2
    if length & 0x80:
        octets = length & 0x7F
        if not 1 <= octets <= 3:
            raise ValueError("not a certificate: bad length")
        length = int.from_bytes(der[start : start + octets], "big")
        start += octets
    end = start + length
    if end > len(der):
        raise IndexError(end)
    return found, start, end


def _time(der: bytes, at: int) -> tuple[float, int]:
    tag, start, end = _element(der, at)
    text = der[start:end].decode("ascii", "replace")
    if tag == 0x17:  # UTCTime: two-digit years, 50-99 are the last century
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != 0x18:
        raise ValueError("not a certificate: no date where one belongs")
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ"))), end


def _damaged(path: Path, reason: str) -> OperatorError:
    return OperatorError(
        f"{path} {reason}", next_step="remove the file and enrol again with `edgecore join --token ...`"
    )
