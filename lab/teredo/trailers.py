"""Trailers: what may follow the IPv6 packet in a Teredo datagram (RFC 6081 section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from random import Random
from typing import Final

from lab.teredo.address import Endpoint, host_bytes, host_text, is_unicast

NONCE_BYTES: Final = 4
MAX_ALTERNATES: Final = 4

_DISCARD_IF_UNKNOWN = 0b01
_ENTRY = 6


class _Type(IntEnum):
    """Section 4.5 gives random ports 0x05, the registry of section 9 gives them 0x02: we send the one and take both."""

    NONCE = 0x01
    RANDOM_PORT_OF_REGISTRY = 0x02
    ALTERNATE_ADDRESSES = 0x03
    DISCOVERY = 0x04
    RANDOM_PORT = 0x05


class Discovery(IntEnum):
    """What a Neighbor Discovery Option trailer says (section 4.4)."""

    SOLICITATION = 0
    ADVERTISEMENT = 1


@dataclass(frozen=True, slots=True)
class Trailers:
    """What the trailers of one packet say. A nonce of zeros means none, as a port of zero does.

    `discard`: the packet is to be discarded, for a trailer whose type is unknown and says so. `malformed_addresses`:
    there was an Alternate Address trailer that is not as section 4.3 wants it.
    """

    nonce: bytes = b""
    random_port: int = 0
    discovery: Discovery | None = None
    alternates: tuple[Endpoint, ...] = ()
    malformed_addresses: bool = False
    discard: bool = False


NO_TRAILERS: Final = Trailers()


def parse_trailers(data: bytes) -> Trailers:
    """What trailers say, in the order of their appearance up to the first malformed one (section 5.1.2)."""
    nonce, random_port, discovery = b"", 0, None
    alternates: tuple[Endpoint, ...] | None = ()
    at = 0
    while len(data) - at >= 2 and len(data) - at >= 2 + data[at + 1]:
        kind, value = data[at], data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + len(value)
        match kind, len(value):
            case _Type.NONCE, 4:
                nonce = value if any(value) else b""
            case _Type.RANDOM_PORT | _Type.RANDOM_PORT_OF_REGISTRY, 2:
                random_port = int.from_bytes(value, "big")
            case _Type.ALTERNATE_ADDRESSES, _:
                alternates = _alternates(value)
            case _Type.DISCOVERY, 4:
                discovery = Discovery(value[0]) if value[0] in tuple(Discovery) else None
            case _ if kind >> 6 == _DISCARD_IF_UNKNOWN:
                return Trailers(discard=True)
    return Trailers(nonce, random_port, discovery, alternates or (), alternates is None)


def _alternates(value: bytes) -> tuple[Endpoint, ...] | None:
    """The entries of an Alternate Address trailer, or None if it is not correctly formed (section 4.3)."""
    count, odd = divmod(len(value) - 2, _ENTRY)
    if odd or not 1 <= count <= MAX_ALTERNATES:
        return None
    entries = []
    for at in range(2, len(value), _ENTRY):
        endpoint = Endpoint(host_text(value[at : at + 4]), int.from_bytes(value[at + 4 : at + 6], "big"))
        if endpoint.port == 0 or not is_unicast(endpoint.host):
            return None
        entries.append(endpoint)
    return tuple(entries)


def fresh_nonce(rng: Random) -> bytes:
    """A nonce that is not the one of zeros, which would mean none."""
    nonce = bytes(NONCE_BYTES)
    while not any(nonce):
        nonce = rng.randbytes(NONCE_BYTES)
    return nonce


def nonce_trailer(nonce: bytes) -> bytes:
    """A Nonce trailer (section 4.2), or nothing for no nonce."""
    return bytes((_Type.NONCE, len(nonce))) + nonce if nonce else b""


def random_port_trailer(port: int) -> bytes:
    """A Random Port trailer (section 4.5), or nothing for no port."""
    return bytes((_Type.RANDOM_PORT, 2)) + port.to_bytes(2, "big") if port else b""


def alternate_address_trailer(endpoints: tuple[Endpoint, ...]) -> bytes:
    """An Alternate Address trailer (section 4.3) with one to four endpoints."""
    entries = b"".join(host_bytes(endpoint.host) + endpoint.port.to_bytes(2, "big") for endpoint in endpoints)
    return bytes((_Type.ALTERNATE_ADDRESSES, 2 + len(entries), 0, 0)) + entries


def discovery_trailer(discovery: Discovery) -> bytes:
    """A Neighbor Discovery Option trailer (section 4.4)."""
    return bytes((_Type.DISCOVERY, 4, discovery, 0, 0, 0))
