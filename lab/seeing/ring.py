"""A packet socket's ring of blocks (TPACKET_V3): the kernel writes packets into memory that is shared with it.

The path of the packets is kept from nothing but a short copy: no call, wake-up or allocation for each. A block is
handed over when it is full, or after a while. Linux: Documentation/networking/packet_mmap.rst.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Iterator
from typing import Final

from lab.seeing.pcapng import Packet

_SOL_PACKET: Final = 263
_RX_RING, _STATISTICS, _VERSION = 5, 6, 10
_V3: Final = 2
_BLOCK: Final = 1 << 17
"""Bytes of a block: more than the longest packet has."""

_FEWEST: Final = 2
"""Blocks: one for the kernel to write, and one to read."""

_FRAME: Final = 1 << 11
"""What the kernel reckons with and, in this version, does not use."""

_TO_KERNEL, _TO_USER = 0, 1
_BLOCK_HEAD: Final = struct.Struct("=4I")
_STATUS: Final = 8
"""Where a block (struct tpacket_block_desc) tells whose it is, how many packets it has, where they begin, its size."""

_HEAD: Final = struct.Struct("=6I2H")
"""What a packet's head (struct tpacket3_hdr) begins with."""

_TYPE: Final = 48 + 10
"""Where in a packet's head the kind stands (sll_pkttype)."""

_OUTGOING: Final = 4

LATEST: Final = 80_000_000
"""Nanoseconds after which a packet is handed over: two of the kernel's looks at a block that is not full."""

_LOOK: Final = LATEST // 2_000_000


class Ring:
    """The ring of one socket, which must not be bound yet. Raises OSError."""

    def __init__(self, packets: socket.socket, room: int) -> None:
        """`room`: about how many bytes it may have."""
        self._socket = packets
        self._blocks = max(_FEWEST, room // _BLOCK)
        size = self._blocks * _BLOCK
        packets.setsockopt(_SOL_PACKET, _VERSION, _V3)
        request = struct.pack("@7I", _BLOCK, self._blocks, _FRAME, size // _FRAME, _LOOK, 0, 0)
        packets.setsockopt(_SOL_PACKET, _RX_RING, request)
        self._memory = mmap.mmap(packets.fileno(), size)
        self._view = memoryview(self._memory)
        self._next = 0

    def waiting(self) -> Iterator[memoryview]:
        """The blocks that have been handed over, oldest first; each is the kernel's again once the next is wanted."""
        for _ in range(self._blocks):  # not for ever, should they come faster than they can be read
            start = self._next * _BLOCK
            status, _, _, size = _BLOCK_HEAD.unpack_from(self._memory, start + _STATUS)
            if not status & _TO_USER:
                return
            yield self._view[start : start + size]
            struct.pack_into("=I", self._memory, start + _STATUS, _TO_KERNEL)
            self._next = (self._next + 1) % self._blocks

    @property
    def unread(self) -> bool:
        """Whether there are packets in the next block, which the kernel may still be writing."""
        return bool(_BLOCK_HEAD.unpack_from(self._memory, self._next * _BLOCK + _STATUS)[1])

    def lost(self) -> int:
        """How many packets found no room since the last call."""
        return int(struct.unpack("@3I", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 12))[1])


def packets(block: bytes, number: int) -> Iterator[Packet]:
    """The packets in a block, oldest first, as those of the interface of that number."""
    _, count, at, _ = _BLOCK_HEAD.unpack_from(block, _STATUS)
    for _ in range(count):
        following, seconds, nanoseconds, kept, length, _, link, _ = _HEAD.unpack_from(block, at)
        frame = block[at + link : at + link + kept]
        yield Packet(number, seconds * 10**9 + nanoseconds, frame, block[at + _TYPE] == _OUTGOING, "", length - kept)
        at += following
