"""kubeconfig files and pods' service accounts."""

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloudgateway.kube.access import in_cluster, load_kubeconfig
from cloudgateway.onboarding.authority import CertificateAuthority
from edgeappliance.kernel.errors import OperatorError


def kubeconfig(path: Path, *, user: dict[str, Any], cluster: dict[str, Any] | None = None) -> Path:
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "plant"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://192.0.2.1:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user}],
    }
    file = path / "config"
    file.write_text(yaml.safe_dump(document))
    return file


def test_data_and_files_are_read_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "client.key").write_bytes(b"KEY")
    user = {"client-certificate-data": base64.b64encode(b"CERT").decode(), "client-key": "client.key"}
    access = load_kubeconfig(kubeconfig(tmp_path, user=user, cluster={"tls-server-name": "api"}))
    assert (access.certificate, access.key) == (b"CERT", b"KEY")
    assert access.server == "https://192.0.2.1:6443"
    assert access.namespace == "plant"
    assert access.tls_server_name == "api"


def test_a_token_file_wins_over_a_token(tmp_path: Path) -> None:
    access = load_kubeconfig(kubeconfig(tmp_path, user={"token": "t", "tokenFile": "token"}))
    assert access.token == ""
    assert access.token_file == tmp_path / "token"
    assert load_kubeconfig(kubeconfig(tmp_path, user={"token": "t"})).token == "t"


@pytest.mark.parametrize("key", ["exec", "auth-provider", "username", "password"])
def test_credentials_that_need_more_are_refused_by_name(tmp_path: Path, key: str) -> None:
    with pytest.raises(OperatorError, match=key) as error:
        load_kubeconfig(kubeconfig(tmp_path, user={key: {"command": "x"}}))
    assert error.value.next_step


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"server": "192.0.2.1:6443"}, "server address"),
        ({"server": "https://[::1"}, "server address"),
        ({"server": "https://"}, "server address"),
        ({"server": "https://a:b"}, "server address"),
        ({"certificate-authority": "nowhere.crt"}, "certificate-authority"),
        ({"certificate-authority-data": "%%%"}, "base64"),
        ({"proxy-url": "http://proxy"}, "proxy-url"),
    ],
)
def test_a_cluster_that_cannot_be_used(tmp_path: Path, cluster: dict[str, Any], words: str) -> None:
    with pytest.raises(OperatorError, match=words):
        load_kubeconfig(kubeconfig(tmp_path, user={}, cluster=cluster))


def test_files_that_are_not_kubeconfigs(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot read"):
        load_kubeconfig(tmp_path / "none")
    (tmp_path / "broken").write_text("a: [")
    with pytest.raises(OperatorError, match="not YAML"):
        load_kubeconfig(tmp_path / "broken")
    (tmp_path / "empty").write_text("")
    with pytest.raises(OperatorError, match="no current-context"):
        load_kubeconfig(tmp_path / "empty")
    (tmp_path / "shape").write_text("{current-context: a, contexts: 3}")
    with pytest.raises(OperatorError, match="no context named 'a'"):
        load_kubeconfig(tmp_path / "shape")
    with pytest.raises(OperatorError, match="no context named 'other'"):
        load_kubeconfig(kubeconfig(tmp_path, user={}), context="other")


def test_a_certificate_without_its_key_is_said(tmp_path: Path) -> None:
    user = {"client-certificate-data": base64.b64encode(b"CERT").decode()}
    access = load_kubeconfig(kubeconfig(tmp_path, user=user))
    with pytest.raises(OperatorError, match="certificate and key"):
        access.ssl_context()


@pytest.mark.parametrize("ca", [b"foo", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n"])
def test_an_authority_that_is_no_certificate_is_said(tmp_path: Path, ca: bytes) -> None:
    cluster = {"certificate-authority-data": base64.b64encode(ca).decode()}
    access = load_kubeconfig(kubeconfig(tmp_path, user={}, cluster=cluster))
    with pytest.raises(OperatorError, match="not a certificate in PEM form"):
        access.ssl_context()


def test_an_encrypted_key_is_said_and_not_asked_for(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    certificate = CertificateAuthority.generate(datetime.now(UTC)).certificate_pem
    user = {
        "client-certificate-data": base64.b64encode(certificate).decode(),
        "client-key-data": base64.b64encode(pem).decode(),
    }
    with pytest.raises(OperatorError, match="encrypted"):
        load_kubeconfig(kubeconfig(tmp_path, user=user)).ssl_context()


def test_a_pod_finds_its_api_server(tmp_path: Path) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(OperatorError):
        in_cluster(environment, directory=tmp_path)
    (tmp_path / "token").write_text("t")
    with pytest.raises(OperatorError, match=r"cannot read .*ca\.crt"):
        in_cluster(environment, directory=tmp_path)
    for name, text in (("token", "t"), ("ca.crt", "CA"), ("namespace", "kubeedge\n")):
        (tmp_path / name).write_text(text)
    access = in_cluster(environment, directory=tmp_path)
    assert access.server == "https://[fd00::1]:443"
    assert access.token_file == tmp_path / "token"
    assert access.namespace == "kubeedge"
    with pytest.raises(OperatorError):
        in_cluster({}, directory=tmp_path)
