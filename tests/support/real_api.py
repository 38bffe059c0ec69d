"""A real kube-apiserver with etcd on loopback, for the tests that judge our API and our client by the real thing.

`tests/support/build_kube_apiserver.sh` makes the binary; CI runs it before the tests. Without the binary the
fixture skips and says so; `KUBE_APISERVER_BUILD=1` lets it build first. `KUBECONFIG_REAL` names the kubeconfig of
another cluster to use instead: it must be one that may be written to.
"""

import contextlib
import datetime
import ipaddress
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.support.net import free_port

BUILD_SCRIPT = Path(__file__).with_name("build_kube_apiserver.sh")
_READY_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class RealApi:
    """A running real API server. `kubeconfig` holds an administrator's client certificate."""

    kubeconfig: Path
    own: bool
    """Whether we started it ourselves (and may change what we like)."""
    server: str = ""
    ca: Path | None = None
    admin_token: str = ""
    kubelet_client: Path | None = None
    """Key and certificate with which it comes to a kubelet."""
    stranger: Path | None = None
    """Key and certificate of a user whom the cluster knows, with no rights at all."""


def binary() -> Path | None:
    """The cached kube-apiserver, or None."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "edgeappliance" / "kube-apiserver-1.20.2" / "kube-apiserver"
    return path if os.access(path, os.X_OK) else None


@pytest.fixture(scope="session")
def real_api() -> Iterator[RealApi]:
    """A real API server for the whole test session; skips, with the reason, where there is none."""
    given = os.environ.get("KUBECONFIG_REAL")
    if given:
        yield RealApi(Path(given), own=False)
        return
    if binary() is None and os.environ.get("KUBE_APISERVER_BUILD") == "1":
        subprocess.run(["bash", str(BUILD_SCRIPT)], check=True, stdout=subprocess.DEVNULL)
    apiserver = binary()
    if apiserver is None:
        pytest.skip(f"no real kube-apiserver: {BUILD_SCRIPT.name} has not been run (KUBE_APISERVER_BUILD=1 runs it)")
    if shutil.which("etcd") is None:
        pytest.skip("no real kube-apiserver: etcd is not installed (apt-get install etcd-server)")
    with running_api(apiserver) as api:
        yield api


@contextlib.contextmanager
def running_api(apiserver: Path) -> Iterator[RealApi]:
    """etcd and kube-apiserver on free loopback ports with keys of their own; both gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="real-api-") as text, contextlib.ExitStack() as stack:
        directory = Path(text)
        keys = _Keys(directory)
        etcd_url = f"http://127.0.0.1:{free_port()}"
        peer_url = f"http://127.0.0.1:{free_port()}"
        stack.enter_context(
            _running(
                directory / "etcd.log",
                [
                    "etcd",
                    f"--data-dir={directory / 'etcd'}",
                    f"--listen-client-urls={etcd_url}",
                    f"--advertise-client-urls={etcd_url}",
                    f"--listen-peer-urls={peer_url}",
                    f"--initial-advertise-peer-urls={peer_url}",
                    f"--initial-cluster=default={peer_url}",
                    "--unsafe-no-fsync",
                ],
            )
        )
        port = free_port()
        server = stack.enter_context(
            _running(
                directory / "apiserver.log",
                [
                    str(apiserver),
                    f"--etcd-servers={etcd_url}",
                    "--bind-address=127.0.0.1",
                    "--advertise-address=127.0.0.1",
                    f"--secure-port={port}",
                    f"--tls-cert-file={keys.server_certificate}",
                    f"--tls-private-key-file={keys.server_key}",
                    f"--client-ca-file={keys.ca}",
                    f"--token-auth-file={keys.tokens}",
                    f"--service-account-key-file={keys.service_account}",
                    f"--service-account-signing-key-file={keys.service_account}",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    "--api-audiences=https://kubernetes.default.svc",
                    "--service-cluster-ip-range=10.0.0.0/24",
                    "--authorization-mode=Node,RBAC",
                    # Nothing creates the default service accounts here (that is the controller manager's work).
                    "--disable-admission-plugins=ServiceAccount",
                    "--endpoint-reconciler-type=none",
                    "--allow-privileged=true",
                    # As kubeadm sets it: otherwise a node is dialled by its Hostname.
                    "--kubelet-preferred-address-types=InternalIP,Hostname",
                    f"--kubelet-client-certificate={keys.kubelet_client}",
                    f"--kubelet-client-key={keys.kubelet_client}",
                    "--v=0",
                ],
            )
        )
        api = RealApi(
            keys.kubeconfig(port),
            own=True,
            server=f"https://127.0.0.1:{port}",
            ca=keys.ca,
            admin_token=keys.token,
            kubelet_client=keys.kubelet_client,
            stranger=keys.stranger,
        )
        _wait_ready(api, keys, server, directory)
        yield api


@contextlib.contextmanager
def _running(log: Path, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    # A test run that is killed cannot stop its servers; the kernel does.
    command = ["setpriv", "--pdeathsig", "KILL", *command]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(api: RealApi, keys: "_Keys", process: subprocess.Popen[bytes], directory: Path) -> None:
    context = ssl.create_default_context(cafile=str(keys.ca))
    request = urllib.request.Request(f"{api.server}/readyz", headers={"Authorization": f"Bearer {keys.token}"})
    deadline = time.monotonic() + _READY_SECONDS
    why = ""
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=2, context=context) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError) as error:
            why = str(error)
        time.sleep(0.1)
    log = (directory / "apiserver.log").read_text(errors="replace")[-3000:]
    raise RuntimeError(f"kube-apiserver did not become ready: {why}\n{log}")


class _Keys:
    """CA, server and administrator certificates, a token file, a service account key, all for one run."""

    token = "real-admin-token"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ca_key = ec.generate_private_key(ec.SECP256R1())
        self._ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "real-api-ca")])
        self.ca = self._write("ca.crt", self._sign(self._ca_name, self._ca_key.public_key(), ca=True))
        server_key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
        self.server_certificate = self._write("server.crt", self._sign(name, server_key.public_key()))
        self.server_key = self._write("server.key", _pem(server_key))
        self._admin_key = ec.generate_private_key(ec.SECP256R1())
        self._admin_name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
                x509.NameAttribute(NameOID.COMMON_NAME, "admin"),
            ]
        )
        client = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
                x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver-kubelet-client"),
            ]
        )
        # Key and certificate with which the API server comes to a kubelet.
        self.kubelet_client = self._write("kubelet-client.pem", self._sign(name, client.public_key()) + _pem(client))
        stranger = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])
        self.stranger = self._write("stranger.pem", self._sign(name, stranger.public_key()) + _pem(stranger))
        self.service_account = self._write(
            "sa.key", _pem(rsa.generate_private_key(public_exponent=65537, key_size=2048))
        )
        self.tokens = self._write("tokens.csv", f"{self.token},admin,admin,system:masters\n".encode())

    def kubeconfig(self, port: int) -> Path:
        certificate = self._write("admin.crt", self._sign(self._admin_name, self._admin_key.public_key()))
        key = self._write("admin.key", _pem(self._admin_key))
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "real",
            "contexts": [{"name": "real", "context": {"cluster": "real", "user": "admin"}}],
            "clusters": [
                {
                    "name": "real",
                    "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority": self.ca.name},
                }
            ],
            "users": [{"name": "admin", "user": {"client-certificate": certificate.name, "client-key": key.name}}],
        }
        return self._write("kubeconfig", yaml.safe_dump(document).encode())

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool = False) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._ca_name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
                ),
                critical=False,
            )
        return builder.sign(self._ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, data: bytes) -> Path:
        path = self._directory / name
        path.touch(0o600)
        path.write_bytes(data)
        return path


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
