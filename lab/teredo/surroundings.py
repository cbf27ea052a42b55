"""What a Teredo program has to know of the node that it runs on."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from lab.rtnetlink import Rtnetlink


def has_native_ipv6(teredo_interface: str) -> bool:
    """Whether an IPv6 default route leads out of another interface than the Teredo one (RFC 4380 section 5.5)."""
    own = socket.if_nametoindex(teredo_interface)
    with Rtnetlink() as kernel:
        return any(index != own for index, _ in kernel.default_routes(socket.AF_INET6))


def subnets() -> frozenset[IPv4Network]:
    """The IPv4 subnets that the node is attached to."""
    with Rtnetlink() as kernel:
        return frozenset(
            IPv4Interface(f"{address}/{length}").network for address, length in kernel.addresses(socket.AF_INET)
        )


def directed_broadcasts() -> frozenset[str]:
    """The broadcast addresses of these subnets (RFC 4380 section 5.2.4)."""
    return frozenset(str(subnet.broadcast_address) for subnet in subnets() if subnet.prefixlen < 31)


def subnet_of(host: str) -> IPv4Network | None:
    """The most specific subnet of the node that an IPv4 address of its lies in (RFC 4380 section 5.2.8)."""
    around = [subnet for subnet in subnets() if IPv4Address(host) in subnet]
    return max(around, key=lambda subnet: subnet.prefixlen, default=None)


def default_gateway() -> str | None:
    """The IPv4 address of the default gateway, if there is one."""
    with Rtnetlink() as kernel:
        return next((gateway for _, gateway in kernel.default_routes(socket.AF_INET) if gateway is not None), None)
