"""Secure qualification: the authentication value of RFC 4380 section 5.2.2 (HMAC-SHA1, 20 bytes)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

from lab.teredo.packet import Authentication, Packet


def value(secret: bytes, nonce: bytes, confirmation: int, origin: bytes, ipv6: bytes) -> bytes:
    """HMAC over nonce, confirmation byte, origin indication (may be empty) and IPv6 packet, with no padding."""
    return hmac.digest(secret, nonce + bytes((confirmation,)) + origin + ipv6, hashlib.sha1)


def seal(secret: bytes, authentication: Authentication, origin: bytes, ipv6: bytes) -> Authentication:
    """The same authentication header with its value filled in."""
    return replace(authentication, value=value(secret, authentication.nonce, authentication.confirmation, origin, ipv6))


def verify(secret: bytes, packet: Packet) -> bool:
    """Whether a packet carries the value that this secret gives, compared in constant time."""
    header = packet.authentication
    if header is None:
        return False
    wanted = value(secret, header.nonce, header.confirmation, packet.origin_bytes, packet.ipv6)
    return hmac.compare_digest(wanted, header.value)
