"""Sites and clients of which a topology has many, and the numbered ones that they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from lab.topology.document import Loc
from lab.topology.model import Client, Site, Topology

LONGEST_NAME: Final = 31

MOST_CLIENTS: Final = 4000
"""With the lab's other nodes they fit into the addresses that there are, and into most machines."""


class Numbered(NamedTuple):
    """A site that another one stands for, with the name of that one."""

    name: str
    site: Site
    written: str


def numbered(topology: Topology) -> Iterator[Numbered]:
    """All sites, those that are there several times with numbers from 1 on, and so their clients."""
    for written, site in topology.sites.items():
        for number in range(1, site.count + 1) if site.count > 1 else (None,):
            clients = dict(_clients(site, number))
            yield Numbered(_name(written, number), site.but(count=1, clients=clients), written)


def _clients(site: Site, number: int | None) -> Iterator[tuple[str, Client]]:
    for written, client in site.clients.items():
        for own in range(1, client.count + 1) if client.count > 1 else (None,):
            yield _name(written, number, own), client.but(count=1)


def _name(written: str, *numbers: int | None) -> str:
    return "-".join((written, *(str(number) for number in numbers if number is not None)))


def uncounted(topology: Topology) -> Iterator[tuple[Loc, str]]:
    """What there cannot be so many of, each by its path, with the remedy."""
    clients = 0
    for name, site in topology.sites.items():
        clients += site.count * max(1, sum(client.count for client in site.clients.values()))
        if clients > MOST_CLIENTS:
            what = f"with this there are {clients:,} clients and sites without any"
            yield ("sites", name, "count"), f"{what}; a lab has no more than {MOST_CLIENTS:,}, take smaller counts"
            return
        sites = site.count if site.count > 1 else None
        longest: dict[str, tuple[Loc, str]] = {name: (("sites", name, "count"), _name(name, sites))}
        for client, options in site.clients.items():
            own = options.count if options.count > 1 else None
            longest[client] = ("sites", name, "clients", client), _name(client, sites, own)
        for written, (loc, whole) in longest.items():
            if len(whole) > LONGEST_NAME:
                what = f"{written!r} with its numbers is longer than the {LONGEST_NAME} characters of a name"
                yield loc, f"{what}; take a shorter name"
    yield from _clashing(topology)


def _clashing(topology: Topology) -> Iterator[tuple[Loc, str]]:
    """Names that are both written and made of numbers, among sites or among the clients of one."""
    counts = {name: site.count for name, site in topology.sites.items()}
    yield from ((("sites", name), what) for name, what in _both(counts))
    for site_name, site in topology.sites.items():
        counts = {name: client.count for name, client in site.clients.items()}
        yield from ((("sites", site_name, "clients", name), what) for name, what in _both(counts))


def _both(counts: dict[str, int]) -> Iterator[tuple[str, str]]:
    made = {_name(name, number): name for name, count in counts.items() if count > 1 for number in range(1, count + 1)}
    for name, count in counts.items():
        if count == 1 and name in made:
            yield name, f"{name!r} is also one of the {counts[made[name]]} that {made[name]!r} stands for; rename one"


def multiplied(topology: Topology) -> Topology:
    """The same topology with each site and client that there is, by itself."""
    sites = topology.sites.values()
    counts = [site.count for site in sites] + [client.count for site in sites for client in site.clients.values()]
    if all(count == 1 for count in counts):
        return topology
    return topology.but(sites={each.name: each.site for each in numbered(topology)})
