"""What network interfaces with offloads do for TCP and UDP, for packets in a Teredo tunnel.

The kernel hands over super-packets of up to 64 KB, which `cut` turns into packets for the wire, and takes them: `runs`
finds the packets that could have come from one, `merged` makes it. What is merged and cut again is what it was.

All packets of a run have one size, but for the last, which may be shorter; they lie one behind the other. Sums of
16-bit words are taken modulo 65535, where that of a packet with a right checksum is 0.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lab.teredo.packet import HEADER

Bytes = NDArray[np.uint8]

TCP: Final = 6
UDP: Final = 17

_CHECKSUM_AT: Final = {TCP: 16, UDP: 6}
_UDP_HEADER: Final = 8
_TCP_HEADER: Final = 20
_LONGEST: Final = 65535
"""Bytes that an IPv6 header says follow it, at most."""

_FIN, _SYN, _RST, _PSH, _ACK, _URG, _CWR = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x80

_FORMAT = struct.Struct("=BBHHHH")
_WORD = struct.Struct("!H")
_NATIVE_WORD = struct.Struct("=H")


class Virtio(NamedTuple):
    """What precedes each packet on a TUN device with offloads: struct virtio_net_hdr of the kernel.

    With `flags` of 1 the checksum is still to be made: over everything from `checksum_start` on, to be put
    `checksum_offset` further on, where the sum of the pseudo-header is. A super-packet has a `kind`, and payloads of
    `size`.
    """

    flags: int = 0
    kind: int = 0
    header: int = 0
    size: int = 0
    checksum_start: int = 0
    checksum_offset: int = 0

    def encode(self) -> bytes:
        return _FORMAT.pack(*self)

    @staticmethod
    @lru_cache(maxsize=64)
    def decode(data: bytes) -> Virtio:
        return Virtio(*_FORMAT.unpack(data))


VIRTIO: Final = _FORMAT.size
NEEDS_CHECKSUM: Final = 1
_KINDS: Final = {4: TCP, 5: UDP}
_KIND_OF: Final = {protocol: kind for kind, protocol in _KINDS.items()}
_ECN: Final = 0x80
PLAIN: Final = Virtio().encode()


def complete(packet: memoryview, start: int, offset: int) -> None:
    """Make the checksum of a packet that lacks it, in place, as `Virtio` describes."""
    length = len(packet)
    at = start + offset
    if at + 2 <= length:
        rest = int.from_bytes(packet[start:], "big") << 8 * ((length - start) % 2)
        packet[at : at + 2] = _WORD.pack(0xFFFF - rest % 0xFFFF)


def cut(packet: Bytes, virtio: Virtio) -> tuple[Bytes, int] | None:
    """A super-packet as packets with right checksums, one behind the other, and their size; None if it is none."""
    protocol, start, payload = _KINDS.get(virtio.kind & ~_ECN), virtio.checksum_start, virtio.size
    if protocol is None or not payload or not virtio.flags & NEEDS_CHECKSUM:
        return None
    if start + (_TCP_HEADER if protocol == TCP else _UDP_HEADER) > len(packet):
        return None
    head = start + ((int(packet[start + 12]) >> 4) * 4 if protocol == TCP else _UDP_HEADER)
    left = len(packet) - head
    if left <= 0:
        return None
    count, size = -(-left // payload), head + payload
    rows: Bytes = np.empty((count, size), np.uint8)
    rows[:, :head] = packet[:head]
    whole = left // payload
    rows[:whole, head:] = packet[head : head + whole * payload].reshape(whole, payload)
    last = size
    if whole < count:
        rest = left - whole * payload
        rows[-1, head : head + rest] = packet[head + whole * payload :]
        rows[-1, head + rest :] = 0
        last = head + rest
    _set_length(rows, 4, size - HEADER, last - HEADER)
    if protocol == UDP:
        _set_length(rows, start + 4, size - start, last - start)
    else:
        first = int.from_bytes(packet[start + 4 : start + 8].tobytes(), "big")
        rows[:, start + 4 : start + 8].view(">u4")[:, 0] = (first + payload * np.arange(count)) & 0xFFFFFFFF
        rows[:-1, start + 13] &= 0xFF & ~(_FIN | _PSH)
        rows[1:, start + 13] &= 0xFF & ~_CWR
    at = start + _CHECKSUM_AT[protocol]
    pseudo = _native(packet[at : at + 2].tobytes()) + 0xFFFF - _swapped(len(packet) - start)
    rows[:, at : at + 2] = 0
    sums = _sums(rows[:, start:]) + (pseudo + _swapped(size - start))
    sums[-1] += 0xFFFF + _swapped(last - start) - _swapped(size - start)
    checksums = 0xFFFF - sums % 0xFFFF
    if protocol == TCP:
        checksums %= 0xFFFF  # 0 and 0xffff are equal here; the kernel writes 0, and in UDP 0xffff
    rows[:, at : at + 2].view(np.uint16)[:, 0] = checksums
    return rows.reshape(-1)[: (count - 1) * size + last], size


def runs(rows: Bytes, last: int, *, udp: bool = True) -> list[int]:
    """How many packets, of those in the rows of an array, each super-packet can have: 1 for those that go alone.

    `last` is the size of the last packet; its row is filled up with zeros. A packet whose checksum is wrong goes alone,
    since that of a super-packet's is made anew. Without `udp` there are none of UDP.
    """
    count, size = rows.shape
    protocol = int(rows[0, 6]) if size > HEADER + _UDP_HEADER else 0
    head = _head(rows, protocol)
    if (protocol != TCP and not (protocol == UDP and udp)) or not HEADER + _UDP_HEADER <= head < size:
        return [1] * count
    lengths = rows[:, 4:6].view(">u2")[:, 0]
    good = (rows[:, 0] >> 4 == 6) & (rows[:, 6] == protocol)
    good[:-1] &= lengths[:-1] == size - HEADER
    good[-1] &= lengths[-1] == last - HEADER and last > head
    sums = _sums(rows[:, 8:]) + (_swapped(size - HEADER) + _swapped(protocol))
    sums[-1] += 0xFFFF + _swapped(last - HEADER) - _swapped(size - HEADER)
    good &= sums % 0xFFFF == 0
    joined = ~((rows[1:, :head] ^ rows[:-1, :head]) & _fixed(protocol, head)).any(axis=1)
    if protocol == UDP:
        good &= (rows[:, 44:46].view(">u2")[:, 0] == lengths) & (rows[:, 46:48].view(np.uint16)[:, 0] != 0)
    else:
        flags = rows[:, 53]
        good &= (flags & (_SYN | _RST | _ACK | _URG | _CWR) == _ACK) & (rows[:, 52] == rows[0, 52])
        good &= rows[:, 56:58].view(np.uint16)[:, 0] != 0xFFFF  # as good as 0, but 0 is what would come of it
        sequence = rows[:, 44:48].view(">u4")[:, 0].astype(np.uint32)
        joined &= (sequence[1:] - sequence[:-1] == size - head) & (flags[:-1] & (_FIN | _PSH) == 0)
    joined &= good[1:] & good[:-1]
    most = (_LONGEST - head + HEADER) // (size - head)
    ends = [count] if joined.all() else [*(np.flatnonzero(~joined) + 1).tolist(), count]
    found, begin = [], 0
    for end in ends:
        whole, rest = divmod(end - begin, most)
        found += [most] * whole + [rest] * (rest > 0)
        begin = end
    return found


def merged(rows: Bytes, last: int) -> Bytes:
    """The super-packet of a run that `runs` has found, with its virtio header."""
    count, size = rows.shape
    protocol = int(rows[0, 6])
    head = _head(rows, protocol)
    length = (count - 1) * size + last - (count - 1) * head - HEADER
    packet: Bytes = np.empty(VIRTIO + head + count * (size - head), np.uint8)
    packet[VIRTIO + head :].reshape(count, size - head)[:] = rows[:, head:]
    first = bytearray(rows[0, :head].tobytes())
    first[4:6] = _WORD.pack(length)
    if protocol == UDP:
        first[44:46] = _WORD.pack(length)
    else:
        first[53] = int(rows[-1, 53])
    at = HEADER + _CHECKSUM_AT[protocol]
    pseudo = (int.from_bytes(first[8:HEADER], "big") + length + protocol) % 0xFFFF
    first[at : at + 2] = _WORD.pack(pseudo or 0xFFFF)
    virtio = Virtio(NEEDS_CHECKSUM, _KIND_OF[protocol], head, size - head, HEADER, _CHECKSUM_AT[protocol])
    packet[: VIRTIO + head] = np.frombuffer(virtio.encode() + first, np.uint8)
    return packet[: VIRTIO + HEADER + length]


def _head(rows: Bytes, protocol: int) -> int:
    """Bytes of the headers of the first packet, if it has no extension headers."""
    return HEADER + (max(_TCP_HEADER, (int(rows[0, 52]) >> 4) * 4) if protocol == TCP else _UDP_HEADER)


@lru_cache(maxsize=64)
def _fixed(protocol: int, head: int) -> Bytes:
    """The bits of the headers that are the same in all packets of a run."""
    fixed: Bytes = np.full(head, 0xFF, np.uint8)
    fixed[4:6] = 0
    fixed[44:48] = 0
    if protocol == TCP:
        fixed[53] = 0xFF & ~(_FIN | _PSH)
        fixed[56:58] = 0
    return fixed


def _sums(rows: Bytes) -> NDArray[np.uint64]:
    """For each row the sum of its 16-bit words in the machine's byte order, modulo 65535 but not yet reduced."""
    count, size = rows.shape
    if size % 4:
        filled: Bytes = np.zeros((count, size + -size % 4), np.uint8)
        filled[:, :size] = rows
        rows = filled
    sums: NDArray[np.uint64] = rows.view(np.uint32).sum(axis=1, dtype=np.uint64)
    return sums


def _set_length(rows: Bytes, at: int, length: int, last: int) -> None:
    rows[:, at : at + 2] = np.frombuffer(_WORD.pack(length), np.uint8)
    rows[-1, at : at + 2] = np.frombuffer(_WORD.pack(last), np.uint8)


def _native(word: bytes) -> int:
    value: int = _NATIVE_WORD.unpack(word)[0]
    return value


def _swapped(number: int) -> int:
    """A number that is on the wire in network byte order, in the machine's."""
    return _native(_WORD.pack(number))
