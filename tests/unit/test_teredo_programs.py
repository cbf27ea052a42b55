"""What only the running programs can do for the protocol: chance that nobody can guess, and sockets."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Network
from pathlib import Path
from random import Random, SystemRandom
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from lab import cli_teredo
from lab.planner import plan
from lab.programs import teredo as programs
from lab.programs import web
from lab.programs.base import Context
from lab.teredo import client_runner, runner, server_runner, surroundings, tunnel_runner
from lab.teredo.address import DISCOVERY_ADDRESS, PORT, Endpoint, Forbidden
from lab.teredo.client import ClientConfig
from lab.teredo.relay import RelayConfig
from lab.teredo.server import ServerConfig
from tests.unit.helpers.teredo import PRIMARY, RELAY_ADDRESS, SECONDARY
from tests.unit.helpers.topologies import topology

IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0
BROADCAST = Endpoint("192.0.2.255", 4000)


@pytest.mark.requirement("S7", "X9", "X12", "U2")
@pytest.mark.parametrize(
    ("module", "name", "config"),
    [
        (client_runner, "Client", ClientConfig(PRIMARY.host, SECONDARY.host)),
        (tunnel_runner, "Relay", RelayConfig(RELAY_ADDRESS)),
        (server_runner, "Server", ServerConfig(PRIMARY.host, SECONDARY.host)),
    ],
    ids=["client", "relay", "server"],
)
def test_a_program_draws_from_the_systems_generator_and_knows_its_broadcast_addresses(
    module: ModuleType, name: str, config: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Random, Forbidden]] = []

    def broadcasts() -> frozenset[str]:
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


@pytest.mark.requirement("L1", "L3", "L5")
def test_the_group_is_heard_on_port_3544_and_nothing_that_was_sent_to_a_unicast_address() -> None:
    with (
        client_runner.group_socket("127.0.0.1") as group,
        client_runner.group_socket("127.0.0.1"),  # another client of this host
        runner.service_socket("127.0.0.1", 0) as service,
    ):
        client_runner.multicast_from(service, "127.0.0.1")
        assert service.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 1
        service.sendto(b"unicast", ("127.0.0.1", PORT))
        service.sendto(b"multicast", (DISCOVERY_ADDRESS, PORT))
        group.settimeout(5.0)
        assert group.recvfrom(100) == (b"multicast", service.getsockname())
        group.setblocking(False)
        with pytest.raises(BlockingIOError):
            group.recv(100)


@pytest.mark.requirement("L7")
def test_a_program_knows_the_subnet_of_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert surroundings.subnet_of("127.0.0.1") == IPv4Network("127.0.0.0/8")
    wide, narrow = IPv4Network("10.0.0.0/8"), IPv4Network("10.1.0.0/16")

    def subnets() -> frozenset[IPv4Network]:
        return frozenset({wide, narrow})

    monkeypatch.setattr(surroundings, "subnets", subnets)
    found = [surroundings.subnet_of(host) for host in ("10.1.2.3", "10.2.2.3", "192.0.2.1")]
    assert found == [narrow, wide, None]


@pytest.mark.requirement("L12")
@pytest.mark.parametrize("wanted", [(False, False), (True, False), (False, True)], ids=str)
def test_a_topology_says_which_optional_procedures_a_client_has(
    wanted: tuple[bool, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = f"determine_interval: {wanted[0]}, local_discovery: {wanted[1]}".lower()
    lab = topology(f"{{servers: {{s: }}, sites: {{home: {{clients: {{alice: {{{options}}}}}}}}}}}")
    given: list[ClientConfig] = []

    async def run_client(config: ClientConfig, *_: object) -> None:
        given.append(config)

    monkeypatch.setattr(programs, "run_client", run_client)
    (program,) = plan(lab).node("alice").programs
    programs.client(program.options, Context("alice", tmp_path, tmp_path / "control", lambda *_: None))
    ((determine_interval, local_discovery),) = [(one.determine_interval, one.local_discovery) for one in given]
    assert (determine_interval, local_discovery) == wanted


@pytest.mark.requirement("L12")
@pytest.mark.parametrize("options", [[], ["--determine-interval"], ["--local-discovery"]], ids=str)
def test_the_command_line_says_which_optional_procedures_a_client_has(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(cli_teredo, "_run", lambda *arguments: given.append(arguments[-1].args[0]))
    result = CliRunner().invoke(cli_teredo.app, ["client", PRIMARY.host, *options])
    assert result.exit_code == 0, result.output
    (config,) = given
    assert config.determine_interval == ("--determine-interval" in options)
    assert config.local_discovery == ("--local-discovery" in options)


def test_the_web_host_asks_no_name_server_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def unanswered(*_: object) -> str:
        raise AssertionError("a name server was asked")

    monkeypatch.setattr(socket, "getfqdn", unanswered)
    with web._Server(("::1", 0), web._Handler):
        pass
