"""A container's links: VXLAN interfaces over the trunk, made in the container itself."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from lab import rtnetlink
from lab.backends.containers import Tunnel
from lab.node import NodeError
from lab.plan import TRUNK
from lab.rtnetlink import Rtnetlink

_PORT: Final = 4789
_LINK_MTU: Final = 1500


def _mac(address: str) -> str:
    """Whose an address of the trunk is: known to all without asking, and the same when a container is made anew."""
    return (b"\x02\x01" + socket.inet_aton(address)).hex(":")


def join(node: str, tunnels: Sequence[Tunnel]) -> None:
    """Make a container's ends of its links, and the bridges that join some of them. Raises NodeError."""
    try:
        with Rtnetlink() as kernel:
            trunk = socket.if_nametoindex(TRUNK)
            leading_out = [index for index, _ in kernel.default_routes(socket.AF_INET)].count(trunk)
            kernel.do(  # some engines lead out of internal networks
                *[rtnetlink.route("0.0.0.0/0", trunk, present=False)] * leading_out,
                *(rtnetlink.set_up(trunk, mac=_mac(own)) for own, _ in kernel.addresses(socket.AF_INET, trunk)),
                *map(rtnetlink.bridge, dict.fromkeys(each.bridge for each in tunnels if each.bridge is not None)),
            )
            for tunnel in tunnels:
                bridge = None if tunnel.bridge is None else socket.if_nametoindex(tunnel.bridge)
                kernel.do(
                    rtnetlink.vxlan(
                        tunnel.interface,
                        tunnel.vni,
                        tunnel.remote,
                        port=_PORT,
                        over=trunk,
                        mtu=_LINK_MTU,
                        master=bridge,
                    ),
                    rtnetlink.neighbour(trunk, tunnel.remote, _mac(tunnel.remote)),
                )
    except OSError as error:
        why = error.strerror or error
        raise NodeError(f"{node}: the kernel refused a link over {TRUNK} (does it have VXLAN?): {why}") from error
