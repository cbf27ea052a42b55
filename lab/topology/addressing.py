"""Who has which address and port: allocated, the same every time, around what the topology itself says.

The documentation prefixes (RFC 5737) are the lab's public IPv4 Internet, and the benchmarking prefix (RFC 2544) takes
what does not fit into them. NATs with UPnP get addresses that miniupnpd takes for public ones. Inside sites it is RFC
1918, behind carriers RFC 6598, and native IPv6 is 2001:db8::/32 (RFC 3849).
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import chain, islice, repeat
from typing import Final

from lab.topology.model import LOCAL, Site, Topology, nat_node

CORE: Final = IPv4Address("192.0.2.1")
"""The core's own address, on each of its interfaces."""

VANTAGE: Final = (CORE, IPv4Address("192.0.2.254"))
"""The core's addresses from which it measures NATs."""

SERVICES: Final = IPv4Network("192.0.2.0/24")
SITES: Final = (IPv4Network("198.51.100.0/24"), IPv4Network("203.0.113.0/24"))
OVERFLOW: Final = IPv4Network("198.18.0.0/15")
UPNP: Final = IPv4Network("128.66.0.0/16")
PUBLIC: Final = (SERVICES, *SITES, OVERFLOW, UPNP)
RFC1918: Final = (IPv4Network("192.168.0.0/16"), IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"))
SHARED: Final = IPv4Network("100.64.0.0/10")
PRIVATE: Final = (*RFC1918, SHARED)

NATIVE: Final = IPv6Network("2001:db8::/48")
"""Each native IPv6 node has the next /64 of it: the core is ::1 there, the node ::2."""

PORTS: Final = range(49152, 61000)
"""Service ports that clients get: dynamic ports (RFC 6335) below the pools that NATs fall back to."""


@dataclass(frozen=True, slots=True)
class Native:
    """A native IPv6 node's own link."""

    prefix: IPv6Network

    @property
    def core(self) -> IPv6Address:
        return self.prefix[1]

    @property
    def node(self) -> IPv6Address:
        return self.prefix[2]


@dataclass(frozen=True, slots=True)
class Addresses:
    """All addresses of a lab by name: of a site for `lans`, of a node for the others. Ports are UDP service ports."""

    public: dict[str, tuple[IPv4Address, ...]]
    native: dict[str, Native]
    lans: dict[str, IPv4Network]
    clients: dict[str, IPv4Address]
    ports: dict[str, int]
    nats: dict[str, tuple[IPv4Address, ...]]
    """External addresses by site, public or in another site's LAN."""


def allocate(topology: Topology) -> Addresses:
    """The addresses of a topology that has no problems (`lab.topology.rules`)."""
    site_lans = lans(topology)
    clients: dict[str, IPv4Address] = {}
    ports: dict[str, int] = {}
    nats: dict[str, tuple[IPv4Address, ...]] = {}
    for name, site in topology.sites.items():
        inside = _inside(topology, name, site_lans[name])
        clients |= {client: inside[client][0] for client in site.clients}
        nats |= {nested: inside[nat_node(nested)] for nested in topology.nested(name)}
        ports |= _ports(topology.name, site)
    native = {
        name: Native(IPv6Network((int(NATIVE[0]) + (index << 64), 64)))
        for index, name in enumerate(chain(topology.servers, topology.relays, topology.hosts), start=1)
    }
    public = _public(topology)
    nats |= {name: public[nat_node(name)] for name, site in topology.sites.items() if site.behind is None}
    return Addresses(public, native, site_lans, clients, ports, nats)


def lans(topology: Topology) -> dict[str, IPv4Network]:
    """Each site's LAN: its own, or the next /24 that overlaps with nobody's own; the pool's first if there is none."""
    own = {site.lan for site in topology.sites.values() if site.lan is not None}
    large = [lan for lan in own if lan.prefixlen < 24]
    small = {lan.supernet(new_prefix=24) for lan in own if lan.prefixlen >= 24}

    def free(*pools: IPv4Network) -> Iterator[IPv4Network]:
        candidates = chain(*(islice(pool.subnets(new_prefix=24), 1, None) for pool in pools))
        yield from (lan for lan in candidates if lan not in small and not any(map(lan.subnet_of, large)))
        yield from repeat(next(pools[0].subnets(new_prefix=24)))

    homes, carriers = free(*RFC1918), free(SHARED)
    return {
        name: site.lan or next(carriers if topology.nested(name) else homes) for name, site in topology.sites.items()
    }


def vantage(topology: Topology, site_name: str, lan: IPv4Network) -> tuple[IPv4Address, IPv4Address]:
    """The addresses from which the node upstream of a site's NAT measures it; `lan` is the LAN in which that NAT is."""
    return VANTAGE if topology.sites[site_name].behind is None else (gateway(lan), lan[-2])


def guest(lan: IPv4Network) -> IPv4Address:
    """The address in a LAN without clients of a host that measures its NAT from inside."""
    return lan[-3]


def reserved(topology: Topology, site_name: str, lan: IPv4Network) -> frozenset[IPv4Address]:
    """Addresses of a site's LAN that neither clients nor other NATs can have."""
    own = {lan[0], gateway(lan), lan[-1]}
    if topology.nested(site_name):
        own.add(lan[-2])
    if not topology.sites[site_name].clients:
        own.add(guest(lan))
    return frozenset(own)


def gateway(lan: IPv4Network) -> IPv4Address:
    """The NAT's address in a LAN."""
    return lan.network_address + 1


def inside_hosts(topology: Topology, site_name: str) -> int:
    """How many addresses there are behind a site's NAT, as it sees them."""
    clients = len(topology.sites[site_name].clients)
    return (clients or 1) + sum(topology.sites[name].behaviour.addresses for name in topology.nested(site_name))


def _public(topology: Topology) -> dict[str, tuple[IPv4Address, ...]]:
    own: dict[str, Sequence[IPv4Address] | None] = {}
    own |= {name: server.ipv4 for name, server in topology.servers.items()}
    own |= {name: (relay.ipv4,) if relay.ipv4 else None for name, relay in topology.relays.items()}
    local = {name: host for name, host in topology.hosts.items() if host.relay == LOCAL}
    own |= {name: (host.ipv4,) if host.ipv4 else None for name, host in local.items()}
    outer = {nat_node(name): site for name, site in topology.sites.items() if site.behind is None}
    own |= {name: site.external for name, site in outer.items()}
    taken = {*VANTAGE, *chain.from_iterable(addresses or () for addresses in own.values())}
    pairs = _free((SERVICES, OVERFLOW), 2, taken)
    services = _free((SERVICES, OVERFLOW), 1, taken)
    sites = _free((*SITES, OVERFLOW), 1, taken)
    upnp = _free((UPNP,), 1, taken)

    def new(name: str) -> Iterator[IPv4Address]:
        if name in topology.servers:
            yield from next(pairs)
        elif name in outer:
            behaviour = outer[name].behaviour
            yield from chain(*islice(upnp if behaviour.upnp else sites, behaviour.addresses))
        else:
            yield from next(services)

    def of(name: str) -> tuple[IPv4Address, ...]:
        addresses = tuple(own[name] or new(name))
        taken.update(addresses)
        return addresses

    return {name: of(name) for name in own}


def _free(pools: Sequence[IPv4Network], size: int, taken: Container[IPv4Address]) -> Iterator[tuple[IPv4Address, ...]]:
    """Groups of `size` consecutive addresses of which none is taken when its turn comes; the first one is even."""
    for pool in pools:
        for first in range(int(pool[0]), int(pool[-1]), size):
            group = tuple(IPv4Address(first + offset) for offset in range(size))
            if all(address not in taken and address.packed[3] not in (0, 255) for address in group):
                yield group


def _inside(topology: Topology, site_name: str, lan: IPv4Network) -> dict[str, tuple[IPv4Address, ...]]:
    """Addresses in a site's LAN, by node: of its clients, and of the NATs that are in it."""
    site = topology.sites[site_name]
    wanted: dict[str, tuple[int, Sequence[IPv4Address]]] = {
        name: (1, (client.ipv4,) if client.ipv4 else ()) for name, client in site.clients.items()
    }
    for name in topology.nested(site_name):
        nested = topology.sites[name]
        wanted[nat_node(name)] = nested.behaviour.addresses, nested.external or ()
    taken = reserved(topology, site_name, lan).union(*(own for _, own in wanted.values()))
    free = (address for address in islice(lan, 2, None) if address not in taken)
    return {name: tuple(own) or tuple(islice(free, count)) for name, (count, own) in wanted.items()}


def _ports(lab: str, site: Site) -> dict[str, int]:
    """Service ports that look random, so that labs are not all alike, but never change for one lab's client."""
    taken = {client.port for client in site.clients.values()}
    ports: dict[str, int] = {}
    for name, client in site.clients.items():
        port = client.port
        if port is None:
            digest = hashlib.sha256(f"{lab}/{name}".encode()).digest()
            start = int.from_bytes(digest[:8]) % len(PORTS)
            port = next(port for port in chain(PORTS[start:], PORTS[:start]) if port not in taken)
            taken.add(port)
        ports[name] = port
    return ports
