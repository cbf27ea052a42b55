"""The extensions of RFC 6081 where they meet the kernel, a real miniupnpd, and native hosts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from lab.datapath.choice import DataPath
from tests.e2e.labs import RunningLab, cli, running, until

pytestmark = pytest.mark.e2e

LAB = """
servers: {server: }
relays: {relay: }
hosts: {web: , alone: {relay: local}}
sites:
  home: {nat: upnp_port_restricted, clients: {alice: }}
  office: {nat: upnp_port_symmetric, clients: {olga: }}
  shop: {nat: addr_symmetric, clients: {sam: }}
  inn: {nat: port_symmetric, clients: {ines: , igor: {extensions: []}}}
  mill: {nat: port_preserving_port_symmetric, clients: {mary: }}
"""

LOSSY = """
table inet lossy {
  chain input {
    type filter hook input priority -300
    iifname lan udp dport 1900 numgen inc mod 6 < 4 drop
  }
}
"""

MAPPER = """
import asyncio, sys
from pathlib import Path
from lab.teredo.address import Endpoint
from lab.teredo.upnp import PortMapper

async def main():
    memory, host, *ports = sys.argv[1:]
    for port in ports:
        mapper = PortMapper(Path(memory), 2.0)
        print(await mapper.map(Endpoint(host, abs(int(port)))))
        if int(port) < 0:
            await mapper.unmap()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def lab(datapath: DataPath, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running(LAB, tmp_path_factory.mktemp("extensions")) as lab:
        yield lab


def opened(lab: RunningLab, nat: str) -> set[int]:
    """The ports that miniupnpd has opened."""
    table = lab.exec(nat, "nft", "list", "table", "inet", "upnp").stdout
    return {int(port) for port in re.findall(r"th dport (\d+)", table)}


@pytest.mark.requirement("UP3", "UP5", "UP8", "HP1")
@pytest.mark.parametrize(("client", "nat"), [("alice", "home-nat"), ("olga", "office-nat")])
def test_a_client_has_its_nat_open_its_port(lab: RunningLab, client: str, nat: str) -> None:
    state = lab.teredo(client)
    port = int(state["local_mapping"].rpartition(":")[2])
    assert state["nat_behaviour"] == "UPnP: yes, port-preserving: yes", lab.lab.log(client).read_text()
    assert opened(lab, nat) == {port}
    assert state["external_mapping"].endswith(f":{port}")
    assert state["upnp_mapping"] is None  # there is one NAT only
    assert state["nat"] == ("symmetric" if client == "olga" else "cone or restricted")


@pytest.mark.requirement("UP4")
@pytest.mark.parametrize("client", ["sam", "ines", "mary"])
def test_without_such_a_nat_a_client_goes_on(lab: RunningLab, client: str) -> None:
    state = lab.teredo(client)
    assert state["state"] == "qualified"
    assert state["nat_behaviour"] == f"UPnP: no, port-preserving: {'yes' if client == 'mary' else 'no'}"


@pytest.mark.requirement("UP2", "UP3", "UP12", "UP13")
def test_a_port_that_was_left_open_is_closed_before_another_one_is_opened(lab: RunningLab) -> None:
    own = lab.node("alice")["ipv4"][0]
    before = opened(lab, "home-nat")
    memory = str(lab.lab.directory / "remembered")
    first = lab.python("alice", MAPPER, memory, own, "40001").split()  # ends without closing it
    assert first == [f"{lab.node('home-nat')['ipv4'][0]}:40001"]
    assert opened(lab, "home-nat") == before | {40001}
    second = lab.python("alice", MAPPER, memory, own, "40002").split()
    assert second[0].endswith(":40002")
    assert opened(lab, "home-nat") == before | {40002}
    lab.python("alice", MAPPER, memory, own, "-40003")
    assert opened(lab, "home-nat") == before
    assert not (lab.lab.directory / "remembered").exists()


@pytest.mark.requirement("UP4", "UP6")
def test_where_there_is_no_gateway_of_that_kind_the_answer_comes_at_once(lab: RunningLab) -> None:
    own = lab.node("ines")["ipv4"][0]
    assert lab.python("ines", MAPPER, str(lab.lab.directory / "none"), own, "40001").split() == ["None"]


@pytest.mark.requirement("UP3")
def test_a_gateway_that_did_not_get_the_request_is_asked_again(lab: RunningLab) -> None:
    """UDP may lose it: to the group and to the gateway, both times that come first."""
    own = lab.node("alice")["ipv4"][0]
    lab.exec("home-nat", "nft", LOSSY)
    try:
        mapped = lab.python("alice", MAPPER, str(lab.lab.directory / "lossy"), own, "-40004")
    finally:
        lab.exec("home-nat", "nft", "delete table inet lossy")
    assert mapped.split() == [f"{lab.node('home-nat')['ipv4'][0]}:40004"]


@pytest.mark.requirement("SN1", "Q12")
@pytest.mark.parametrize("host", ["web", "alone"])
@pytest.mark.parametrize("client", ["olga", "sam", "ines", "mary"])
def test_native_hosts_and_clients_behind_symmetric_nats_reach_each_other(
    lab: RunningLab, client: str, host: str
) -> None:
    for source, destination in ((client, host), (host, client)):
        results = [
            result
            for result in lab.check(client, host)["results"]
            if (result["source"], result["destination"]) == (source, destination)
        ]
        assert {(result["probe"], result["observed"]) for result in results} == {
            (probe, "reachable") for probe in ("icmp6", "udp", "tcp")
        }


@pytest.mark.requirement("Q12")
def test_without_extensions_a_client_behind_a_symmetric_nat_stays_off_line(lab: RunningLab) -> None:
    state = lab.teredo("igor")
    assert (state["state"], state["address"]) == ("off-line", None)
    assert "symmetric NAT" in state["error"]


def test_extensions_of_a_running_client_can_be_changed(lab: RunningLab) -> None:
    change = ("client", "set", "igor", "--name", lab.name)
    assert (
        "igor is qualified; extensions: port-preserving, symmetric"
        in cli(*change, "extensions=symmetric,port-preserving", check=True).stdout
    )
    assert lab.teredo("igor")["extensions"] == ["port-preserving", "symmetric"]
    assert {result["observed"] for result in lab.check("igor", "web")["results"]} == {"reachable"}
    told = json.loads(cli(*change, "extensions=none", "--json", check=True).stdout)
    assert (told["state"], told["extensions"], told["teredo_address"]) == ("off-line", [], None)
    results = lab.check("igor", "web")["results"]
    assert {(result["expected"], result["observed"]) for result in results} == {("unreachable", "unreachable")}


@pytest.mark.parametrize(
    ("node", "change", "words"),
    [
        (
            "ines",
            "extensions=symetric",
            "unknown extension 'symetric'; did you mean 'symmetric'? known: symmetric, upnp",
        ),
        ("ines", "extensions=sequential", "the extension sequential builds on port-preserving; add port-preserving"),
        ("ines", "port=4000", "unknown option 'port'; known: extensions"),
        ("ines", "all", "'all' sets nothing: write an option and its value"),
        ("web", "extensions=all", "web is no client but a host; the clients are alice, olga"),
        ("nobody", "extensions=all", "no node 'nobody'"),
    ],
)
def test_what_a_client_cannot_become_is_refused(lab: RunningLab, node: str, change: str, words: str) -> None:
    before = lab.node("ines")
    refused = cli("client", "set", node, change, "--name", lab.name)
    assert refused.returncode == 2
    assert words in refused.stderr
    assert lab.node("ines") == before


@pytest.mark.requirement("UP12")
def test_a_client_that_ends_closes_its_port(lab: RunningLab) -> None:
    (port,) = opened(lab, "office-nat")
    sockets = lab.exec("olga", "ss", "-Hulnp").stdout.splitlines()
    (pid,) = re.findall(rf":{port} .*pid=(\d+)", "\n".join(sockets))
    lab.exec("olga", "kill", "-TERM", pid)
    until(lambda: opened(lab, "office-nat") == set())
