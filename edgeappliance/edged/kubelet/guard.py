"""Who may use the kubelet API on TCP: whoever holds the token, and no web page. Pure.

Loopback is no border: pods with hostNetwork are behind it, and so is every page in a browser on this box.
"""

import hmac
from ipaddress import ip_address
from urllib.parse import urlsplit

from edgeappliance.kernel.web.exchange import HttpError, Request

INTO_PODS = frozenset({"exec", "attach", "portForward", "run"})
"""First words of the paths that need the token."""


def check(request: Request, *, token: str, open_to_all: bool) -> None:
    """Raises HttpError 403 for what a web page could have sent, 401 when the token is needed and not there."""
    if not _is_local(request.headers.get("host", "")):
        raise HttpError(403, "Host: must be localhost or a loopback address")
    if "origin" in request.headers:
        raise HttpError(403, "Origin: web pages may not ask here")
    if open_to_all or request.path.strip("/").partition("/")[0] not in INTO_PODS:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise HttpError(401, "Unauthorized")


def _is_local(host: str) -> bool:
    """A name that a page elsewhere may have pointed here (DNS rebinding) is not local."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
