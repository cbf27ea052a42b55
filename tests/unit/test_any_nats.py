"""Sites of any NATs at all: the loader says what is wrong, or there is a plan of them, whole, and the same pinned."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lab.nat.kinds import NAMES, Collision, Engine, Filtering, Mapping, Pooling, PortChoice
from lab.planner import plan
from lab.topology.addressing import PUBLIC
from lab.topology.changes import ChangeError, pinned, with_nat
from lab.topology.model import Nat, Topology
from lab.topology.rules import findings

BESIDES: dict[Any, st.SearchStrategy[Any]] = {
    "hairpin": st.booleans(),
    "addresses": st.integers(1, 5),
    "pooling": st.sampled_from(Pooling),
    "udp_timeout": st.integers(30, 3600),
    "inbound_refresh": st.booleans(),
    "icmp_errors": st.booleans(),
    "engine": st.sampled_from(Engine),
}
POINT: dict[Any, st.SearchStrategy[Any]] = {
    "mapping": st.sampled_from(Mapping),
    "filtering": st.sampled_from(Filtering),
    "ports": st.sampled_from(PortChoice),
    "delta": st.integers(1, 16),
    "collision": st.sampled_from(Collision),
    "udp_timeout_new": st.integers(1, 60),
    "upnp": st.booleans(),
    "udp": st.booleans(),
}
NATS = (
    st.sampled_from(list(NAMES))
    | st.fixed_dictionaries({"kind": st.sampled_from(list(NAMES))}, optional=BESIDES)
    | st.fixed_dictionaries({}, optional=BESIDES | POINT)
)
LANS = ("10.0.0.0/29", "10.0.0.0/28", "10.1.0.0/16", "192.168.1.0/24", "192.168.9.0/24", "100.64.1.0/24")
PUBLIC_EXTERNAL = ("198.51.100.1", "198.51.100.9", "203.0.113.5", "192.0.2.4", "128.66.0.1", "128.66.0.9")
NESTED_EXTERNAL = ("100.64.1.2", "100.64.1.9", "100.64.1.254", "192.168.1.7", "10.0.0.2", "10.0.0.3")


@st.composite
def labs(draw: st.DrawFn) -> dict[str, Any]:
    """Up to four sites, each on the Internet or behind one before it, and perhaps a host with an address of its own."""
    sites: dict[str, Any] = {}
    for name in "abcd"[: draw(st.integers(1, 4))]:
        behind = draw(st.sampled_from((None, *sites)))
        external = st.sampled_from(PUBLIC_EXTERNAL if behind is None else NESTED_EXTERNAL)
        optional = {"nat": NATS, "lan": st.sampled_from(LANS), "external": st.lists(external, min_size=1, max_size=3)}
        clients = draw(st.sampled_from(({}, {f"{name}1": None}, {f"{name}1": None, f"{name}2": {"port": 4000}})))
        options = draw(st.fixed_dictionaries({}, optional=optional))
        sites[name] = {"behind": behind, "clients": clients, **options}
    return {"servers": {"s": None}, "hosts": draw(st.sampled_from(({}, {"web": {"relay": "local"}}))), "sites": sites}


@settings(max_examples=300, deadline=None)
@given(labs())
def test_what_the_rules_let_through_has_a_plan(lab: dict[str, Any]) -> None:
    topology = Topology.model_validate(lab)
    if list(findings(topology)):
        return
    made = plan(topology)
    assert plan(pinned(topology)) == made
    interfaces = [(node, interface) for node in made.nodes for interface in node.interfaces]
    members = [member for network in made.networks for member in network.members]
    assert sorted(members) == sorted((node.name, interface.name) for node, interface in interfaces)
    for network in made.networks:
        on_it = [each for _, each in interfaces if each.network == network.name]
        addresses = [address for each in on_it for address in each.addresses]
        assert len(set(addresses)) == len(addresses)
        if network.kind == "lan":
            assert len({IPv4Interface(address).network for address in addresses}) == 1
    for node in made.nodes:
        if node.nat is None:
            continue
        own = {IPv4Interface(address).ip for each in node.interfaces for address in each.addresses}
        assert set(node.nat.setup.external) <= own
        assert len(node.nat.setup.external) == node.nat.setup.behaviour.addresses
        if node.nat.upstream == "internet":
            assert all(any(address in pool for pool in PUBLIC) for address in node.nat.setup.external)
        upstream = {address for each in made.node(node.nat.upstream).interfaces for address in each.addresses}
        assert {IPv4Address(address) for address in node.nat.vantage} <= {
            IPv4Interface(address).ip for address in upstream if ":" not in address
        }
        inside = [
            IPv4Interface(each)
            for other, i in interfaces
            if other != node
            for each in i.addresses
            if i.network == f"lan--{node.site}"
        ]
        guest = [] if node.nat.guest is None else [IPv4Interface(node.nat.guest)]
        assert {each.ip for each in inside + guest} == set(node.nat.setup.hosts)


@settings(max_examples=300, deadline=None)
@given(labs(), st.data())
def test_a_change_is_refused_or_touches_nats_only(lab: dict[str, Any], data: st.DataObject) -> None:
    topology = Topology.model_validate(lab)
    if list(findings(topology)):
        return
    site = data.draw(st.sampled_from(sorted(topology.sites)))
    nat = Nat.model_validate(data.draw(NATS))
    try:
        changed = with_nat(pinned(topology), site, nat)
    except ChangeError:
        return
    assert not list(findings(changed))
    before, after = plan(topology), plan(changed)
    different = {new.name for old, new in zip(before.nodes, after.nodes, strict=True) if old != new}
    behind = topology.sites[site].behind
    assert different <= {f"{site}-nat", "internet" if behind is None else f"{behind}-nat"}
    assert after.networks == before.networks
