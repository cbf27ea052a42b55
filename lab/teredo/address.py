"""Teredo addresses and the IPv4 endpoints that they carry (RFC 4380 section 4, RFC 5991 section 3.1).

An IPv6 address travels through this package as its 16 bytes, an IPv4 endpoint as `Endpoint`. The text forms are for
people and for sockets.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Final, NamedTuple

PORT: Final = 3544
"""UDP port of servers and of local discovery (RFC 4380 section 2.7)."""

DISCOVERY_ADDRESS: Final = "224.0.0.253"
"""The Teredo IPv4 Discovery Address, a multicast group (RFC 4380 section 2.17)."""

PREFIX: Final = bytes.fromhex("20010000")
"""The Teredo service prefix 2001::/32 (RFC 4380 section 2.6)."""

LINK_LOCAL_PREFIX: Final = bytes.fromhex("fe80000000000000")
UNSPECIFIED: Final = bytes(16)
ALL_NODES: Final = ipaddress.IPv6Address("ff02::1").packed
ALL_ROUTERS: Final = ipaddress.IPv6Address("ff02::2").packed

CONE: Final = 0x8000
UNIVERSAL_GROUP: Final = 0x0300
"""The U and G bits of the identifier, zero in every Teredo address (RFC 4380 section 4)."""

RANDOM_FLAGS: Final = 0x3CFF
"""The twelve flag bits that RFC 5991 section 3.1 fills with random values."""

NOT_GLOBAL: Final = tuple(
    (int(network.network_address), int(network.netmask))
    for network in map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "192.88.99.0/24",
            "224.0.0.0/4",
            "255.255.255.255/32",
        ),
    )
)
"""The IPv4 networks that hold no global unicast address (RFC 4380 section 5.2.4): (address, mask) as numbers."""


class Endpoint(NamedTuple):
    """An IPv4 address in dotted form and a UDP port; equal to the tuple that a socket reports."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@lru_cache(maxsize=4096)
def host_bytes(host: str) -> bytes:
    """The 4 bytes of a dotted IPv4 address. Raises ValueError."""
    return ipaddress.IPv4Address(host).packed


@lru_cache(maxsize=4096)
def host_text(packed: bytes) -> str:
    """The dotted form of 4 bytes. Raises ValueError."""
    return str(ipaddress.IPv4Address(packed))


@lru_cache(maxsize=4096)
def is_global_unicast(host: str) -> bool:
    """Whether RFC 4380 section 5.2.4 deems this IPv4 address a global unicast one.

    The directed broadcast addresses of the node's own subnets are not known here: `Forbidden` adds them.
    """
    value = int(ipaddress.IPv4Address(host))
    return not any(value & mask == network for network, mask in NOT_GLOBAL)


@lru_cache(maxsize=4096)
def is_unicast(host: str) -> bool:
    """Whether one host of some network, private or not, can have this IPv4 address."""
    address = ipaddress.IPv4Address(host)
    return not (address.is_multicast or address.is_reserved or address.is_loopback or address.packed[0] == 0)


class Forbidden:
    """The IPv4 destinations that a Teredo node must never send to (RFC 4380 section 5.2.4, last paragraphs)."""

    def __init__(self, broadcasts: frozenset[str] = frozenset()) -> None:
        self._broadcasts = broadcasts

    @property
    def networks(self) -> tuple[tuple[int, int], ...]:
        """The same as networks, (address, mask) as numbers; port 0 is forbidden everywhere."""
        return (*NOT_GLOBAL, *((int(ipaddress.IPv4Address(host)), 0xFFFFFFFF) for host in sorted(self._broadcasts)))

    def __contains__(self, endpoint: Endpoint) -> bool:
        return endpoint.port == 0 or endpoint.host in self._broadcasts or not is_global_unicast(endpoint.host)

    def even_nearby(self, endpoint: Endpoint) -> bool:
        """Whether that holds for peers behind the same NAT too, who may have private addresses."""
        return endpoint.port == 0 or endpoint.host in self._broadcasts or not is_unicast(endpoint.host)


def obfuscate(endpoint: Endpoint) -> bytes:
    """Port and IPv4 address, 6 bytes, every bit reversed (RFC 4380 sections 4 and 5.1.1)."""
    return bytes(b ^ 0xFF for b in endpoint.port.to_bytes(2, "big") + host_bytes(endpoint.host))


def reveal(data: bytes) -> Endpoint:
    """The endpoint in the 6 bytes that `obfuscate` makes. Raises ValueError on another length."""
    if len(data) != 6:
        raise ValueError("an obfuscated endpoint has 6 bytes")
    clear = bytes(b ^ 0xFF for b in data)
    return Endpoint(host_text(clear[2:]), int.from_bytes(clear[:2], "big"))


@dataclass(frozen=True, slots=True)
class TeredoAddress:
    """The five parts of a Teredo address: service prefix, server, flags, mapped port and mapped address."""

    server: str
    flags: int
    mapped: Endpoint

    @property
    def cone(self) -> bool:
        """The cone bit as it stands in the address; RFC 5991 section 3.2 has clients and relays ignore it."""
        return bool(self.flags & CONE)

    @property
    def packed(self) -> bytes:
        return PREFIX + host_bytes(self.server) + self.flags.to_bytes(2, "big") + obfuscate(self.mapped)

    def __str__(self) -> str:
        return text(self.packed)


@lru_cache(maxsize=65536)
def parse(packed: bytes) -> TeredoAddress | None:
    """The parts of a Teredo address given as 16 bytes; None if it lies outside 2001::/32.

    Unknown flag bits are kept and mean nothing (RFC 4380 section 4).
    """
    if len(packed) != 16 or packed[:4] != PREFIX:
        return None
    return TeredoAddress(host_text(packed[4:8]), int.from_bytes(packed[8:10], "big"), reveal(packed[10:]))


def is_teredo(packed: bytes) -> bool:
    """Whether a 16-byte address lies in the Teredo service prefix."""
    return packed[:4] == PREFIX


def is_link_local(packed: bytes) -> bool:
    """Whether a 16-byte address lies in fe80::/10."""
    return packed[0] == 0xFE and packed[1] & 0xC0 == 0x80


@lru_cache(maxsize=4096)
def is_global(packed: bytes) -> bool:
    """Whether a 16-byte address may be forwarded: a unicast address of more than link scope."""
    address = ipaddress.IPv6Address(packed)
    return not (address.is_multicast or address.is_loopback or address.is_unspecified or is_link_local(packed))


def link_local(endpoint: Endpoint, *, cone: bool) -> bytes:
    """The link-local address that carries this endpoint in its identifier (RFC 4380 section 4, end)."""
    flags = CONE if cone else 0
    return LINK_LOCAL_PREFIX + flags.to_bytes(2, "big") + obfuscate(endpoint)


def cone_bit(packed: bytes) -> bool:
    """The cone bit of a Teredo or Teredo link-local address."""
    return bool(packed[8] & (CONE >> 8))


def random_flags(rng: Random) -> int:
    """Flags for a new address: cone and reserved bits zero, the other twelve random (RFC 5991 section 3.1)."""
    return rng.getrandbits(16) & RANDOM_FLAGS


@lru_cache(maxsize=65536)
def text(packed: bytes) -> str:
    """The text form of a 16-byte IPv6 address."""
    return str(ipaddress.IPv6Address(packed))


def packed(address: str) -> bytes:
    """The 16 bytes of an IPv6 address in text form. Raises ValueError."""
    return ipaddress.IPv6Address(address).packed
