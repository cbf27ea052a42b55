"""How packets to an IPv4 host leave this node, as far as a program in the kernel has to know."""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import struct
from dataclasses import dataclass
from typing import Final

from lab import rtnetlink
from lab.rtnetlink import Rtnetlink

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
    """Questions to the kernel about paths, and `news` of their changes."""

    def __init__(self) -> None:
        """Raises OSError."""
        self.news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self.news.bind((0, rtnetlink.IPV4_WAYS))

    def close(self) -> None:
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
        with Rtnetlink() as kernel:
            way = kernel.way(host, source)
            link = None if way is None else kernel.link(way.interface)
        if way is None or link is None or link.kind != rtnetlink.ETHERNET or not link.up:
            return None
        return Path(way.interface, way.source, way.gateway, link.mtu, _has_wire(link.name.encode()))


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
