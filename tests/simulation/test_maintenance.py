"""What becomes of clients over time: NAT timeouts, lost mappings, lost servers, native IPv6, keys."""

from __future__ import annotations

from itertools import pairwise

import pytest

from lab.nat.kinds import Filtering, Mapping, NatBehaviour, PortChoice
from lab.simulation import ClientNode, Simulation
from lab.teredo.client import State

RANDOM_PORTS = NatBehaviour(Mapping.EIM, Filtering.APDF, PortChoice.RANDOM)


def qualified(simulation: Simulation, *clients: ClientNode) -> bool:
    return simulation.run_until(lambda: all(client.machine.state is State.QUALIFIED for client in clients))


@pytest.mark.requirement("M1", "M2", "M3")
def test_1000_refreshes_are_75_to_100_percent_of_30_seconds_apart() -> None:
    simulation = Simulation(tracing=True)
    server = simulation.server()
    client = simulation.client("port_restricted")
    simulation.run_for(30_000.0)
    times = [outer.at for outer in simulation.trace or () if outer.to == server.endpoint][1:]
    intervals = [later - earlier for earlier, later in pairwise(times)]
    assert len(intervals) >= 1000
    assert 22.5 <= min(intervals) < 22.7
    assert 29.8 < max(intervals) <= 30.0 + 2 * 0.02
    assert len({round(interval, 9) for interval in intervals}) == len(intervals)
    assert client.machine.state is State.QUALIFIED


@pytest.mark.requirement("M1", "M4")
@pytest.mark.parametrize(("refresh_interval", "alive"), [(30.0, True), (1000.0, False)])
@pytest.mark.parametrize("kind", ["cone", "addr_restricted", "port_restricted"])
def test_refreshes_keep_a_client_reachable_past_three_nat_timeouts(
    kind: str, refresh_interval: float, alive: bool
) -> None:
    simulation = Simulation()
    simulation.server()
    sleeper = simulation.client(simulation.nat(kind, timeout=60.0), refresh_interval=refresh_interval)
    caller = simulation.client("cone")
    assert qualified(simulation, sleeper, caller)
    simulation.run_for(3.5 * 60.0)
    ping = simulation.ping(caller, sleeper)
    assert ping.reached == alive
    assert ping.done


@pytest.mark.requirement("M7")
def test_a_lost_mapping_is_noticed_at_the_next_refresh_and_traffic_resumes_at_the_new_address() -> None:
    simulation = Simulation()
    simulation.server()
    simulation.relay()
    nat = simulation.nat(RANDOM_PORTS)
    client, peer, host = simulation.client(nat), simulation.client("port_restricted"), simulation.host()
    assert qualified(simulation, client, peer)
    assert simulation.ping(client, peer).reached
    old = client.host.address
    nat.reset()
    assert not simulation.ping(peer, client, 5.0).reached
    assert simulation.run_until(lambda: client.host.address != old, 31.0)
    assert client.machine.state is State.QUALIFIED
    for other in (peer, host):
        assert simulation.ping(client, other).reached
        assert simulation.ping(other, client).reached


@pytest.mark.requirement("M9", "Q3")
def test_a_client_survives_the_absence_of_its_server() -> None:
    simulation = Simulation()
    simulation.server()
    client = simulation.client("cone")
    assert qualified(simulation, client)
    simulation.internet.loss = 1.0
    assert simulation.run_until(lambda: client.machine.state is State.OFFLINE, 30.0 + 12.1)
    assert client.host.address is None
    simulation.run_for(1000.0)
    simulation.internet.loss = 0.0
    assert simulation.run_until(lambda: client.machine.state is State.QUALIFIED, 313.0)


@pytest.mark.requirement("C7", "Z1", "H4")
def test_a_node_that_gains_native_ipv6_leaves_teredo_and_returns_when_it_is_lost() -> None:
    simulation = Simulation(tracing=True)
    simulation.server()
    nat = simulation.nat("cone")
    client, peer = simulation.client(nat), simulation.client("cone")
    assert qualified(simulation, client, peer)
    simulation.ping(client, peer)
    client.do(lambda now: client.machine.native_ipv6(True, now))
    assert client.host.address is None
    since = simulation.now
    simulation.run_for(1000.0)
    assert not any(outer.at > since and outer.source.host in nat.external for outer in simulation.trace or ())
    client.do(lambda now: client.machine.native_ipv6(False, now))
    assert qualified(simulation, client)
    assert simulation.ping(peer, client).reached


@pytest.mark.requirement("Q14", "C2")
def test_whatever_happens_a_client_sends_from_its_one_service_port() -> None:
    simulation = Simulation(tracing=True, loss=0.4)
    simulation.server()
    client, peer = simulation.client(), simulation.client()
    for _ in range(20):
        simulation.run_for(60.0)
        if peer.host.address is not None:
            client.host.ping(peer.host.address)
    counters = client.snapshot()["counters"]
    assert counters["solicitations"] > 40
    assert counters["bubbles sent"] > 4
    sources = {outer.source for outer in simulation.trace or () if outer.source.host == client.endpoint.host}
    assert sources == {client.endpoint}


def test_every_change_of_state_is_reported_with_the_address() -> None:
    simulation = Simulation(tracing=True)
    simulation.server()
    client = simulation.client()
    simulation.run_for(1.0)
    client.stop()
    told = [event.facts for event in client.events or () if event.name == "state"]
    assert [facts["state"] for facts in told] == [
        "starting (primary server)",
        "starting (secondary server)",
        "qualified",
        "initial",
    ]
    assert [facts["address"] is not None for facts in told] == [False, False, True, False]


# Secure qualification


@pytest.mark.requirement("S4", "S5", "V6", "V21")
@pytest.mark.parametrize(
    ("client_id", "secret", "state"),
    [
        (b"me", b"between us", State.QUALIFIED),
        (b"me", b"wrong", State.OFFLINE),
        (b"you", b"between us", State.OFFLINE),
        (b"", None, State.OFFLINE),
        (b"retired", b"old", State.OFFLINE),
    ],
    ids=["right", "wrong secret", "unknown identifier", "no secret", "retired key"],
)
def test_a_server_that_asks_for_secrets_serves_those_who_know_them(
    client_id: bytes, secret: bytes | None, state: State
) -> None:
    simulation = Simulation()
    simulation.server(secrets={b"me": b"between us", b"retired": b"old"}, retired=frozenset({b"retired"}))
    client = simulation.client("port_restricted", client_id=client_id, secret=secret)
    simulation.run_for(20.0)
    assert client.machine.state is state
    if client_id == b"retired":
        assert "the server asks for a new key" in (client.machine.reason or "")
    simulation.run_for(100.0)
    assert (client.machine.state is State.QUALIFIED) == (state is State.QUALIFIED), "refreshes are sealed too"


@pytest.mark.requirement("S5")
def test_a_client_with_a_secret_does_not_trust_a_server_without() -> None:
    simulation = Simulation()
    simulation.server()
    client = simulation.client("cone", client_id=b"me", secret=b"between us")
    simulation.run_for(20.0)
    assert client.machine.state is State.OFFLINE
    assert "wrong authentication value" in (client.machine.reason or "")
