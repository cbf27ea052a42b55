"""The NAT models do what RFC 4787 says of their mapping, filtering and port choice."""

from __future__ import annotations

import dataclasses
import itertools
from random import Random

import pytest

from lab.nat.kinds import KINDS, NAMES, Filtering, Mapping, NatBehaviour, PortChoice
from lab.simulation import Clock, Internet, NatModel
from lab.teredo.address import Endpoint

EXTERNAL = ("198.18.0.1", "198.18.0.2", "198.18.0.3", "198.18.0.4")
INSIDE = Endpoint("192.168.0.2", 5000)
REMOTE = Endpoint("198.18.0.9", 3544)
SAME_HOST = Endpoint("198.18.0.9", 3545)
OTHER_HOST = Endpoint("198.18.0.10", 3544)


class Bench:
    """A NAT with two inside hosts and three remote endpoints. It notes what arrives where, and from where."""

    def __init__(self, behaviour: NatBehaviour, timeout: float = 60.0, seed: int = 1) -> None:
        self.clock = Clock()
        self.internet = Internet(self.clock, Random(seed), latency=0.01, loss=0.0, trace=None)
        self.nat = NatModel(
            self.internet, self.clock, EXTERNAL[: behaviour.addresses], behaviour, Random(seed), timeout=timeout
        )
        self.arrived: list[tuple[Endpoint, Endpoint]] = []
        for host in (REMOTE.host, OTHER_HOST.host):
            self.internet.attach(host, self.arrive)
        for host in ("192.168.0.2", "192.168.0.3"):
            self.nat.attach(host, self.arrive)

    def arrive(self, _data: bytes, source: Endpoint, to: Endpoint) -> None:
        self.arrived.append((source, to))

    def wait(self, seconds: float) -> None:
        limit = self.clock.now + seconds
        while self.clock.step(limit):
            pass

    def out(self, to: Endpoint, source: Endpoint = INSIDE) -> Endpoint:
        """Send outward; the endpoint that the remote side sees."""
        self.arrived.clear()
        self.nat.send(source, to, b"out")
        self.wait(0.1)
        ((seen, at),) = self.arrived
        assert at == to
        return seen

    def enters(self, source: Endpoint, to: Endpoint) -> bool:
        """Whether a packet from a remote endpoint comes through to an inside host."""
        self.arrived.clear()
        self.internet.send(source, to, b"in")
        self.wait(0.1)
        return bool(self.arrived)


def behaviour(
    mapping: Mapping = Mapping.EIM,
    filtering: Filtering = Filtering.EIF,
    ports: PortChoice = PortChoice.RANDOM,
    hairpin: bool = False,
) -> NatBehaviour:
    return NatBehaviour(mapping, filtering, ports, hairpin)


@pytest.mark.parametrize("filtering", Filtering)
@pytest.mark.parametrize(
    ("mapping", "kept"),
    [(Mapping.EIM, (True, True)), (Mapping.ADM, (True, False)), (Mapping.APDM, (False, False))],
)
def test_a_mapping_is_kept_for_the_remote_endpoints_that_it_should_be(
    mapping: Mapping, kept: tuple[bool, bool], filtering: Filtering
) -> None:
    bench = Bench(behaviour(mapping, filtering))
    seen = bench.out(REMOTE)
    assert seen.host == bench.nat.external[0]
    assert (bench.out(SAME_HOST) == seen, bench.out(OTHER_HOST) == seen) == kept
    assert bench.out(REMOTE) == seen


@pytest.mark.parametrize("mapping", Mapping)
@pytest.mark.parametrize(
    ("filtering", "admitted"),
    [(Filtering.EIF, (True, True)), (Filtering.ADF, (True, False)), (Filtering.APDF, (False, False))],
)
def test_a_mapping_admits_the_remote_endpoints_that_it_should(
    mapping: Mapping, filtering: Filtering, admitted: tuple[bool, bool]
) -> None:
    bench = Bench(behaviour(mapping, filtering))
    seen = bench.out(REMOTE)
    assert (bench.enters(SAME_HOST, seen), bench.enters(OTHER_HOST, seen)) == admitted
    assert bench.enters(REMOTE, seen)
    assert not bench.enters(REMOTE, Endpoint(seen.host, seen.port ^ 1))


def test_port_choices_are_told_apart() -> None:
    preserving = Bench(behaviour(ports=PortChoice.PRESERVING))
    assert preserving.out(REMOTE).port == INSIDE.port
    assert preserving.out(REMOTE, Endpoint("192.168.0.3", INSIDE.port)).port == INSIDE.port + 1, "it is taken"
    sequential = Bench(behaviour(Mapping.APDM, ports=PortChoice.SEQUENTIAL))
    ports = [sequential.out(to).port for to in (REMOTE, SAME_HOST, OTHER_HOST)]
    assert ports == [ports[0], ports[0] + 1, ports[0] + 2]
    random = Bench(behaviour(Mapping.APDM, ports=PortChoice.RANDOM))
    ports = [random.out(to).port for to in (REMOTE, SAME_HOST, OTHER_HOST)]
    assert len(set(ports)) == 3
    assert ports[1] - ports[0] != 1


def test_several_inside_hosts_have_mappings_of_their_own() -> None:
    bench = Bench(behaviour())
    first, second = bench.out(REMOTE), bench.out(REMOTE, Endpoint("192.168.0.3", INSIDE.port))
    assert first != second
    for seen, inside in ((first, "192.168.0.2"), (second, "192.168.0.3")):
        assert bench.enters(REMOTE, seen)
        assert bench.arrived[0][1].host == inside


def test_outbound_packets_keep_a_mapping_and_inbound_ones_do_not() -> None:
    bench = Bench(dataclasses.replace(behaviour(), inbound_refresh=False), timeout=30.0)
    seen = bench.out(REMOTE)
    for _ in range(4):
        bench.wait(20.0)
        assert bench.out(REMOTE) == seen
    for _ in range(2):
        bench.wait(14.0)
        assert bench.enters(REMOTE, seen)
    bench.wait(2.0)
    assert not bench.enters(REMOTE, seen)
    assert len(bench.nat) == 0
    assert bench.out(REMOTE) != seen


@pytest.mark.parametrize("filtering", Filtering)
def test_inbound_packets_keep_a_mapping_with_inbound_refresh(filtering: Filtering) -> None:
    bench = Bench(behaviour(filtering=filtering), timeout=30.0)
    seen = bench.out(REMOTE)
    for _ in range(4):
        bench.wait(20.0)
        assert bench.enters(REMOTE, seen)
    bench.wait(31.0)
    assert not bench.enters(REMOTE, seen)


def test_sequential_ports_go_up_by_delta() -> None:
    bench = Bench(NatBehaviour(Mapping.APDM, Filtering.APDF, PortChoice.SEQUENTIAL, delta=3))
    ports = [bench.out(Endpoint(REMOTE.host, 1000 + number)).port for number in range(5)]
    assert [after - before for before, after in itertools.pairwise(ports)] == [3] * 4


def test_without_udp_nothing_leaves() -> None:
    bench = Bench(NatBehaviour(udp=False))
    bench.nat.send(INSIDE, REMOTE, b"")
    bench.wait(1.0)
    assert bench.arrived == []
    assert bench.nat.dropped["UDP"] == 1


def test_what_is_not_modelled_is_refused() -> None:
    with pytest.raises(ValueError, match="not modelled"):
        Bench(NAMES["home_router"])
    clock = Clock()
    internet = Internet(clock, Random(1), latency=0.01, loss=0.0, trace=None)
    with pytest.raises(ValueError, match="1 external addresses for a NAT with 4"):
        NatModel(internet, clock, EXTERNAL[:1], KINDS["addr_symmetric"], Random(1))


def test_flows_get_external_addresses_in_turn_or_hosts_keep_theirs() -> None:
    bench = Bench(KINDS["addr_symmetric"])
    assert [bench.out(Endpoint(REMOTE.host, 1000 + n)).host for n in range(5)] == [*EXTERNAL, EXTERNAL[0]]
    bench = Bench(NAMES["cgn"])
    assert {bench.out(REMOTE, Endpoint("192.168.0.2", 5000 + n)).host for n in range(5)} == {EXTERNAL[0]}
    assert {bench.out(REMOTE, Endpoint("192.168.0.3", 5000 + n)).host for n in range(5)} == {EXTERNAL[1]}


def test_a_port_that_upnp_has_opened_lets_anybody_in_until_it_is_closed() -> None:
    bench = Bench(KINDS["upnp_port_symmetric"])
    opened = bench.nat.open(INSIDE)
    assert opened == Endpoint(EXTERNAL[0], INSIDE.port)
    assert bench.enters(OTHER_HOST, opened)
    assert bench.nat.open(Endpoint("192.168.0.3", INSIDE.port)) is None
    assert bench.out(REMOTE, Endpoint("192.168.0.3", INSIDE.port)) != opened
    assert bench.out(REMOTE) == opened
    bench.nat.close(INSIDE)
    assert not bench.enters(OTHER_HOST, opened)
    assert Bench(KINDS["port_restricted"]).nat.open(INSIDE) is None


def test_a_nat_behind_a_nat_and_hosts_that_need_none() -> None:
    bench = Bench(behaviour())
    inner = NatModel(bench.nat, bench.clock, ("192.168.0.9",), behaviour(), Random(1))
    for host in ("172.16.0.2", "172.16.0.3"):
        inner.attach(host, bench.arrive)
    inner.send(Endpoint("172.16.0.2", 5000), REMOTE, b"out")
    bench.wait(0.1)
    assert [seen.host for seen, _ in bench.arrived] == [EXTERNAL[0]]
    bench.arrived.clear()
    inner.send(Endpoint("172.16.0.2", 5000), Endpoint("172.16.0.3", 6000), b"out")
    bench.wait(0.1)
    assert bench.arrived == [(Endpoint("172.16.0.2", 5000), Endpoint("172.16.0.3", 6000))]


def test_the_permission_of_each_remote_endpoint_ages_by_itself() -> None:
    bench = Bench(behaviour(filtering=Filtering.APDF), timeout=30.0)
    seen = bench.out(OTHER_HOST)
    for _ in range(3):
        bench.wait(14.0)
        assert bench.out(REMOTE) == seen
    assert bench.enters(REMOTE, seen)
    assert not bench.enters(OTHER_HOST, seen)
    assert bench.nat.dropped["filtered"] == 1


def test_a_reset_loses_every_mapping() -> None:
    bench = Bench(behaviour(ports=PortChoice.SEQUENTIAL))
    seen = bench.out(REMOTE)
    bench.nat.reset()
    assert not bench.enters(REMOTE, seen)
    assert bench.out(REMOTE) != seen


@pytest.mark.parametrize("hairpin", [False, True])
def test_inside_hosts_meet_at_external_addresses_if_there_is_hairpinning(hairpin: bool) -> None:
    bench = Bench(behaviour(hairpin=hairpin))
    first, second = bench.out(REMOTE), bench.out(REMOTE, Endpoint("192.168.0.3", 6000))
    bench.arrived.clear()
    bench.nat.send(INSIDE, second, b"across")
    bench.wait(0.1)
    assert bench.arrived == ([(first, Endpoint("192.168.0.3", 6000))] if hairpin else [])


def test_stale_entries_make_room() -> None:
    bench = Bench(behaviour(Mapping.APDM, Filtering.APDF), timeout=1.0)
    for port in range(1, 1000):
        bench.nat.send(INSIDE, Endpoint(REMOTE.host, port), b"")
        bench.wait(0.1)
    assert len(bench.nat._mappings) < 100
    bench = Bench(behaviour(Mapping.EIM, Filtering.APDF), timeout=1.0)
    for port in range(1, 1000):
        bench.nat.send(INSIDE, Endpoint(REMOTE.host, port), b"")
        bench.wait(0.1)
    ((mapping),) = bench.nat._mappings.values()
    assert len(mapping.permitted) < 100


def test_a_nat_whose_ports_are_all_taken_says_so() -> None:
    bench = Bench(behaviour(Mapping.APDM, ports=PortChoice.SEQUENTIAL))
    for number in range(65536 - 1024):
        bench.nat.send(INSIDE, Endpoint(f"203.0.{number >> 8}.{number & 255}", 1), b"")
    with pytest.raises(RuntimeError, match="no free port"):
        bench.nat.send(INSIDE, Endpoint("198.51.100.1", 1), b"")


def test_only_symmetric_kinds_change_the_mapping_with_the_remote_endpoint() -> None:
    for kind in (kind for kind in KINDS.values() if kind.addresses == 1 and not kind.upnp):
        bench = Bench(kind)
        assert (bench.out(REMOTE) != bench.out(OTHER_HOST)) == kind.symmetric
