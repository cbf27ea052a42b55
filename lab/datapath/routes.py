"""How the node reaches an IPv4 host, asked of the kernel: the way out, the sender's address, what the link is like."""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lab.teredo.address import host_bytes

_NEW_LINK, _GET_LINK, _NEW_ROUTE, _GET_ROUTE, _REQUEST = 16, 18, 24, 26, 1
_DESTINATION, _SOURCE, _OUT, _GATEWAY, _PREFERRED_SOURCE, _VIA = 1, 2, 4, 5, 7, 18
_NAME, _MTU = 3, 4
_UNICAST, _ETHERNET, _UP = 1, 1, 1
_CHANGES = 0x1 | 0x10 | 0x40 | 0x80
"""RTMGRP_LINK, and _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE."""

_SIOCETHTOOL, _DRIVER, _COMPLETES = 0x8946, 0x3, 0x16
_NO_WIRE: Final = {"virtio_net"}
"""Drivers of devices on a bus that may hand packets on uncut and incomplete, to another guest of the same machine."""


@dataclass(frozen=True, slots=True)
class Path:
    """How packets leave for a host. `wire`: they are cut and have all checksums once they have left."""

    interface: int
    source: str
    gateway: str
    mtu: int
    wire: bool


class Routes:
    """Questions to the kernel about IPv4 routes, and news of their changes."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self.news.bind((0, _CHANGES))

    def close(self) -> None:
        self._socket.close()
        self.news.close()

    def drain(self) -> None:
        """Throw away what news there are: something has changed."""
        while True:
            try:
                self.news.recv(65536)
            except BlockingIOError:
                return
            except OSError:  # more has changed than fits: what is left tells nothing more
                continue

    def path(self, host: str, source: str | None) -> Path | None:
        """How to reach a host, from a given address of this node; None if not over a link of kind Ethernet."""
        wanted = _attribute(_DESTINATION, host_bytes(host))
        if source is not None:
            wanted += _attribute(_SOURCE, host_bytes(source))
        question = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0 if source is None else 32, 0, 0, 0, 0, 0, 0)
        answer = self._ask(_GET_ROUTE, _NEW_ROUTE, question + wanted)
        if answer is None or answer[7] != _UNICAST:
            return None
        route = dict(_attributes(answer[12:]))
        if _OUT not in route or _VIA in route:
            return None
        (interface,) = struct.unpack("=I", route[_OUT])
        sender = socket.inet_ntoa(route[_PREFERRED_SOURCE]) if _PREFERRED_SOURCE in route else source
        answer = self._ask(_GET_LINK, _NEW_LINK, struct.pack("=BxHiII", 0, 0, interface, 0, 0))
        if answer is None or sender is None:
            return None
        _, kind, _, flags, _ = struct.unpack_from("=BxHiII", answer)
        link = dict(_attributes(answer[16:]))
        if kind != _ETHERNET or not flags & _UP:
            return None
        gateway = socket.inet_ntoa(route[_GATEWAY]) if _GATEWAY in route else host
        (mtu,) = struct.unpack("=I", link[_MTU])
        return Path(interface, sender, gateway, mtu, _has_wire(link[_NAME].rstrip(b"\0")))

    def _ask(self, kind: int, wanted: int, body: bytes) -> bytes | None:
        self._socket.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST, 0, 0) + body)
        answer = self._socket.recv(65536)
        length, found = struct.unpack_from("=IH", answer)
        return answer[16:length] if found == wanted else None


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        yield kind, data[at + 4 : at + length]
        at += max(4, length + 3 & ~3)


def _has_wire(name: bytes) -> bool:
    """Whether packets of an interface get cut and complete: by the kernel, which may do it all, or by a device."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket, contextlib.suppress(OSError):
        if not struct.unpack("=II", _ethtool(any_socket, name, struct.pack("=II", _COMPLETES, 0)))[1]:
            return True
        facts = _ethtool(any_socket, name, struct.pack("=I192x", _DRIVER))
        driver, bus = (facts[at : at + 32].split(b"\0")[0].decode() for at in (4, 100))
        return bus not in ("", "N/A") and driver not in _NO_WIRE
    return False


def _ethtool(any_socket: socket.socket, name: bytes, question: bytes) -> bytes:
    memory = array.array("B", question)
    fcntl.ioctl(any_socket.fileno(), _SIOCETHTOOL, struct.pack("@16sP16x", name, memory.buffer_info()[0]))
    return memory.tobytes()
