"""Who reaches whom, from a cold start, through which NATs."""

from __future__ import annotations

from itertools import product

import pytest

from lab.nat.kinds import KINDS, NatBehaviour
from lab.nat.matrix import FIGURE_1, Cell
from lab.simulation import ClientNode, Simulation
from lab.teredo.address import PORT
from lab.teredo.client import State
from lab.teredo.packet import HEADER, bubble
from tests.unit.helpers.teredo import payload

RESTRICTED = ("cone", "addr_restricted", "port_restricted")
PAIRS = list(product(RESTRICTED, repeat=2))
LATENCY = 0.02
"""The one-way latency of the IPv4 Internet by default."""


def two_clients(
    one: str | None, two: str | None, seed: int = 1, loss: float = 0.0
) -> tuple[Simulation, ClientNode, ClientNode]:
    simulation = Simulation(seed, loss=loss, tracing=True)
    simulation.server()
    nodes = simulation.client(one), simulation.client(two)
    assert simulation.run_until(lambda: all(node.machine.state is State.QUALIFIED for node in nodes), 600.0)
    return simulation, *nodes


@pytest.mark.requirement("X2", "X6", "R5", "R8", "B1", "B3", "V7", "V14")
@pytest.mark.parametrize("nats", list(product((None, *RESTRICTED), repeat=2)), ids=str)
def test_clients_reach_each_other_at_the_first_packet_and_at_the_best_time(nats: tuple[str | None, str | None]) -> None:
    simulation, one, two = two_clients(*nats)
    there = simulation.ping(one, two)
    # indirect bubble (2 hops), direct answer, request, reply: or less, when the direct bubble gets through
    assert there.seconds is not None
    assert there.seconds <= 5 * LATENCY + 1e-9
    back = simulation.ping(two, one)
    assert back.seconds == pytest.approx(2 * LATENCY)


@pytest.mark.requirement("X10")
@pytest.mark.parametrize("nats", PAIRS, ids=str)
def test_every_packet_of_a_burst_to_an_unknown_peer_arrives_in_order(nats: tuple[str, str]) -> None:
    simulation, one, two = two_clients(*nats)
    assert one.host.address is not None
    assert two.host.address is not None
    burst = [payload(one.host.address, two.host.address, bytes([number])) for number in range(20)]
    for ipv6 in burst:
        one.host.send(ipv6)
    simulation.run_for(1.0)
    assert two.host.inbox == burst


def test_the_pairs_that_figure_1_promises_for_rfc_4380_alone_are_those_proved_here() -> None:
    promised = {(a, b) for a, row in FIGURE_1.items() for b, cell in row.items() if cell is Cell.YES}
    assert set(PAIRS) <= promised
    assert {kind for kind in KINDS if not KINDS[kind].symmetric and not KINDS[kind].upnp} == set(RESTRICTED)


@pytest.mark.requirement("B5", "X6")
@pytest.mark.parametrize("nats", PAIRS, ids=str)
def test_both_may_begin_at_the_same_moment(nats: tuple[str, str]) -> None:
    simulation, one, two = two_clients(*nats)
    assert one.host.address is not None
    assert two.host.address is not None
    pings = one.host.ping(two.host.address), two.host.ping(one.host.address)
    simulation.run_for(1.0)
    assert all(ping.reached for ping in pings)


@pytest.mark.requirement("X7", "Q3", "X10")
@pytest.mark.parametrize("seed", range(10))
def test_a_fifth_of_all_packets_may_be_lost(seed: int) -> None:
    simulation, one, two = two_clients("port_restricted", "port_restricted", seed, loss=0.2)
    for _ in range(20):
        if two.host.address is not None and simulation.ping(one, two, 9.0).reached:
            return
        simulation.run_for(30.0)
    pytest.fail("never reached")


@pytest.mark.requirement("Q12")
def test_without_extensions_a_client_behind_a_symmetric_nat_is_off_line_and_says_why() -> None:
    simulation = Simulation()
    simulation.server()
    client = simulation.client("port_symmetric", extensions=())
    simulation.run_for(20.0)
    assert client.machine.state is State.OFFLINE
    assert "symmetric NAT: mapped to 198.18.0." in (client.machine.reason or "")
    assert client.host.address is None
    simulation.run_for(600.0)
    assert client.machine.state is State.OFFLINE


@pytest.mark.requirement("X7", "X10", "B6")
def test_a_peer_that_is_gone_is_reported_unreachable_after_8_seconds() -> None:
    simulation, one, two = two_clients("port_restricted", "port_restricted")
    address = two.host.address
    assert address is not None
    two.stop()
    ping = one.host.ping(address)
    simulation.run_for(20.0)
    assert ping.unreachable == pytest.approx(ping.sent + 8.0)


@pytest.mark.requirement("B5", "B6")
def test_a_dead_peer_costs_4_attempts_in_300_seconds_however_often_it_is_pinged() -> None:
    simulation, one, two = two_clients("cone", "cone")
    address = two.host.address
    assert one.host.address is not None
    assert address is not None
    two.stop()
    simulation.run_for(1.0)
    began = simulation.now
    for _ in range(2000):
        one.host.ping(address)
        simulation.run_for(0.5)
    attempts = [
        outer.at - began
        for outer in simulation.trace or ()
        if outer.data.startswith(bubble(one.host.address, address)) and outer.to.port == PORT and outer.at >= began
    ]
    expected = [start + step for start in (0, 300, 600, 900) for step in (0, 2, 4, 6)]
    assert attempts == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize("hairpin", [False, True])
def test_clients_behind_one_nat_reach_each_other_if_it_hairpins(hairpin: bool) -> None:
    kind = KINDS["port_restricted"]
    simulation = Simulation()
    simulation.server()
    nat = simulation.nat(NatBehaviour(kind.mapping, kind.filtering, kind.ports, hairpin))
    one, two = (simulation.client(nat, port=port, extensions=()) for port in (4000, 4001))
    simulation.run_for(1.0)
    ping = simulation.ping(one, two)
    assert ping.reached == hairpin
    assert ping.done


@pytest.mark.requirement("V15", "B3", "R5")
@pytest.mark.parametrize("nats", PAIRS, ids=str)
def test_clients_of_two_servers_reach_each_other(nats: tuple[str, str]) -> None:
    simulation = Simulation()
    first, second = simulation.server(), simulation.server()
    one, two = (simulation.client(nat, server=server) for nat, server in zip(nats, (first, second), strict=True))
    simulation.run_for(1.0)
    assert simulation.ping(one, two).reached
    assert simulation.ping(two, one).reached


@pytest.mark.requirement("X2")
def test_once_peers_trust_each_other_their_servers_see_nothing_of_them() -> None:
    simulation, one, two = two_clients("port_restricted", "port_restricted")
    simulation.ping(one, two)
    since = simulation.now
    for _ in range(5):
        assert simulation.ping(one, two).reached
    assert all(outer.to.port != PORT for outer in simulation.trace or () if outer.at > since)


# Native hosts, through relays


@pytest.mark.requirement("R4", "R5", "R7", "X3", "D1", "V8", "V12", "Y4", "Y6", "Y8", "Y13", "Y14")
@pytest.mark.parametrize("together", [False, True], ids=["server and relay apart", "server and relay in one"])
@pytest.mark.parametrize("nat", [None, *RESTRICTED])
def test_a_client_and_a_native_host_reach_each_other_whoever_begins(nat: str | None, together: bool) -> None:
    for client_begins in (True, False):
        simulation = Simulation()
        simulation.server(relay=together)
        if not together:
            simulation.relay()
        host, client = simulation.host(), simulation.client(nat)
        simulation.run_for(1.0)
        caller, called = (client, host) if client_begins else (host, client)
        first = simulation.ping(caller, called)
        assert first.seconds is not None
        assert first.seconds < 0.25
        again = simulation.ping(called, caller)
        assert again.seconds == pytest.approx(2 * LATENCY + 2 * 0.01)
        simulation.run_for(120.0)
        assert simulation.ping(caller, called).reached, "also after a long silence"


@pytest.mark.requirement("Y6", "Y8")
def test_a_native_host_is_told_when_a_client_is_gone() -> None:
    simulation = Simulation()
    simulation.server()
    simulation.relay()
    host, client = simulation.host(), simulation.client("cone")
    simulation.run_for(1.0)
    address = client.host.address
    assert address is not None
    client.stop()
    ping = host.ping(address)
    simulation.run_for(20.0)
    assert ping.unreachable == pytest.approx(ping.sent + 8.0 + 2 * 0.01)


@pytest.mark.requirement("X3", "X10", "D4")
def test_a_client_is_told_when_a_native_host_does_not_answer() -> None:
    simulation = Simulation()
    simulation.server()
    client = simulation.client("cone")
    host = simulation.host()
    simulation.run_for(1.0)
    ping = simulation.ping(client, host)
    assert ping.unreachable == pytest.approx(ping.sent + 8.0)


@pytest.mark.requirement("A1", "R7")
def test_a_native_host_that_moves_to_another_relay_is_followed() -> None:
    simulation = Simulation()
    simulation.server()
    first, second = simulation.relay(), simulation.relay()
    host, client = simulation.host(first), simulation.client("port_restricted")
    simulation.run_for(1.0)
    assert simulation.ping(client, host).reached
    host.relay = second.packet
    assert simulation.ping(host, client).reached
    assert simulation.ping(client, host).reached
    assert client.snapshot()["peers"][0]["mapping"] == str(second.endpoint)


@pytest.mark.requirement("H1", "H3")
@pytest.mark.parametrize("nat", RESTRICTED)
def test_a_host_specific_relay_connects_its_host_directly(nat: str) -> None:
    for client_begins in (True, False):
        simulation = Simulation()
        simulation.server()
        common = simulation.relay()
        host, client = simulation.host(), simulation.client(nat)
        own = simulation.relay(host=host)
        simulation.run_for(1.0)
        assert simulation.ping(*((client, host) if client_begins else (host, client))).reached
        assert client.snapshot()["peers"][0]["mapping"] == str(own.endpoint)
        assert common.snapshot()["counters"] == {}


@pytest.mark.requirement("Y9", "Y10", "H5")
@pytest.mark.parametrize("nats", PAIRS, ids=str)
def test_a_relay_behind_a_nat_works_too(nats: tuple[str, str]) -> None:
    for client_begins in (True, False):
        simulation = Simulation()
        simulation.server()
        host, client = simulation.host(), simulation.client(nats[0])
        simulation.relay(host=host, nat=nats[1])
        simulation.run_for(1.0)
        assert simulation.ping(*((client, host) if client_begins else (host, client))).reached


@pytest.mark.requirement("Y14")
def test_a_relay_does_not_forward_to_hosts_that_it_does_not_serve() -> None:
    simulation = Simulation()
    simulation.server()
    simulation.relay(serves=("2001:db8:ffff::/48",))
    client, host = simulation.client(), simulation.host()
    simulation.run_for(1.0)
    assert not simulation.ping(client, host).reached


@pytest.mark.requirement("F15", "F17")
def test_the_largest_packet_of_the_link_arrives_whole() -> None:
    simulation, one, two = two_clients("cone", "port_restricted")
    assert one.host.address is not None
    assert two.host.address is not None
    ipv6 = payload(one.host.address, two.host.address, bytes(1280 - HEADER))
    one.host.send(ipv6)
    simulation.run_for(1.0)
    assert two.host.inbox == [ipv6]
