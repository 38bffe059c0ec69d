"""Join tokens: made, checked, listed, revoked (reference 3.1, F15). Pure: time is an argument.

`<caHash>.<jwt>`; the JWT is HS256 over the DER of the CA key. Ours carry a `jti`, so that they can be listed and
taken back; edges compare the hash only and do not care. A token without `jti` was made by a cloudcore that shares
the cluster: nobody without the CA key can make one, so it is valid while its signature and expiry hold.
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from typing import Any

_ALGORITHMS = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
_HEADER = {"alg": "HS256", "typ": "JWT"}
_MAX_JWT = 4096


class TokenRefused(Exception):
    """Not a valid token. The text is worded like the Go JWT library's; it goes into the 401 answer."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says of itself. `jti` is empty for a cloudcore's token; `expires_at` in Unix seconds."""

    expires_at: int
    jti: str = ""


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One line of `token list`. Times in Unix seconds."""

    jti: str
    expires_at: int
    created_at: int
    note: str = ""

    def encode(self) -> bytes:
        """JSON as it is stored."""
        return json.dumps({"expiresAt": self.expires_at, "createdAt": self.created_at, "note": self.note}).encode()

    @classmethod
    def decode(cls, jti: str, data: bytes) -> "TokenRecord":
        """Raises ValueError."""
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return cls(jti, int(value["expiresAt"]), int(value["createdAt"]), str(value.get("note", "")))


def new_id() -> str:
    """A fresh `jti`: short enough to type, 60 bits of chance."""
    return secrets.token_hex(8)[:15]


def mint(*, ca_hash: str, key: bytes, expires_at: int, jti: str) -> str:
    """The text that is handed to an edge. `key` is the CA key's SEC1 DER."""
    claims: dict[str, Any] = {"exp": expires_at}
    if jti:
        claims["jti"] = jti
    signed = f"{_encode(_dump(_HEADER))}.{_encode(_dump(claims))}"
    signature = hmac.new(key, signed.encode(), hashlib.sha256).digest()
    return f"{ca_hash}.{signed}.{_encode(signature)}"


def verify(jwt: str, *, key: bytes, now: int) -> Claims:
    """The claims of a JWT whose signature and expiry are good. Any HMAC algorithm passes, as upstream.

    Raises TokenRefused.
    """
    parts = jwt.split(".") if len(jwt) <= _MAX_JWT else []
    if len(parts) != 3:
        raise TokenRefused("token is malformed: token contains an invalid number of segments")
    head, body, signature = parts
    header = _load(head, "header")
    digest = _ALGORITHMS.get(str(header.get("alg")))
    if digest is None:
        raise TokenRefused("token is unverifiable: there was an error in parsing")
    expected = hmac.new(key, f"{head}.{body}".encode(), digest).digest()
    if not hmac.compare_digest(expected, _decode(signature, "signature")):
        raise TokenRefused("token signature is invalid: signature is invalid")
    claims = _load(body, "claims")
    expires = claims.get("exp")
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not 0 <= expires < 2**53:
        raise TokenRefused("token has invalid claims: token has no usable exp")
    if now > expires:
        raise TokenRefused("token has invalid claims: token is expired")
    jti = claims.get("jti", "")
    if not isinstance(jti, str):
        raise TokenRefused("token has invalid claims: jti is not text")
    return Claims(int(expires), jti)


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str, part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        raise TokenRefused(f"token is malformed: could not base64 decode {part}") from None


def _load(text: str, part: str) -> dict[str, Any]:
    try:
        value = json.loads(_decode(text, part))
    except (ValueError, RecursionError):
        raise TokenRefused(f"token is malformed: could not JSON decode {part}") from None
    if not isinstance(value, dict):
        raise TokenRefused(f"token is malformed: {part} is not an object")
    return value
