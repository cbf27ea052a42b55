"""The Teredo network interface: a TUN device, its address and its routes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

from lab import rtnetlink
from lab.rtnetlink import Request, Rtnetlink

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_TUNSETOFFLOAD = 0x400454D0
_CHECKSUM, _TSO6, _TSO_ECN = 0x01, 0x04, 0x08
_USO = 0x20 | 0x40  # for IPv4 and IPv6: the kernel has both or neither

TEREDO_ROUTE: Final = "2001::/32"
DEFAULT_ROUTE: Final = "::/0"
DEFAULT_METRIC: Final = 1029
"""Worse than any other default route, so that native connectivity is preferred (RFC 4380 section 3.2.1)."""


class TunError(Exception):
    """The interface cannot be made; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Interface:
    """How the interface shall look: its name, the routes that it carries, and the source that hosts should use."""

    name: str
    default_route: bool = False
    teredo_route: bool = False
    preferred_source: str | None = None


class Tun:
    """An open TUN device. Closing it removes the interface.

    With `offloads`, each packet has a virtio header (`lab.datapath.offload`), and there are super-packets: of TCP, and,
    if the kernel has that (`udp_offload`, Linux 6.2), of UDP.
    """

    def __init__(self, interface: Interface, *, offloads: bool = False) -> None:
        self.interface = interface
        self.udp_offload = False
        self._address: bytes | None = None
        try:
            self.fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TunError(
                f"cannot open {_DEVICE}: {error.strerror}; load the tun module or pass the device in"
            ) from error
        flags = _IFF_TUN | _IFF_NO_PI | (_IFF_VNET_HDR if offloads else 0)
        try:
            fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("16sH22x", interface.name.encode(), flags))
            if offloads:
                self._ask_for_offloads()
        except OSError as error:
            os.close(self.fd)
            remedy = {
                errno.EBUSY: "another program has it",
                errno.EPERM: "this needs CAP_NET_ADMIN: run it as root",
            }.get(error.errno or 0, os.strerror(error.errno or 0))
            raise TunError(f"cannot make the interface {interface.name}: {remedy}") from error

    def _ask_for_offloads(self) -> None:
        offloads = _CHECKSUM | _TSO6 | _TSO_ECN
        try:
            fcntl.ioctl(self.fd, _TUNSETOFFLOAD, offloads | _USO)
            self.udp_offload = True
        except OSError:
            fcntl.ioctl(self.fd, _TUNSETOFFLOAD, offloads)

    def configure(self, address: bytes | None, mtu: int) -> None:
        """Bring the interface up with this address (16 bytes), or none, in place of the last. Raises OSError."""
        index = socket.if_nametoindex(self.interface.name)
        with Rtnetlink() as kernel:
            # It has no link-local neighbours; with an address for these, the kernel would solicit routers on it.
            requests = [rtnetlink.no_link_local(index), rtnetlink.set_up(index, mtu=mtu)]
            if self._address is not None:
                requests.append(rtnetlink.address(index, _text(self._address), present=False))
            if address is not None:
                requests.append(rtnetlink.address(index, _text(address)))
            self._address = address
            if self.interface.default_route and address is not None:
                requests.append(self._route(TEREDO_ROUTE, index))
                requests.append(self._route(DEFAULT_ROUTE, index, metric=DEFAULT_METRIC))
            if self.interface.teredo_route:
                requests.append(self._route(TEREDO_ROUTE, index))
            kernel.do(*requests)
            if self.interface.default_route and address is None:
                for destination, metric in ((TEREDO_ROUTE, None), (DEFAULT_ROUTE, DEFAULT_METRIC)):
                    with contextlib.suppress(OSError):  # the kernel took it away with the address
                        kernel.do(rtnetlink.route(destination, index, metric=metric, present=False))

    def _route(self, destination: str, index: int, metric: int | None = None) -> Request:
        return rtnetlink.route(destination, index, metric=metric, source=self.interface.preferred_source)

    def close(self) -> None:
        os.close(self.fd)


def _text(address: bytes) -> str:
    return str(ipaddress.IPv6Address(address))
