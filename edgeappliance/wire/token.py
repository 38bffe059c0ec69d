"""The join token: `<caHash>.<header>.<claims>.<signature>` (reference 3.1, F15).

Reading only: an edge compares the hash and looks at the expiry; the signature is the gateway's to check.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

from edgeappliance.wire.errors import WireError
from edgeappliance.wire.limits import MAX_TOKEN

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A token taken apart. `ca_hash` is lower-case hex SHA-256 of the CA's DER, `expires_at` Unix seconds."""

    ca_hash: str
    jwt: str
    expires_at: int
    jti: str = ""

    def __repr__(self) -> str:
        return f"JoinToken(ca_hash={self.ca_hash[:8]}..., jti={self.jti!r}, expires_at={self.expires_at})"


def parse_token(text: str) -> JoinToken:
    """The token of a `join`. Raises WireError naming the part (`token.hash`, `token.claims`, ...)."""
    text = text.strip()
    if len(text) > MAX_TOKEN:
        raise WireError(f"longer than {MAX_TOKEN} characters", field="token")
    parts = text.split(".")
    if len(parts) != 4:
        raise WireError(f"has {len(parts)} dot-separated parts, wanted 4: cut, or no join token", field="token")
    ca_hash, head, claims, signature = parts
    if not _HASH.fullmatch(ca_hash):
        raise WireError("first part is not 64 lower-case hex digits", field="token.hash")
    if not isinstance(_segment(head, "token.header"), dict):
        raise WireError("is not a JSON object", field="token.header")
    body = _segment(claims, "token.claims")
    expires = body.get("exp") if isinstance(body, dict) else None
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not 0 <= expires < 2**53:
        raise WireError("no usable exp (Unix seconds)", field="token.claims.exp")
    if not signature:
        raise WireError("is empty", field="token.signature")
    jti = body.get("jti", "")
    return JoinToken(ca_hash, f"{head}.{claims}.{signature}", int(expires), jti if isinstance(jti, str) else "")


def _segment(text: str, field: str) -> Any:
    try:
        return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        raise WireError("is not base64url JSON", field=field) from None
