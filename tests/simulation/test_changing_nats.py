"""A NAT that becomes another one while the client runs: the client finds out, and calls as its new NAT asks for."""

from __future__ import annotations

from itertools import permutations

import pytest

from lab.nat.kinds import KINDS, PortChoice
from lab.nat.matrix import Cell, cell
from lab.simulation import ClientNode, NatModel, Simulation
from lab.teredo.client import State
from lab.teredo.extensions import ALL, Extension
from lab.teredo.peers import BUBBLE_WINDOW

KINDS_WITHOUT_UPNP = [name for name, kind in KINDS.items() if not kind.upnp and kind.addresses == 1]
PRESERVING = {name for name, kind in KINDS.items() if kind.ports is PortChoice.PRESERVING}

NOTICEABLE = [pair for pair in permutations(KINDS_WITHOUT_UPNP, 2) if not PRESERVING.issuperset(pair)]
"""From one kind to another so that the server sees another mapping: a client has no other sign of a change."""


def changed(before: str, after: str, extensions: frozenset[Extension] = ALL) -> tuple[Simulation, ClientNode]:
    """A client that has qualified behind one kind of NAT, and has had the time to notice that it is another one."""
    simulation = Simulation(4)
    simulation.server()
    nat = simulation.nat(before)
    client = simulation.client(nat, extensions=extensions)
    simulation.run_for(5.0)
    assert client.machine.nat.symmetric is KINDS[before].symmetric
    become(nat, after)
    simulation.run_for(45.0)
    return simulation, client


def become(nat: NatModel, kind: str) -> None:
    nat.behaviour = KINDS[kind]
    nat.reset()


@pytest.mark.requirement("Q12", "UP7", "PP3")
@pytest.mark.parametrize(("before", "after"), NOTICEABLE)
def test_a_client_learns_what_its_nat_has_become(before: str, after: str) -> None:
    _, client = changed(before, after)
    assert client.machine.state is State.QUALIFIED
    assert client.machine.nat.symmetric is KINDS[after].symmetric
    assert client.machine.nat.port_preserving is (after in PRESERVING)


@pytest.mark.requirement("Q12")
@pytest.mark.parametrize(("before", "after"), NOTICEABLE)
def test_it_then_reaches_whom_its_new_nat_lets_it_reach(before: str, after: str) -> None:
    simulation, client = changed(before, after)
    others = {kind: simulation.client(kind) for kind in KINDS_WITHOUT_UPNP}
    simulation.run_for(5.0)
    for kind, other in others.items():
        if cell(after, kind) is not Cell.NO:
            assert simulation.ping(client, other).reached, kind
        if cell(kind, after) is not Cell.NO:
            assert simulation.ping(other, client).reached, kind


def test_without_symmetric_nat_support_a_nat_that_became_symmetric_keeps_its_client_from_its_peers() -> None:
    simulation, client = changed("port_restricted", "port_symmetric", extensions=frozenset())
    other = simulation.client("port_restricted")
    simulation.run_for(5.0)
    ping = simulation.ping(client, other)
    assert ping.unreachable is not None


@pytest.mark.requirement("PP11", "X11")
def test_a_conversation_goes_on_after_the_nat_of_one_end_has_changed() -> None:
    simulation = Simulation(4)
    simulation.server()
    nat = simulation.nat("port_preserving_port_symmetric")
    one, other = simulation.client(nat), simulation.client("port_restricted")
    simulation.run_for(5.0)
    assert simulation.ping(one, other).reached
    become(nat, "sequential_port_symmetric")
    simulation.run_for(45.0)
    assert simulation.ping(one, other).reached
    assert simulation.ping(other, one).reached
    simulation.run_for(BUBBLE_WINDOW)
    assert simulation.ping(other, one).reached
