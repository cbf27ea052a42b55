"""The plan: what a machine needs to build a lab, as pure data.

A topology says what a person means; a plan says every address, route, sysctl, firewall line and program. Making one
(`plan`) runs nothing and reads nothing but its argument, and two runs give the same bytes, so plans can be printed,
compared and sent to a container.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from lab.nat.kinds import Engine
from lab.nat.setup import NatSetup

Role = Literal["internet", "server", "relay", "host", "nat", "client"]
Verdict = Literal["reachable", "unreachable"]

TRUNK: Final = "eth0"
"""Where nodes are containers: the interface that carries all their links. No link of a plan has this name."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Interface(_Frozen):
    """One interface of a node. `addresses` are written with a prefix length, for example ``192.0.2.1/32``.

    `mac` stays the same whatever becomes of the addresses; empty: whatever the kernel makes up.
    """

    name: str
    network: str
    mac: str = ""
    addresses: tuple[str, ...] = ()
    mtu: int = 1500
    ipv6: bool = False


class LinkQuality(_Frozen):
    """How good a link is, in both directions: percentages, bits a second, milliseconds; 0 stands for none.

    A link that is `down` loses everything, as if its cable were cut behind the next switch: interfaces stay up.
    """

    loss: float = 0.0
    rate: int = 0
    delay: float = 0.0
    jitter: float = 0.0
    reorder: float = 0.0
    down: bool = False


class Network(_Frozen):
    """What joins nodes: a point-to-point link of two nodes, or a LAN whose bridge is its first member's interface.

    `qualities` are those of the other members' links to the first one, where they are not perfect, by node.
    """

    name: str
    kind: Literal["p2p", "lan"]
    members: tuple[tuple[str, str], ...]  # (node, interface)
    qualities: dict[str, LinkQuality] = {}


class Route(_Frozen):
    destination: str  # a prefix; 0.0.0.0/0 and ::/0 are the defaults
    interface: str | None = None
    via: str | None = None
    kind: Literal["unicast", "blackhole", "unreachable"] = "unicast"
    table: int = 254
    metric: int | None = None  # the least wins


class Neighbour(_Frozen):
    """Who has an address on a link. Asked for, it would be one of 1,024 that all namespaces of a machine share."""

    interface: str
    address: str
    mac: str


class SourceRule(_Frozen):
    """IPv6 packets from `source` look in `table` before the main one (which relay serves which host)."""

    source: str
    table: int


class Firewall(_Frozen):
    """Rules as the text that the tools take: `ipset restore`, `iptables-restore`, `nft -f`. Empty text: nothing.

    `sysctls` are those of connection tracking, which are there only when rules have brought it in.
    """

    engine: Engine
    ipset: str = ""
    iptables: str = ""
    nftables: str = ""
    sysctls: dict[str, str] = {}

    @property
    def in_maps(self) -> bool:
        """Whether what the NAT remembers is in nftables' maps, and not conntrack's flows alone."""
        return bool(self.nftables and not self.iptables)


def udp_timeouts(new: int, established: int) -> dict[str, str]:
    """The sysctls that have conntrack forget an idle UDP flow after so many seconds."""
    name = "net.netfilter.nf_conntrack_udp_timeout"
    return {name: str(new), f"{name}_stream": str(established)}


class Nat(_Frozen):
    """What a node that is a NAT is meant to be; `kind` is a name of `lab.nat.kinds`, or a behaviour's `point`.

    `vantage` are two addresses of the node `upstream` from which the NAT can be measured. In a LAN without clients,
    `guest` is the address, with its prefix length, of a host that measures it from inside.
    """

    kind: str
    setup: NatSetup
    upstream: str
    vantage: tuple[str, str]
    guest: str | None


class Program(_Frozen):
    """A program that the node runs. `kind` names an entry of `lab.programs`, `options` is that entry's own model."""

    kind: str
    options: dict[str, Any]


class NodePlan(_Frozen):
    name: str
    role: Role
    site: str | None = None
    program: str | None = None  # "teredo-lab" or "miredo" where the node speaks Teredo
    nat: Nat | None = None
    interfaces: tuple[Interface, ...] = ()
    sysctls: dict[str, str] = {}
    neighbours: tuple[Neighbour, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[SourceRule, ...] = ()
    firewall: Firewall | None = None
    programs: tuple[Program, ...] = ()

    @property
    def extensions(self) -> list[str] | None:
        """The extensions of RFC 6081 that the node's client has; None where there is no client of ours."""
        return next((each.options["extensions"] for each in self.programs if each.kind == "teredo-client"), None)


class Expectation(_Frozen):
    """What a check of one ordered pair shall find, and why that is expected."""

    source: str
    destination: str
    expected: Verdict
    because: str


class Plan(_Frozen):
    name: str
    topology: str | None = None  # the file that it was made from
    nodes: tuple[NodePlan, ...]
    networks: tuple[Network, ...]
    expectations: tuple[Expectation, ...] = ()

    def node(self, name: str) -> NodePlan:
        """The node of that name. Raises KeyError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)
