"""Where the API server is and who we are: from a kubeconfig file or from the pod we run in."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgeappliance.kernel.errors import OperatorError

__all__ = ["ClusterAccess", "find_access", "in_cluster", "load_kubeconfig"]

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """Address and credentials of one API server.

    `token_file` is read again from time to time, because the kubelet renews it; `certificate` and `key` are PEM.
    """

    server: str
    ca: bytes = b""
    certificate: bytes = b""
    key: bytes = b""
    token: str = ""
    token_file: Path | None = None
    tls_server_name: str = ""
    verify: bool = True
    namespace: str = "default"

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS settings for `server`; None for plain http."""
        if urlsplit(self.server).scheme != "https":
            return None
        try:
            context = ssl.create_default_context(cadata=self.ca.decode("ascii") if self.ca else None)
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise OperatorError(
                f"the certificate authority given for {self.server} is not a certificate in PEM form: {error}",
                next_step="check certificate-authority(-data) of the kubeconfig, or ca.crt of the service account",
            ) from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            _load_chain(context, self.certificate, self.key)
        return context


def find_access(kubeconfig: Path | None = None, *, context: str = "") -> ClusterAccess:
    """The named kubeconfig; without one the pod's service account, then $KUBECONFIG, then ~/.kube/config."""
    if kubeconfig is not None:
        return load_kubeconfig(kubeconfig, context=context)
    if "KUBERNETES_SERVICE_HOST" in os.environ and (_SERVICE_ACCOUNT / "token").exists():
        return in_cluster()
    for candidate in os.environ.get("KUBECONFIG", "").split(os.pathsep):
        if candidate:
            return load_kubeconfig(Path(candidate), context=context)
    return load_kubeconfig(Path.home() / ".kube" / "config", context=context)


def in_cluster(environment: Mapping[str, str] | None = None, *, directory: Path = _SERVICE_ACCOUNT) -> ClusterAccess:
    """The API server as a pod sees it, with the pod's service account."""
    environment = os.environ if environment is None else environment
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    token = directory / "token"
    if not host or not token.exists():
        raise OperatorError(
            "this process does not run in a Kubernetes pod with a service account",
            next_step="name a kubeconfig file, or set automountServiceAccountToken for the pod",
        )
    namespace_file = directory / "namespace"
    try:
        ca = (directory / "ca.crt").read_bytes()
    except OSError as error:
        raise OperatorError(
            f"cannot read {directory / 'ca.crt'}: {error.strerror}",
            next_step="see how the pod's service account volume is mounted, or name a kubeconfig file",
        ) from None
    return ClusterAccess(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca=ca,
        token_file=token,
        namespace=namespace_file.read_text().strip() if namespace_file.exists() else "default",
    )


def load_kubeconfig(path: Path, *, context: str = "") -> ClusterAccess:
    """Access by one context of a kubeconfig file (the current one by default).

    Client certificates, tokens and token files are supported; credentials that need a program or a plug-in
    (``exec``, ``auth-provider``), passwords and proxies are refused by name. Raises OperatorError.
    """
    import yaml  # only where a kubeconfig is read

    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise OperatorError(
            f"cannot read kubeconfig {path}: {error.strerror}", next_step="check the path and its permissions"
        ) from error
    except yaml.YAMLError as error:
        raise OperatorError(f"kubeconfig {path} is not YAML: {error}", next_step="correct the file") from error
    return _Kubeconfig(path, document).access(context)


class _Kubeconfig:
    def __init__(self, path: Path, document: Any) -> None:
        self._path = path
        self._document: Mapping[str, Any] = document if isinstance(document, dict) else {}

    def access(self, context_name: str) -> ClusterAccess:
        context_name = context_name or str(self._document.get("current-context") or "")
        if not context_name:
            raise self._error("has no current-context; is it a kubeconfig?")
        context = self._entry("contexts", "context", context_name)
        cluster = self._entry("clusters", "cluster", str(context.get("cluster", "")))
        user = self._entry("users", "user", str(context.get("user", ""))) if context.get("user") else {}
        for key in ("exec", "auth-provider", "username", "password"):
            if key in user:
                raise self._error(f"uses {key!r} credentials, which the gateway does not support")
        if cluster.get("proxy-url"):
            raise self._error("uses 'proxy-url', which the gateway does not support")
        server = str(cluster.get("server", ""))
        if not _is_url(server):
            raise self._error(f"has no usable server address: {server!r}")
        token_file = user.get("tokenFile")
        return ClusterAccess(
            server=server.rstrip("/"),
            ca=self._pem(cluster, "certificate-authority"),
            certificate=self._pem(user, "client-certificate"),
            key=self._pem(user, "client-key"),
            token="" if token_file else str(user.get("token", "")),
            token_file=self._relative(str(token_file)) if token_file else None,
            tls_server_name=str(cluster.get("tls-server-name", "")),
            verify=not cluster.get("insecure-skip-tls-verify", False),
            namespace=str(context.get("namespace") or "default"),
        )

    def _entry(self, section: str, kind: str, name: str) -> Mapping[str, Any]:
        entries = self._document.get(section)
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and entry.get("name") == name:
                value = entry.get(kind)
                return value if isinstance(value, dict) else {}
        raise self._error(f"has no {kind} named {name!r}")

    def _pem(self, entry: Mapping[str, Any], key: str) -> bytes:
        data = entry.get(f"{key}-data")
        if data:
            try:
                return base64.b64decode(str(data), validate=True)
            except binascii.Error as error:
                raise self._error(f"has a {key}-data that is not base64") from error
        file = entry.get(key)
        if not file:
            return b""
        try:
            return self._relative(str(file)).read_bytes()
        except OSError as error:
            raise self._error(f"names a {key} that cannot be read: {file}: {error.strerror}") from error

    def _relative(self, text: str) -> Path:
        return self._path.parent / text  # an absolute path stays what it is

    def _error(self, what: str) -> OperatorError:
        return OperatorError(
            f"kubeconfig {self._path} {what}",
            next_step="give the gateway a kubeconfig with a client certificate or a token "
            "(kubectl config view --minify --raw shows what it holds)",
        )


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted")  # without this OpenSSL would ask on the terminal


def _load_chain(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    # ssl reads certificates from files only; the file is ours alone (0600) and gone at once.
    descriptor, name = tempfile.mkstemp(prefix="cloudgateway-", suffix=".pem")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate.rstrip(b"\n") + b"\n" + key)
        context.load_cert_chain(name, password=_no_passphrase)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or (str(error) if isinstance(error, ValueError) else "not PEM")
        raise OperatorError(
            f"the client certificate and key of the kubeconfig cannot be used: {reason}",
            next_step="check that client-certificate and client-key are PEM, unencrypted, and belong together",
        ) from None
    finally:
        Path(name).unlink(missing_ok=True)
