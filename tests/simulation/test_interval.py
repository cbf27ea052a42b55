"""The refresh interval that clients find out behind NATs whose mappings live for various times (RFC 4380 5.2.7)."""

from __future__ import annotations

from typing import Any

import pytest

from lab.simulation import ClientNode, Simulation

HOUR = 3600.0


def determined(client: ClientNode) -> dict[str, Any] | None:
    """How the determination ended, or None."""
    found = [event.facts for event in client.events or () if event.name == "interval determined"]
    return found[0] if found else None


@pytest.mark.requirement("I1", "I3", "I4", "I5", "I6", "I7")
@pytest.mark.parametrize(
    "kind", ["cone", "addr_restricted", "port_restricted", "sequential_port_symmetric", "port_symmetric"]
)
@pytest.mark.parametrize("lifetime", [35.0, 50.0, 75.0, 95.0, 110.0])
def test_the_interval_is_shorter_than_the_nats_lifetime_and_at_least_75_percent_of_it(
    kind: str, lifetime: float
) -> None:
    simulation = Simulation(tracing=True)
    simulation.server()
    client = simulation.client(simulation.nat(kind, timeout=lifetime), determine_interval=True)
    assert simulation.run_until(lambda: determined(client) is not None, HOUR)
    interval = client.snapshot()["refresh_interval"]
    assert 0.75 * lifetime <= interval < lifetime
    assert not client.ports, "the secondary port is closed"


@pytest.mark.requirement("I4", "I5")
def test_a_lifetime_of_75_seconds_gives_60() -> None:
    simulation = Simulation(tracing=True)
    simulation.server()
    client = simulation.client(simulation.nat("port_restricted", timeout=75.0), determine_interval=True)
    simulation.run_for(HOUR)
    tested = [event.facts for event in client.events or () if event.name == "interval tested"]
    assert [(facts["candidate"], facts["survived"]) for facts in tested] == [(60.0, True), (90.0, False), (75.0, False)]
    assert client.snapshot()["refresh_interval"] == 60.0


@pytest.mark.requirement("I2", "I4")
def test_a_nat_that_forgets_nothing_gives_nearly_the_maximum() -> None:
    simulation = Simulation(tracing=True)
    simulation.server()
    client = simulation.client(simulation.nat("port_restricted", timeout=HOUR), determine_interval=True)
    simulation.run_for(HOUR)
    assert 118.0 < client.snapshot()["refresh_interval"] <= 120.0


@pytest.mark.requirement("I4", "M1")
def test_a_client_with_a_long_interval_stays_reachable_and_refreshes_less_often() -> None:
    simulation = Simulation(tracing=True)
    server = simulation.server()
    nat = simulation.nat("port_restricted", timeout=100.0)
    sleeper = simulation.client(nat, determine_interval=True)
    caller = simulation.client("cone")
    simulation.run_for(HOUR)
    began = simulation.now
    simulation.run_for(HOUR)
    refreshes = [
        outer.at
        for outer in simulation.trace or ()
        if outer.at > began and outer.to == server.endpoint and outer.source.host in nat.external
    ]
    assert HOUR / 90.0 <= len(refreshes) <= HOUR / (0.75 * 90.0) + 1
    assert simulation.ping(caller, sleeper).reached


@pytest.mark.requirement("I3")
def test_loss_may_cost_length_but_never_reachability() -> None:
    for seed in range(10):
        simulation = Simulation(seed, loss=0.2, tracing=True)
        simulation.server()
        client = simulation.client(simulation.nat("cone", timeout=75.0), determine_interval=True)
        simulation.run_for(HOUR)
        assert 30.0 <= client.snapshot()["refresh_interval"] < 75.0
