"""The commands of the system that labs and tests use: what each is for, and the package of Debian that has it.

tools/setup.sh has the same list, since it runs before there is any Python; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Command:
    """`required`: no lab of namespaces is without it. `version`: what it is asked for its version, if it can be asked.

    `daemon`: Debian starts its daemon on the machine itself when the package is installed.
    """

    name: str
    package: str
    purpose: str
    required: bool = False
    version: str | None = "--version"
    daemon: bool = False


COMMANDS: Final = (
    Command("iptables-restore", "iptables", "NATs", required=True),
    Command("ipset", "ipset", "NATs", required=True),
    Command("nft", "nftables", "NATs, and links that lose packets", required=True),
    Command("tc", "iproute2", "links with a rate or a delay", version="-V"),
    Command("ip", "iproute2", "looking at nodes from inside, and tests", version="-V"),
    Command("ping", "iputils-ping", "trying nodes by hand, and tests", version="-V"),
    Command("conntrack", "conntrack", "looking at what NATs remember, and tests"),
    Command("sysctl", "procps", "tests"),
    Command("ethtool", "ethtool", "tests"),
    Command("miredo", "miredo", "nodes that run Miredo", version="-V", daemon=True),
    Command("miredo-server", "miredo-server", "servers that run Miredo", version="-V", daemon=True),
    Command("miniupnpd", "miniupnpd-nftables", "UPnP, NAT-PMP and PCP of NATs", daemon=True),
    Command("tcpdump", "tcpdump", "captures in nodes, and tests"),
    Command("tshark", "tshark", "tests"),
    Command("turnserver", "coturn", "tests", daemon=True),
    Command("clang-14", "clang-14", "compiling the kernel data path, and tests"),
    Command("upnpc", "miniupnpc", "tests", version=None),  # whatever it is asked, it calls the network's routers
)

BY_NAME: Final = {command.name: command for command in COMMANDS}
