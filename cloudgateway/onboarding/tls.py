"""TLS contexts of the gateway's ports (reference 2.3, 3.3, 9.4)."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from cloudgateway.onboarding.authority import KeyPair, der_to_pem
from edgeappliance.kernel.errors import OperatorError

NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME: the chain is verified, the dates are the application's to judge."""
_SUITES = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305"
"""TLS 1.2 suites, as upstream's; TLS 1.3 has its own."""


def link_context(pair: KeyPair, ca: bytes) -> ssl.SSLContext:
    """Port 10000: a client certificate of our CA, in date, is a condition of the handshake. `ca` is DER."""
    context = _context(pair, ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def enrolment_context(pair: KeyPair, ca: bytes) -> ssl.SSLContext:
    """Port 10002: a client certificate may come, and may be out of date (it is judged by the grace period)."""
    context = _context(pair, ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags = ssl.VerifyFlags(int(context.verify_flags) | NO_CHECK_TIME)
    return context


def stream_context(pair: KeyPair, client_ca: str) -> ssl.SSLContext:
    """Port 10003: who asks is told by a client certificate of `client_ca` (PEM). Raises OperatorError."""
    context = _server(pair)
    context.verify_mode = ssl.CERT_OPTIONAL  # without one a request is answered with 401, in words
    try:
        context.load_verify_locations(cadata=client_ca)
    except (ssl.SSLError, ValueError) as error:
        raise OperatorError(
            f"the CA of the API server's client certificate cannot be used: {error}",
            next_step="set cloudstream.client_ca_file to the CA that signed it (kubeadm: /etc/kubernetes/pki/ca.crt)",
        ) from None
    return context


def _context(pair: KeyPair, ca: bytes) -> ssl.SSLContext:
    context = _server(pair)
    context.load_verify_locations(cadata=der_to_pem(ca).decode("ascii"))
    return context


def _server(pair: KeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES)
    context.num_tickets = 0  # no session resumption: every handshake shows its certificate, and no state is kept
    with _in_memory(pair.pem()) as path:
        context.load_cert_chain(path)
    return context


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path to `data` for an API that wants a file; the key never touches a disk."""
    descriptor = os.memfd_create("server-certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
