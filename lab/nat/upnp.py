"""UPnP IGD, NAT-PMP and PCP for a NAT: the nftables table that miniupnpd fills in, and its configuration."""

from __future__ import annotations

import uuid
from ipaddress import IPv4Address
from typing import Final

HTTP_PORT: Final = 5000

TABLE: Final = """table inet upnp
delete table inet upnp
table inet upnp {
  chain miniupnpd {
  }
  chain prerouting_miniupnpd {
  }
  chain postrouting_miniupnpd {
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    jump miniupnpd
  }
  chain prerouting {
    type nat hook prerouting priority dstnat - 1;
    iifname wan jump prerouting_miniupnpd
  }
}
"""
"""Before the NAT's own rules: what miniupnpd has opened comes in, whoever sends it.

Its chain for outgoing packets is called from nowhere: a mapping made by UPnP is for what comes in (RFC 6081 section
3.2), and what goes out gets its port from the NAT.
"""


CLEAR: Final = """flush chain inet upnp miniupnpd
flush chain inet upnp prerouting_miniupnpd
flush chain inet upnp postrouting_miniupnpd
"""
"""Closes all ports: miniupnpd leaves its rules behind when it ends."""


def configuration(node: str, external: IPv4Address) -> str:
    """miniupnpd's configuration for a NAT's node. There is no lease file, or ports would stay open over a reset."""
    options = {
        "ext_ifname": "wan",
        "ext_ip": external,
        "listening_ip": "lan",
        "http_port": HTTP_PORT,
        "enable_upnp": "yes",
        "enable_natpmp": "yes",
        "secure_mode": "yes",  # a host opens ports to itself only
        "system_uptime": "yes",
        "uuid": uuid.uuid5(uuid.NAMESPACE_DNS, f"{node}.teredo-lab.invalid"),
        "friendly_name": node,
        "upnp_table_name": "upnp",
        "upnp_nat_table_name": "upnp",
        "upnp_forward_chain": "miniupnpd",
        "upnp_nat_chain": "prerouting_miniupnpd",
        "upnp_nat_postrouting_chain": "postrouting_miniupnpd",
    }
    permissions = ("allow 1024-65535 0.0.0.0/0 1024-65535", "deny 0-65535 0.0.0.0/0 0-65535")
    return "".join(f"{line}\n" for line in (*(f"{key}={value}" for key, value in options.items()), *permissions))
