"""Labs in which the kernel carries data: through NATs of each kind, with others at the other end, whatever links do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lab.nat.kinds import KINDS as ALL_KINDS
from tests.e2e.labs import RunningLab, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for the kernel data path")]

MIXED = """
servers: {server: }
relays: {relay: }
hosts: {web: , alone: {relay: local}}
sites:
  home: {nat: port_restricted, clients: {alice: , anna: }}
  away: {nat: port_restricted, clients: {bob: {datapath: userspace}}}
  shop: {nat: cone, clients: {mia: {program: miredo}}}
  office: {nat: port_symmetric, clients: {olga: }}
datapath: kernel
"""

TRANSFER = """
import hashlib, socket, sys
role, host, port, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
block = bytes(range(256)) * 256
if role == "receive":
    listener = socket.create_server((host, port), family=socket.AF_INET6)
    print("listening", flush=True)
    connection, _ = listener.accept()
    told, digest = 0, hashlib.sha256()
    while data := connection.recv(1 << 16):
        digest.update(data)
        if (told := told + len(data)) == size:
            break
    connection.sendall(digest.digest())
else:
    connection = socket.create_connection((host, port))
    digest = hashlib.sha256()
    for _ in range(size // len(block)):
        connection.sendall(block)
        digest.update(block)
    assert connection.recv(32) == digest.digest()
    print("the same")
"""

LARGE = 64 << 20
"""Bytes, several seconds of them where nothing else goes on."""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running(MIXED, tmp_path_factory.mktemp("mixed")) as lab:
        yield lab


def wrong(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [result for result in answer["results"] if not result["ok"]]


def checksum_errors(lab: RunningLab, *nodes: str) -> dict[str, int]:
    """How many packets with a wrong checksum these nodes' kernels have counted."""
    found = {}
    for node in nodes:
        text = lab.exec(node, "nstat", "-a", "-z", "-s").stdout
        found[node] = sum(int(count) for count in re.findall(r"CsumErrors\s+(\d+)", text))
    return found


KINDS = tuple(ALL_KINDS)

OFFLOADS = {
    "all": ("tx", "on", "tso", "on", "gso", "on"),
    "no checksums": ("tx", "off"),
    "no large packets": ("tso", "off", "gso", "off"),
}


@pytest.mark.parametrize("links", OFFLOADS)
@pytest.mark.parametrize("whose", [("alice", "web", "relay"), ("bob", "mia"), ("alice", "bob", "mia", "olga", "relay")])
def test_all_reach_each_other_whatever_links_do_for_them(mixed: RunningLab, links: str, whose: tuple[str, ...]) -> None:
    """TCP carries 1 MiB each time, and nobody reads a packet whose checksum is wrong."""
    ends = {
        node: "wan" if node in ("web", "relay") else "lan" for node in ("alice", "bob", "mia", "olga", "web", "relay")
    }
    for node, link in ends.items():
        mixed.exec(node, "ethtool", "-K", link, *(OFFLOADS[links] if node in whose else OFFLOADS["all"]))
    nodes = ("alice", "bob", "mia", "web")
    before = mixed.teredo("alice")["kernel_carried"]
    assert wrong(mixed.check(*nodes)) == []
    assert mixed.teredo("alice")["kernel_carried"] > before + 100
    assert mixed.teredo("bob")["kernel_carried"] == 0
    assert checksum_errors(mixed, *nodes, "relay") == dict.fromkeys((*nodes, "relay"), 0)


def test_clients_of_one_lan_and_host_specific_relays_are_carried_too(mixed: RunningLab) -> None:
    for node, link in (("alice", "lan"), ("relay", "wan"), ("web", "wan")):
        mixed.exec(node, "ethtool", "-K", link, *OFFLOADS["all"])
    assert wrong(mixed.check("alice", "anna", "olga", "alone")) == []
    for node in ("alice", "olga", "alone"):
        assert mixed.teredo(node)["kernel_carried"] > 0, node


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    sites = "".join(
        f"  {kind.replace('_', '-')}: {{nat: {kind}, clients: {{c{number}: }}}}\n" for number, kind in enumerate(KINDS)
    )
    topology = f"servers: {{server: }}\nrelays: {{relay: }}\nhosts: {{web: }}\nsites:\n{sites}datapath: kernel\n"
    with running(topology, tmp_path_factory.mktemp("kinds")) as lab:
        yield lab


def test_through_nats_of_each_kind(kinds: RunningLab) -> None:
    assert wrong(kinds.check()) == []
    for number in range(len(KINDS)):
        assert kinds.teredo(f"c{number}")["kernel_carried"] > 0, KINDS[number]
    nodes = ("web", "relay", *(f"c{number}" for number in range(len(KINDS))))
    assert checksum_errors(kinds, *nodes) == dict.fromkeys(nodes, 0)


@pytest.mark.parametrize(
    ("source", "destination"), [("alice", "web"), ("web", "alice"), ("alice", "bob"), ("mia", "alice")]
)
def test_a_connection_survives_that_its_data_take_another_path(
    mixed: RunningLab, source: str, destination: str
) -> None:
    """Time and again a program forgets whom it trusted: data go through userspace until it trusts anew."""
    port = "4390"
    there = (*mixed.lab.entering(destination), sys.executable, "-c", TRANSFER, "receive", "::", port, str(LARGE))
    here = (sys.executable, "-c", TRANSFER, "send", mixed.address(destination), port, str(LARGE))
    assert mixed.reaches(source, destination)
    with subprocess.Popen(there, stdout=subprocess.PIPE) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"listening\n"
        before = mixed.teredo("alice")["kernel_carried"]
        with subprocess.Popen((*mixed.lab.entering(source), *here), stdout=subprocess.PIPE) as sender:
            turns = 0
            while sender.poll() is None and turns < 4:
                carried = mixed.teredo("alice")["kernel_carried"]
                until(lambda seen=carried: sender.poll() is not None or mixed.teredo("alice")["kernel_carried"] > seen)  # type: ignore[misc]
                mixed.teredo(("alice", "relay")[turns % 2], "forget-peers")
                turns += 1
            said, _ = sender.communicate(timeout=120)
        receiver.wait(10)
    assert said == b"the same\n"
    assert turns >= 2, "it was too fast for that"
    assert mixed.teredo("alice")["kernel_carried"] > before
