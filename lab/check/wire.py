"""What arrives at a node of the lab, by a packet socket on all of its links and a filter in the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence

from lab.backends import linux
from lab.places import Places
from lab.plan import TRUNK

_ETH_P_IP = 0x0800
_PACKET_HOST = 0

Instruction = tuple[int, int, int, int]
"""Of classic BPF: code, jump if true, jump if false, constant."""


class Wire:
    """Subclasses say what becomes of the IPv4 packets that a filter passes on."""

    def __init__(
        self, places: Places, node: str, instructions: Sequence[Instruction], *, size: int, buffer: int
    ) -> None:
        """`size`: how much of a packet is read; `buffer`: how much may wait, in bytes."""
        self._size = size
        self._socket = places.open(node, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        linux.attach_filter(self._socket, instructions)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Read what passes while the running loop runs; close at the end."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self.read)
        try:
            yield
            self.read()
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()

    def read(self) -> None:
        """Take in all that waits. What the node itself has sent is not among it."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, address = self._socket.recvmsg(self._size, 64)
                if address[2] == _PACKET_HOST and address[0] != TRUNK:
                    self._arrived(data, [content for _, _, content in ancillary])

    def _arrived(self, data: bytes, ancillary: Sequence[bytes]) -> None:
        """An IPv4 packet, and what the socket was asked to tell of it besides."""
        raise NotImplementedError
