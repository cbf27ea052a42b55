"""All cells of RFC 6081 Figure 1 in virtual time, with each set of extensions."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.matrix.experiment import Found, simulated
from lab.matrix.verdict import EVERYTHING, RUNS, Judgement
from lab.nat.kinds import KINDS
from lab.nat.matrix import BEYOND, FIGURE_1, OPEN, Cell
from lab.simulation import Simulation
from lab.teredo.extensions import ALL
from lab.topology.load import load
from lab.topology.pairs import pairs

TOPOLOGY = load(Path(__file__).parents[2] / "topologies" / "rfc6081.yaml")


@pytest.fixture(scope="module", params=range(3))
def found(request: pytest.FixtureRequest) -> dict[str, Found]:
    return {name: simulated(TOPOLOGY, RUNS[name], lambda *_: None, seed=request.param) for name in RUNS}


def judged(found: dict[str, Found]) -> list[Judgement]:
    kinds = {name: nat.name for name, nat in TOPOLOGY.matrix.items()}
    return [
        Judgement(kinds[pair.row], kinds[pair.column], {name: each.tries[pair] for name, each in found.items()})
        for pair in pairs(TOPOLOGY)
    ]


@pytest.mark.requirement("SN1", "UP1", "PP1", "SQ1", "SQ2")
def test_every_label_is_the_figures(found: dict[str, Found]) -> None:
    cells = judged(found)
    assert {(cell.source, cell.destination) for cell in cells} == {(a, b) for a in FIGURE_1 for b in FIGURE_1}
    assert [(cell.source, cell.destination, cell.derived) for cell in cells if not cell.agrees] == []
    for cell in cells:
        assert cell.figure is Cell.NO or cell.derived is cell.figure


def test_what_connects_beyond_the_figure_is_known(found: dict[str, Found]) -> None:
    beyond = {
        (cell.source, cell.destination)
        for cell in judged(found)
        if cell.figure is Cell.NO and cell.tries[EVERYTHING].reached
    }
    assert beyond - OPEN == BEYOND.keys()


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("destination", KINDS)
def test_who_is_not_reached_is_unreachable_within_nine_seconds(source: str, destination: str) -> None:
    simulation = Simulation(1)
    simulation.server()
    one, two = simulation.client(source), simulation.client(destination)
    simulation.run_for(5.0)
    ping = simulation.ping(one, two)
    assert ping.done
    assert ping.reached or (ping.unreachable is not None and ping.unreachable - ping.sent < 9.0)
    assert not one.ports or ping.reached, "a random port has been left open"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].symmetric])
def test_native_hosts_and_clients_behind_symmetric_nats_reach_each_other(kind: str) -> None:
    for starts in ("client", "host"):
        simulation = Simulation(2)
        simulation.server()
        relay = simulation.relay()
        host, client = simulation.host(relay), simulation.client(kind)
        simulation.run_for(5.0)
        ends = (client, host) if starts == "client" else (host, client)
        assert simulation.ping(*ends).reached


@pytest.mark.parametrize("seed", range(4))
def test_after_a_conversation_the_other_direction_works_too(seed: int) -> None:
    """Either end may be the first; what the first conversation has left behind must not stand in the way."""
    for source, row in FIGURE_1.items():
        for destination, label in row.items():
            if label is Cell.NO or FIGURE_1[destination][source] is Cell.NO:
                continue
            simulation = Simulation(seed)
            simulation.server()
            one, two = simulation.client(source, extensions=ALL), simulation.client(destination, extensions=ALL)
            simulation.run_for(5.0)
            assert simulation.ping(one, two).reached, (source, destination)
            assert simulation.ping(two, one).reached, (source, destination)
            simulation.run_for(100.0)  # the mappings have expired, and the trust with them
            assert simulation.ping(two, one, 30.0).reached, (source, destination)
            assert simulation.ping(one, two, 30.0).reached, (source, destination)
