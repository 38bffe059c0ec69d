"""Tokens of service accounts: bound, signed by a key that others can check, refused where they would lie."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from cloudgateway.apiserver.embedded import EmbeddedApi
from edgeappliance.kernel.clock import ManualClock
from edgeappliance.kubeapi.request import ApiRequest
from tests.support.embedded_api import Api

SPACE = "/api/v1/namespaces/default"
ACCOUNT = f"{SPACE}/serviceaccounts/sa"
TOKEN = f"{ACCOUNT}/token"


@pytest.fixture
async def api(embedded_api: Api) -> Api:
    await embedded_api.ok("POST", f"{SPACE}/serviceaccounts", {"metadata": {"name": "sa"}})
    return embedded_api


async def pod(api: Api, name: str, account: str = "sa", **spec: Any) -> dict[str, Any]:
    spec = {"serviceAccountName": account, "containers": [{"name": "c", "image": "i"}], "nodeName": "n", **spec}
    value: dict[str, Any] = await api.ok("POST", f"{SPACE}/pods", {"metadata": {"name": name}, "spec": spec})
    return value


def bound(name: str, uid: str = "", kind: str = "Pod") -> dict[str, Any]:
    return {"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}}


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


async def verified(api: Api, token: str) -> dict[str, Any]:
    """The claims, once the signature is right by the published key."""
    head, body, signature = token.split(".")
    header = json.loads(decoded(head))
    key = {item["kid"]: item for item in (await api.ok("GET", "/openid/v1/jwks"))["keys"]}[header["kid"]]
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(decoded(key["x"]), "big"), int.from_bytes(decoded(key["y"]), "big"), ec.SECP256R1()
    )
    raw = decoded(signature)
    assert len(raw) == 64
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    numbers.public_key().verify(der, f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256()))
    claims: dict[str, Any] = json.loads(decoded(body))
    return claims


async def test_a_token_says_whose_it_is_and_ends(api: Api, api_clock: ManualClock) -> None:
    value = await pod(api, "p")
    uid = value["metadata"]["uid"]
    spec = {"audiences": ["vault"], "expirationSeconds": 600, **bound("p", uid)}
    answer = await api.ok(
        "POST", TOKEN, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    )
    claims = await verified(api, answer["status"]["token"])
    now = api_clock.wall_ms() // 1000
    account = (await api.ok("GET", ACCOUNT))["metadata"]["uid"]
    assert (claims["sub"], claims["aud"]) == ("system:serviceaccount:default:sa", ["vault"])
    assert (claims["iat"], claims["exp"]) == (now, now + 600)
    assert claims["kubernetes.io"] == {
        "namespace": "default",
        "serviceaccount": {"name": "sa", "uid": account},
        "pod": {"name": "p", "uid": uid},
        "node": {"name": "n"},
    }
    assert answer["status"]["expirationTimestamp"] == "2023-11-14T22:23:20Z"


async def test_defaults_and_a_rehearsal(api: Api) -> None:
    answer = await api.ok("POST", TOKEN, {})
    claims = await verified(api, answer["status"]["token"])
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["aud"] == [claims["iss"]]
    assert (await api.ok("GET", "/.well-known/openid-configuration"))["issuer"] == claims["iss"]
    assert (await api.ok("POST", f"{TOKEN}?dryRun=All", {}))["status"]["token"] == ""


REFUSED: tuple[tuple[int, dict[str, Any], str], ...] = (
    (422, {"expirationSeconds": 599}, "spec.expirationSeconds"),
    (422, {"expirationSeconds": 2**33}, "spec.expirationSeconds"),
    (400, {"expirationSeconds": "1h"}, "expirationSeconds must be an integer"),
    (400, {"audiences": "x"}, "audiences must be a list"),
    (400, {"audiences": [1]}, "audiences must be a list"),
    (422, bound("p", kind="ConfigMap"), "spec.boundObjectRef.kind"),
    (422, bound(""), "spec.boundObjectRef.name"),
    (400, {"boundObjectRef": "p"}, "boundObjectRef must be an object"),
    (404, bound("missing"), 'pods "missing" not found'),
    (409, bound("p", "another"), "does not match the UID in record"),
    (400, bound("other"), "different serviceaccount name"),
)


@pytest.mark.parametrize(("code", "spec", "words"), REFUSED)
async def test_what_is_refused(api: Api, code: int, spec: dict[str, Any], words: str) -> None:
    await pod(api, "p")
    await pod(api, "other", account="default")
    assert words in (await api.fails(code, "POST", TOKEN, {"spec": spec}))["message"]


async def test_only_the_account_that_is_there_and_only_a_post(api: Api) -> None:
    await api.fails(404, "POST", f"{SPACE}/serviceaccounts/nobody/token", {})
    await api.fails(405, "GET", TOKEN)
    await api.fails(400, "POST", TOKEN, {"kind": "Pod"})
    await api.fails(400, "POST", TOKEN, {"spec": []})
    answer = await api.embedded.handle(ApiRequest.of("GET", "/openid/v1/jwks"))
    assert answer.status == 401


async def test_the_key_stays_through_a_restart_and_is_private(api: Api, api_clock: ManualClock) -> None:
    token = (await api.ok("POST", TOKEN, {}))["status"]["token"]
    directory = api.embedded.directory
    await api.embedded.close()
    assert (directory / "pki" / "service-account.key").stat().st_mode & 0o777 == 0o600
    again = Api(await EmbeddedApi.open(directory, clock=api_clock))
    try:
        assert (await verified(again, token))["sub"] == "system:serviceaccount:default:sa"
    finally:
        await again.embedded.close()


@pytest.mark.parametrize("content", [b"", b"no key"])
async def test_a_key_that_is_spoiled_is_said_and_not_replaced(api: Api, content: bytes) -> None:
    """A new key would make every token in the field worthless in silence."""
    path: Path = api.embedded.directory / "pki" / "service-account.key"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    refused = await api.fails(503, "POST", TOKEN, {})
    assert "service-account.key" in refused["message"]
    assert path.read_bytes() == content
