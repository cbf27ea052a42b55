"""A matrix of NATs, and the pairs of sites that it stands for: a caller and a callee for each two, by themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from lab.teredo.extensions import Extension
from lab.topology.model import Client, Nat, Site, Topology


class Pair(NamedTuple):
    """A caller and a callee, which are clients, and names of their NATs in the matrix."""

    caller: str
    callee: str
    row: str
    column: str


def pairs(topology: Topology) -> Iterator[Pair]:
    """The pairs of a topology's matrix, row by row."""
    for row in topology.matrix:
        for column in topology.matrix:
            yield Pair(f"{row}-{column}-a", f"{row}-{column}-b", row, column)


def expanded(topology: Topology) -> Topology:
    """The same topology with the sites that its matrix stands for. Each client has its site's name."""
    if not topology.matrix:
        return topology

    def site(name: str, nat: Nat) -> Site:
        return Site(nat=nat, clients={name: Client()})

    sites: dict[str, Site] = {}
    for pair in pairs(topology):
        sites[pair.caller] = site(pair.caller, topology.matrix[pair.row])
        sites[pair.callee] = site(pair.callee, topology.matrix[pair.column])
    return topology.but(sites={**topology.sites, **sites})


def with_extensions(topology: Topology, extensions: Collection[Extension]) -> Topology:
    """The same topology, but clients of ours have these extensions of RFC 6081 where they have none of their own."""

    def client(options: Client) -> Client:
        ours = options.program == "teredo-lab" and options.extensions is None
        return options.but(extensions=tuple(extensions)) if ours else options

    return topology.but(
        sites={
            name: site.but(clients={inside: client(options) for inside, options in site.clients.items()})
            for name, site in topology.sites.items()
        }
    )
