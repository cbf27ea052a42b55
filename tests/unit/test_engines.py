"""Which engine makes a NAT: iptables exactly where it has nothing to object, nftables for the rest, or a reason."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from lab.nat import engines, iptables, nftables, upnp
from lab.nat.engines import choose
from lab.nat.kinds import KINDS, NAMES, Collision, Engine, Filtering, Mapping, NatBehaviour, Pooling, PortChoice
from lab.nat.setup import NatSetup, UnsupportedError
from lab.topology.model import Nat

EXTERNAL = tuple(IPv4Address(f"198.51.100.{number}") for number in range(1, 17))
HOSTS = tuple(IPv4Address(f"192.168.1.{number}") for number in (2, 3))

HAIRPIN = "it would let hairpinned packets pass unfiltered"
ADM = "conntrack maps for all remote endpoints alike or for each by itself, not by address (ADM)"
OPEN = "conntrack filters a symmetric NAT's flows by address and port, not by {}"
DRAWN = "conntrack would draw a {} port for each flow, not one for each inside endpoint (EIM)"
FIRST = "of inside hosts with one local port only the first would get {}, since DNAT finds no other"
ADDRESSES = "its sets know the ports of one external address only"
REFRESH = "packets from outside always prolong a flow of conntrack's"
TIMEOUTS = "its sets have one timeout for new and for established mappings"
OVERLOAD = "its maps give each external port one owner, so there is no overloading"

SYMMETRIC = NatBehaviour(Mapping.APDM, ports=PortChoice.RANDOM)


def grid() -> Iterator[NatBehaviour]:
    """Every point of the space but for times, without overloading."""
    for mapping, filtering, ports, hairpin, addresses, pooling, inbound in itertools.product(
        Mapping, Filtering, PortChoice, (False, True), (1, 2, 16), Pooling, (False, True)
    ):
        yield NatBehaviour(
            mapping, filtering, ports, hairpin, addresses=addresses, pooling=pooling, inbound_refresh=inbound
        )


@pytest.mark.parametrize(
    ("behaviour", "hosts", "why"),
    [
        (NatBehaviour(hairpin=True), 1, HAIRPIN),
        (dataclasses.replace(SYMMETRIC, hairpin=True), 1, HAIRPIN),
        (NatBehaviour(Mapping.ADM), 1, ADM),
        (NatBehaviour(Mapping.ADM, Filtering.EIF, PortChoice.RANDOM), 2, ADM),
        (NatBehaviour(Mapping.APDM, Filtering.EIF), 1, OPEN.format("EIF")),
        (NatBehaviour(Mapping.APDM, Filtering.ADF, PortChoice.RANDOM), 1, OPEN.format("ADF")),
        (NatBehaviour(ports=PortChoice.RANDOM), 1, DRAWN.format("random")),
        (NatBehaviour(ports=PortChoice.SEQUENTIAL), 2, DRAWN.format("sequential")),
        (NatBehaviour(filtering=Filtering.EIF), 2, FIRST.format("EIF")),
        (NatBehaviour(filtering=Filtering.ADF), 3, FIRST.format("ADF")),
        (NatBehaviour(addresses=2), 1, ADDRESSES),
        (NatBehaviour(addresses=2, pooling=Pooling.ARBITRARY), 1, ADDRESSES),
        (dataclasses.replace(SYMMETRIC, addresses=2), 1, ADDRESSES),
        (
            NatBehaviour(Mapping.APDM, ports=PortChoice.SEQUENTIAL, addresses=2, pooling=Pooling.ARBITRARY),
            1,
            ADDRESSES,
        ),
        (NatBehaviour(inbound_refresh=False), 1, REFRESH),
        (dataclasses.replace(SYMMETRIC, inbound_refresh=False), 1, REFRESH),
        (NatBehaviour(udp_timeout_new=9), 1, TIMEOUTS),
        (NatBehaviour(Mapping.APDM, udp_timeout_new=9), 1, TIMEOUTS),
        (NatBehaviour(filtering=Filtering.EIF, udp_timeout_new=9), 1, TIMEOUTS),
    ],
)
def test_what_iptables_objects_to(behaviour: NatBehaviour, hosts: int, why: str) -> None:
    assert iptables.objection(behaviour, hosts) == why
    assert nftables.objection(behaviour, hosts) is None
    assert choose(behaviour, hosts) is Engine.NFTABLES
    with pytest.raises(UnsupportedError) as caught:
        choose(behaviour, hosts, Engine.IPTABLES)
    assert str(caught.value) == f"iptables cannot do this exactly: {why}"
    setup = NatSetup(behaviour, EXTERNAL[: behaviour.addresses], (*HOSTS, IPv4Address("192.168.1.4"))[:hosts])
    with pytest.raises(UnsupportedError) as caught:
        engines.firewall(setup, Engine.IPTABLES)
    assert str(caught.value) == f"iptables cannot do {behaviour.point} exactly: {why}"
    assert engines.firewall(setup, Engine.NFTABLES).engine is Engine.NFTABLES


@pytest.mark.parametrize(
    ("behaviour", "hosts"),
    [
        (NatBehaviour(udp_timeout_new=120), 2),
        (NatBehaviour(filtering=Filtering.EIF), 1),
        (NatBehaviour(filtering=Filtering.ADF), 1),
        (NatBehaviour(collision=Collision.OVERLOAD, udp_timeout_new=9), 2),
        (dataclasses.replace(SYMMETRIC, udp_timeout_new=9), 2),
        (NatBehaviour(Mapping.APDM, ports=PortChoice.SEQUENTIAL, delta=16, udp_timeout_new=9), 2),
        (dataclasses.replace(SYMMETRIC, addresses=16, pooling=Pooling.ARBITRARY), 2),
        (NatBehaviour(Mapping.ADM, Filtering.EIF, PortChoice.RANDOM, hairpin=True, udp=False), 2),
    ],
)
def test_what_iptables_does_exactly(behaviour: NatBehaviour, hosts: int) -> None:
    assert iptables.objection(behaviour, hosts) is None
    assert choose(behaviour, hosts) is Engine.IPTABLES
    setup = NatSetup(behaviour, EXTERNAL[: behaviour.addresses], HOSTS[:hosts])
    assert engines.firewall(setup, Engine.IPTABLES).engine is Engine.IPTABLES


def test_iptables_is_chosen_exactly_where_it_has_no_objection() -> None:
    for behaviour, hosts, new in itertools.product(grid(), (1, 2), (None, 9)):
        aging = dataclasses.replace(behaviour, udp_timeout_new=new)
        why = iptables.objection(aging, hosts)
        assert choose(aging, hosts) is (Engine.IPTABLES if why is None else Engine.NFTABLES)
        assert nftables.objection(aging, hosts) is None
        assert choose(aging, hosts, Engine.NFTABLES) is Engine.NFTABLES


def test_which_kinds_iptables_makes() -> None:
    by_hosts = {hosts: {kind for kind in NAMES if choose(NAMES[kind], hosts) is Engine.IPTABLES} for hosts in (1, 2)}
    assert by_hosts[2] == NAMES.keys() - {"cone", "addr_restricted", "cgn"}
    assert by_hosts[1] == NAMES.keys() - {"cgn"}


def test_which_points_iptables_does() -> None:
    """Of one address, without hairpinning, with one lifetime."""
    done: dict[int, set[tuple[str, str]]] = {
        hosts: {
            (each.point, each.ports.value)
            for each in grid()
            if each.addresses == 1 and choose(each, hosts) is Engine.IPTABLES
        }
        for hosts in (1, 2)
    }
    symmetric = {("APDM+APDF", "preserving"), ("APDM+APDF", "random"), ("APDM+APDF", "sequential")}
    assert done[2] == {("EIM+APDF", "preserving")} | symmetric
    assert done[1] == done[2] | {("EIM+EIF", "preserving"), ("EIM+ADF", "preserving")}


def test_overloading_is_left_to_iptables() -> None:
    home = NAMES["home_router"]
    assert nftables.objection(home, 1) == OVERLOAD
    assert choose(home, 2, Engine.IPTABLES) is Engine.IPTABLES
    with pytest.raises(UnsupportedError) as caught:
        choose(home, 2, Engine.NFTABLES)
    assert str(caught.value) == f"nftables cannot do this exactly: {OVERLOAD}"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"hairpin": True}, HAIRPIN),
        ({"ports": PortChoice.RANDOM}, DRAWN.format("random")),
        ({"addresses": 2}, ADDRESSES),
        ({"inbound_refresh": False}, REFRESH),
    ],
)
def test_where_no_engine_is_left_all_reasons_are_told(change: dict[str, object], why: str) -> None:
    behaviour = dataclasses.replace(NAMES["home_router"], **change)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError) as caught:
        choose(behaviour, 1)
    assert str(caught.value) == (f"iptables cannot do this exactly: {why}; nftables cannot do this exactly: {OVERLOAD}")


@pytest.mark.parametrize(("mapping", "filtering"), [("EIM", "EIF"), ("EIM", "ADF"), ("APDM", "APDF")])
def test_a_port_is_shared_by_port_restricted_nats_only(mapping: str, filtering: str) -> None:
    behaviour = NatBehaviour(Mapping(mapping), Filtering(filtering), collision=Collision.OVERLOAD, udp_timeout_new=9)
    assert iptables.objection(behaviour, 1) == f"who shares a port cannot be told apart by {mapping}+{filtering}"


@pytest.mark.parametrize("ports", ["random", "sequential"])
def test_a_home_router_that_draws_its_ports_shares_none(ports: str) -> None:
    nat = Nat.model_validate({"kind": "home_router", "ports": ports})
    assert nat.behaviour.collision is Collision.ANOTHER
    assert choose(nat.behaviour, 2) is Engine.NFTABLES


@pytest.mark.parametrize("engine", Engine)
def test_both_engines_can_keep_udp_out(engine: Engine) -> None:
    assert choose(NAMES["hotel"], 2, engine) is engine
    assert choose(dataclasses.replace(NAMES["hotel"], collision=Collision.OVERLOAD), 2, engine) is engine


@pytest.mark.parametrize("kind", [name for name, kind in NAMES.items() if kind.upnp])
@pytest.mark.parametrize("engine", Engine)
def test_upnp_has_a_table_of_its_own(kind: str, engine: Engine) -> None:
    setup = NatSetup(KINDS[kind], EXTERNAL[:1], HOSTS)
    without = NatSetup(dataclasses.replace(KINDS[kind], upnp=False), EXTERNAL[:1], HOSTS)
    rules, plain = engines.firewall(setup, engine), engines.firewall(without, engine)
    assert rules.nftables.endswith(upnp.TABLE)
    assert rules.nftables.count("table inet upnp {") == 1
    assert "inet upnp" not in plain.nftables
    assert (rules.ipset, rules.iptables, rules.sysctls) == (plain.ipset, plain.iptables, plain.sysctls)


@pytest.mark.parametrize(("delta", "length"), [(1, 1024), (16, 1024), (1, 2048), (16, 2048)])
def test_a_sequence_of_ports(delta: int, length: int) -> None:
    firsts = set()
    for seed in range(50):
        behaviour = NatBehaviour(Mapping.APDM, ports=PortChoice.SEQUENTIAL, delta=delta)
        ports = NatSetup(behaviour, EXTERNAL[:1], HOSTS, seed).sequence(length)
        assert ports == NatSetup(behaviour, EXTERNAL[1:2], (), seed).sequence(length)
        assert (len(ports), ports.step) == (length, delta)
        assert 1024 <= ports[0] < ports[-1] <= 65535
        firsts.add(ports[0])
    assert len(firsts) > 40
