"""A running topology with one NAT changed: everything else stays where it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.planner import plan
from lab.topology.changes import ChangeError, pinned, with_nat
from lab.topology.load import load
from lab.topology.model import Nat
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


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.stem)
def test_what_is_written_down_is_what_would_have_been_allocated(path: Path) -> None:
    lab = load(path)
    assert plan(pinned(lab)) == plan(lab)
    assert pinned(pinned(lab)) == pinned(lab)


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


def test_a_nested_nat_changes_as_well() -> None:
    after = plan(with_nat(pinned(topology(LAB)), "home", Nat(kind="port_symmetric")))
    before = plan(topology(LAB))
    assert {new.name for old, new in zip(before.nodes, after.nodes, strict=True) if old != new} == {"home-nat"}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ChangeError, match="home-nat: miniupnpd does not open ports"):
        with_nat(pinned(topology(LAB)), "home", Nat(kind="upnp_port_restricted"))
    with pytest.raises(ChangeError, match="first-nat: unknown NAT kind 'conee'; did you mean 'cone'"):
        with_nat(pinned(topology(LAB)), "first", Nat(kind="conee"))
