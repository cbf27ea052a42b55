"""What is in a frame of a link, as far as Teredo goes: a UDP datagram, an IPv6 packet, or something else."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from lab.seeing.pcapng import ETHERNET, LINUX_SLL, LINUX_SLL2, RAW
from lab.teredo.address import Endpoint, host_text, is_global
from lab.teredo.packet import HEADER

IPV4: Final = 0x0800
IPV6: Final = 0x86DD
ARP: Final = 0x0806
_ICMP, _TCP, _UDP = 1, 6, 17

_HEADS: Final = {ETHERNET: (14, 12), LINUX_SLL: (16, 14), LINUX_SLL2: (20, 0)}
"""By kind of link: how long its header is, and where in it the protocol stands."""


class Datagram(NamedTuple):
    """A UDP datagram in IPv4. `identification` is IPv4's, which NATs leave alone."""

    source: Endpoint
    to: Endpoint
    data: bytes
    identification: int


class Other(NamedTuple):
    """What is neither: in words, with the IPv4 hosts that it is from and for, if it has them."""

    what: str
    source: str = ""
    to: str = ""


Content = Datagram | bytes | Other
"""A UDP datagram in IPv4, the bytes of an IPv6 packet, or something else."""


def content(link_type: int, frame: bytes) -> Content:
    """What is in a frame. Raises nothing: what cannot be read is something else."""
    if link_type == RAW:
        protocol, packet = (IPV6 if frame[:1] and frame[0] >> 4 == 6 else IPV4), frame
    elif link_type in _HEADS:
        size, at = _HEADS[link_type]
        protocol, packet = int.from_bytes(frame[at : at + 2], "big"), frame[size:]
    else:
        return Other(f"a frame of another kind of link ({link_type})")
    try:
        if protocol == IPV4:
            return _ipv4(packet)
        if protocol == IPV6 and len(packet) >= HEADER:
            return _ipv6(packet)
    except (struct.error, ValueError):
        return Other("a packet that was cut short")
    return Other("ARP" if protocol == ARP else f"protocol {protocol:#06x}")


def _ipv4(packet: bytes) -> Datagram | Other:
    size = (packet[0] & 0xF) * 4 if packet else 0
    identification, fragment = struct.unpack_from("!HH", packet, 4)
    source, to = host_text(packet[12:16]), host_text(packet[16:20])
    if fragment & 0x1FFF:
        return Other("a later fragment", source, to)
    protocol = packet[9]
    if protocol == _ICMP:
        return Other(_icmp(packet[size], packet[size + 1]) if len(packet) > size + 1 else "ICMP", source, to)
    if protocol != _UDP:
        return Other("TCP" if protocol == _TCP else f"IP protocol {protocol}", source, to)
    source_port, port, length = struct.unpack_from("!HHH", packet, size)
    return Datagram(Endpoint(source, source_port), Endpoint(to, port), packet[size + 8 : size + length], identification)


def _icmp(kind: int, code: int) -> str:
    if kind == 3:
        what = {0: "network", 1: "host", 2: "protocol", 3: "port", 4: "fragmentation needed", 13: "prohibited"}
        return f"ICMP destination unreachable ({what.get(code, f'code {code}')})"
    return {0: "ICMP echo reply", 8: "ICMP echo request", 11: "ICMP time exceeded"}.get(kind, f"ICMP type {kind}")


def _ipv6(packet: bytes) -> bytes | Other:
    if not (is_global(packet[8:24]) and is_global(packet[24:40])):
        return Other("IPv6 of this link alone")  # neighbour discovery and MLD, which kernels send by themselves
    return packet[: HEADER + int.from_bytes(packet[4:6], "big")]
