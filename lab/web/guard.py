"""Who may ask the page's server, and what browsers may do with its answers."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PICTURE: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""For SVG by itself: its style is within."""

HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def policy(media_type: str) -> str:
    """The Content-Security-Policy of an answer: nothing comes from elsewhere, and nothing goes there."""
    return _PICTURE if media_type.startswith("image/svg") else _POLICY


def objection(bound: str, method: str, headers: Mapping[str, str], token: str) -> tuple[int, str] | None:
    """Why a request to a server that listens at `bound` is refused, as a status of HTTP and words; None if it is not.

    `headers` have lower-case names. Another site's page could reach us by a name of its own that resolves to this
    machine (`Host`), or by a form or a script (`Origin`); and whoever has no token may look, but not touch.
    """
    host = _host(f"//{headers.get('host', '')}")
    if not _ours(host, bound):
        return 421, f"this server is not {host or 'without a name'}: use the address that `teredo-lab web` has printed"
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return 403, f"requests of pages of {origin} are not for this server"
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
        return 403, "requests of other sites' pages are not for this server"
    if method in ("GET", "HEAD"):
        return None
    given = headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), token.encode()):
        return 401, "this needs the token: open the page at the address that `teredo-lab web` has printed"
    return None


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _ours(host: str, bound: str) -> bool:
    if host == bound.lower() or host in _LOCAL:
        return True
    try:
        ipaddress.ip_address(host)
        return ipaddress.ip_address(bound).is_unspecified  # any address of this machine; a name could be anybody's
    except ValueError:
        return False
