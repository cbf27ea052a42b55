"""What only the running programs can do for the protocol: chance that nobody can guess, and sockets."""

from __future__ import annotations

import asyncio
import socket
from random import Random, SystemRandom
from types import ModuleType

import pytest

from lab.teredo import client_runner, runner
from lab.teredo.address import Endpoint, Forbidden
from lab.teredo.client import ClientConfig
from lab.teredo.relay import RelayConfig
from lab.teredo.server import ServerConfig
from tests.unit.helpers.teredo import PRIMARY, RELAY_ADDRESS, SECONDARY

IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0
BROADCAST = Endpoint("192.0.2.255", 4000)


@pytest.mark.requirement("S7", "X9", "X12", "U2")
@pytest.mark.parametrize(
    ("module", "name", "config"),
    [
        (client_runner, "Client", ClientConfig(PRIMARY.host, SECONDARY.host)),
        (runner, "Relay", RelayConfig(RELAY_ADDRESS)),
        (runner, "Server", ServerConfig(PRIMARY.host, SECONDARY.host)),
    ],
    ids=["client", "relay", "server"],
)
def test_a_program_draws_from_the_systems_generator_and_knows_its_broadcast_addresses(
    module: ModuleType, name: str, config: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Random, Forbidden]] = []

    async def broadcasts() -> frozenset[str]:
        return frozenset({BROADCAST.host})

    def made(_config: object, rng: Random, forbidden: Forbidden) -> None:
        given.append((rng, forbidden))
        raise RuntimeError("enough is known")

    run = getattr(module, f"run_{name.lower()}")
    monkeypatch.setattr(module, "directed_broadcasts", broadcasts)
    monkeypatch.setattr(module, name, made)
    with pytest.raises(RuntimeError, match="enough"):
        asyncio.run(run(config, runner.Place("none"), lambda *_: None, asyncio.Event()))
    ((rng, forbidden),) = given
    assert type(rng) is SystemRandom
    assert BROADCAST in forbidden


@pytest.mark.requirement("C2")
def test_a_service_port_that_is_not_given_is_another_one_each_time() -> None:
    with runner.service_socket("127.0.0.1", 0) as one, runner.service_socket("127.0.0.1", 0) as two:
        assert one.getsockname()[1] != two.getsockname()[1]


@pytest.mark.requirement("C3")
def test_a_service_port_that_is_given_is_taken_or_the_program_fails_with_its_name() -> None:
    with runner.service_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            runner.service_socket("127.0.0.1", port)
    with runner.service_socket("127.0.0.1", port) as again:
        assert again.getsockname()[1] == port


@pytest.mark.requirement("F16")
def test_the_outer_packets_never_forbid_fragmentation() -> None:
    with runner.service_socket("127.0.0.1", 0) as udp:
        assert udp.getsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER) == IP_PMTUDISC_DONT
