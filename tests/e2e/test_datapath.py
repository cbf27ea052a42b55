"""Data through the tunnel: every class of packet, in both directions, comes out as it went in."""

from __future__ import annotations

import itertools
import random
import socket
import sys
from collections.abc import Iterator

import pytest

from lab.datapath.choice import DataPath
from lab.teredo.mmsg import UDP_SEGMENT
from tests.e2e.conftest import Start
from tests.e2e.labs import RunningLab, running, until
from tests.e2e.streams import sockets, transfer

pytestmark = pytest.mark.e2e

TOPOLOGY = """
servers: {server: }
relays: {relay: }
hosts: {web: }
sites:
  home: {nat: port_restricted, clients: {alice: }}
  away: {nat: cone, clients: {bob: }}
  theirs: {nat: port_restricted, clients: {dave: {program: miredo}}}
"""
OURS = list(itertools.permutations(("alice", "bob", "web"), 2))
THEIRS = [("alice", "dave"), ("dave", "alice"), ("dave", "web"), ("web", "dave")]
PAIRS = [pytest.param(*pair, id="-".join(pair)) for pair in OURS + THEIRS]


@pytest.fixture(scope="module")
def lab(datapath: DataPath, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running(TOPOLOGY, tmp_path_factory.mktemp("datapath")) as lab:
        yield lab


def super_packets(lab: RunningLab, node: str) -> tuple[int, int]:
    """How many a node's program has cut, and merged."""
    counts = lab.teredo(node)["super_packets"]
    return counts["cut"], counts["merged"]


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_a_stream_arrives_as_it_was_sent(source: str, destination: str, lab: RunningLab) -> None:
    transfer(lab, source, destination)


def test_streams_go_in_super_packets(lab: RunningLab, datapath: DataPath) -> None:
    before = {node: super_packets(lab, node) for node in ("alice", "bob")}
    carried = {node: lab.teredo(node)["kernel_carried"] for node in ("alice", "bob")}
    transfer(lab, "alice", "bob")
    if datapath is DataPath.KERNEL:  # which does the same, and counts packets
        assert all(lab.teredo(node)["kernel_carried"] > carried[node] + 1000 for node in carried)
        return
    assert super_packets(lab, "alice")[0] > before["alice"][0]
    assert super_packets(lab, "bob")[1] > before["bob"][1]


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_datagrams_of_every_size_arrive_as_they_were_sent(source: str, destination: str, lab: RunningLab) -> None:
    sender, receiver, there = sockets(lab, source, destination, socket.SOCK_DGRAM)
    with sender, receiver:
        for first in range(0, 1233, 16):
            batch = [random.randbytes(size) for size in range(first, min(first + 16, 1233))]
            for data in batch:
                sender.sendto(data, there)
            assert [receiver.recv(2000) for _ in batch] == batch


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_datagrams_of_one_size_arrive_in_order(source: str, destination: str, lab: RunningLab) -> None:
    sender, receiver, there = sockets(lab, source, destination, socket.SOCK_DGRAM)
    with sender, receiver:
        for size in (64, 701, 1232):
            batch = [bytes((number,)) + random.randbytes(size - 1) for number in range(40)]
            for data in batch:
                sender.sendto(data, there)
            assert [receiver.recv(2000) for _ in batch] == batch


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_datagrams_in_bulk_are_not_overtaken(source: str, destination: str, lab: RunningLab) -> None:
    sender, receiver, there = sockets(lab, source, destination, socket.SOCK_DGRAM)
    with sender, receiver:
        for _ in range(10):
            batch = [bytes((number,)) * 64 for number in range(43)]
            sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 64)
            sender.sendto(b"".join(batch[:40]), there)
            sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 0)
            for data in batch[40:]:
                sender.sendto(data, there)
            assert [receiver.recv(2000)[0] for _ in batch] == list(range(43))


@pytest.mark.parametrize(("source", "destination"), [("alice", "web"), ("web", "alice"), ("alice", "bob")])
def test_floods_of_datagrams_go_many_at_a_time(source: str, destination: str, lab: RunningLab) -> None:
    assert lab.reaches(source, destination)
    end = "relay" if destination == "web" else destination
    _, before = super_packets(lab, end)
    flood = (sys.executable, "-m", "lab.bench.flood", "send", lab.address(destination), "--seconds", "0.3")

    def merged() -> bool:
        lab.exec(source, *flood)
        return super_packets(lab, end)[1] > before

    until(merged)


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_fragments_arrive_as_they_were_sent(source: str, destination: str, lab: RunningLab) -> None:
    assert lab.reaches(source, destination)
    for size in ("3000", "60000"):
        ping = ("ping", "-6", "-c", "1", "-w", "10", "-s", size, lab.address(destination))
        # A native host learns the path's MTU by the first, and may forget it.
        answers = (lab.exec(source, *ping, check=False).stdout for _ in range(4))
        assert any(f"{int(size) + 8} bytes from" in answer for answer in answers)


SPOIL = """
import socket, struct, sys
source, destination, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
for number in range(20):
    data = bytes((number,)) * 600
    segment = struct.pack("!HHHH", port, port, 8 + len(data), 0) + data
    total = sum(struct.unpack("!16H", ends)) + 17 + len(segment) + sum(struct.unpack(f"!{len(segment) // 2}H", segment))
    check = 0xFFFF - total % 0xFFFF
    if number % 5 == 3:
        check ^= 0x0100
    segment = segment[:6] + struct.pack("!H", check) + segment[8:]
    options, protocol = (struct.pack("!BB6x", 17, 0)[:2] + b"\\1\\4" + bytes(4), 60) if number % 5 == 1 else (b"", 17)
    packet = struct.pack("!IHBB", 0x60000000, len(options + segment), protocol, 64) + ends + options + segment
    raw.sendto(packet, (destination, 0))
"""
"""Sends 20 datagrams: each fifth has destination options, each fifth a wrong checksum."""


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_a_wrong_checksum_is_never_mended_and_extension_headers_go_through(
    source: str, destination: str, lab: RunningLab, datapath: DataPath
) -> None:
    def wrong() -> int:
        lines = lab.exec(destination, "cat", "/proc/net/snmp6").stdout.splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Udp6InCsumErrors"))

    sender, receiver, there = sockets(lab, source, destination, socket.SOCK_DGRAM)
    before = wrong()
    with sender, receiver:
        lab.python(source, SPOIL, lab.address(source), there[0], str(there[1]))
        sound = [number for number in range(20) if number % 5 != 3]
        got = [receiver.recv(2000) for _ in sound]
        if datapath is DataPath.KERNEL:  # those with options are not for the kernel, and the others overtake them
            got.sort()
        assert got == [bytes((number,)) * 600 for number in sound]
    assert wrong() - before == 4


OFF = ("tso", "off", "gso", "off", "gro", "off")


@pytest.mark.parametrize(
    ("node", "interface", "features"),
    [
        ("alice", "teredo", OFF),
        ("alice", "lan", (*OFF, "tx-udp-segmentation", "off")),
        ("alice", "lan", ("tx", "off")),
        ("relay", "wan", ("tx", "off", "rx", "off")),
        ("web", "wan", OFF),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_interfaces_may_lack_offloads(node: str, interface: str, features: tuple[str, ...], start: Start) -> None:
    lab = start(TOPOLOGY)
    lab.exec(node, "ethtool", "-K", interface, *features)
    for source, destination in (("alice", "web"), ("web", "alice"), ("alice", "bob"), ("bob", "alice")):
        transfer(lab, source, destination, 1 << 20)


def test_a_link_too_narrow_for_a_packet_has_it_in_fragments(start: Start) -> None:
    """RFC 4380 section 5.1.2: DF is never set."""
    lab = start(TOPOLOGY)
    for node in ("alice", "home-nat"):  # at both ends, or a link drops what is too large for the other
        lab.exec(node, "ip", "link", "set", "lan", "mtu", "1280")
    transfer(lab, "alice", "web", 1 << 20)
    transfer(lab, "web", "alice", 1 << 20)


def test_nothing_went_wrong(lab: RunningLab) -> None:
    """At last, after the tests above."""
    assert [lab.teredo(node)["io_errors"] for node in ("alice", "bob", "relay")] == [0, 0, 0]


def test_the_path_is_in_the_state(lab: RunningLab) -> None:
    assert set(lab.teredo("relay")["super_packets"]) == {"cut", "merged"}
    assert "super_packets" not in lab.teredo("server")
