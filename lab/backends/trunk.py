"""A container's links: VXLAN interfaces over the trunk, made in the container itself."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from lab.backends.containers import Tunnel
from lab.backends.wiring import BRIDGE_ADDRESS
from lab.node import NodeError
from lab.plan import TRUNK

_PORT: Final = 4789
_LINK_MTU: Final = 1500
_ETH_P_IP: Final = 0x0800
_ETH_P_ARP: Final = 0x0806
_ARP_REQUEST: Final = 1
_BROADCAST: Final = b"\xff" * 6


def _announce() -> None:
    """Tell the trunk where our address is (a gratuitous ARP): who was here before with it had another one, as engines
    from 28 on make them up."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((TRUNK, _ETH_P_ARP))
        hardware = sender.getsockname()[4]
        with IPRoute() as ip:
            for address in ip.get_addr(family=socket.AF_INET, index=socket.if_nametoindex(TRUNK)):
                own = socket.inet_aton(address.get_attr("IFA_ADDRESS"))
                body = struct.pack("!HHBBH6s4s6s4s", 1, _ETH_P_IP, 6, 4, _ARP_REQUEST, hardware, own, bytes(6), own)
                sender.send(_BROADCAST + hardware + struct.pack("!H", _ETH_P_ARP) + body)


def join(node: str, tunnels: Sequence[Tunnel]) -> None:
    """Make a container's ends of its links, and the bridges that join some of them. Raises NodeError."""
    try:
        with IPRoute() as ip:
            trunk = socket.if_nametoindex(TRUNK)
            ip.flush_routes(oif=trunk, dst_len=0, family=socket.AF_INET)  # some engines lead out of internal networks
            for bridge in dict.fromkeys(tunnel.bridge for tunnel in tunnels if tunnel.bridge is not None):
                ip.link("add", ifname=bridge, kind="bridge", address=BRIDGE_ADDRESS)
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
        _announce()
    except (NetlinkError, OSError) as error:
        raise NodeError(f"{node}: the kernel refused a link over {TRUNK} (does it have VXLAN?): {error}") from error
