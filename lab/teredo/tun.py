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
from typing import Any, Final

from pyroute2 import AsyncIPRoute

from lab.node import NO_LINK_LOCAL

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

    async def configure(self, address: bytes | None, mtu: int) -> None:
        """Bring the interface up with this address (16 bytes) in place of the last one, or with none."""
        async with AsyncIPRoute() as ip:
            (index,) = await ip.link_lookup(ifname=self.interface.name)
            # It has no link-local neighbours; with an address for these, the kernel would solicit routers on it.
            await ip.link("set", index=index, **NO_LINK_LOCAL)
            await ip.link("set", index=index, mtu=mtu, state="up")
            if self._address is not None:
                await ip.addr("del", index=index, address=_text(self._address), prefixlen=128)
            if address is not None:
                await ip.addr("add", index=index, address=_text(address), prefixlen=128)
            self._address = address
            if self.interface.default_route:
                for destination in (TEREDO_ROUTE, DEFAULT_ROUTE):
                    await self._route(ip, destination, index, present=address is not None)
            if self.interface.teredo_route:
                await self._route(ip, TEREDO_ROUTE, index, present=True)

    async def _route(self, ip: AsyncIPRoute, destination: str, index: int, *, present: bool) -> None:
        options: dict[str, Any] = {"family": socket.AF_INET6, "dst": destination, "oif": index}
        if destination == DEFAULT_ROUTE:
            options["priority"] = DEFAULT_METRIC
        if present and self.interface.preferred_source is not None:
            options["prefsrc"] = self.interface.preferred_source
        if present:
            await ip.route("replace", **options)
        else:
            with contextlib.suppress(Exception):  # the kernel took it away with the address
                await ip.route("del", **options)

    def close(self) -> None:
        os.close(self.fd)


def _text(address: bytes) -> str:
    return str(ipaddress.IPv6Address(address))
