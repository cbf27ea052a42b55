"""What travels in a Teredo UDP payload: encapsulation headers, bubbles and the few ICMPv6 messages that matter.

`decode` takes a datagram apart or raises `MalformedError`; the builders put one together (RFC 4380 section 5.1.1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from lab.teredo.address import ALL_ROUTERS, PREFIX, UNSPECIFIED, Endpoint, host_bytes, is_link_local, obfuscate, reveal

MTU: Final = 1280
"""Link MTU of a Teredo interface, and what a server advertises (RFC 4380 section 5.1.2)."""

MAX_DATAGRAM: Final = 65507

HEADER: Final = 40
ICMPV6: Final = 58
NO_NEXT_HEADER: Final = 59

DESTINATION_UNREACHABLE: Final = 1
ECHO_REQUEST: Final = 128
ECHO_REPLY: Final = 129
ROUTER_SOLICITATION: Final = 133
ROUTER_ADVERTISEMENT: Final = 134

NO_ROUTE: Final = 0
ADDRESS_UNREACHABLE: Final = 3

_PREFIX_INFORMATION = 3
_MTU_OPTION = 5


class MalformedError(ValueError):
    """The bytes are not what RFC 4380 section 5.1.1 allows; the message says in a few words why."""


@dataclass(frozen=True, slots=True)
class Authentication:
    """An authentication encapsulation: client identifier, value, 8-byte nonce, confirmation byte."""

    nonce: bytes
    client_id: bytes = b""
    value: bytes = b""
    confirmation: int = 0

    def encode(self) -> bytes:
        head = struct.pack("!BBBB", 0, 1, len(self.client_id), len(self.value))
        return head + self.client_id + self.value + self.nonce + bytes((self.confirmation,))


@dataclass(frozen=True, slots=True)
class Packet:
    """A decoded datagram. `ipv6` is the packet without trailers, `trailers` whatever follows it (RFC 6081 section 4).

    `origin_bytes` keeps the origin indication as it was on the wire, since the authentication value covers it.
    """

    ipv6: bytes
    authentication: Authentication | None = None
    origin: Endpoint | None = None
    origin_bytes: bytes = b""
    trailers: bytes = b""

    @property
    def source(self) -> bytes:
        return self.ipv6[8:24]

    @property
    def destination(self) -> bytes:
        return self.ipv6[24:40]

    @property
    def next_header(self) -> int:
        return self.ipv6[6]

    @property
    def hop_limit(self) -> int:
        return self.ipv6[7]

    @property
    def is_bubble(self) -> bool:
        """An IPv6 header alone, next header 59 (RFC 4380 section 2.8)."""
        return len(self.ipv6) == HEADER and self.ipv6[6] == NO_NEXT_HEADER

    @property
    def icmp_type(self) -> int | None:
        """The ICMPv6 type when the packet is ICMPv6 with no extension header, else None."""
        return self.ipv6[40] if self.ipv6[6] == ICMPV6 and len(self.ipv6) >= HEADER + 4 else None


def is_plain(ipv6: bytes | memoryview) -> bool:
    """Whether a whole IPv6 packet is data alone: no bubble, and no message of router discovery, which mean something to
    a Teredo node by themselves."""
    if ipv6[6] == NO_NEXT_HEADER:
        return len(ipv6) > HEADER
    return (
        ipv6[6] != ICMPV6 or len(ipv6) < HEADER + 4 or ipv6[HEADER] not in (ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT)
    )


def decode(datagram: bytes) -> Packet:
    """Take a UDP payload apart: authentication, then origin, then the IPv6 packet, then trailers.

    Raises MalformedError, and nothing else, whatever the bytes are.
    """
    if datagram and datagram[0] >> 4 == 6:  # nearly every packet: no encapsulation header
        ipv6, trailers = _split(datagram, 0)
        return Packet(ipv6, trailers=trailers)
    authentication, at = _authentication(datagram)
    origin, origin_bytes = None, b""
    if datagram[at : at + 2] == b"\0\0":
        origin_bytes = datagram[at : at + 8]
        if len(origin_bytes) < 8:
            raise MalformedError("origin indication cut short")
        origin = reveal(origin_bytes[2:])
        at += 8
    ipv6, trailers = _split(datagram, at)
    return Packet(ipv6, authentication, origin, origin_bytes, trailers)


def _authentication(datagram: bytes) -> tuple[Authentication | None, int]:
    if datagram[:2] != b"\0\1":
        return None, 0
    if len(datagram) < 4:
        raise MalformedError("authentication header cut short")
    id_length, value_length = datagram[2], datagram[3]
    at = 4 + id_length + value_length
    end = at + 9
    if len(datagram) < end:
        raise MalformedError("authentication header cut short")
    return (
        Authentication(
            nonce=datagram[at : at + 8],
            client_id=datagram[4 : 4 + id_length],
            value=datagram[4 + id_length : at],
            confirmation=datagram[end - 1],
        ),
        end,
    )


def _split(datagram: bytes, at: int) -> tuple[bytes, bytes]:
    size = len(datagram) - at
    if size < HEADER:
        raise MalformedError("shorter than an IPv6 header")
    if datagram[at] >> 4 != 6:
        raise MalformedError("not IPv6")
    length = HEADER + (datagram[at + 4] << 8 | datagram[at + 5])
    if length > size:
        raise MalformedError("IPv6 payload length beyond the datagram")
    if length == size:
        return (datagram[at:] if at else datagram), b""
    return datagram[at : at + length], datagram[at + length :]


def origin_indication(endpoint: Endpoint) -> bytes:
    """The 8 bytes of an origin indication; 1.2.3.4:337 gives 0000FEAEFEFDFCFB (RFC 4380 section 5.1.1)."""
    return b"\0\0" + obfuscate(endpoint)


def ipv6_header(source: bytes, destination: bytes, next_header: int, length: int, hop_limit: int = 255) -> bytes:
    """A 40-byte IPv6 header; `length` is that of the payload."""
    return struct.pack("!IHBB", 0x60000000, length, next_header, hop_limit) + source + destination


def bubble(source: bytes, destination: bytes, *, hop_limit: int = 255) -> bytes:
    """A Teredo bubble: an IPv6 header and nothing else (RFC 4380 section 2.8)."""
    return ipv6_header(source, destination, NO_NEXT_HEADER, 0, hop_limit)


def checksum(source: bytes, destination: bytes, message: bytes) -> int:
    """ICMPv6 checksum over pseudo-header and message, its checksum field zero (RFC 4443 section 2.3)."""
    data = source + destination + struct.pack("!II", len(message), ICMPV6) + message
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def icmpv6(source: bytes, destination: bytes, kind: int, code: int, body: bytes, *, hop_limit: int = 255) -> bytes:
    """An ICMPv6 message in its IPv6 packet; `body` is what follows the checksum."""
    zero = bytes((kind, code, 0, 0)) + body
    message = bytes((kind, code)) + checksum(source, destination, zero).to_bytes(2, "big") + body
    return ipv6_header(source, destination, ICMPV6, len(message), hop_limit) + message


def icmpv6_is_sound(packet: Packet) -> bool:
    """Whether the ICMPv6 checksum of a packet is right."""
    return checksum(packet.source, packet.destination, packet.ipv6[HEADER:]) == 0


def router_solicitation(source: bytes) -> bytes:
    """A router solicitation to ff02::2 with no option (RFC 4861 section 4.1; 48 bytes)."""
    return icmpv6(source, ALL_ROUTERS, ROUTER_SOLICITATION, 0, bytes(4))


def is_router_solicitation(packet: Packet) -> bool:
    """The solicitation that a server answers: link-local source, ff02::2, valid after RFC 4861 section 6.1.1."""
    return (
        packet.icmp_type == ROUTER_SOLICITATION
        and packet.ipv6[41] == 0
        and len(packet.ipv6) >= HEADER + 8
        and is_link_local(packet.source)
        and packet.destination == ALL_ROUTERS
        and packet.hop_limit == 255
        and _options_are_sound(packet.ipv6, HEADER + 8)
        and icmpv6_is_sound(packet)
    )


def _options_are_sound(message: bytes, at: int) -> bool:
    while at < len(message):
        length = message[at + 1] * 8 if at + 2 <= len(message) else 0
        if not length or at + length > len(message):
            return False
        at += length
    return True


@lru_cache(maxsize=1024)
def router_advertisement(source: bytes, destination: bytes, server: str) -> bytes:
    """The advertisement of a Teredo server: its /64 prefix, autonomous and not on-link, and MTU 1280."""
    prefix = PREFIX + host_bytes(server) + bytes(8)
    body = struct.pack("!BBHII", 0, 0, 0, 0, 0)  # router lifetime 0: a Teredo server is nobody's default router
    body += struct.pack("!BBBBIII", _PREFIX_INFORMATION, 4, 64, 0x40, 0xFFFFFFFF, 0xFFFFFFFF, 0) + prefix
    body += struct.pack("!BBHI", _MTU_OPTION, 1, 0, MTU)
    return icmpv6(source, destination, ROUTER_ADVERTISEMENT, 0, body)


@dataclass(frozen=True, slots=True)
class Advertisement:
    """What a client takes from a router advertisement: the 8 prefix bytes, and the MTU if one was advertised."""

    prefix: bytes
    mtu: int | None


def advertisement(packet: Packet) -> Advertisement | None:
    """The advertisement in a packet, or None unless it is valid (RFC 4861 section 6.1.2, RFC 4380 section 5.2.1).

    Exactly one Prefix Information option of 64 bits is asked for.
    """
    message = packet.ipv6
    if (
        packet.icmp_type != ROUTER_ADVERTISEMENT
        or message[41] != 0
        or len(message) < HEADER + 16
        or packet.hop_limit != 255
        or not is_link_local(packet.source)
        or not icmpv6_is_sound(packet)
        or not _options_are_sound(message, HEADER + 16)
    ):
        return None
    prefixes, mtu, at = [], None, HEADER + 16
    while at < len(message):
        kind, length = message[at], message[at + 1] * 8
        if kind == _PREFIX_INFORMATION:
            prefixes.append((length, message[at + 2], message[at + 16 : at + 24]))
        elif kind == _MTU_OPTION and length == 8:
            mtu = int.from_bytes(message[at + 4 : at + 8], "big")
        at += length
    if len(prefixes) != 1 or prefixes[0][:2] != (32, 64):
        return None
    return Advertisement(prefixes[0][2], mtu)


def echo_request(source: bytes, destination: bytes, data: bytes) -> bytes:
    """An ICMPv6 echo request as the direct connectivity test sends it (RFC 4380 section 5.2.9)."""
    return icmpv6(source, destination, ECHO_REQUEST, 0, bytes(4) + data, hop_limit=64)


def echo_reply(request: Packet, source: bytes) -> bytes:
    """The answer to an echo request, from `source`."""
    return icmpv6(source, request.source, ECHO_REPLY, 0, request.ipv6[HEADER + 4 :], hop_limit=64)


def echo_reply_data(packet: Packet) -> bytes | None:
    """The data of a sound ICMPv6 echo reply, else None."""
    if packet.icmp_type != ECHO_REPLY or len(packet.ipv6) < HEADER + 8 or not icmpv6_is_sound(packet):
        return None
    return packet.ipv6[HEADER + 8 :]


def unreachable(source: bytes, offending: bytes, code: int) -> bytes | None:
    """An ICMPv6 destination unreachable about a packet, or None where RFC 4443 section 2.4 forbids one."""
    if offending[8:24] == UNSPECIFIED or offending[8] == 0xFF or offending[24] == 0xFF:
        return None
    if offending[6] == ICMPV6 and (len(offending) <= HEADER or offending[HEADER] < 128):
        return None  # never an error about an error
    body = bytes(4) + offending[: MTU - HEADER - 8]
    return icmpv6(source, offending[8:24], DESTINATION_UNREACHABLE, code, body)
