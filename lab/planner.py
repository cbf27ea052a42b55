"""Makes a plan of a topology: every address, route, sysctl, firewall line and program. It runs and reads nothing.

The lab's Internet is one routed node, `internet`, with a link of its own to each server, relay, host and NAT. Its one
IPv4 address is on all of them, so a public node is a /32 behind a link, and needs no subnet.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from lab.check.expectation import expectations
from lab.datapath.choice import DataPath
from lab.nat import engines
from lab.nat.setup import NatSetup
from lab.plan import TRUNK, Interface, Nat, Neighbour, Network, NodePlan, Plan, Program, Route, SourceRule
from lab.teredo.extensions import ALL
from lab.topology.addressing import CORE, VANTAGE, Addresses, allocate, gateway, guest, inside_hosts, vantage
from lab.topology.model import (
    LOCAL,
    REFRESH_INTERVAL,
    RELAY_PORT,
    Host,
    Link,
    PlacedClient,
    Relay,
    Server,
    TeredoProgram,
    Topology,
    nat_node,
)
from lab.topology.rules import INTERNET

TUN: Final = "teredo"
WAN: Final = "wan"
LAN: Final = "lan"
TEREDO: Final = "2001::/32"
_WITHOUT_RELAY: Final = Route(destination=TEREDO, kind="unreachable", metric=1 << 16)
"""A relay's, while its program does not run: its default route would lead packets back to where they come from."""

WEB_PORT: Final = 80

_COMMON: Final = {
    **{
        f"net.ipv6.conf.{scope}.{key}": "0"
        for scope in ("default", "all")
        for key in ("accept_ra", "autoconf", "accept_dad")
    },
    "net.ipv6.conf.default.router_solicitations": "0",
    **{
        f"net.ipv4.conf.{scope}.{key}": "0"
        for scope in ("all", "default")
        for key in ("rp_filter", "send_redirects", "accept_redirects")
    },
}
"""Every node: all is configured, nothing by itself, and asymmetric paths are fine."""

_FORWARD_IPV4: Final = {"net.ipv4.ip_forward": "1"}
_FORWARD_IPV6: Final = {"net.ipv6.conf.all.forwarding": "1"}
_NO_BRIDGE_FILTER: Final = {"net.bridge.bridge-nf-call-iptables": "0"}

_NEVER_PUBLIC: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16")

_MAX_INTERFACE_NAME: Final = 15
_TAKEN_NAMES: Final = frozenset(
    ("lo", "all", "default", TRUNK, "sit0", "tunl0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0")
)
"""Interfaces that a fresh namespace may have already, and what /proc/sys/net/*/conf has besides interfaces."""

_MAIN_TABLE: Final = 254
_FIRST_TABLE: Final = 1000
"""Of relays that do not serve every host; above the tables with a meaning of their own, which end at 255."""


def plan(topology: Topology) -> Plan:
    """The plan of a topology that has no problems (`lab.topology.rules`)."""
    addresses = allocate(topology)
    public = [
        *(_server(name, server, addresses) for name, server in topology.servers.items()),
        *(_relay(topology, name, relay, addresses) for name, relay in topology.relays.items()),
        *(_host(topology, name, host, addresses) for name, host in topology.hosts.items()),
        *(_nat(topology, name, addresses) for name, site in topology.sites.items() if site.behind is None),
    ]
    nested = [_nat(topology, name, addresses) for name, site in topology.sites.items() if site.behind is not None]
    clients = [_client(topology, placed, addresses) for placed in topology.clients()]
    core = _core(topology, public, addresses)
    qualities = {node: link.quality for _, node, link in topology.links() if link != Link()}
    links = (
        Network(
            name=there.network,
            kind="p2p",
            members=((core.name, there.name), (node.name, node.interfaces[0].name)),
            qualities={name: qualities[name] for name in (node.name,) if name in qualities},
        )
        for there, node in zip(core.interfaces, public, strict=True)
    )
    lans = (
        Network(
            name=_lan(name),
            kind="lan",
            members=(
                (nat_node(name), LAN),
                *((client, LAN) for client in site.clients),
                *((nat_node(nested_site), WAN) for nested_site in topology.nested(name)),
            ),
            qualities={
                node: qualities[node]
                for node in (*site.clients, *map(nat_node, topology.nested(name)))
                if node in qualities
            },
        )
        for name, site in topology.sites.items()
    )
    networks = (*links, *lans)
    return Plan(
        name=topology.name,
        nodes=_acquainted((core, *public, *nested, *clients), networks),
        networks=networks,
        expectations=expectations(topology),
    )


def _acquainted(nodes: Sequence[NodePlan], networks: Sequence[Network]) -> tuple[NodePlan, ...]:
    """The same nodes with MAC addresses, and with each network's first member and the others knowing each other's."""
    of = {
        (node.name, interface.name): interface.model_copy(update={"mac": _mac(node.name, interface.name)})
        for node in nodes
        for interface in node.interfaces
    }
    known: dict[str, list[Neighbour]] = {node.name: [] for node in nodes}
    for network in networks:
        first, *others = network.members
        for other in others:
            for (node, interface), there in ((first, of[other]), (other, of[first])):
                known[node] += (
                    Neighbour(interface=interface, address=address.split("/")[0], mac=there.mac)
                    for address in there.addresses
                )
    return tuple(
        node.model_copy(
            update={
                "interfaces": tuple(of[node.name, interface.name] for interface in node.interfaces),
                "neighbours": tuple(known[node.name]),
            }
        )
        for node in nodes
    )


def _mac(node: str, interface: str) -> str:
    """A locally administered address, of the node's name alone: it outlives changes of the node's addresses."""
    return (b"\x02\0" + zlib.crc32(f"{node}/{interface}".encode()).to_bytes(4, "big")).hex(":")


def _core(topology: Topology, public: Sequence[NodePlan], addresses: Addresses) -> NodePlan:
    interfaces: dict[str, Interface] = {}
    routes: list[Route] = []
    names = _interface_names([node.name for node in public])
    for node, name in zip(public, names, strict=True):
        native = addresses.native.get(node.name)
        own = (f"{CORE}/32",) if native is None else (f"{CORE}/32", f"{native.core}/64")
        network = node.interfaces[0].network
        interfaces[node.name] = Interface(name=name, network=network, addresses=own, ipv6=native is not None)
        routes += (
            Route(destination=f"{address}/32", interface=name) for address in addresses.public.get(node.name, ())
        )
    routes += (Route(destination=prefix, kind="unreachable") for prefix in _NEVER_PUBLIC)

    if interfaces:
        first_link = next(iter(interfaces.values()))
        second = tuple(f"{address}/32" for address in VANTAGE[1:])
        interfaces |= {public[0].name: first_link.model_copy(update={"addresses": (*first_link.addresses, *second)})}

    tables = {relay: _FIRST_TABLE + index for index, relay in enumerate(topology.relaying)}
    relays = {name: topology.relay_of(host) for name, host in topology.hosts.items()}
    first = topology.relaying[:1]
    for relay in topology.relaying:
        if relay in first or relay in relays.values():
            via, interface = str(addresses.native[relay].node), interfaces[relay].name
            table = _MAIN_TABLE if relay in first else tables[relay]
            routes.append(Route(destination=TEREDO, via=via, interface=interface, table=table))
    rules = (
        SourceRule(source=str(addresses.native[host].prefix), table=tables[relay])
        for host, relay in relays.items()
        if relay in tables and relay not in first
    )
    return NodePlan(
        name=INTERNET,
        role="internet",
        interfaces=tuple(interfaces.values()),
        sysctls=_COMMON | _FORWARD_IPV4 | _FORWARD_IPV6,
        routes=tuple(routes),
        rules=tuple(rules),
    )


def _interface_names(nodes: Sequence[str]) -> list[str]:
    """A name for each node's link: the node's own, or a short one where Linux would not take that."""
    usable = {node for node in nodes if len(node) <= _MAX_INTERFACE_NAME and node not in _TAKEN_NAMES}
    numbered = (name for index in count(1) if (name := f"n{index}") not in usable)
    return [node if node in usable else next(numbered) for node in nodes]


def _link(node: str, interface: str, addresses: Addresses) -> tuple[Interface, tuple[Route, ...]]:
    """A public node's link to the core, with the routes that lead there."""
    ipv4, native = addresses.public.get(node, ()), addresses.native.get(node)
    own = [f"{address}/32" for address in ipv4]
    routes: list[Route] = []
    if ipv4:
        routes.append(Route(destination=f"{CORE}/32", interface=interface))
        routes.append(Route(destination="0.0.0.0/0", via=str(CORE), interface=interface))
    if native is not None:
        own.append(f"{native.node}/64")
        routes.append(Route(destination="::/0", via=str(native.core), interface=interface))
    link = Interface(name=interface, network=f"{INTERNET}--{node}", addresses=tuple(own), ipv6=native is not None)
    return link, tuple(routes)


def _lan(site: str) -> str:
    return f"lan--{site}"


def _server(name: str, server: Server, addresses: Addresses) -> NodePlan:
    link, routes = _link(name, WAN, addresses)
    primary, secondary = map(str, addresses.public[name])
    options: dict[str, Any] = {"primary": primary, "secondary": secondary, "tun": TUN}
    if server.program == "teredo-lab":
        options["secrets"] = server.secrets
        options["relay"] = {"address": str(addresses.native[name].node)} if server.relay else None
    return NodePlan(
        name=name,
        role="server",
        program=server.program,
        interfaces=(link,),
        sysctls=_COMMON | _FORWARD_IPV6,
        routes=routes,
        programs=(_teredo(server.program, "server", options),),
    )


def _relay(topology: Topology, name: str, relay: Relay, addresses: Addresses) -> NodePlan:
    link, routes = _link(name, WAN, addresses)
    if relay.program == "miredo":
        options: dict[str, Any] = {"bind": str(addresses.public[name][0]), "port": relay.port, "tun": TUN}
    else:
        options = _relaying(name, relay.port, addresses, host_specific=False)
        options |= _datapath(relay.datapath or topology.datapath)
    return NodePlan(
        name=name,
        role="relay",
        program=relay.program,
        interfaces=(link,),
        sysctls=_COMMON | _FORWARD_IPV6,
        routes=(*routes, _WITHOUT_RELAY),
        programs=(_teredo(relay.program, "relay", options),),
    )


def _host(topology: Topology, name: str, host: Host, addresses: Addresses) -> NodePlan:
    link, routes = _link(name, WAN, addresses)
    local = host.relay == LOCAL
    relay = _relaying(name, RELAY_PORT, addresses, host_specific=True) | _datapath(topology.datapath) if local else {}
    web = Program(kind="web", options={"address": str(addresses.native[name].node), "port": WEB_PORT})
    return NodePlan(
        name=name,
        role="host",
        program="teredo-lab" if local else None,
        interfaces=(link,),
        sysctls=_COMMON,
        routes=routes,
        programs=(_teredo("teredo-lab", "relay", relay), web) if local else (web,),
    )


def _relaying(name: str, port: int, addresses: Addresses, *, host_specific: bool) -> dict[str, Any]:
    """Options of our relay, for a site or for its own host alone (RFC 4380 section 5.4)."""
    return {
        "bind": str(addresses.public[name][0]),
        "port": port,
        "address": str(addresses.native[name].node),
        "tun": TUN,
        "host_specific": host_specific,
    }


def _nat(topology: Topology, site_name: str, addresses: Addresses) -> NodePlan:
    site, name, lan = topology.sites[site_name], nat_node(site_name), addresses.lans[site_name]
    external, behaviour = addresses.nats[site_name], site.behaviour
    if site.behind is None:
        (wan, routes), upstream = _link(name, WAN, addresses), INTERNET
    else:
        outer = addresses.lans[site.behind]
        own = tuple(f"{address}/{outer.prefixlen}" for address in external)
        wan, upstream = Interface(name=WAN, network=_lan(site.behind), addresses=own), nat_node(site.behind)
        routes = (Route(destination="0.0.0.0/0", via=str(gateway(outer)), interface=WAN),)
    around = lan if site.behind is None else addresses.lans[site.behind]
    first, second = map(str, vantage(topology, site_name, around))

    hosts = [addresses.clients[client] for client in site.clients] or [guest(lan)]
    for nested in topology.nested(site_name):
        hosts += addresses.nats[nested]
    seed = zlib.crc32(f"{topology.name}/{name}".encode())
    setup = NatSetup(behaviour, external, tuple(hosts), seed)
    upnp = {"external": str(external[0]), "inside": str(gateway(lan))}
    engine = engines.choose(behaviour, inside_hosts(topology, site_name), site.nat.engine)
    own_lan = (gateway(lan), lan[-2]) if topology.nested(site_name) else (gateway(lan),)
    inside = Interface(name=LAN, network=_lan(site_name), addresses=tuple(f"{ip}/{lan.prefixlen}" for ip in own_lan))
    return NodePlan(
        name=name,
        role="nat",
        site=site_name,
        nat=Nat(
            kind=site.nat.name,
            setup=setup,
            upstream=upstream,
            vantage=(first, second),
            guest=None if site.clients else f"{guest(lan)}/{lan.prefixlen}",
        ),
        interfaces=(wan, inside),
        sysctls=_COMMON | _FORWARD_IPV4 | _NO_BRIDGE_FILTER,
        routes=routes,
        firewall=engines.firewall(setup, engine),
        programs=(Program(kind="upnp", options=upnp),) if behaviour.upnp else (),
    )


def _client(topology: Topology, placed: PlacedClient, addresses: Addresses) -> NodePlan:
    name, client, site_name, _ = placed
    lan, own = addresses.lans[site_name], addresses.clients[name]
    server, secondary = map(str, addresses.public[topology.server_of(client)])
    options: dict[str, Any] = {
        "server": server,
        "secondary": secondary,
        "bind": str(own),
        "port": addresses.ports[name],
        "tun": TUN,
    }
    if client.program == "teredo-lab":
        options |= client.model_dump(include={"client_id", "secret", "determine_interval", "local_discovery"})
        options["refresh_interval"] = client.refresh_interval or REFRESH_INTERVAL
        options["extensions"] = sorted(ALL if client.extensions is None else client.extensions)
        options |= _datapath(client.datapath or topology.datapath)
    return NodePlan(
        name=name,
        role="client",
        site=site_name,
        program=client.program,
        interfaces=(Interface(name=LAN, network=_lan(site_name), addresses=(f"{own}/{lan.prefixlen}",)),),
        sysctls=_COMMON,
        routes=(Route(destination="0.0.0.0/0", via=str(gateway(lan)), interface=LAN),),
        programs=(_teredo(client.program, "client", options),),
    )


def _datapath(choice: DataPath) -> dict[str, str]:
    """What a program is told of its data path: nothing where it shall choose."""
    return {} if choice is DataPath.AUTO else {"datapath": str(choice)}


def _teredo(program: TeredoProgram, part: str, options: dict[str, Any]) -> Program:
    return Program(kind=f"{'teredo' if program == 'teredo-lab' else program}-{part}", options=options)
