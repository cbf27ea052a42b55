"""`teredo-lab story`: what really happened, with tshark as the judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lab.testing.running import Capture
from tests.e2e.captures import captured, end
from tests.e2e.labs import Completed, RunningLab, cli, running

pytestmark = pytest.mark.e2e

TOPOLOGY = """
servers: {server: }
relays: {relay: }
hosts: {web: , alone: {relay: local}}
sites:
  home: {nat: cone, clients: {alice: }}
  away: {nat: port_restricted, clients: {carol: }}
  carrier: {nat: cgn}
  flat: {nat: home_router, behind: carrier, clients: {bob: }}
  museum: {nat: port_symmetric, clients: {frank: {extensions: []}, fiona: }}
"""
MIREDO = """
servers: {server: {program: miredo}}
relays: {relay: {program: miredo}}
hosts: {web: }
sites:
  home: {nat: port_restricted, clients: {dave: {program: miredo}}}
  away: {nat: cone, clients: {alice: }}
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running(TOPOLOGY, tmp_path_factory.mktemp("story")) as up:
        yield up


def story(lab: RunningLab, *arguments: str) -> Completed:
    return cli("story", "--name", lab.name, *arguments)


def told(lab: RunningLab, *arguments: str, code: int = 0) -> dict[str, Any]:
    result = story(lab, *arguments, "--json")
    assert result.returncode == code, result.stdout + result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    assert answer["reached"] == (code == 0)
    return answer


def ways(answer: dict[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    return [(step["name"], tuple(step["path"])) for step in answer["steps"]]


def test_bubbles_open_a_port_restricted_nat(lab: RunningLab, tmp_path: Path) -> None:
    picture, diagram = tmp_path / "story.svg", tmp_path / "story.mmd"
    answer = told(lab, "alice", "carol", "--svg", str(picture), "--mermaid", str(diagram))
    assert [line[0] for line in answer["lifelines"]][:3] == ["alice", "home-nat", "server"]
    assert [line[0] for line in answer["lifelines"]][-2:] == ["away-nat", "carol"]
    first, second, third, *_ = answer["steps"]
    assert (first["name"], first["path"]) == ("direct bubble", ["alice", "home-nat", "away-nat"])
    assert first["drop"][0] == "away-nat"
    assert first["drop"][1].startswith("filtering APDF: nobody inside has sent to ")
    assert (second["name"], second["path"]) == ("indirect bubble", ["alice", "home-nat", "server"])
    assert (third["name"], third["path"]) == ("indirect bubble", ["server", "away-nat", "carol"])
    assert third["details"].startswith(f"origin {second['rewrites'][0][2][0]}:")
    assert ("echo reply", ("carol", "away-nat", "home-nat", "alice")) in ways(answer)
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    assert diagram.read_text().startswith("sequenceDiagram\n")


def test_the_terminal_shows_it(lab: RunningLab) -> None:
    result = story(lab, "alice", "carol")
    assert result.returncode == 0
    assert "✗ dropped by away-nat: filtering APDF" in result.stdout
    assert "[RFC 4380" in result.stdout
    assert "alice reaches carol: the first answer comes " in result.stdout


def test_tshark_finds_as_many_drops(lab: RunningLab, tmp_path: Path) -> None:
    """What has come to carol's NAT from outside and not to carol was dropped, and nothing else."""
    file = tmp_path / "pair.pcapng"
    process = captured(lab, file, "--pair", "alice", "carol")
    for _ in lab.lab.ask("check", pairs=[("alice", "carol")], probes=["icmp6"]):
        pass
    end(process)
    answer = json.loads(cli("story", "alice", "carol", "--read", str(file), "--json", check=True).stdout)
    inbound = "udp && ip && !icmp && frame.packet_flags_direction == 1"
    at_nat, at_carol = (
        {
            identification
            for (identification,) in Capture(file).fields(f'{inbound} && frame.interface_name == "{link}"', "ip.id")
        }
        for link in ("away-nat", "carol")
    )
    assert at_nat
    dropped = [step for step in answer["steps"] if step["drop"] is not None and step["drop"][0] == "away-nat"]
    assert len(at_nat - at_carol) == len(dropped) == 1
    assert answer["outcome"].startswith("alice reaches carol")


def test_a_native_host_is_reached_by_its_relay(lab: RunningLab) -> None:
    answer = told(lab, "alice", "web")
    assert ways(answer)[:4] == [
        ("echo request (connectivity test)", ("alice", "home-nat", "server")),
        ("echo request (plain IPv6) (connectivity test)", ("server", "web")),
        ("echo reply (plain IPv6) (connectivity test)", ("web", "relay")),
        ("indirect bubble", ("relay", "server")),
    ]
    assert answer["outcome"].endswith(", by relay")
    assert told(lab, "web", "carol")["outcome"].startswith("web reaches carol")


def test_a_host_that_is_its_own_relay(lab: RunningLab) -> None:
    answer = told(lab, "carol", "alone")
    assert ("echo request", ("carol", "away-nat", "alone")) in ways(answer)


def test_nats_behind_nats(lab: RunningLab) -> None:
    answer = told(lab, "bob", "carol")
    request = next(step for step in answer["steps"] if step["name"] == "echo request")
    assert request["path"] == ["bob", "flat-nat", "carrier-nat", "away-nat", "carol"]
    assert [rewrite[0] for rewrite in request["rewrites"]] == ["flat-nat", "carrier-nat", "away-nat"]


def test_who_gives_up_and_why(lab: RunningLab) -> None:
    """RFC 6081 Figure 1 promises nothing between a port-restricted and a port-symmetric NAT."""
    answer = told(lab, "carol", "fiona", code=1)
    assert answer["outcome"].startswith("carol gives fiona up (")
    assert "no answer to " in answer["outcome"]
    assert "away-nat drops" in answer["outcome"]
    assert "museum-nat drops" in answer["outcome"]
    assert sum(step["name"] == "indirect bubble" and step["path"][0] == "carol" for step in answer["steps"]) >= 4


def test_who_has_no_address_is_told_with_the_reason(lab: RunningLab) -> None:
    answer = told(lab, "alice", "frank", code=1)
    assert answer["outcome"].startswith(
        "frank has no Teredo address, so nothing can be sent: it is off-line: symmetric NAT"
    )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("alice", "server"), "server is no client or host here; these are: web, alone, "),
        (("alice", "alice"), "a conversation needs two, and alice is one"),
        (("alice", "carol", "--read", "/nowhere"), "/nowhere: [Errno 2]"),
    ],
)
def test_what_makes_no_sense_is_bad_input(lab: RunningLab, arguments: tuple[str, ...], error: str) -> None:
    result = story(lab, *arguments)
    assert result.returncode == 2
    assert error in result.stderr


def test_miredo_at_both_ends_server_and_relay(tmp_path: Path) -> None:
    with running(MIREDO, tmp_path) as lab:
        answer = told(lab, "dave", "alice")
        assert ("echo request", ("dave", "home-nat", "away-nat", "alice")) in ways(answer)
        assert told(lab, "alice", "web")["outcome"].endswith(", by relay")
