"""Who has which address and port: allocated, the same every time, around what the topology itself says.

The documentation prefixes (RFC 5737) are the lab's public IPv4 Internet, and the benchmarking prefix (RFC 2544) takes
what does not fit into them. Inside sites it is RFC 1918, and native IPv6 is 2001:db8::/32 (RFC 3849).
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import chain, islice
from typing import Final

from lab.topology.model import LOCAL, Site, Topology, nat_node

CORE: Final = IPv4Address("192.0.2.1")
"""The core's own address, on each of its interfaces."""

SERVICES: Final = IPv4Network("192.0.2.0/24")
SITES: Final = (IPv4Network("198.51.100.0/24"), IPv4Network("203.0.113.0/24"))
OVERFLOW: Final = IPv4Network("198.18.0.0/15")
PUBLIC: Final = (SERVICES, *SITES, OVERFLOW)
PRIVATE: Final = (IPv4Network("192.168.0.0/16"), IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"))

NATIVE: Final = IPv6Network("2001:db8::/48")
"""Each native IPv6 node has the next /64 of it: the core is ::1 there, the node ::2."""

PORTS: Final = range(49152, 61000)
"""Service ports that clients get: dynamic ports (RFC 6335) below the pools that NATs fall back to."""

LAN_RESERVED: Final = 3
"""Addresses of a LAN that no client can have: the network's, the gateway's and the broadcast address."""


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


def allocate(topology: Topology) -> Addresses:
    """The addresses of a topology that has no problems (`lab.topology.rules`)."""
    site_lans = lans(topology)
    clients: dict[str, IPv4Address] = {}
    ports: dict[str, int] = {}
    for name, site in topology.sites.items():
        clients |= _clients(site, site_lans[name])
        ports |= _ports(topology.name, site)
    native = {
        name: Native(IPv6Network((int(NATIVE[0]) + (index << 64), 64)))
        for index, name in enumerate(chain(topology.servers, topology.relays, topology.hosts), start=1)
    }
    return Addresses(_public(topology), native, site_lans, clients, ports)


def lans(topology: Topology) -> dict[str, IPv4Network]:
    """Each site's LAN: its own, or the next /24 that is nobody's own."""
    own = {site.lan for site in topology.sites.values()}
    candidates = chain(*(islice(pool.subnets(new_prefix=24), 1, None) for pool in PRIVATE))
    free = (lan for lan in candidates if lan not in own)
    return {name: site.lan or next(free) for name, site in topology.sites.items()}


def gateway(lan: IPv4Network) -> IPv4Address:
    """The NAT's address in a LAN."""
    return lan.network_address + 1


def _public(topology: Topology) -> dict[str, tuple[IPv4Address, ...]]:
    own: dict[str, Sequence[IPv4Address] | None] = {}
    own |= {name: server.ipv4 for name, server in topology.servers.items()}
    own |= {name: (relay.ipv4,) if relay.ipv4 else None for name, relay in topology.relays.items()}
    own |= {name: None for name, host in topology.hosts.items() if host.relay == LOCAL}
    own |= {nat_node(name): site.external for name, site in topology.sites.items()}
    taken = {CORE, *chain.from_iterable(addresses or () for addresses in own.values())}
    pairs = _free((SERVICES, OVERFLOW), 2, taken)
    services = _free((SERVICES, OVERFLOW), 1, taken)
    sites = _free((*SITES, OVERFLOW), 1, taken)
    nats = {nat_node(name) for name in topology.sites}

    def of(name: str) -> tuple[IPv4Address, ...]:
        addresses = tuple(own[name] or next(pairs if name in topology.servers else sites if name in nats else services))
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


def _clients(site: Site, lan: IPv4Network) -> dict[str, IPv4Address]:
    taken = {client.ipv4 for client in site.clients.values()}
    free = (address for address in islice(lan, 2, None) if address not in taken)
    return {name: client.ipv4 or next(free) for name, client in site.clients.items()}


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
