"""Clients that differ in their extensions reach each other wherever both have what RFC 6081 Figure 1 asks for."""

from __future__ import annotations

import pytest

from lab.nat.matrix import FIGURE_1, SUBSETS, Cell
from lab.simulation import Simulation
from lab.teredo.extensions import ALL, Extension

CELLS = [(source, destination) for source, row in FIGURE_1.items() for destination in row]
PROMISED = [pair for pair in CELLS if FIGURE_1[pair[0]][pair[1]] is not Cell.NO]


def reached(
    source: str, destination: str, callers: frozenset[Extension], callees: frozenset[Extension], seed: int = 1
) -> bool:
    simulation = Simulation(seed)
    simulation.server()
    one, other = simulation.client(source, extensions=callers), simulation.client(destination, extensions=callees)
    simulation.run_for(5.0)
    return simulation.ping(one, other).reached


@pytest.mark.requirement("SN1", "UP1", "PP1", "SQ1")
@pytest.mark.parametrize(("source", "destination"), PROMISED)
def test_whoever_has_more_extensions_than_are_needed_loses_nobody(source: str, destination: str) -> None:
    needed = SUBSETS[FIGURE_1[source][destination]]
    assert reached(source, destination, needed, ALL)
    assert reached(source, destination, ALL, needed)


@pytest.mark.requirement("HP8", "LR1")
@pytest.mark.parametrize("missing", [Extension.HAIRPINNING, Extension.LOAD_REDUCTION])
def test_extensions_that_are_not_for_symmetric_nats_change_no_cell(missing: Extension) -> None:
    for source, destination in PROMISED:
        assert reached(source, destination, ALL - {missing}, ALL), (source, destination)


@pytest.mark.requirement("HP8")
@pytest.mark.parametrize("kind", FIGURE_1)
def test_two_clients_behind_one_nat_that_does_not_hairpin_find_each_other_there(kind: str) -> None:
    simulation = Simulation(1)
    simulation.server()
    nat = simulation.nat(kind)
    one, other = simulation.client(nat), simulation.client(nat)
    simulation.run_for(5.0)
    assert simulation.ping(one, other).reached
    assert simulation.ping(other, one).reached
    (peer,) = one.machine._peers
    assert peer.send_to == other.endpoint


@pytest.mark.requirement("HP8")
def test_without_hairpinning_they_do_not() -> None:
    simulation = Simulation(1)
    simulation.server()
    nat = simulation.nat("port_restricted")
    one, other = (simulation.client(nat, extensions=ALL - {Extension.HAIRPINNING}) for _ in range(2))
    simulation.run_for(5.0)
    assert not simulation.ping(one, other).reached
