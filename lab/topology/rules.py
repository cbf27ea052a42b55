"""What must hold between the parts of a topology: names, references, addresses, and what each program can do.

Each rule yields findings with the path of the value at fault; the loader knows the lines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import chain
from typing import Final

from lab.nat.kinds import KINDS
from lab.nat.matrix import NAT_KINDS
from lab.topology.addressing import CORE, LAN_RESERVED, PRIVATE, PUBLIC, gateway, lans
from lab.topology.document import Loc
from lab.topology.model import LOCAL, PlacedClient, Topology, nat_node
from lab.topology.wording import unknown

INTERNET: Final = "internet"
"""The node that is the core of the lab."""

LAN_CLIENTS: Final = 1022
"""A Linux bridge has 1023 ports (BR_PORT_BITS), and one is the NAT's own."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong at a path, and a remedy. `other` is the path of a value that this one clashes with."""

    loc: Loc
    what: str
    remedy: str
    other: Loc | None = None


def findings(topology: Topology) -> Iterator[Finding]:
    """Everything wrong with a topology whose options are well-formed, each by itself."""
    return chain(
        _names(topology),
        _references(topology),
        _kinds(topology),
        _public_addresses(topology),
        _lans(topology),
        _ports(topology),
        _programs(topology),
        _secrets(topology),
        _checks(topology),
    )


def _unknown(loc: Loc, what: str, word: str, known: Collection[str]) -> Finding:
    return Finding(loc, *unknown(what, word, known))


def _client(placed: PlacedClient, *rest: str) -> Loc:
    return ("sites", placed.site_name, "clients", placed.name, *rest)


def _nodes(topology: Topology) -> Iterator[tuple[str, Loc]]:
    for group in ("servers", "relays", "hosts"):
        yield from ((name, (group, name)) for name in getattr(topology, group))
    for name in topology.sites:
        yield nat_node(name), ("sites", name)
    for placed in topology.clients():
        yield placed.name, _client(placed)


def _names(topology: Topology) -> Iterator[Finding]:
    seen: dict[str, Loc] = {}
    for name, loc in _nodes(topology):
        if name == INTERNET:
            yield Finding(loc, f"{name!r} is the name of the lab's core", "take another name")
        elif name == LOCAL and loc[0] in ("servers", "relays"):
            yield Finding(loc, f"{name!r} means a host's own relay", "take another name")
        elif name in seen:
            what = f"two nodes are named {name!r}"
            if name != loc[-1]:
                what += f", as the NAT of site {loc[-1]!r} is"
            yield Finding(loc, what, "rename one", seen[name])
        else:
            seen[name] = loc


def _references(topology: Topology) -> Iterator[Finding]:
    relays = (*topology.relaying, LOCAL)
    for name, host in topology.hosts.items():
        if host.relay is not None and host.relay not in relays:
            yield _unknown(("hosts", name, "relay"), "relay", host.relay, relays)
    for placed in topology.clients():
        server = placed.client.server
        if server is not None and server not in topology.servers:
            yield _unknown(_client(placed, "server"), "server", server, topology.servers)


def _kinds(topology: Topology) -> Iterator[Finding]:
    for name, site in topology.sites.items():
        loc = ("sites", name, "nat")
        if site.nat in KINDS:
            continue
        if site.nat in NAT_KINDS:
            yield Finding(loc, f"NAT kind {site.nat!r} is not built yet", f"take one of {', '.join(KINDS)}")
        else:
            yield _unknown(loc, "NAT kind", site.nat, KINDS)


def _public_addresses(topology: Topology) -> Iterator[Finding]:
    own: list[tuple[IPv4Address, Loc]] = []
    for name, server in topology.servers.items():
        own += ((address, ("servers", name, "ipv4", index)) for index, address in enumerate(server.ipv4 or ()))
    own += ((relay.ipv4, ("relays", name, "ipv4")) for name, relay in topology.relays.items() if relay.ipv4)
    for name, site in topology.sites.items():
        own += ((address, ("sites", name, "external", index)) for index, address in enumerate(site.external or ()))
    seen: dict[IPv4Address, Loc] = {}
    for address, loc in own:
        if address == CORE:
            yield Finding(loc, f"{address} is the address of the lab's core", "take another one")
        elif not any(address in pool for pool in PUBLIC):
            pools = ", ".join(map(str, PUBLIC))
            yield Finding(loc, f"{address} is not a public address of a lab", f"take one of {pools}")
        elif address in seen:
            yield Finding(loc, f"{address} is used twice", "take another one", seen[address])
        seen.setdefault(address, loc)


def _lans(topology: Topology) -> Iterator[Finding]:
    for name, lan in lans(topology).items():
        site = topology.sites[name]
        loc: Loc = ("sites", name, "lan")
        count, room = len(site.clients), max(0, lan.num_addresses - LAN_RESERVED)
        if not any(lan.subnet_of(pool) for pool in PRIVATE):
            yield Finding(loc, f"{lan} is not private (RFC 1918)", f"take a part of {', '.join(map(str, PRIVATE))}")
        elif count > LAN_CLIENTS:
            loc = ("sites", name, "clients")
            yield Finding(loc, f"{count} clients are more than a bridge's {LAN_CLIENTS}", "move some to another site")
        elif count > room:
            yield Finding(loc, f"{count} clients do not fit into {lan}", "give the site a larger lan: 10.0.0.0/16")
        seen: dict[IPv4Address, Loc] = {}
        for client_name, client in site.clients.items():
            address, loc = client.ipv4, ("sites", name, "clients", client_name, "ipv4")
            if address is None:
                continue
            if address not in lan:
                yield Finding(loc, f"{address} is outside of the site's LAN", f"take an address of {lan}")
            elif address in (lan.network_address, gateway(lan), lan.broadcast_address):
                what = f"{address} is the network, gateway or broadcast address of {lan}"
                yield Finding(loc, what, "take another one")
            elif address in seen:
                yield Finding(loc, f"{address} is used twice", "take another one", seen[address])
            seen.setdefault(address, loc)


def _ports(topology: Topology) -> Iterator[Finding]:
    seen: dict[tuple[str, int], Loc] = {}
    for placed in topology.clients():
        port, loc = placed.client.port, _client(placed, "port")
        if port is None:
            continue
        if (placed.site_name, port) in seen:
            what = f"two clients behind one NAT have port {port}"
            yield Finding(loc, what, "take another one", seen[placed.site_name, port])
        seen.setdefault((placed.site_name, port), loc)


def _programs(topology: Topology) -> Iterator[Finding]:
    remedy = "leave it out, or take program: teredo-lab"
    for name, server in topology.servers.items():
        if server.program == "miredo" and server.secrets:
            yield Finding(("servers", name, "secrets"), "miredo has no secure qualification", remedy)
        if server.program == "miredo" and server.relay:
            yield Finding(("servers", name, "relay"), "a miredo server is no relay", remedy)
    for placed in topology.clients():
        if placed.client.program != "miredo":
            continue
        for option in ("client_id", "secret"):
            if getattr(placed.client, option) is not None:
                yield Finding(_client(placed, option), "miredo has no secure qualification", remedy)
        if "refresh_interval" in placed.client.model_fields_set:
            loc = _client(placed, "refresh_interval")
            yield Finding(loc, "miredo finds its refresh interval by itself", remedy)


def _secrets(topology: Topology) -> Iterator[Finding]:
    for placed in topology.clients():
        client = placed.client
        if client.program == "miredo":
            continue
        if client.client_id is not None and client.secret is None:
            yield Finding(_client(placed, "client_id"), "a client_id needs a secret", "add secret:")
        if client.secret is not None and client.client_id is None:
            yield Finding(_client(placed, "secret"), "a secret needs a client_id", "add client_id:")
        server = topology.servers.get(topology.server_of(client))
        if server is not None and client.client_id is not None and client.client_id not in server.secrets:
            yield _unknown(_client(placed, "client_id"), "client_id", client.client_id, server.secrets)


def _checks(topology: Topology) -> Iterator[Finding]:
    ends = {**{placed.name: "client" for placed in topology.clients()}, **dict.fromkeys(topology.hosts, "host")}
    checks = topology.checks
    for index, name in enumerate(checks.without):
        if name not in ends:
            yield _unknown(("checks", "without", index), "client or host", name, ends)
    seen: dict[tuple[str, str], Loc] = {}
    for index, expect in enumerate(checks.expect):
        loc: Loc = ("checks", "expect", index)
        for key, name in (("from", expect.source), ("to", expect.destination)):
            if name not in ends:
                yield _unknown((*loc, key), "client or host", name, ends)
            elif name in checks.without:
                other = ("checks", "without", checks.without.index(name))
                yield Finding((*loc, key), f"{name!r} is left out of the checks", "keep one of the two", other)
        pair = expect.source, expect.destination
        if expect.source == expect.destination:
            yield Finding(loc, f"{expect.source!r} cannot be checked from itself", "name two nodes")
        elif pair in seen:
            what = f"{expect.source} to {expect.destination} is expected twice"
            yield Finding(loc, what, "keep one of the two", seen[pair])
        seen.setdefault(pair, loc)
