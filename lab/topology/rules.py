"""What must hold between the parts of a topology: names, references, addresses, and what each program can do.

Each rule yields findings with the path of the value at fault; the loader knows the lines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from lab.link import problems
from lab.nat.engines import choose
from lab.nat.kinds import NAMES, Collision, Pooling, PortChoice
from lab.nat.setup import UnsupportedError
from lab.teredo.extensions import lacking
from lab.topology.addressing import PRIVATE, PUBLIC, UPNP, VANTAGE, inside_hosts, lans, reserved
from lab.topology.document import Loc
from lab.topology.model import LOCAL, Nat, PlacedClient, Site, Topology, nat_node
from lab.topology.wording import unknown

INTERNET: Final = "internet"
"""The node that is the core of the lab."""

LAN_NODES: Final = 1022
"""A Linux bridge has 1023 ports (BR_PORT_BITS); one is for a host that measures the NAT."""

SMALLEST_LAN: Final = 8

DEEPEST: Final = 16
"""NATs that a packet to the Internet may pass."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong at a path, and a remedy. `other` is the path of a value that this one clashes with."""

    loc: Loc
    what: str
    remedy: str
    other: Loc | None = None


def findings(topology: Topology) -> Iterator[Finding]:
    """Everything wrong with a topology whose options are well-formed, each by itself."""
    foundations = [*_names(topology), *_references(topology), *_nesting(topology)]
    yield from foundations
    yield from _programs(topology)
    yield from _extensions(topology)
    yield from _intervals(topology)
    yield from _secrets(topology)
    yield from _checks(topology)
    for loc, _, link in topology.links():
        for option, what, remedy in problems(link.quality):
            yield Finding((*loc, "link", option), what, remedy)
    kinds = list(_kinds(topology))
    yield from kinds
    if not kinds and not any(finding.loc[-1] == "behind" for finding in foundations):
        yield from _external_counts(topology)
        yield from _engines(topology)
        yield from _public_addresses(topology)
        yield from _lans(topology)
        yield from _ports(topology)


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
        elif host.ipv4 is not None and host.relay != LOCAL:
            yield Finding(("hosts", name, "ipv4"), "only a host with a relay of its own has IPv4", "add relay: local")
    for placed in topology.clients():
        server = placed.client.server
        if server is not None and server not in topology.servers:
            yield _unknown(_client(placed, "server"), "server", server, topology.servers)
    for name, site in topology.sites.items():
        if site.behind is not None and site.behind not in topology.sites:
            yield _unknown(("sites", name, "behind"), "site", site.behind, topology.sites)


def _nesting(topology: Topology) -> Iterator[Finding]:
    """No NAT is behind itself. Where a name is unknown, `_references` has said so."""
    for name in topology.sites:
        outer, passed = name, [name]
        while (behind := topology.sites[outer].behind) in topology.sites and len(passed) <= DEEPEST:
            outer = behind
            if outer in passed:
                break
            passed.append(outer)
        if len(passed) > DEEPEST:
            what = f"there are more than {DEEPEST} NATs between this one's clients and the Internet"
            yield Finding(("sites", name, "behind"), what, "have it behind fewer")
        elif behind == name:
            round_ = " behind ".join((*passed, name))
            yield Finding(("sites", name, "behind"), f"this goes round: {round_}", "have one of them on the Internet")


def _kinds(topology: Topology) -> Iterator[Finding]:
    for name, site in topology.sites.items():
        nat, loc = site.nat, ("sites", name, "nat")
        if nat.kind is not None and nat.kind not in NAMES:
            yield _unknown((*loc, "kind"), "NAT kind", nat.kind, NAMES)
        else:
            yield from _contradictions(nat, loc)


def _contradictions(nat: Nat, loc: Loc) -> Iterator[Finding]:
    """Options of one NAT that do not go with its kind, or with each other."""
    behaviour = nat.behaviour
    for option in _makes_the_kind(nat):
        given, own = getattr(nat, option), getattr(NAMES[nat.kind or ""], option)
        if given is not None and given != own:
            has, not_ = ("yes" if value is True else "no" if value is False else value for value in (own, given))
            yield Finding((*loc, option), f"{nat.kind} has {option} {has}, not {not_}", f"leave out kind, or {option}")
    preserving = behaviour.ports is PortChoice.PRESERVING
    if nat.delta is not None and behaviour.ports is not PortChoice.SEQUENTIAL:
        yield Finding((*loc, "delta"), f"{behaviour.ports} ports have no delta", "take ports: sequential")
    if nat.collision is not None and not preserving:
        yield Finding((*loc, "collision"), f"{behaviour.ports} ports cannot collide", "take ports: preserving")
    if nat.collision is Collision.OVERLOAD and preserving and behaviour.udp and behaviour.point != "EIM+APDF":
        what = f"who shares a port cannot be told apart by {behaviour.point}"
        yield Finding((*loc, "collision"), what, "take mapping: EIM and filtering: APDF, or collision: another")
    if nat.udp_timeout_new is not None and nat.udp_timeout_new > behaviour.udp_timeout:
        what = f"a new mapping cannot live longer than an established one, {behaviour.udp_timeout} s"
        yield Finding((*loc, "udp_timeout_new"), what, "take no more than udp_timeout")


def _makes_the_kind(nat: Nat) -> Iterator[str]:
    """The options without whose values a kind would be another one."""
    if nat.kind is None:
        return
    own = NAMES[nat.kind]
    yield from ("mapping", "filtering")
    if own.symmetric:
        yield "ports"
    if own.pooling is Pooling.ARBITRARY:
        yield "pooling"
    if own.upnp:
        yield "upnp"


def _external_counts(topology: Topology) -> Iterator[Finding]:
    for name, site in topology.sites.items():
        loc: Loc = ("sites", name, "external")
        count, wanted = len(site.external or ()), site.nat.addresses
        if site.external is not None and wanted is not None and wanted != count:
            yield Finding(loc, f"there are {count} addresses for {wanted}", "leave out addresses, or write all of them")
        elif site.nat.kind == "addr_symmetric" and site.behaviour.addresses < 2:
            loc = ("sites", name, "nat", "addresses") if site.external is None else loc
            yield Finding(loc, "addr_symmetric needs several external addresses", "take two or more")


def _engines(topology: Topology) -> Iterator[Finding]:
    for name, site in topology.sites.items():
        try:
            choose(site.behaviour, inside_hosts(topology, name), site.nat.engine)
        except UnsupportedError as error:
            option = "kind" if site.nat.engine is None else "engine"
            remedy = "change what the NAT does" if site.nat.engine is None else "leave out engine, or change the NAT"
            yield Finding(("sites", name, "nat", option), str(error), remedy)
        if site.behaviour.upnp and site.behind is not None and not _squats(topology.sites[site.behind]):
            what = "miniupnpd does not open ports of an address that is private itself"
            remedy = f"take upnp: false, or have this NAT on the Internet, or in a lan of {UPNP} as some carriers do"
            yield Finding(("sites", name, "nat"), what, remedy)


def _squats(site: Site) -> bool:
    """Whether a site's LAN has public addresses, as with carriers that have run out of private ones."""
    return site.lan is not None and site.lan.subnet_of(UPNP)


def _public_addresses(topology: Topology) -> Iterator[Finding]:
    own: list[tuple[IPv4Address, Loc]] = []
    for name, server in topology.servers.items():
        own += ((address, ("servers", name, "ipv4", index)) for index, address in enumerate(server.ipv4 or ()))
    own += ((relay.ipv4, ("relays", name, "ipv4")) for name, relay in topology.relays.items() if relay.ipv4)
    own += ((host.ipv4, ("hosts", name, "ipv4")) for name, host in topology.hosts.items() if host.ipv4)
    for name, site in topology.sites.items():
        externals = _externals(name, site)
        if site.behind is None:
            own += externals
            yield from _upnp_addresses(site, externals)
    seen: dict[IPv4Address, Loc] = {}
    for address, loc in own:
        if address in VANTAGE:
            yield Finding(loc, f"{address} is the address of the lab's core", "take another one")
        elif not any(address in pool for pool in PUBLIC):
            pools = ", ".join(map(str, PUBLIC))
            yield Finding(loc, f"{address} is not a public address of a lab", f"take one of {pools}")
        elif address in seen:
            yield Finding(loc, f"{address} is used twice", "take another one", seen[address])
        seen.setdefault(address, loc)


def _upnp_addresses(site: Site, externals: list[tuple[IPv4Address, Loc]]) -> Iterator[Finding]:
    if site.behaviour.upnp:
        for address, loc in externals:
            if address not in UPNP:
                yield Finding(loc, f"miniupnpd does not take {address} for a public address", f"take one of {UPNP}")


def _lans(topology: Topology) -> Iterator[Finding]:
    prefixes = lans(topology)
    for name, lan in prefixes.items():
        yield from _lan(topology, name, lan)
        for outer in topology.chain(name)[1:]:
            if lan.overlaps(prefixes[outer]):
                what = f"{lan} overlaps with {prefixes[outer]}, the LAN of {outer}, behind whose NAT this one's is"
                yield Finding(("sites", name, "lan"), what, "take another prefix", ("sites", outer, "lan"))


def _lan(topology: Topology, name: str, lan: IPv4Network) -> Iterator[Finding]:
    site = topology.sites[name]
    loc: Loc = ("sites", name, "lan")
    if not any(lan.subnet_of(pool) for pool in (*PRIVATE, UPNP)):
        what = f"{lan} is not private (RFC 1918, RFC 6598)"
        yield Finding(loc, what, f"take a part of {', '.join(map(str, PRIVATE))}")
    if lan.num_addresses < SMALLEST_LAN:
        yield Finding(loc, f"{lan} has no room for a LAN", "take a larger prefix: 192.168.1.0/24")
        return
    own = _lan_members(topology, name)
    taken = reserved(topology, name, lan)
    count, room = sum(count for count, _ in own), max(0, lan.num_addresses - len(taken))
    if len(own) > LAN_NODES:
        what = f"{len(own)} clients and NATs are more than a bridge's {LAN_NODES}"
        yield Finding(("sites", name, "clients"), what, "move some to another site")
    elif count > room:
        members = f"{len(site.clients)} clients" if count == len(site.clients) else f"{count} addresses"
        yield Finding(loc, f"{members} do not fit into {lan}", "give the site a larger lan: 10.0.0.0/16")
    seen: dict[IPv4Address, Loc] = {}
    for address, loc in (written for _, addresses in own for written in addresses):
        if address not in lan:
            yield Finding(loc, f"{address} is outside of the site's LAN", f"take an address of {lan}")
        elif address in taken:
            spare = "network, gateway or broadcast address"
            what = f"{address} is the {spare} of {lan}" if address in (lan[0], lan[1], lan[-1]) else ""
            yield Finding(loc, what or f"{address} is where the lab measures the NAT from", "take another one")
        elif address in seen:
            yield Finding(loc, f"{address} is used twice", "take another one", seen[address])
        seen.setdefault(address, loc)


def _lan_members(topology: Topology, name: str) -> list[tuple[int, list[tuple[IPv4Address, Loc]]]]:
    """For each node in a site's LAN how many addresses it has there, and those that are written down."""
    members: list[tuple[int, list[tuple[IPv4Address, Loc]]]] = []
    for client_name, client in topology.sites[name].clients.items():
        members.append((1, [(client.ipv4, ("sites", name, "clients", client_name, "ipv4"))] if client.ipv4 else []))
    for nested in topology.nested(name):
        site = topology.sites[nested]
        members.append((site.behaviour.addresses, _externals(nested, site)))
    return members


def _externals(name: str, site: Site) -> list[tuple[IPv4Address, Loc]]:
    return [(address, ("sites", name, "external", index)) for index, address in enumerate(site.external or ())]


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
    for name, relay in topology.relays.items():
        if relay.program == "miredo" and relay.datapath is not None:
            yield Finding(("relays", name, "datapath"), "miredo has no choice of data path", remedy)
    for placed in topology.clients():
        if placed.client.program != "miredo":
            continue
        for option in ("client_id", "secret"):
            if getattr(placed.client, option) is not None:
                yield Finding(_client(placed, option), "miredo has no secure qualification", remedy)
        if placed.client.refresh_interval is not None:
            loc = _client(placed, "refresh_interval")
            yield Finding(loc, "miredo finds its refresh interval by itself", remedy)
        for option in ("determine_interval", "local_discovery"):
            if getattr(placed.client, option):
                yield Finding(_client(placed, option), f"miredo has no option {option}", remedy)
        if placed.client.datapath is not None:
            yield Finding(_client(placed, "datapath"), "miredo has no choice of data path", remedy)
        if placed.client.extensions:
            yield Finding(_client(placed, "extensions"), "miredo has none of the extensions of RFC 6081", remedy)


def _extensions(topology: Topology) -> Iterator[Finding]:
    for placed in topology.clients():
        fault = lacking(placed.client.extensions or ())
        if fault is not None:
            what = f"the extension {fault[0]} builds on {fault[1]}"
            yield Finding(_client(placed, "extensions"), what, f"add {fault[1]}, or leave out {fault[0]}")


def _intervals(topology: Topology) -> Iterator[Finding]:
    for placed in topology.clients():
        if placed.client.determine_interval and placed.client.refresh_interval is not None:
            what = "a refresh interval is either configured or determined"
            yield Finding(_client(placed, "determine_interval"), what, "leave it out, or refresh_interval:")


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
