"""What a Teredo program has to know of the node that it runs on."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from pyroute2 import AsyncIPRoute


async def has_native_ipv6(teredo_interface: str) -> bool:
    """Whether an IPv6 default route leads out of another interface than the Teredo one (RFC 4380 section 5.5)."""
    async with AsyncIPRoute() as ip:
        own = await ip.link_lookup(ifname=teredo_interface)
        async for route in await ip.route("dump", family=socket.AF_INET6):
            if route["dst_len"] == 0 and route["type"] == 1 and route.get("RTA_OIF") not in own:
                return True
    return False


async def subnets() -> frozenset[IPv4Network]:
    """The IPv4 subnets that the node is attached to."""
    async with AsyncIPRoute() as ip:
        rows = [row async for row in await ip.addr("dump", family=socket.AF_INET)]
    return frozenset(IPv4Interface(f"{row.get('IFA_ADDRESS')}/{row['prefixlen']}").network for row in rows)


async def directed_broadcasts() -> frozenset[str]:
    """The broadcast addresses of these subnets (RFC 4380 section 5.2.4)."""
    return frozenset(str(subnet.broadcast_address) for subnet in await subnets() if subnet.prefixlen < 31)


async def subnet_of(host: str) -> IPv4Network | None:
    """The most specific subnet of the node that an IPv4 address of its lies in (RFC 4380 section 5.2.8)."""
    around = [subnet for subnet in await subnets() if IPv4Address(host) in subnet]
    return max(around, key=lambda subnet: subnet.prefixlen, default=None)
