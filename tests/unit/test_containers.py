"""A plan as containers: addresses, links, rights; and the Compose file, which must be the default topology's."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any
from unittest.mock import Mock, call

import pytest
import requests
import yaml
from typer.testing import CliRunner

from lab import unix
from lab.backends import replanning
from lab.backends.agents import AgentPlaces
from lab.backends.containers import CAPABILITIES, Settings, Tunnel, containers, controller_address, guest_of, room
from lab.backends.docker import DockerLab, _subnets, preflight
from lab.backends.nodes import Nodes
from lab.backends.starting import one_at_a_time
from lab.cli import app
from lab.node import NodeError
from lab.plan import Plan
from lab.planner import plan
from lab.state import Lab, MachineError
from lab.topology.load import load, parse

ROOT = Path(__file__).parents[2]
SUBNET = ipaddress.IPv4Network("172.30.77.0/24")

SMALL = """
name: small
servers: {server: }
sites:
  home: {nat: cone, clients: {alice: , bob: {program: miredo}}}
  empty: {nat: port_restricted}
"""


@pytest.fixture
def small() -> Plan:
    return plan(parse(SMALL.encode(), "small.yaml"))


def test_each_node_has_a_container_and_a_lan_without_clients_has_a_guest(small: Plan) -> None:
    made = containers(small, SUBNET)
    assert [each.name for each in made] == [*(node.name for node in small.nodes), guest_of("empty-nat")]
    addresses = [each.address for each in made]
    assert len(set(addresses)) == len(made)
    assert controller_address(SUBNET) not in addresses
    assert str(SUBNET[1]) not in addresses  # the engine may take it


def test_the_ends_of_a_link_name_each_other(small: Plan) -> None:
    made = {each.name: each for each in containers(small, SUBNET)}
    by_address = {each.address: each.name for each in made.values()}
    ends: dict[int, set[tuple[str, str]]] = {}
    for container in made.values():
        for tunnel in container.settings.tunnels:
            ends.setdefault(tunnel.vni, set()).add((container.name, by_address[tunnel.remote]))
    assert all(len(pairs) == 2 and {(b, a) for a, b in pairs} == pairs for pairs in ends.values())
    lan = made["home-nat"].settings.tunnels
    assert Tunnel(interface="lan0", vni=lan[1].vni, remote=made["alice"].address, bridge="lan") in lan
    assert Tunnel(interface="lan1", vni=lan[2].vni, remote=made["bob"].address, bridge="lan") in lan
    (alice,) = made["alice"].settings.tunnels
    assert (alice.interface, alice.bridge, alice.remote) == ("lan", None, made["home-nat"].address)


def test_settings_hold_the_plan_of_the_node_however_short_they_are(small: Plan) -> None:
    for container in containers(small, SUBNET):
        text = container.settings.model_dump_json(exclude_defaults=True)
        again = Settings.model_validate_json(text)
        if container.name != guest_of("empty-nat"):
            assert again.plan() == small.node(container.name)
        assert len(text) < 16_000


def test_only_miredo_has_more_rights_and_what_a_container_cannot_write_the_engine_sets(small: Plan) -> None:
    for container in containers(small, SUBNET):
        assert (container.capabilities == CAPABILITIES) == (container.name != "bob")
        assert not any(key.startswith("net.bridge.") for key in container.sysctls)  # none hairpins
    made = {each.name: each for each in containers(small, SUBNET)}
    assert made["home-nat"].sysctls["net.ipv4.ip_forward"] == "1"
    assert "net.netfilter.nf_conntrack_udp_timeout" in made["home-nat"].sysctls


def test_subnets_are_none_of_the_lab_and_large_enough() -> None:
    planned = plan(
        parse(b"sites: {home: {nat: cone, lan: 172.16.0.0/12, clients: {alice: }}}\nservers: {server: }", "x.yaml")
    )
    found = list(_subnets(planned))
    assert found
    assert found == list(_subnets(planned))
    for subnet in found:
        assert not subnet.overlaps(ipaddress.IPv4Network("172.16.0.0/12"))
        assert subnet.prefixlen == room(planned) == 24
    large = plan(load(ROOT / "topologies/rfc6081.yaml"))
    assert 2 ** (32 - room(large)) > len(large.nodes) + 4


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["compose", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_compose_file_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert (ROOT / "compose.yaml").read_text() == printed(), "run: teredo-lab compose > compose.yaml"


def test_the_compose_file_is_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    planned = plan(load(ROOT / "topologies/default.yaml"))
    described: dict[str, Any] = yaml.safe_load(printed())
    services = described["services"]
    assert services.keys() == {"checks", *(node.name for node in planned.nodes)}
    assert all(network["internal"] for network in described["networks"].values())
    for node in planned.nodes:
        text = services[node.name]["environment"]["TEREDO_LAB_NODE"].replace("$$", "$")
        assert Settings.model_validate_json(text).plan() == node
    topology = json.loads(services["checks"]["environment"]["TEREDO_LAB_TOPOLOGY"].replace("$$", "$"))
    assert topology["name"] == planned.name
    assert "cap_add" not in services["checks"]
    assert not any(service.get("privileged") for service in services.values())


@pytest.mark.parametrize(
    ("subnet", "why"), [("172.30.77.1/24", "host bits"), ("nonsense", "nonsense"), ("10.9.9.0/29", "too small")]
)
def test_a_wrong_subnet_is_refused(subnet: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, ["compose", "--subnet", subnet])
    assert result.exit_code == 2
    assert why in result.output


def test_who_waits_for_a_container_goes_on_when_its_agent_answers_or_says_why_it_cannot(tmp_path: Path) -> None:
    lab = Lab("small", tmp_path)
    lab.node_directory("nat").mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(AgentPlaces(lab).wait, "nat")
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        with unix.listen(lab.agent("nat")):
            waiting.result(10)
    lab.obstacle("nat").write_text("nat: no such sysctl")
    with pytest.raises(NodeError, match="no such sysctl"):
        AgentPlaces(lab).wait("nat")


async def _changed(places: Any, old: Plan, new: Plan, fresh: list[str]) -> None:
    nodes = Nodes(old)
    nodes.places = places
    nodes.programs = Mock()
    await replanning.change(old, new, nodes, fresh)


def test_a_nat_made_anew_is_waited_for_before_it_is_measured(small: Plan) -> None:
    other = plan(parse(SMALL.replace("nat: cone", "nat: port_symmetric").encode(), "small.yaml"))
    places = Mock()
    asyncio.run(_changed(places, small, other, ["home-nat"]))
    assert call.wait("home-nat") in places.mock_calls
    assert not [each for each in places.do.call_args_list if each.args[0] == "home-nat"]


class _Events:
    """What an engine tells, one event after another, until it is closed."""

    def __init__(self) -> None:
        self._told: SimpleQueue[Any] = SimpleQueue()

    def joined(self, identity: str) -> None:
        self._told.put({"Actor": {"Attributes": {"container": identity}}})

    def close(self) -> None:
        self._told.put(None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._told.get, None)


def test_containers_join_their_network_one_after_another_and_start_side_by_side() -> None:
    events, begun, ends = _Events(), SimpleQueue[str](), {"a": Event(), "b": Event(), "c": Event()}
    api = Mock()
    api.events.return_value = events

    def begin(identity: str) -> None:
        begun.put(identity)
        ends[identity].wait(10)

    with ThreadPoolExecutor() as pool, one_at_a_time(api, "trunk", "connect", begin) as go:
        first = pool.submit(go, "a")
        assert begun.get(timeout=10) == "a"
        pool.submit(go, "b")
        with pytest.raises(Empty):
            begun.get(timeout=0.1)
        events.joined("a")
        assert begun.get(timeout=10) == "b"
        assert not first.done()
        pool.submit(go, "c")
        events.joined("a")  # it is not its turn any more
        with pytest.raises(Empty):
            begun.get(timeout=0.1)
        ends["b"].set()  # it has started, or could not, without a word of the network
        assert begun.get(timeout=10) == "c"
        ends["a"].set()
        ends["c"].set()


@pytest.mark.parametrize("moment", ["before it says what it is", "before it says which images it has"])
def test_an_engine_that_goes_after_its_first_answer_is_named_so(
    moment: str, small: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Mock(side_effect=requests.exceptions.ConnectionError("Connection refused"))
    engine = Mock(info=gone) if moment == "before it says what it is" else Mock(**{"images.get": gone})
    monkeypatch.setattr("lab.backends.docker.engine", lambda: engine)
    with pytest.raises(MachineError, match="does not answer any more"):
        if engine.info is gone:
            preflight(small)
        next(DockerLab("gone").launch(small, {}, measure=False))
