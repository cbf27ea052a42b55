"""Every UDP packet that crosses the lab's Internet, once, as it arrives there."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from lab.teredo.address import Endpoint, host_text

_ETH_P_IP = 0x0800
_PACKET_HOST = 0
_SO_ATTACH_FILTER = 26
_SO_TIMESTAMPNS = 35
_SIZE: Final = 2048

# Classic BPF: outer protocol UDP, not a fragment but the first.
_FILTER = (
    (0x30, 0, 0, 9),
    (0x15, 0, 3, 17),
    (0x28, 0, 0, 6),
    (0x45, 1, 0, 0x1FFF),
    (0x06, 0, 0, _SIZE),
    (0x06, 0, 0, 0),
)


class Recorded(NamedTuple):
    """A UDP datagram: when it came (seconds since the epoch), from where to where, and its payload."""

    at: float
    source: Endpoint
    to: Endpoint
    data: bytes


class Recorder:
    """Opened in the node that is the Internet; `packets` holds what has passed."""

    def __init__(self) -> None:
        self.packets: list[Recorded] = []
        lines = b"".join(struct.pack("=HBBI", *line) for line in _FILTER)
        self._program = ctypes.create_string_buffer(lines, len(lines))
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_IP)
        )
        header = struct.pack("@HP", len(_FILTER), ctypes.addressof(self._program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(1):  # what came in before the filter stood
                pass

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Record while the running loop runs; close at the end."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._read)
        try:
            yield
            self._read()
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, address = self._socket.recvmsg(_SIZE, 64)
                if address[2] != _PACKET_HOST:
                    continue
                seconds, nanoseconds = struct.unpack("@ll", ancillary[0][2])
                udp = (data[0] & 0xF) * 4
                source_port, port, length = struct.unpack_from("!HHH", data, udp)
                source = Endpoint(host_text(data[12:16]), source_port)
                to = Endpoint(host_text(data[16:20]), port)
                self.packets.append(Recorded(seconds + nanoseconds / 1e9, source, to, data[udp + 8 : udp + length]))
