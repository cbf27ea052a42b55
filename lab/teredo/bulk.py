"""A server's two everyday tasks for whole batches at once: advertisements and the forwarding of bubbles.

`Bulk` does to a batch what `Server.datagram` would do to its datagrams one by one, for those that are exactly of the
common shapes: solicitations without options, either bare or with an authentication header without identifier and
value, and bare bubbles that are to be forwarded. All others are left to the server.

Bytes are looked at in words of this machine, whatever its byte order: patterns are words that were bytes too, and the
one's complement sum is the same in either order (RFC 1071 section 2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from lab.teredo.address import ALL_ROUTERS, CONE, PREFIX, host_bytes
from lab.teredo.packet import (
    HEADER,
    ICMPV6,
    NO_NEXT_HEADER,
    ROUTER_SOLICITATION,
    Authentication,
    ipv6_header,
    router_advertisement,
)
from lab.teredo.server import Server

Bytes = npt.NDArray[np.uint8]
Halves = npt.NDArray[np.uint16]
Words = npt.NDArray[np.uint32]
Longs = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

_SOLICITATION: Final = HEADER + 8
_AUTHENTICATION: Final = len(Authentication(bytes(8)).encode())
_ROW: Final = 128
_IPV6: Final = 24
"""Where an answer's IPv6 packet is in its row of so many bytes; headers are before it."""

_ORIGIN: Final = _IPV6 - 8


class _Pattern:
    """What a packet must be under a mask."""

    def __init__(self, packet: bytes, mask: bytes) -> None:
        self._mask = _column(mask)
        self._value = _column(packet) & self._mask

    def matches(self, packets: Longs) -> Flags:
        """Which of the packets, which are columns, match."""
        same: Flags = np.bitwise_or.reduce(packets & self._mask ^ self._value, axis=0) == 0
        return same


def _column(data: bytes) -> Longs:
    return np.frombuffer(data, np.uint64).reshape(-1, 1)


_VERSION_LENGTH_AND_NEXT_HEADER: Final = bytes.fromhex("f0000000 ffffff")
_GOOD_SOLICITATION: Final = _Pattern(
    ipv6_header(bytes.fromhex("fe80") + bytes(14), ALL_ROUTERS, ICMPV6, 8) + bytes((ROUTER_SOLICITATION, *bytes(7))),
    _VERSION_LENGTH_AND_NEXT_HEADER + bytes.fromhex("ff ffc0") + bytes(14) + b"\xff" * 18 + bytes(6),
)
"""One as `is_router_solicitation` wants it, but for its checksum."""

_BUBBLE: Final = _Pattern(
    ipv6_header(bytes(16), PREFIX + bytes(12), NO_NEXT_HEADER, 0),
    _VERSION_LENGTH_AND_NEXT_HEADER + bytes(17) + b"\xff" * 4 + bytes(12),
)
"""One to a Teredo address."""

_CONE: Final = np.frombuffer((CONE >> 8).to_bytes(8, "little"), np.uint64)[0]
_PREFIX: Final = np.frombuffer(PREFIX, np.uint32)[0]
_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
_MODULUS: Final = np.uint64(0xFFFF)
"""One's complement sums are sums modulo this."""

_MULTIPLE: Final = np.uint64(0xFFFF << 32)
"""Of the modulus, and larger than any sum here."""

_REST: Final = np.frombuffer(struct.pack("!II", 8, ICMPV6), np.uint32).sum(dtype=np.uint64)
"""What the pseudo-header of a solicitation adds to its sum."""


class _Networks:
    """IPv4 networks."""

    def __init__(self, networks: Iterable[tuple[int, int]]) -> None:
        both = np.array(tuple(networks), ">u4").view(np.uint32)
        self._addresses, self._masks = both[:, :1], both[:, 1:]

    def have_none_of(self, hosts: Words) -> Flags:
        """Which hosts are in none of these networks."""
        differ: Flags = (hosts & self._masks != self._addresses).all(axis=0)
        return differ


@dataclass(frozen=True, slots=True)
class Answers:
    """Datagrams to be sent, and the slots of those that are left to the server.

    Datagram n is the bytes from `starts[n]` to `ends[n]` of `rows[n]`, and goes to `ports[n]` of `hosts[n]`, which are
    in network order. The first `primaries` leave from the primary address, the others from the secondary one.
    """

    rows: Bytes
    starts: Numbers
    ends: Numbers
    ports: Halves
    hosts: Words
    primaries: int
    left: Numbers


class _Draft:
    """The answers to a batch while they are written, slot by slot; there is none where `ends` is still 0."""

    def __init__(self, ports: Halves, hosts: Words, *, on_secondary: bool) -> None:
        count = len(ports)
        self.rows = np.empty((count, _ROW), np.uint8)
        self.starts, self.ends = np.zeros((2, count), np.intp)
        self.ports, self.hosts = ports.copy(), hosts.copy()
        self.secondary = np.full(count, on_secondary)

    def set_origins(self, ports: Halves, hosts: Words) -> None:
        """Write the origin indication of each slot."""
        halves, words = self.rows.view(np.uint16), self.rows.view(np.uint32)
        halves[:, _ORIGIN // 2] = 0
        halves[:, _ORIGIN // 2 + 1] = ~ports
        words[:, _ORIGIN // 4 + 1] = ~hosts

    def done(self, left: Numbers) -> Answers:
        """The answers in the order of their slots, but for the address that they leave from."""
        if not self.secondary.any() and not left.size:
            return Answers(self.rows, self.starts, self.ends, self.ports, self.hosts, len(self.ends), left)
        answered = self.ends > 0
        first = np.flatnonzero(answered & ~self.secondary)
        order = np.concatenate((first, np.flatnonzero(answered & self.secondary)))
        return Answers(
            self.rows[order],
            self.starts[order],
            self.ends[order],
            self.ports[order],
            self.hosts[order],
            primaries=len(first),
            left=left,
        )


class Bulk:
    """Batches of datagrams for one server."""

    def __init__(self, server: Server) -> None:
        config = server.config
        self._counters = server.counters
        self._secure = bool(config.secrets)
        addresses = tuple(map(host_bytes, (config.primary, config.secondary)))
        own = tuple((int.from_bytes(address, "big"), 0xFFFFFFFF) for address in addresses)
        self._forbidden = _Networks(server.forbidden.networks)
        self._forbidden_to_clients = _Networks((*server.forbidden.networks, *own))
        self._ours = np.frombuffer(PREFIX + addresses[0], np.uint64)[0]
        authentication = Authentication(bytes(8), confirmation=int(b"" in config.retired)).encode()
        self._authentication = np.frombuffer(authentication[:4], np.uint32)[0]
        advertisement = router_advertisement(server.router, bytes(16), config.primary)
        row = bytes(_ORIGIN - _AUTHENTICATION) + authentication + bytes(_IPV6 - _ORIGIN) + advertisement
        self._row = np.frombuffer(row.ljust(_ROW, b"\0"), np.uint8)
        self._end = _IPV6 + len(advertisement)
        self._checksum = _MULTIPLE + np.frombuffer(advertisement, np.uint16)[HEADER // 2 + 1]

    def answer(self, heads: Bytes, lengths: Words, ports: Halves, hosts: Words, *, on_secondary: bool) -> Answers:
        """Answer a batch that has arrived on one of the server's addresses.

        `heads` are the first 64 bytes of each datagram, `lengths` how long they are, `ports` and `hosts` where they
        come from, in network order.
        """
        draft = _Draft(ports, hosts, on_secondary=on_secondary)
        good = self._forbidden.have_none_of(hosts) & (ports != 0)
        if not self._secure:
            authenticated = heads.view(np.uint32)[:, 0] == self._authentication
            authenticated &= lengths == _AUTHENTICATION + _SOLICITATION
            self._advertise(draft, heads, good & authenticated, _AUTHENTICATION)
            self._advertise(draft, heads, good & (lengths == _SOLICITATION), 0)
        advertised = draft.ends > 0
        self._forward(draft, heads, good & (lengths == HEADER), ports, hosts)
        draft.set_origins(ports, hosts)
        left = _left(draft.ends > 0, ports, hosts)
        draft.ends[left] = 0
        self._tell("advertisements", advertised & (draft.ends > 0))
        self._tell("forwarded to clients", ~advertised & (draft.ends > 0))
        return draft.done(left)

    def _tell(self, what: str, which: Flags) -> None:
        count = int(np.count_nonzero(which))
        if count:
            self._counters[what] += count

    def _advertise(self, draft: _Draft, heads: Bytes, which: Flags, at: int) -> None:
        """Answer those that are good solicitations, with their IPv6 packets beginning `at`."""
        if not which.any():
            return
        packets = _packets(heads, which, slice(at, at + _SOLICITATION))
        right = _GOOD_SOLICITATION.matches(packets) & ((_sum(packets[1:]) + _REST) % _MODULUS == 0)
        if not right.all():
            which[which] = right
            packets = packets[:, right]
        slots = _slots(which)
        draft.rows[slots] = self._row
        if at:
            nonce = slice(_ORIGIN - _AUTHENTICATION + 4, _ORIGIN - 1)
            draft.rows[slots, nonce] = heads[slots, 4 : _AUTHENTICATION - 1]
        longs, halves = draft.rows.view(np.uint64), draft.rows.view(np.uint16)
        longs[slots, _IPV6 // 8 + 3] = packets[1]
        longs[slots, _IPV6 // 8 + 4] = packets[2]
        halves[slots, (_IPV6 + HEADER) // 2 + 1] = (self._checksum - _sum(packets[1:3])) % _MODULUS
        draft.starts[slots] = _ORIGIN - at
        draft.ends[slots] = self._end
        draft.secondary[slots] ^= packets[2] & _CONE != 0

    def _forward(self, draft: _Draft, heads: Bytes, which: Flags, ports: Halves, hosts: Words) -> None:
        """Forward those that are bubbles of acceptable sources to clients."""
        if not which.any():
            return
        right = _BUBBLE.matches(_packets(heads, which, slice(0, HEADER)))
        slots = _slots(which)
        halves, words = heads.view(np.uint16)[slots], heads.view(np.uint32)[slots]
        to_ours = heads.view(np.uint64)[slots, 3] == self._ours
        at_its_mapping = (~halves[:, 9] == ports[slots]) & (~words[:, 5] == hosts[slots])
        right &= np.where(words[:, 2] == _PREFIX, at_its_mapping, to_ours)
        to_ports, to_hosts = ~halves[:, 17], ~words[:, 9]
        right &= self._forbidden_to_clients.have_none_of(to_hosts) & (to_ports != 0)
        if not right.all():
            which[which] = right
            slots, to_ours, to_ports, to_hosts = _slots(which), to_ours[right], to_ports[right], to_hosts[right]
        draft.rows[slots, _IPV6 : _IPV6 + HEADER] = heads[slots, :HEADER]
        draft.starts[slots] = np.where(to_ours, _ORIGIN, _IPV6)
        draft.ends[slots] = _IPV6 + HEADER
        draft.ports[slots], draft.hosts[slots] = to_ports, to_hosts
        draft.secondary[slots] = False


def _packets(heads: Bytes, which: Flags, place: slice) -> Longs:
    """Some packets as columns of 8-byte words."""
    chosen = np.ascontiguousarray(heads[_slots(which), place])
    return np.ascontiguousarray(chosen.view(np.uint64).T)


def _sum(packets: Longs) -> Longs:
    """Of the words in each column, congruent to their one's complement sum."""
    total: Longs = ((packets & _LOW) + (packets >> _HALF)).sum(axis=0)
    return total


def _slots(which: Flags) -> Numbers | slice:
    """The slots that have a flag, which are fastest to be had if all have it."""
    return slice(None) if which.all() else np.flatnonzero(which)


def _left(done: Flags, ports: Halves, hosts: Words) -> Numbers:
    """The slots left to the server: what is not common, and all else of its sources, to keep their order."""
    if done.all():
        return np.empty(0, np.intp)
    sources = hosts.astype(np.uint64) << np.uint64(16) | ports
    return np.flatnonzero(np.isin(sources, sources[~done]))
