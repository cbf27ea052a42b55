"""A server's two everyday tasks for whole batches at once: advertisements and the forwarding of bubbles.

`Bulk` does to a batch what `Server.datagram` would do to its datagrams one by one, for those that are exactly of the
common shapes: solicitations without options, either bare or with an authentication header without identifier and
value, and bare bubbles that are to be forwarded. All others are left to the server.
"""

from __future__ import annotations

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
Numbers = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

_SOLICITATION: Final = HEADER + 8
_AUTHENTICATION: Final = len(Authentication(bytes(8)).encode())
_ORIGIN: Final = 8
_ROW: Final = 128
"""Bytes of an answer's row; each has its IPv6 packet at the same place, and headers before it."""

_IPV6: Final = 24
_WORD: Final = np.dtype(np.uint64)


def _words(pattern: bytes) -> npt.NDArray[np.uint64]:
    return np.frombuffer(pattern, _WORD)


def _is(ipv6: bytes, mask: bytes) -> tuple[tuple[int, np.uint64, np.uint64], ...]:
    """What the 8-byte words of a packet must be under a mask: (index, mask, value), where there is something to ask."""
    return tuple((n, m, v) for n, (m, v) in enumerate(zip(_words(mask), _words(ipv6) & _words(mask), strict=True)) if m)


_LENGTH_AND_NEXT_HEADER: Final = bytes.fromhex("f0000000ffffff00")
_SOUND: Final = _is(
    ipv6_header(bytes.fromhex("fe80") + bytes(14), ALL_ROUTERS, ICMPV6, 8) + bytes((ROUTER_SOLICITATION, *bytes(7))),
    bytes.fromhex("f0000000ffffffff ffc0") + bytes(14) + b"\xff" * 16 + b"\xff\xff" + bytes(6),
)
"""A router solicitation as `is_router_solicitation` wants it, but for its checksum."""

_PREFIX: Final = np.frombuffer(PREFIX, np.uint8)
_TEREDO: Final = PREFIX + bytes(12)
_TEREDO_MASK: Final = b"\xff" * 4 + bytes(12)
_BUBBLE: Final = _is(
    ipv6_header(bytes(16), _TEREDO, NO_NEXT_HEADER, 0), _LENGTH_AND_NEXT_HEADER + bytes(16) + _TEREDO_MASK
)
"""A bubble to a Teredo address."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a batch brings about: datagrams to be sent, and the slots of the datagrams that are left to the server.

    Datagram n is the bytes from `starts[n]` to `ends[n]` of `rows[n]`, and goes to `to[n]`: port and IPv4 address in
    network order. The first `primaries` leave from the primary address, the others from the secondary one.
    """

    rows: Bytes
    starts: Numbers
    ends: Numbers
    to: Bytes
    primaries: int
    left: Numbers


class Bulk:
    """Batches of datagrams for one server."""

    def __init__(self, server: Server) -> None:
        config = server.config
        self._counters = server.counters
        self._secure = bool(config.secrets)
        hosts = (host_bytes(config.primary), host_bytes(config.secondary))
        own = tuple((int.from_bytes(host, "big"), 0xFFFFFFFF) for host in hosts)
        self._forbidden = np.array(server.forbidden.networks, np.uint32)
        self._forbidden_targets = np.array((*server.forbidden.networks, *own), np.uint32)
        self._ours = _words(PREFIX + hosts[0])[0]
        authentication = Authentication(bytes(8), confirmation=int(b"" in config.retired)).encode()
        advertisement = router_advertisement(server.router, bytes(16), config.primary)
        row = bytes(_IPV6 - _ORIGIN - _AUTHENTICATION) + authentication + bytes(_ORIGIN) + advertisement
        self._advertisement = np.frombuffer(row.ljust(_ROW, b"\0"), np.uint8)
        self._advertised = _IPV6 + len(advertisement)
        self._checksum = ~int.from_bytes(advertisement[HEADER + 2 : HEADER + 4], "big") & 0xFFFF

    def answer(self, heads: Bytes, lengths: npt.NDArray[np.integer], sources: Bytes, *, on_secondary: bool) -> Answers:
        """Answer a batch that has arrived on one of the server's addresses.

        `heads` are the first 64 or more bytes of each datagram, `lengths` their whole lengths, `sources` port and IPv4
        address in network order, 6 bytes each.
        """
        count = len(lengths)
        rows, to = np.empty((count, _ROW), np.uint8), np.empty((count, 6), np.uint8)
        starts, ends = np.zeros(count, np.intp), np.zeros(count, np.intp)
        secondary = np.full(count, on_secondary)
        good = self._may_be_sent_to(sources, self._forbidden)
        solicited = np.zeros(count, np.bool_)
        if not self._secure:
            for at in (_AUTHENTICATION, 0):
                slots = np.flatnonzero(good & (lengths == at + _SOLICITATION))
                if slots.size:
                    slots = self._advertise(heads, slots, at, rows, starts, secondary)
                    solicited[slots] = True
        ends[solicited] = self._advertised
        to[solicited] = sources[solicited]
        rows[:, _IPV6 - 6 : _IPV6] = ~sources
        slots = np.flatnonzero(good & (lengths == HEADER))
        if slots.size:
            slots = self._forward(heads, slots, sources, rows, starts, to)
            secondary[slots] = False
            ends[slots] = _IPV6 + HEADER
        left = self._left(ends > 0, sources)
        ends[left] = 0
        advertised = int(np.count_nonzero(solicited & (ends > 0)))
        forwarded = int(np.count_nonzero(ends)) - advertised
        if advertised:
            self._counters["advertisements"] += advertised
        if forwarded:
            self._counters["forwarded to clients"] += forwarded
        first, then = np.flatnonzero((ends > 0) & ~secondary), np.flatnonzero((ends > 0) & secondary)
        order = np.concatenate((first, then))
        return Answers(rows[order], starts[order], ends[order], to[order], len(first), left)

    @staticmethod
    def _left(done: Flags, sources: Bytes) -> Numbers:
        """The slots left to the server: what is not common, and all else of its sources, to keep their order."""
        if done.all():
            return np.empty(0, np.intp)
        keys = np.zeros((len(sources), 8), np.uint8)
        keys[:, :6] = sources
        flat = keys.view(_WORD)[:, 0]
        return np.flatnonzero(np.isin(flat, flat[~done]))

    @staticmethod
    def _may_be_sent_to(endpoints: Bytes, networks: npt.NDArray[np.uint32]) -> Flags:
        """Which endpoints have a port, and an address in none of these networks."""
        hosts = np.ascontiguousarray(endpoints[:, 2:]).view(">u4").astype(np.uint32)
        in_none: Flags = (hosts & networks[:, 1] != networks[:, 0]).all(axis=1)
        return in_none & endpoints[:, :2].any(axis=1)

    def _advertise(
        self, heads: Bytes, slots: Numbers, at: int, rows: Bytes, starts: Numbers, secondary: Flags
    ) -> Numbers:
        """Answer those slots that are sound solicitations, whose IPv6 packet begins `at`; returns them."""
        ipv6 = np.ascontiguousarray(heads[slots, at : at + _SOLICITATION])
        right = _matches(ipv6, _SOUND) & (_sum(ipv6[:, 8:], 8 + ICMPV6) == 0xFFFF)
        if at:
            right &= (heads[slots, :4] == self._advertisement[_IPV6 - _ORIGIN - at :][:4]).all(axis=1)
        if not right.all():
            slots, ipv6 = slots[right], ipv6[right]
        answers = np.empty((len(slots), _ROW), np.uint8)
        answers[:] = self._advertisement
        if at:
            nonce = _IPV6 - _ORIGIN - at + 4
            answers[:, nonce : nonce + 8] = heads[slots, 4:12]
        answers[:, _IPV6 + 24 : _IPV6 + HEADER] = ipv6[:, 8:24]
        checksum = ~_sum(ipv6[:, 8:24], self._checksum)
        answers[:, _IPV6 + HEADER + 2] = checksum >> 8 & 0xFF
        answers[:, _IPV6 + HEADER + 3] = checksum & 0xFF
        rows[slots] = answers
        starts[slots] = _IPV6 - _ORIGIN - at
        secondary[slots] ^= (ipv6[:, 16] & (CONE >> 8)) != 0
        return slots

    def _forward(
        self, heads: Bytes, slots: Numbers, sources: Bytes, rows: Bytes, starts: Numbers, to: Bytes
    ) -> Numbers:
        """Forward those slots that are bubbles of acceptable sources to clients; returns them."""
        ipv6 = np.ascontiguousarray(heads[slots, :HEADER])
        mapped = ~ipv6[:, 34:40]
        to_ours = ipv6.view(_WORD)[:, 3] == self._ours
        from_teredo = (ipv6[:, 8:12] == _PREFIX).all(axis=1)
        at_its_mapping = (~ipv6[:, 18:24] == sources[slots]).all(axis=1)
        right = _matches(ipv6, _BUBBLE) & np.where(from_teredo, at_its_mapping, to_ours)
        right &= self._may_be_sent_to(mapped, self._forbidden_targets)
        slots = slots[right]
        rows[slots, _IPV6 - _ORIGIN : _IPV6 - 6] = 0
        rows[slots, _IPV6 : _IPV6 + HEADER] = ipv6[right]
        starts[slots] = np.where(to_ours[right], _IPV6 - _ORIGIN, _IPV6)
        to[slots] = mapped[right]
        return slots


def _matches(ipv6: Bytes, wanted: tuple[tuple[int, np.uint64, np.uint64], ...]) -> Flags:
    words = ipv6.view(_WORD)
    right = np.ones(len(ipv6), np.bool_)
    for index, mask, value in wanted:
        right &= words[:, index] & mask == value
    return right


def _sum(data: Bytes, start: int) -> npt.NDArray[np.uint32]:
    """The one's complement sum of `start` and the 16-bit words of each row (RFC 1071)."""
    total: npt.NDArray[np.uint32] = np.ascontiguousarray(data).view(">u2").sum(axis=1, dtype=np.uint32)
    total += np.uint32(start)
    for _ in range(2):
        total = (total & 0xFFFF) + (total >> 16)
    return total
