"""Every UDP packet that crosses the lab's Internet, once, as it arrives there."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from lab.backends import linux
from lab.check.wire import Wire
from lab.places import Places
from lab.teredo.address import Endpoint, host_text

_SIZE: Final = 2048

# Outer protocol UDP, not a fragment but the first.
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

    def told(self) -> list[Any]:
        """The same as JSON can have it."""
        return [self.at, *self.source, *self.to, self.data.hex()]

    @classmethod
    def heard(cls, told: Sequence[Any]) -> Recorded:
        """What was told."""
        at, host, port, to, to_port, data = told
        return cls(at, Endpoint(host, port), Endpoint(to, to_port), bytes.fromhex(data))


class Recorder(Wire):
    """Opened in the node that is the Internet; `packets` holds what has passed."""

    def __init__(self, places: Places, node: str) -> None:
        super().__init__(places, node, _FILTER, size=_SIZE, buffer=1 << 24)
        self._socket.setsockopt(socket.SOL_SOCKET, linux.SO_TIMESTAMPNS, 1)
        self.packets: list[Recorded] = []

    def _arrived(self, data: bytes, ancillary: Sequence[bytes]) -> None:
        seconds, nanoseconds = struct.unpack("@ll", ancillary[0])
        udp = (data[0] & 0xF) * 4
        source_port, port, length = struct.unpack_from("!HHH", data, udp)
        source = Endpoint(host_text(data[12:16]), source_port)
        to = Endpoint(host_text(data[16:20]), port)
        self.packets.append(Recorded(seconds + nanoseconds / 1e9, source, to, data[udp + 8 : udp + length]))
