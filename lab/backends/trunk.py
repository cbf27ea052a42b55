"""A container's links: VXLAN interfaces over the trunk, made in the container itself."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from lab.backends.containers import Tunnel
from lab.node import NodeError
from lab.plan import TRUNK

_PORT: Final = 4789
_LINK_MTU: Final = 1500


def _mac(address: str) -> str:
    """Whose an address of the trunk is: known to all without asking, and the same when a container is made anew."""
    return (b"\x02\x01" + socket.inet_aton(address)).hex(":")


def join(node: str, tunnels: Sequence[Tunnel]) -> None:
    """Make a container's ends of its links, and the bridges that join some of them. Raises NodeError."""
    try:
        with IPRoute() as ip:
            trunk = socket.if_nametoindex(TRUNK)
            ip.flush_routes(oif=trunk, dst_len=0, family=socket.AF_INET)  # some engines lead out of internal networks
            for address in ip.get_addr(family=socket.AF_INET, index=trunk):
                ip.link("set", index=trunk, address=_mac(address.get_attr("IFA_ADDRESS")))
            for bridge in dict.fromkeys(tunnel.bridge for tunnel in tunnels if tunnel.bridge is not None):
                ip.link("add", ifname=bridge, kind="bridge")
            for tunnel in tunnels:
                ip.link(
                    "add",
                    ifname=tunnel.interface,
                    kind="vxlan",
                    vxlan_id=tunnel.vni,
                    vxlan_group=tunnel.remote,
                    vxlan_port=_PORT,
                    vxlan_link=trunk,
                    mtu=_LINK_MTU,
                )
                if tunnel.bridge is not None:
                    index = socket.if_nametoindex(tunnel.interface)
                    ip.link("set", index=index, master=socket.if_nametoindex(tunnel.bridge), state="up")
                ip.neigh("replace", dst=tunnel.remote, lladdr=_mac(tunnel.remote), ifindex=trunk, state="permanent")
    except (NetlinkError, OSError) as error:
        raise NodeError(f"{node}: the kernel refused a link over {TRUNK} (does it have VXLAN?): {error}") from error
