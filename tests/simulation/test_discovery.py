"""Clients of one LAN, behind a NAT that does not hairpin, by local discovery (RFC 4380 section 5.2.8) and without."""

from __future__ import annotations

import pytest

from lab.simulation import ClientNode, NatModel, Simulation
from lab.teredo.client import State
from lab.teredo.extensions import ALL, Extension

NONE: frozenset[Extension] = frozenset()


def lan(
    *, both: bool = True, extensions: frozenset[Extension] = NONE, seed: int = 1
) -> tuple[Simulation, NatModel, ClientNode, ClientNode]:
    """Two clients of one LAN that discover each other, or of which only the first wants to."""
    simulation = Simulation(seed, tracing=True)
    simulation.server()
    nat = simulation.nat("port_restricted")
    assert not nat.behaviour.hairpin
    one, two = (simulation.client(nat, extensions=extensions, local_discovery=wanted) for wanted in (True, both))
    return simulation, nat, one, two


def crossed_the_nat(simulation: Simulation, node: ClientNode) -> bool:
    """Whether anything but servers' traffic of a client has been on the Internet."""
    assert simulation.trace is not None
    mapping = node.snapshot()["external_mapping"]
    return any(str(outer.source) == mapping and outer.to.port != 3544 for outer in simulation.trace)


@pytest.mark.requirement("L1", "L2", "L10", "R10", "R11", "X4")
@pytest.mark.parametrize("extensions", [NONE, ALL], ids=["RFC 4380", "RFC 6081"])
def test_two_clients_of_one_lan_reach_each_other_without_hairpinning(extensions: frozenset[Extension]) -> None:
    simulation, nat, one, two = lan(extensions=extensions)
    simulation.run_for(320.0)
    for source, destination in ((one, two), (two, one)):
        ping = simulation.ping(source, destination)
        assert ping.seconds == pytest.approx(0.0), "the LAN has no latency here"
    simulation.run_for(5.0)
    assert not crossed_the_nat(simulation, one)
    assert not crossed_the_nat(simulation, two)
    assert nat.dropped["hairpin"] == 0


@pytest.mark.requirement("L12")
def test_without_local_discovery_on_both_sides_they_do_not() -> None:
    simulation, _, one, two = lan(both=False)
    simulation.run_for(320.0)
    assert not simulation.ping(one, two).reached
    assert not simulation.ping(two, one).reached


@pytest.mark.requirement("L2", "X4")
def test_one_of_them_that_knows_the_other_is_enough_and_it_is_at_once() -> None:
    simulation, _, one, two = lan()
    two.stop()
    assert simulation.run_until(lambda: one.machine.state is State.QUALIFIED)
    two.start()
    assert simulation.run_until(lambda: two.machine.state is State.QUALIFIED)
    assert simulation.ping(one, two).reached, "its first discovery bubble comes with its address"
    assert simulation.ping(two, one).reached


@pytest.mark.requirement("L9", "X1")
def test_silence_of_minutes_costs_no_more_than_bubbles_on_the_link() -> None:
    simulation, _, one, two = lan()
    simulation.run_for(320.0)
    for _ in range(5):
        assert simulation.ping(one, two).seconds == pytest.approx(0.0)
        simulation.run_for(400.0)
    assert not crossed_the_nat(simulation, one)


@pytest.mark.requirement("L1")
def test_a_client_that_has_left_is_not_found_any_more() -> None:
    simulation, _, one, two = lan()
    simulation.run_for(320.0)
    address = two.host.address
    assert address is not None
    two.stop()
    assert not two.joined
    ping = one.host.ping(address)
    simulation.run_for(30.0)
    assert ping.unreachable is not None


def test_discovery_bubbles_stay_on_their_link() -> None:
    simulation, _, one, _ = lan()
    elsewhere = simulation.client(simulation.nat("cone"), local_discovery=True)
    public = simulation.client(local_discovery=True)
    simulation.run_for(1000.0)
    assert one.snapshot()["counters"]["discovery bubbles received"] >= 3
    for node in (elsewhere, public):
        assert "discovery bubbles received" not in node.snapshot()["counters"]
    assert not any(outer.to.host.startswith("224.") for outer in simulation.trace or ())


@pytest.mark.requirement("L9")
def test_a_lan_of_many_clients_is_fully_meshed() -> None:
    simulation = Simulation(3)
    simulation.server()
    nat = simulation.nat("port_restricted")
    clients = [simulation.client(nat, extensions=NONE, local_discovery=True) for _ in range(8)]
    simulation.run_for(320.0)
    for source in clients:
        for destination in clients:
            if source is not destination:
                assert simulation.ping(source, destination).reached
