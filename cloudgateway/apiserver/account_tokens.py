"""Tokens of service accounts: JWTs bound to the pod they are for (authentication.k8s.io/v1 TokenRequest).

They say who a pod is to whom checks them by the key at /openid/v1/jwks. The embedded API itself admits
administrators only, so none of them opens it.
"""

import asyncio
import base64
import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cloudgateway.apiserver.bodies import BodyReader
from cloudgateway.apiserver.fields import Fields
from cloudgateway.apiserver.rules import dry_run
from cloudgateway.apiserver.store import ObjectStore
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.database import StorageError
from edgeappliance.kubeapi.errors import bad_request, conflict, invalid, not_found
from edgeappliance.kubeapi.request import ApiRequest, ApiResponse, Target
from edgeappliance.kubeapi.resources import ResourceType
from edgeappliance.kubeapi.storage import Entry
from edgeappliance.kubeapi.times import rfc3339

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

Object = dict[str, Any]

ISSUER = "https://kubernetes.default.svc.cluster.local"
JWKS, CONFIGURATION = "/openid/v1/jwks", "/.well-known/openid-configuration"
DOCUMENTS = (JWKS, CONFIGURATION)
KEY_FILE = "service-account.key"
SECONDS, LEAST, MOST = 3600, 600, 2**32
"""Life of a token: by default, at least and at most, as upstream has it."""
_BOUND = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}
_COORDINATE = 32


@dataclass(frozen=True, slots=True)
class _Key:
    private: "EllipticCurvePrivateKey"
    id: str
    public: Object


class AccountTokens:
    """POST of serviceaccounts/token, and the documents by which tokens are checked. The key is made on first use."""

    def __init__(self, directory: Path, *, store: ObjectStore, clock: Clock, bodies: BodyReader) -> None:
        self._path = directory / KEY_FILE
        self._store = store
        self._clock = clock
        self._bodies = bodies
        self._key: _Key | None = None
        self._lock = asyncio.Lock()

    async def issue(self, request: ApiRequest, target: Target, resource: ResourceType) -> ApiResponse:
        """Answer a TokenRequest. Raises StatusFailure, and StorageError when the key cannot be kept."""
        body = self._bodies.read(request)
        if body.get("kind", "TokenRequest") != "TokenRequest":
            raise bad_request(f"{body.get('kind')} is no TokenRequest")
        account = self._store.get(resource.key, target.namespace, target.name)
        if account is None:
            raise not_found("", "serviceaccounts", target.name)
        spec = _specification(body, target.name)
        bound = self._bound(spec.get("boundObjectRef"), account)
        now = self._clock.wall_ms() // 1000
        ends = now + spec["expirationSeconds"]
        token = "" if dry_run(request) else await self._sign(_claims(account, bound, spec, now=now, ends=ends))
        value = {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {
                "name": target.name,
                "namespace": target.namespace,
                "creationTimestamp": rfc3339(now * 1000),
            },
            "spec": spec,
            "status": {"token": token, "expirationTimestamp": rfc3339(ends * 1000)},
        }
        return ApiResponse(201, msgspec.json.encode(value))

    async def document(self, path: str) -> ApiResponse:
        """The public key, or the configuration that names it (OpenID Connect Discovery)."""
        if path == JWKS:
            key = await self._loaded()
            return ApiResponse(200, msgspec.json.encode({"keys": [key.public]}), "application/jwk-set+json")
        configuration = {
            "issuer": ISSUER,
            "jwks_uri": f"{ISSUER}{JWKS}",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }
        return ApiResponse(200, msgspec.json.encode(configuration))

    def _bound(self, reference: Object | None, account: Entry) -> Entry | None:
        """The object that a token ends with; it must be there, and a pod must be the account's."""
        if reference is None:
            return None
        key = _BOUND[reference["kind"]]
        name = reference["name"]
        entry = self._store.get(key, "" if key == "nodes" else account.namespace, name)
        if entry is None:
            raise not_found("", key, name)
        if reference.get("uid") not in (None, "", entry.uid):
            text = (
                f"the UID in the bound object reference ({reference['uid']}) does not match the UID in record. "
                "The object might have been deleted and then recreated"
            )
            raise conflict("", key, name, text)
        if key == "pods" and entry.fields.get("spec.serviceAccountName") != account.name:
            raise bad_request(
                f'cannot bind token for serviceaccount "{account.name}" to pod running with different '
                "serviceaccount name."
            )
        return entry

    async def _sign(self, claims: Object) -> str:
        key = await self._loaded()
        header = {"alg": "ES256", "kid": key.id, "typ": "JWT"}
        text = f"{_part(msgspec.json.encode(header))}.{_part(msgspec.json.encode(claims))}"
        return f"{text}.{_part(_signature(key.private, text.encode()))}"

    async def _loaded(self) -> _Key:
        async with self._lock:
            if self._key is None:
                try:
                    self._key = await asyncio.to_thread(_load, self._path)
                except (OSError, ValueError) as error:
                    raise StorageError(f"the key of service account tokens, {self._path}: {error}") from None
            return self._key


def _specification(body: Object, name: str) -> Object:
    """The spec with its defaults. Raises StatusFailure 422 and 400 that name the field."""
    given = body.get("spec")
    if given is not None and not isinstance(given, dict):
        raise bad_request("TokenRequest.spec must be an object")
    given, found = given or {}, Fields()
    seconds = given.get("expirationSeconds")
    seconds = SECONDS if seconds is None else seconds
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise bad_request("TokenRequest.spec.expirationSeconds must be an integer")
    if seconds < LEAST:
        found.invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
    elif seconds > MOST:
        found.invalid("spec.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds")
    audiences = given.get("audiences") or [ISSUER]
    if not isinstance(audiences, list) or not all(isinstance(item, str) for item in audiences):
        raise bad_request("TokenRequest.spec.audiences must be a list of texts")
    spec: Object = {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": None}
    reference = given.get("boundObjectRef")
    if reference is not None:
        if not isinstance(reference, dict) or not all(isinstance(item, str) for item in reference.values() if item):
            raise bad_request("TokenRequest.spec.boundObjectRef must be an object of texts")
        if reference.get("kind") not in _BOUND:
            found.unsupported("spec.boundObjectRef.kind", reference.get("kind") or "", _BOUND)
        if not reference.get("name"):
            found.required("spec.boundObjectRef.name")
        spec["boundObjectRef"] = reference
    if found.causes:
        raise invalid("authentication.k8s.io", "TokenRequest", name, found.causes)
    return spec


def _claims(account: Entry, bound: Entry | None, spec: Object, *, now: int, ends: int) -> Object:
    """The claims of Kubernetes' bound service account tokens."""
    about: Object = {
        "namespace": account.namespace,
        "serviceaccount": {"name": account.name, "uid": account.uid},
    }
    if bound is not None:
        about[bound.resource.removesuffix("s")] = {"name": bound.name, "uid": bound.uid}
        if bound.resource == "pods" and bound.fields.get("spec.nodeName"):
            about["node"] = {"name": bound.fields["spec.nodeName"]}
    return {
        "iss": ISSUER,
        "sub": f"system:serviceaccount:{account.namespace}:{account.name}",
        "aud": spec["audiences"],
        "iat": now,
        "nbf": now,
        "exp": ends,
        "jti": str(uuid.uuid4()),
        "kubernetes.io": about,
    }


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _load(path: Path) -> _Key:
    """The key of a file, made when there is none. Blocking. Raises OSError, ValueError."""
    from cryptography.hazmat.primitives import serialization  # only where a token is asked for
    from cryptography.hazmat.primitives.asymmetric import ec

    from cloudgateway.apiserver.tls import write_private

    try:
        private = serialization.load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        private = ec.generate_private_key(ec.SECP256R1())
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(
            path,
            private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise ValueError("it is no P-256 key")
    numbers = private.public_key().public_numbers()
    x, y = (_part(number.to_bytes(_COORDINATE, "big")) for number in (numbers.x, numbers.y))
    # The thumbprint of RFC 7638: the required members in this order.
    thumbprint = hashlib.sha256(f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'.encode()).digest()
    id = _part(thumbprint)
    public = {"use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": "ES256", "x": x, "y": y}
    return _Key(private, id, public)


def _signature(private: "EllipticCurvePrivateKey", text: bytes) -> bytes:
    """ES256 as JOSE writes it: r and s, 32 bytes each (RFC 7518, 3.4)."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = decode_dss_signature(private.sign(text, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(_COORDINATE, "big") + s.to_bytes(_COORDINATE, "big")
