"""A topology that already runs, and one that differs from it in one NAT, or in one client."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain, islice
from typing import Any

from lab.teredo.extensions import Extension
from lab.topology.addressing import UPNP, allocate
from lab.topology.model import Nat, Topology, nat_node
from lab.topology.rules import findings


class ChangeError(Exception):
    """A topology cannot be changed like this; its text has a line for each reason."""


def pinned(topology: Topology) -> Topology:
    """The same topology with all its addresses and ports written down, so that a change elsewhere leaves them alone."""
    addresses = allocate(topology)
    servers = {name: server.but(ipv4=addresses.public[name]) for name, server in topology.servers.items()}
    relays = {name: relay.but(ipv4=addresses.public[name][0]) for name, relay in topology.relays.items()}
    hosts = {
        name: host.but(ipv4=addresses.public[name][0]) if name in addresses.public else host
        for name, host in topology.hosts.items()
    }
    sites = {
        name: site.but(
            external=addresses.nats[name],
            lan=addresses.lans[name],
            clients={
                client: options.but(ipv4=addresses.clients[client], port=addresses.ports[client])
                for client, options in site.clients.items()
            },
        )
        for name, site in topology.sites.items()
    }
    return topology.but(servers=servers, relays=relays, hosts=hosts, sites=sites)


def described(topology: Topology) -> dict[str, Any]:
    """A pinned topology as a lab is given it: what JSON can hold, without what is as it is by default."""
    return pinned(topology).model_dump(mode="json", by_alias=True, exclude_defaults=True)


def with_nat(topology: Topology, site_name: str, nat: Nat) -> Topology:
    """A pinned topology with another NAT at a site. Raises ChangeError.

    The NAT keeps its external addresses as far as the new one can use them.
    """
    site = topology.sites[site_name]
    without = site.but(nat=nat, external=None)
    changed = topology.but(sites={**topology.sites, site_name: without})
    _refuse(changed, nat_node(site_name))
    private = site.behind is not None
    kept = [address for address in site.external or () if private or not nat.behaviour.upnp or address in UPNP]
    fresh = (address for address in allocate(changed).nats[site_name] if address not in kept)
    external = tuple(islice(chain(kept, fresh), nat.behaviour.addresses))
    changed = pinned(topology.but(sites={**topology.sites, site_name: without.but(external=external)}))
    _refuse(changed, nat_node(site_name))
    return changed


def with_extensions(topology: Topology, client: str, extensions: Collection[Extension]) -> Topology:
    """A pinned topology in which a client has these extensions. Raises ChangeError."""
    (placed,) = (placed for placed in topology.clients() if placed.name == client)
    if placed.client.program == "miredo":
        known = ", ".join(each.name for each in topology.clients() if each.client.program != "miredo")
        what = f"{client} runs miredo, which has none of the extensions of RFC 6081"
        raise ChangeError(f"{what}; choose a client of ours: {known or 'there is none'}")
    site = placed.site.but(clients={**placed.site.clients, client: placed.client.but(extensions=tuple(extensions))})
    changed = topology.but(sites={**topology.sites, placed.site_name: site})
    _refuse(changed, client)
    return changed


def _refuse(topology: Topology, node: str) -> None:
    problems = [f"{finding.what}; {finding.remedy}" for finding in findings(topology)]
    if problems:
        raise ChangeError("\n".join(f"{node}: {problem}" for problem in problems))
