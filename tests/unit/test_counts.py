"""Sites and clients with a count: the numbered ones that they stand for, and what there cannot be so many of."""

from __future__ import annotations

import pytest

from lab.topology.changes import pinned
from lab.topology.counts import MOST_CLIENTS
from lab.topology.model import Topology
from tests.unit.helpers.topologies import errors, server_and, topology


def names(lab: Topology) -> dict[str, list[str]]:
    return {name: list(site.clients) for name, site in lab.sites.items()}


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ("home: {clients: {alice: }}", {"home": ["alice"]}),
        ("home: {clients: {alice: {count: 2}, bob: }}", {"home": ["alice-1", "alice-2", "bob"]}),
        (
            "home: {count: 2, clients: {alice: , bob: }}",
            {"home-1": ["alice-1", "bob-1"], "home-2": ["alice-2", "bob-2"]},
        ),
        ("home: {count: 1, clients: {alice: {count: 1}}}", {"home": ["alice"]}),
        (
            "home: {count: 2, clients: {alice: {count: 2}}}, away: ",
            {"home-1": ["alice-1-1", "alice-1-2"], "home-2": ["alice-2-1", "alice-2-2"], "away": []},
        ),
    ],
)
def test_what_there_is_several_times_is_numbered_site_by_site(sites: str, expected: dict[str, list[str]]) -> None:
    assert names(topology(server_and(f"sites: {{{sites}}}\n"))) == expected


def test_each_is_what_the_one_that_is_written_is() -> None:
    lab = topology(
        server_and("sites: {home: {count: 3, nat: cone, clients: {alice: {count: 2, refresh_interval: 7}}}}\n")
    )
    assert {site.nat.kind for site in lab.sites.values()} == {"cone"}
    assert {placed.client.refresh_interval for placed in lab.clients()} == {7}
    assert {
        count for site in lab.sites.values() for count in (site.count, *(c.count for c in site.clients.values()))
    } == {1}
    assert names(pinned(lab)) == names(lab)


def test_numbered_sites_can_be_behind_another_one() -> None:
    lab = topology(server_and("sites: {isp: {nat: cgn}, home: {count: 2, behind: isp, clients: {alice: }}}\n"))
    assert lab.nested("isp") == ("home-1", "home-2")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "sites:\n  a-name-of-some-thirty-letters:\n    count: 1000\n",
            "lab.yaml:5: 'a-name-of-some-thirty-letters' with its numbers is longer than the 31 characters of a name;"
            " take a shorter name",
        ),
        (
            "sites:\n  home:\n    count: 10\n    clients:\n      a-name-of-twenty-six-lette: {count: 100}\n",
            "lab.yaml:7: 'a-name-of-twenty-six-lette' with its numbers is longer than the 31 characters of a name; take"
            " a shorter name",
        ),
        (
            "sites:\n  home:\n    count: 1000\n    clients: {alice: {count: 5}}\n",
            f"lab.yaml:5: with this there are 5,000 clients and sites without any; a lab has no more than"
            f" {MOST_CLIENTS:,}, take smaller counts",
        ),
        (
            "sites:\n  home:\n    count: 2\n  home-2:\n",
            "lab.yaml:6: 'home-2' is also one of the 2 that 'home' stands for; rename one",
        ),
        ("sites:\n  home:\n    count: 0\n", "lab.yaml:5: count cannot be '0'; it takes how many sites like this"),
    ],
)
def test_what_there_cannot_be_so_many_of_is_told_with_its_line(text: str, error: str) -> None:
    assert any(each.startswith(error) for each in errors(server_and(text))), errors(server_and(text))
