"""What a Teredo datagram is, in plain words, and the lines of a story of several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lab.teredo.address import DISCOVERY_ADDRESS, PORT, Endpoint, is_teredo, text
from lab.teredo.packet import (
    DESTINATION_UNREACHABLE,
    ECHO_REPLY,
    ECHO_REQUEST,
    HEADER,
    MTU,
    ROUTER_ADVERTISEMENT,
    ROUTER_SOLICITATION,
    MalformedError,
    Packet,
    decode,
    is_plain,
)
from lab.teredo.trailers import Discovery, Trailers, parse_trailers

_ICMP = {
    ROUTER_SOLICITATION: "router solicitation",
    ROUTER_ADVERTISEMENT: "router advertisement",
    ECHO_REQUEST: "echo request",
    ECHO_REPLY: "echo reply",
    DESTINATION_UNREACHABLE: "destination unreachable",
}


_TCP = 6

_LONGEST = 1472
"""Bytes of a UDP payload in a packet of Ethernet's."""


@dataclass(frozen=True, slots=True)
class Line:
    """One packet on the Internet; `at` is in milliseconds since the first one of its story."""

    at: float
    source: str
    to: str
    what: str


def describe(data: bytes, to: Endpoint) -> str:
    """What this UDP payload is, on its way to `to`: ``indirect bubble, nonce 1f2e3d4c, random port 50123``."""
    try:
        packet = decode(data)
    except MalformedError as error:
        return f"not Teredo: {error}"
    many = parts(data)
    if many > 1:
        return f"{many} data packets in one"
    return ", ".join((kind(packet, to), *_more(packet, parse_trailers(packet.trailers))))


def is_notable(data: bytes) -> bool:
    """Whether a UDP payload is what makes Teredo work, and not what is sent by it."""
    try:
        packet = decode(data)
    except MalformedError:
        return False
    return not is_plain(packet.ipv6) or packet.icmp_type in _ICMP


def describe_ipv6(ipv6: bytes) -> str:
    """What an IPv6 packet is that is not tunnelled."""
    packet = Packet(ipv6)
    return f"{_ICMP.get(packet.icmp_type or 0, 'data')} (plain IPv6)"


def parts(data: bytes) -> int:
    """How many packets a datagram is that kernels pass on in one (segmentation offload), to be cut further on.

    Either the datagram is several of one size behind each other, or the packet within is a TCP segment of many. What is
    longer than a link takes is several, also where a recording has not kept the second one.
    """
    size = HEADER + int.from_bytes(data[4:6], "big")
    if len(data) < HEADER or data[0] >> 4 != 6:
        return 1
    if len(data) > size and (data[size] >> 4 == 6 or size <= _LONGEST < len(data)):
        return -(-len(data) // size)
    head = HEADER + (data[HEADER + 12] >> 4) * 4 if data[6] == _TCP and len(data) > HEADER + 12 else 0
    return -(-(size - head) // (MTU - head)) if head and size > MTU else 1


def kind(packet: Packet, to: Endpoint) -> str:
    """What a Teredo packet is in the words of the RFCs, without what else it carries."""
    if packet.is_bubble and to.host == DISCOVERY_ADDRESS:
        return "discovery bubble"
    if packet.is_bubble:
        return "indirect bubble" if packet.origin is not None or to.port == PORT else "direct bubble"
    if packet.icmp_type in _ICMP:
        name = _ICMP[packet.icmp_type]
        test = packet.icmp_type == ECHO_REQUEST and to.port == PORT and not is_teredo(packet.destination)
        return f"{name} (connectivity test)" if test else name
    return f"data for {text(packet.destination)}" if not is_teredo(packet.destination) else "data"


def _more(packet: Packet, trailers: Trailers) -> Iterator[str]:
    if packet.origin is not None:
        yield f"origin {packet.origin}"
    if trailers.nonce:
        yield f"nonce {trailers.nonce.hex()}"
    if trailers.random_port:
        yield f"random port {trailers.random_port}"
    if trailers.alternates:
        yield f"alternate addresses {' '.join(map(str, trailers.alternates))}"
    if trailers.discovery is not None:
        yield "solicits an answer" if trailers.discovery is Discovery.SOLICITATION else "answers a solicitation"
