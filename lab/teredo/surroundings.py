"""What a Teredo program has to know of the node that it runs on."""

from __future__ import annotations

import ipaddress
import socket

from pyroute2 import AsyncIPRoute


async def has_native_ipv6(teredo_interface: str) -> bool:
    """Whether an IPv6 default route leads out of another interface than the Teredo one (RFC 4380 section 5.5)."""
    async with AsyncIPRoute() as ip:
        own = await ip.link_lookup(ifname=teredo_interface)
        async for route in await ip.route("dump", family=socket.AF_INET6):
            if route["dst_len"] == 0 and route["type"] == 1 and route.get("RTA_OIF") not in own:
                return True
    return False


async def directed_broadcasts() -> frozenset[str]:
    """The broadcast addresses of the subnets that the node is attached to (RFC 4380 section 5.2.4)."""
    found = set()
    async with AsyncIPRoute() as ip:
        async for row in await ip.addr("dump", family=socket.AF_INET):
            subnet = ipaddress.IPv4Interface(f"{row.get('IFA_ADDRESS')}/{row['prefixlen']}").network
            if subnet.prefixlen < 31:
                found.add(str(subnet.broadcast_address))
    return frozenset(found)
