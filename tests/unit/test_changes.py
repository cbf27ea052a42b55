"""A running topology with one NAT or one client changed: everything else stays where it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.changing import named
from lab.nat.kinds import NAMES, Filtering
from lab.planner import plan
from lab.teredo.extensions import ALL, Extension
from lab.topology.changes import ChangeError, pinned, with_extensions, with_nat
from lab.topology.load import load
from lab.topology.model import Nat, Site, Topology
from tests.unit.helpers.topologies import topology

TOPOLOGIES = sorted((Path(__file__).parents[2] / "topologies").glob("*.yaml"))

LAB = """
servers: {server: }
relays: {relay: }
hosts: {web: , alone: {relay: local}}
sites:
  first: {nat: port_restricted, clients: {alice: }}
  carrier: {nat: cgn, clients: {carl: }}
  home: {nat: cone, behind: carrier, clients: {bob: , bert: }}
  last: {nat: port_symmetric, clients: {dora: }}
"""


def one_of_each(lab: Topology) -> list[tuple[str, Site]]:
    """The first site of each NAT: topologies may have hundreds."""
    first: dict[Nat, tuple[str, Site]] = {}
    for name, site in lab.sites.items():
        first.setdefault(site.nat, (name, site))
    return list(first.values()) if len(lab.sites) > 20 else list(lab.sites.items())


def written(lab: Topology, site: str) -> list[str]:
    return [str(address) for address in lab.sites[site].external or ()]


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.stem)
def test_what_is_written_down_is_what_would_have_been_allocated(path: Path) -> None:
    lab = load(path)
    assert plan(pinned(lab)) == plan(lab)
    assert pinned(pinned(lab)) == pinned(lab)


def test_what_is_written_down_of_nats_behind_nats() -> None:
    lab = topology(LAB)
    fixed = pinned(lab)
    assert plan(fixed) == plan(lab)
    assert {name: (str(site.lan), written(fixed, name)) for name, site in fixed.sites.items()} == {
        "first": ("192.168.1.0/24", ["198.51.100.1"]),
        "carrier": ("100.64.1.0/24", ["198.51.100.2", "198.51.100.3", "198.51.100.4", "198.51.100.5"]),
        "home": ("192.168.2.0/24", ["100.64.1.3"]),
        "last": ("192.168.3.0/24", ["198.51.100.6"]),
    }
    assert [str(placed.client.ipv4) for placed in fixed.clients()] == [
        "192.168.1.2",
        "100.64.1.2",
        "192.168.2.2",
        "192.168.2.3",
        "192.168.3.2",
    ]
    assert all(placed.client.port is not None for placed in fixed.clients())
    assert {name: site.nat for name, site in fixed.sites.items()} == {n: site.nat for n, site in lab.sites.items()}


def test_what_is_written_down_outlives_a_file() -> None:
    fixed = pinned(topology(LAB))
    assert Topology.model_validate_json(fixed.model_dump_json(by_alias=True)) == fixed


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.stem)
def test_a_nat_that_is_made_what_it_is_changes_nothing(path: Path) -> None:
    lab = load(path)
    before = plan(lab)
    for name, site in one_of_each(lab):
        assert plan(with_nat(pinned(lab), name, site.nat)) == before


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.stem)
def test_clients_servers_and_relays_never_notice(path: Path) -> None:
    lab = load(path)
    before = plan(lab)
    for name, site in one_of_each(lab):
        around = {"internet", f"{name}-nat"} if site.behind is None else {f"{site.behind}-nat", f"{name}-nat"}
        for kind, behaviour in NAMES.items():
            if behaviour.upnp and site.behind is not None:
                continue
            after = plan(with_nat(pinned(lab), name, Nat(kind=kind)))
            assert {new.name for old, new in zip(before.nodes, after.nodes, strict=True) if old != new} <= around
            assert after.networks == before.networks


@pytest.mark.parametrize("kind", ["cone", "addr_symmetric", "upnp_port_symmetric", "cgn", "hotel"])
def test_only_the_nat_and_the_routes_to_it_change(kind: str) -> None:
    before, after = plan(topology(LAB)), plan(with_nat(pinned(topology(LAB)), "first", Nat(kind=kind)))
    changed = {new.name for old, new in zip(before.nodes, after.nodes, strict=True) if old != new}
    core = {"internet"} if kind in ("addr_symmetric", "upnp_port_symmetric", "cgn") else set()
    assert changed == {"first-nat"} | core
    nat = after.node("first-nat").nat
    assert nat is not None
    assert nat.kind == kind


def test_external_addresses_are_kept_as_far_as_they_can_be() -> None:
    lab = with_nat(pinned(topology(LAB)), "carrier", Nat(kind="cone", addresses=2))
    assert [str(address) for address in lab.sites["carrier"].external or ()] == ["198.51.100.2", "198.51.100.3"]
    upnp = with_nat(pinned(topology(LAB)), "first", Nat(kind="upnp_port_restricted"))
    assert [str(address) for address in upnp.sites["first"].external or ()] == ["128.66.0.1"]


@pytest.mark.parametrize(
    ("site", "nat", "external"),
    [
        ("first", Nat(kind="port_symmetric"), ["198.51.100.1"]),
        ("first", Nat(kind="cone", addresses=2), ["198.51.100.1", "198.51.100.7"]),
        ("last", Nat(kind="hotel"), ["198.51.100.6"]),
        ("last", Nat(kind="upnp_port_symmetric", addresses=2), ["128.66.0.1", "128.66.0.2"]),
        ("carrier", Nat(kind="home_router"), ["198.51.100.2"]),
        ("carrier", Nat(kind="cgn", udp_timeout=9), [f"198.51.100.{number}" for number in (2, 3, 4, 5)]),
        ("home", Nat(kind="cone", hairpin=True), ["100.64.1.3"]),
        ("home", Nat(addresses=3), ["100.64.1.3", "100.64.1.4", "100.64.1.5"]),
    ],
)
def test_which_external_addresses_a_nat_has_afterwards(site: str, nat: Nat, external: list[str]) -> None:
    lab = with_nat(pinned(topology(LAB)), site, nat)
    assert written(lab, site) == external
    assert lab.sites[site].nat == nat
    others = [name for name in lab.sites if name != site]
    assert [lab.sites[name] for name in others] == [pinned(topology(LAB)).sites[name] for name in others]


def test_changes_follow_each_other() -> None:
    lab = pinned(topology(LAB))
    for kind in ("addr_symmetric", "cone", "port_restricted"):
        lab = with_nat(lab, "first", Nat(kind=kind))
    assert plan(lab) == plan(topology(LAB))


def test_a_nat_that_needs_more_addresses_takes_none_of_others() -> None:
    lab = with_nat(pinned(topology(LAB)), "first", Nat(kind="addr_symmetric"))
    assert written(lab, "first") == ["198.51.100.1", "198.51.100.7", "198.51.100.8", "198.51.100.9"]
    before, after = plan(topology(LAB)), plan(lab)
    core = before.node("internet"), after.node("internet")
    assert core[0].interfaces == core[1].interfaces
    assert {route.destination for route in set(core[1].routes) - set(core[0].routes)} == {
        "198.51.100.7/32",
        "198.51.100.8/32",
        "198.51.100.9/32",
    }
    assert not set(core[0].routes) - set(core[1].routes)


def test_checks_expect_what_the_new_nat_implies() -> None:
    after = plan(with_nat(pinned(topology(LAB)), "first", Nat(kind="hotel")))
    assert {one.because for one in after.expectations if one.source == "alice"} == {
        "alice gets no address: the NAT of first lets no UDP through"
    }


def test_the_carrier_knows_of_addresses_that_a_nested_nat_gets() -> None:
    before = plan(topology(LAB))
    after = plan(with_nat(pinned(topology(LAB)), "home", Nat(kind="addr_symmetric")))
    changed = {new.name for old, new in zip(before.nodes, after.nodes, strict=True) if old != new}
    assert changed == {"carrier-nat", "home-nat"}
    carrier = after.node("carrier-nat").nat
    assert carrier is not None
    assert [str(host) for host in carrier.setup.hosts] == [f"100.64.1.{number}" for number in (2, 3, 4, 5, 6)]


def test_a_nested_nat_changes_as_well() -> None:
    after = plan(with_nat(pinned(topology(LAB)), "home", Nat(kind="port_symmetric")))
    before = plan(topology(LAB))
    assert {new.name for old, new in zip(before.nodes, after.nodes, strict=True) if old != new} == {"home-nat"}


def test_a_nat_without_upnp_keeps_the_addresses_that_it_had_with_it() -> None:
    upnp = with_nat(pinned(topology(LAB)), "first", Nat(kind="upnp_port_restricted"))
    assert written(with_nat(upnp, "first", Nat(kind="cone", addresses=2)), "first") == ["128.66.0.1", "198.51.100.1"]


def test_a_host_s_own_relay_stays_where_it_is() -> None:
    after = plan(with_nat(pinned(topology(LAB)), "first", Nat(kind="addr_symmetric")))
    assert after.node("alone") == plan(topology(LAB)).node("alone")


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ChangeError, match="home-nat: miniupnpd does not open ports"):
        with_nat(pinned(topology(LAB)), "home", Nat(kind="upnp_port_restricted"))
    with pytest.raises(ChangeError, match="first-nat: unknown NAT kind 'conee'; did you mean 'cone'"):
        with_nat(pinned(topology(LAB)), "first", Nat(kind="conee"))
    with pytest.raises(ChangeError) as caught:
        with_nat(pinned(topology(LAB)), "last", Nat(kind="home_router", hairpin=True))
    assert str(caught.value) == (
        "last-nat: iptables cannot do this exactly: it would let hairpinned packets pass unfiltered; nftables cannot do"
        " this exactly: its maps give each external port one owner, so there is no overloading; change what the NAT"
        " does"
    )
    with pytest.raises(ChangeError) as caught:
        with_nat(pinned(topology(LAB)), "last", Nat(kind="cone", filtering=Filtering.ADF, delta=2))
    assert str(caught.value).splitlines() == [
        "last-nat: cone has filtering EIF, not ADF; leave out kind, or filtering",
        "last-nat: preserving ports have no delta; take ports: sequential",
    ]


# Extensions of clients


def test_only_the_programs_of_the_client_change_with_its_extensions() -> None:
    before, after = plan(topology(LAB)), plan(with_extensions(pinned(topology(LAB)), "dora", {Extension.HAIRPINNING}))
    changed = [(old, new) for old, new in zip(before.nodes, after.nodes, strict=True) if old != new]
    ((old, new),) = changed
    assert new.name == "dora"
    assert new.extensions == ["hairpinning"]
    assert old.model_copy(update={"programs": new.programs}) == new


def test_checks_expect_what_the_extensions_imply() -> None:
    after = plan(with_extensions(pinned(topology(LAB)), "dora", ()))
    assert {one.expected for one in after.expectations if one.source == "dora"} == {"unreachable"}
    again = plan(with_extensions(with_extensions(pinned(topology(LAB)), "dora", ()), "dora", ALL))
    assert again == plan(topology(LAB))


def test_extensions_that_cannot_be_are_refused() -> None:
    with pytest.raises(ChangeError, match="dora: the extension upnp builds on symmetric; add symmetric, or leave out"):
        with_extensions(pinned(topology(LAB)), "dora", {Extension.UPNP})
    other = pinned(topology(LAB.replace("{alice: }", "{alice: {program: miredo}}")))
    with pytest.raises(
        ChangeError, match=r"alice runs miredo, which has none .*; choose a client of ours: carl, bob, "
    ):
        with_extensions(other, "alice", ())


def test_extensions_by_their_names() -> None:
    assert named(["all"]) == ALL
    assert named(["none"]) == frozenset()
    assert named(["upnp", "symmetric"]) == {Extension.UPNP, Extension.SYMMETRIC}
    for words in (["symetric"], ["upnp", "symetric"]):
        with pytest.raises(
            ChangeError, match=r"unknown extension '.*; did you mean 'symmetric'[?] known: symmetric, upnp"
        ):
            named(words)
