"""A plan's nodes as containers: pure data, which the Docker backend and the Compose file share.

All containers of a lab are on one internal Docker network, the trunk. Each link of the plan is a VXLAN between two of
them: so a link costs nothing of Docker's, looks in a node as it does in a namespace, and cannot lead anywhere else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from pydantic import BaseModel, ConfigDict

from lab.nat import engines
from lab.plan import Interface, NodePlan, Plan, Route

MTU: Final = 1600
"""Of the trunk: a link's 1,500 bytes and the 50 that VXLAN adds."""

SETTINGS: Final = "TEREDO_LAB_NODE"
"""The environment variable that holds a container's settings."""

_FIRST_HOST: Final = 2
"""Of the trunk's addresses; Docker may take the first for itself."""

CAPABILITIES: Final = ("NET_ADMIN", "NET_RAW")
MIREDO_CAPABILITIES: Final = ("CHOWN", "SETUID", "SETGID", "KILL")
"""Miredo gives up root for a user of its own; it does not start without one of these."""

IPV6: Final = {f"net.ipv6.conf.{scope}.disable_ipv6": "0" for scope in ("all", "default", "lo")}
"""Docker switches IPv6 off where the network of a container has none."""

BRIDGE_FILTER: Final = "net.bridge."
"""Not every engine's machine has these, and a container that asks for one that is missing does not start. Hairpinning
needs it: a bridge that is filtered passes hairpinned packets on before their source has been translated."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tunnel(_Frozen):
    """One end of a link: a VXLAN interface to the container at `remote`, on a bridge if one is named."""

    interface: str
    vni: int
    remote: str
    bridge: str | None = None


class Settings(_Frozen):
    """What a container is told: whose lab it is of, the node that it is, and the ends of its links.

    A NAT's rules follow from what it is meant to be, so only the engine's name is in here.
    """

    lab: str
    node: NodePlan
    tunnels: tuple[Tunnel, ...]

    @classmethod
    def of(cls, lab: str, node: NodePlan, tunnels: tuple[Tunnel, ...]) -> Settings:
        """Settings without what follows from the rest."""
        if node.firewall is not None:
            node = node.model_copy(update={"firewall": node.firewall.model_copy(update=_NO_RULES)})
        return cls(lab=lab, node=node, tunnels=tunnels)

    def plan(self) -> NodePlan:
        """The node's plan, with a NAT's rules."""
        if self.node.nat is None or self.node.firewall is None:
            return self.node
        firewall = engines.firewall(self.node.nat.setup, self.node.firewall.engine)
        return self.node.model_copy(update={"firewall": firewall})


_NO_RULES: Final[dict[str, object]] = {"ipset": "", "iptables": "", "nftables": "", "sysctls": {}}


class Container(_Frozen):
    """One container: where it is on the trunk, and what the engine has to give it."""

    name: str
    address: str
    settings: Settings
    sysctls: dict[str, str]
    capabilities: tuple[str, ...]
    miredo: bool


def guest_of(nat: str) -> str:
    """The name of the container in the LAN of a NAT that has no client."""
    return f"{nat}-guest"


def containers(plan: Plan, subnet: ipaddress.IPv4Network) -> list[Container]:
    """A container for each node, and one for each guest; addresses of `subnet` in the order of the plan."""
    plan = _with_guests(plan)
    hosts = (subnet[number] for number in range(_FIRST_HOST, subnet.num_addresses - 1))
    addresses = {node.name: str(address) for node, address in zip(plan.nodes, hosts, strict=False)}
    tunnels: dict[str, list[Tunnel]] = {node.name: [] for node in plan.nodes}
    for node, tunnel in _tunnels(plan, addresses):
        tunnels[node].append(tunnel)
    return [
        Container(
            name=node.name,
            address=addresses[node.name],
            settings=Settings.of(plan.name, node, tuple(tunnels[node.name])),
            sysctls=sysctls(node),
            capabilities=CAPABILITIES + (MIREDO_CAPABILITIES if node.program == "miredo" else ()),
            miredo=node.program == "miredo",
        )
        for node in plan.nodes
    ]


def controller_address(subnet: ipaddress.IPv4Network) -> str:
    """Where the container is that runs the checks: at the end, out of the nodes' way."""
    return str(subnet[-2])


def room(plan: Plan) -> int:
    """The prefix length of a subnet that has room for all containers."""
    needed = len(_with_guests(plan).nodes) + _FIRST_HOST + 2
    return min(24, 32 - (needed - 1).bit_length())


def sysctls(node: NodePlan) -> dict[str, str]:
    """What the engine has to set, since a container's /proc/sys cannot be written."""
    wanted = node.sysctls | IPV6 | (node.firewall.sysctls if node.firewall is not None else {})
    if node.nat is not None and node.nat.setup.behaviour.hairpin:
        return wanted
    return {key: value for key, value in wanted.items() if not key.startswith(BRIDGE_FILTER)}


def _with_guests(plan: Plan) -> Plan:
    nodes, networks = list(plan.nodes), list(plan.networks)
    for nat in plan.nodes:
        if nat.nat is None or nat.nat.guest is None:
            continue
        lan = nat.interfaces[1]
        guest = guest_of(nat.name)
        gateway = lan.addresses[0].split("/")[0]
        nodes.append(
            NodePlan(
                name=guest,
                role="client",
                site=nat.site,
                interfaces=(Interface(name="lan", network=lan.network, addresses=(nat.nat.guest,)),),
                sysctls=nat.sysctls,
                routes=(Route(destination="0.0.0.0/0", via=gateway, interface="lan"),),
            )
        )
        networks = [
            network.model_copy(update={"members": (*network.members, (guest, "lan"))})
            if network.name == lan.network
            else network
            for network in networks
        ]
    return plan.model_copy(update={"nodes": tuple(nodes), "networks": tuple(networks)})


def _tunnels(plan: Plan, addresses: dict[str, str]) -> Iterator[tuple[str, Tunnel]]:
    vni = 0
    for network in plan.networks:
        (gateway, name), *others = network.members
        bridge = name if network.kind == "lan" else None
        for number, (node, interface) in enumerate(others):
            vni += 1
            port = name if bridge is None else f"{name}{number}"
            yield gateway, Tunnel(interface=port, vni=vni, remote=addresses[node], bridge=bridge)
            yield node, Tunnel(interface=interface, vni=vni, remote=addresses[gateway])
        if bridge is not None and not others:
            raise ValueError(f"the LAN {network.name} has nobody in it")
