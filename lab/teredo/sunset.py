"""Whether a node has IPv6 connectivity that is not Teredo's (RFC 4380 section 5.5)."""

from __future__ import annotations

import socket

from pyroute2 import AsyncIPRoute


async def has_native_ipv6(teredo_interface: str) -> bool:
    """Whether an IPv6 default route leads out of another interface than the Teredo one."""
    async with AsyncIPRoute() as ip:
        own = await ip.link_lookup(ifname=teredo_interface)
        async for route in await ip.route("dump", family=socket.AF_INET6):
            if route["dst_len"] == 0 and route["type"] == 1 and route.get("RTA_OIF") not in own:
                return True
    return False
