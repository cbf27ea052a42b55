"""By which path packets went, as seen on the wire: a tap on the lab's Internet that reads tunnelled probes.

It attaches to all links of one node and sees each outer packet arrive. A filter in the kernel passes on only small
probe packets: inner ICMPv6 echo, UDP, and TCP with SYN.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from lab.teredo.address import PORT, Endpoint, host_text, packed

_ETH_P_IP = 0x0800
_PACKET_HOST = 0
_SO_ATTACH_FILTER = 26
_IP, _UDP, _IPV6 = 0, 20, 28  # offsets in an outer packet without IP options
_INNER_SOURCE, _INNER_DESTINATION = _IPV6 + 8, _IPV6 + 24
_SNAP = _IPV6 + 40 + 20

PROBES: Final = {"icmp6": 58, "udp": 17, "tcp": 6}

# Classic BPF: (code, jump if true, jump if false, constant); the last two lines accept and reject.
_FILTER = (
    (0x30, 0, 0, _IP + 9),  # outer protocol
    (0x15, 0, 10, 17),
    (0x30, 0, 0, _IPV6),  # version of the payload
    (0x54, 0, 0, 0xF0),
    (0x15, 0, 7, 0x60),
    (0x30, 0, 0, _IPV6 + 6),  # inner next header
    (0x15, 4, 0, 58),
    (0x15, 3, 0, 17),
    (0x15, 0, 3, 6),
    (0x30, 0, 0, _IPV6 + 40 + 13),  # inner TCP flags
    (0x45, 0, 1, 0x02),
    (0x06, 0, 0, _SNAP),
    (0x06, 0, 0, 0),
)


class Tap:
    """Outer destinations by inner source, destination and protocol, since the tap was opened."""

    def __init__(self) -> None:
        with_filter = b"".join(struct.pack("=HBBI", *line) for line in _FILTER)
        self._program = ctypes.create_string_buffer(with_filter, len(with_filter))
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_IP)
        )
        header = struct.pack("@HP", len(_FILTER), ctypes.addressof(self._program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(1):  # what came in before the filter stood
                pass
        self._seen: dict[tuple[bytes, bytes, int], set[Endpoint]] = defaultdict(set)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Read what passes while the running loop runs; close at the end."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self.read)
        try:
            yield
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()

    def read(self) -> None:
        """Take in all that waits."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, address = self._socket.recvfrom(_SNAP)
                if address[2] == _PACKET_HOST and len(data) >= _IPV6 + 40:
                    flow = data[_INNER_SOURCE : _IPV6 + 24], data[_INNER_DESTINATION : _IPV6 + 40], data[_IPV6 + 6]
                    to = Endpoint(host_text(data[16:20]), int.from_bytes(data[_UDP + 2 : _UDP + 4], "big"))
                    self._seen[flow].add(to)

    def outer(self, source: str, destination: str, probe: str) -> set[Endpoint]:
        """Where tunnelled packets of a probe between two IPv6 addresses were sent to, servers left out."""
        self.read()
        seen = self._seen.get((packed(source), packed(destination), PROBES[probe]), set())
        return {endpoint for endpoint in seen if endpoint.port != PORT}
