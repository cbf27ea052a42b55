"""The simulation itself: time, chance and building blocks."""

from __future__ import annotations

import pytest

from lab.simulation import Clock, Outer, Simulation
from lab.teredo.address import Forbidden


def test_calls_are_made_in_the_order_of_time_and_then_of_making() -> None:
    clock = Clock()
    made: list[str] = []
    for name, at in (("c", 2.0), ("a", 1.0), ("b", 1.0), ("late", 9.0)):
        clock.at(at, made.append, name)
    while clock.step(5.0):
        pass
    assert (made, clock.now) == (["a", "b", "c"], 5.0)


def scenario(seed: int, loss: float = 0.1) -> tuple[list[Outer], list[float | None]]:
    simulation = Simulation(seed, loss=loss, tracing=True)
    simulation.server()
    simulation.relay()
    host = simulation.host()
    one, two = simulation.client("cone"), simulation.client("port_restricted")
    simulation.run_for(200.0)
    pings = [one.host.ping(target.address or bytes(16)) for target in (two.host, host)]
    simulation.run_for(200.0)
    assert simulation.trace is not None
    return simulation.trace, [ping.seconds for ping in pings]


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    assert scenario(7) == scenario(7)
    assert scenario(7) != scenario(8)


def test_losses_are_as_frequent_as_asked_for() -> None:
    trace = [outer for seed in range(10) for outer in scenario(seed, loss=0.3)[0]]
    assert 0.25 < sum(outer.lost for outer in trace) / len(trace) < 0.35


@pytest.mark.requirement("A4", "X8", "Y3", "V13")
def test_nothing_on_the_internet_goes_to_or_comes_from_an_address_that_is_not_global() -> None:
    forbidden = Forbidden()
    for outer in scenario(3)[0]:
        assert outer.to not in forbidden
        assert outer.source not in forbidden


def test_without_tracing_nothing_is_collected() -> None:
    simulation = Simulation()
    node = simulation.server()
    assert (simulation.trace, node.events) == (None, None)


def test_run_until_says_whether_the_condition_came_true() -> None:
    simulation = Simulation()
    simulation.server()
    client = simulation.client()
    assert simulation.run_until(lambda: client.machine.state == "qualified")
    assert simulation.now < 1.0
    assert not simulation.run_until(lambda: False, limit=5.0)


def test_a_client_without_a_server_and_a_ping_without_an_address_are_mistakes() -> None:
    simulation = Simulation()
    with pytest.raises(ValueError, match="server"):
        simulation.client()
    simulation.server()
    one, two = simulation.client(), simulation.client(start=False)
    simulation.run_for(1.0)
    with pytest.raises(ValueError, match="no IPv6 address"):
        simulation.ping(one, two)
    assert simulation.ping(two, one).unreachable == simulation.now, "a host without address reaches nobody"


def test_an_hour_of_100_clients_takes_little_time() -> None:
    simulation = Simulation()
    simulation.server()
    clients = [simulation.client("port_restricted") for _ in range(100)]
    simulation.run_for(3600.0)
    assert all(client.machine.state == "qualified" for client in clients)
    assert all(client.machine.counters["solicitations"] >= 120 for client in clients)
