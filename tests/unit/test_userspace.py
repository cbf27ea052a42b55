"""The data path in userspace, between a pair of sockets that stands for the TUN device and UDP on the loopback."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lab.datapath import userspace
from lab.datapath.offload import NEEDS_CHECKSUM, PLAIN, VIRTIO, Virtio
from lab.datapath.userspace import Userspace
from lab.teredo.address import Endpoint
from lab.teredo.packet import bubble
from lab.teredo.tunnel import Way
from tests.unit.helpers.teredo import ELSEWHERE, HOST, PEER, payload, teredo
from tests.unit.test_offload import DESTINATION, SOURCE, as_rows, tcp_run, udp

OWN = teredo(Endpoint("203.0.113.9", 40000))
OTHER = teredo(ELSEWHERE)
STREAM = socket.inet_pton(socket.AF_INET6, SOURCE)
STREAM_TO = socket.inet_pton(socket.AF_INET6, DESTINATION)


class Tunnel:
    """Trusts whom it is told to, at an endpoint, and remembers what it is shown and told."""

    def __init__(self) -> None:
        self.ways: dict[bytes, Way] = {}
        self.shown: list[bytes] = []
        self.told: list[tuple[bytes, int, int]] = []
        self.forget: set[bytes] = set()

    def inside(self, address: bytes) -> bool:
        return address in (OWN, STREAM_TO)

    def way(self, address: bytes, now: float) -> Way | None:
        return self.ways.get(address)

    def carried(self, address: bytes, *, sent: int = 0, received: int = 0, **_: float) -> None:
        self.told.append((address, sent, received))

    def packet(self, ipv6: bytes, now: float) -> None:
        self.shown.append(ipv6)

    def datagram(self, data: bytes, source: Endpoint, now: float) -> None:
        self.shown.append(data)
        for address in self.forget:
            self.ways.pop(address, None)


class Bench:
    """A data path with both of its ends in our hands: the host's, and a peer's socket."""

    def __init__(self) -> None:
        self.host, tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.udp, self.peer = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for end in (self.udp, self.peer):
            end.bind(("127.0.0.1", 0))
        self.sockets = [self.host, tun, self.udp, self.peer]
        for one in self.sockets:
            one.setblocking(False)
        self.tunnel = Tunnel()
        self.way = Way(Endpoint(*self.peer.getsockname()), Endpoint(*self.peer.getsockname()), 0)
        self.tunnel.ways[PEER] = self.tunnel.ways[STREAM] = self.way
        self.path = Userspace(
            cast(Any, self.tunnel),
            cast(Any, SimpleNamespace(fd=tun.fileno(), udp_offload=True)),
            lambda _port: self.udp,
            lambda: self.tunnel.shown.append(b"performed"),
        )
        self.path.prepare(self.udp)

    def out(self, *packets: bytes) -> list[bytes]:
        """What the peer gets of what the host sends: packets with their virtio headers."""
        for packet in packets:
            self.host.send(packet)
        self.path.from_host(0.0)
        return _all(self.peer)

    def back(self, *datagrams: bytes, port: int | None = 0) -> list[bytes]:
        """What the host gets, with virtio headers, of what the peer sends."""
        for datagram in datagrams:
            self.peer.sendto(datagram, self.udp.getsockname())
        self.path.from_peers(self.udp, self.tunnel.datagram, port, 0.0)
        return _all(self.host)


def _all(receiver: socket.socket) -> list[bytes]:
    found = []
    try:
        while True:
            found.append(receiver.recv(70000))
    except BlockingIOError:
        return found


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    for each in made.sockets:
        each.close()


def plain(source: bytes, destination: bytes, length: int = 20) -> bytes:
    return payload(source, destination, bytes(length), 17)


def test_plain_packets_go_by_themselves_and_are_told_of(bench: Bench) -> None:
    packets = [plain(OWN, PEER, length) for length in (8, 20, 20, 20, 8, 1240, 1240, 3)]
    assert bench.out(*(PLAIN + packet for packet in packets)) == packets
    answers = [plain(PEER, OWN, length) for length in (8, 20, 20, 20, 8, 1240, 1240, 3)]
    assert bench.back(*answers) == [PLAIN + answer for answer in answers]
    assert bench.tunnel.shown == []
    assert bench.tunnel.told == [(PEER, 8, 0), (PEER, 0, 8)]


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"\0",
        bytes(39),
        plain(PEER, OWN)[:-1],
        plain(PEER, OWN) + b"\1\4nonc",
        bubble(PEER, OWN),
        payload(PEER, OWN, b"\x86" + bytes(20), 58),
        b"\0\0" + bytes(6) + plain(PEER, OWN),
        plain(OTHER, OWN),
        plain(PEER, HOST),
        plain(OWN, OWN),
    ],
    ids=lambda odd: odd.hex()[:8] + f"…{len(odd)}",
)
def test_the_machine_sees_all_else_in_its_place(odd: bytes, bench: Bench) -> None:
    before, after = plain(PEER, OWN, len(odd)), plain(PEER, OWN, 30)
    seen: list[list[bytes]] = []
    bench.path._perform = lambda: seen.append(_all(bench.host))
    assert bench.back(before, before, odd, after) == [PLAIN + after]
    assert bench.tunnel.shown == [odd]
    assert seen == [[PLAIN + before] * 2]
    assert bench.tunnel.told == [(PEER, 0, 2), (PEER, 0, 1)]


@pytest.mark.parametrize(
    "odd",
    [
        plain(OWN, OTHER),
        plain(HOST, PEER),
        plain(OWN, PEER)[:-1],
        bubble(OWN, PEER),
        payload(OWN, PEER, b"\x85" + bytes(20), 58),
        b"\x45" + bytes(30),
    ],
    ids=lambda odd: odd.hex()[:8] + f"…{len(odd)}",
)
def test_the_machine_sees_what_else_the_host_sends_in_its_place(odd: bytes, bench: Bench) -> None:
    before, after = plain(OWN, PEER), plain(OWN, PEER, 30)
    seen: list[list[bytes]] = []
    bench.path._perform = lambda: seen.append(_all(bench.peer))
    assert bench.out(PLAIN + before, PLAIN + odd, PLAIN + after) == [after]
    assert bench.tunnel.shown == [odd]
    assert seen == [[before]]


def test_the_machine_sees_what_comes_from_elsewhere(bench: Bench) -> None:
    bench.tunnel.ways[PEER] = Way(ELSEWHERE, bench.way.send_to, 0)
    assert bench.back(plain(PEER, OWN)) == []
    assert bench.tunnel.shown == [plain(PEER, OWN), b"performed"]


@pytest.mark.parametrize(("port", "through"), [(0, True), (4000, False), (None, False)])
def test_data_count_only_on_the_port_that_ours_leave_from(port: int | None, through: bool, bench: Bench) -> None:
    assert bool(bench.back(plain(PEER, OWN), port=port)) is through
    assert bool(bench.tunnel.shown) is not through


def test_a_way_that_the_machine_takes_away_is_gone_for_the_next_packet(bench: Bench) -> None:
    bench.tunnel.forget = {PEER}
    assert bench.back(plain(PEER, OWN), bubble(PEER, OWN), plain(PEER, OWN)) == [PLAIN + plain(PEER, OWN)]
    assert bench.tunnel.shown == [bubble(PEER, OWN), b"performed", plain(PEER, OWN), b"performed"]


def test_a_stream_arrives_as_one_super_packet_and_leaves_as_segments(bench: Bench) -> None:
    segments = tcp_run(bytes(range(256)) * 20, 1000, flags="PA")
    (whole,) = bench.back(*segments)
    virtio = Virtio.decode(whole[:VIRTIO])
    assert (virtio.flags, virtio.kind, virtio.size) == (NEEDS_CHECKSUM, 4, 1000)
    assert bench.tunnel.told == [(STREAM, 0, len(segments))]
    # The other way: from an address that is inside, to a peer.
    bench.tunnel.ways[STREAM_TO] = bench.way
    bench.tunnel.inside = lambda address: address == STREAM  # type: ignore[method-assign]
    assert bench.out(whole) == segments


def test_a_super_packet_to_a_stranger_is_shown_segment_by_segment(bench: Bench) -> None:
    segments = tcp_run(bytes(3000), 1000)
    (whole,) = bench.back(*segments)
    assert bench.out(whole) == []
    assert [each for each in bench.tunnel.shown if each != b"performed"] == segments


def test_a_wrong_checksum_arrives_as_it_is(bench: Bench) -> None:
    segments = tcp_run(bytes(5000), 1000)
    segments[2] = segments[2][:-1] + b"\1"
    first, wrong, second = bench.back(*segments)
    assert (Virtio.decode(first[:VIRTIO]).kind, Virtio.decode(second[:VIRTIO]).kind) == (4, 4)
    assert wrong == PLAIN + segments[2]


def test_datagrams_come_as_one_where_the_kernel_has_that(bench: Bench) -> None:
    datagrams = [udp(bytes(400))] * 5
    (whole,) = bench.back(*datagrams)
    assert Virtio.decode(whole[:VIRTIO]).kind == 5
    bench.path._tun.udp_offload = False
    assert bench.back(*datagrams) == [PLAIN + each for each in datagrams]


def test_a_checksum_that_the_host_leaves_to_us_is_made_for_the_machine_too(bench: Bench) -> None:
    whole = udp(b"data")
    partial = bytearray(whole)
    pseudo = sum(whole[n] << 8 | whole[n + 1] for n in range(8, 40, 2)) + 17 + len(whole) - 40
    partial[46:48] = (pseudo % 0xFFFF).to_bytes(2, "big")
    assert bench.out(Virtio(NEEDS_CHECKSUM, 0, 0, 0, 40, 6).encode() + partial) == []
    assert bench.tunnel.shown == [whole, b"performed"]


class Refusing:
    """A socket on a route that takes no more than one datagram at once."""

    def __init__(self, udp: socket.socket, number: int) -> None:
        self.udp, self.number, self.refused = udp, number, 0

    def sendmsg(self, *_: object) -> int:
        self.refused += 1
        raise OSError(self.number, "refused")

    def sendto(self, data: bytes, to: tuple[str, int]) -> int:
        return self.udp.sendto(data, to)


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
def test_without_offload_on_the_way_out_datagrams_go_one_by_one(number: int, bench: Bench) -> None:
    refusing = Refusing(bench.udp, number)
    bench.path._socket_of = lambda _port: cast(Any, refusing)
    packets = [plain(OWN, PEER)] * 5
    assert bench.out(*(PLAIN + packet for packet in packets)) == packets
    assert refusing.refused == 1
    assert bench.path.errors == 0


def test_what_cannot_be_sent_or_delivered_is_counted(bench: Bench) -> None:
    bench.tunnel.ways[PEER] = Way(bench.way.mapping, Endpoint("127.0.0.1", 0), 0)
    assert bench.out(PLAIN + plain(OWN, PEER)) == []
    assert bench.path.errors == 1
    bench.host.close()
    assert bench.path.errors == 1
    bench.peer.sendto(plain(PEER, OWN), bench.udp.getsockname())
    bench.path.from_peers(bench.udp, bench.tunnel.datagram, 0, 0.0)
    assert bench.path.errors == 2


def test_a_flood_from_either_side_leaves_the_others_their_turn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userspace, "_BATCH", 20)
    packet = PLAIN + plain(OWN, PEER, 8)
    for _ in range(30):
        bench.host.send(packet)
    bench.path.from_host(0.0)
    assert len(_all(bench.peer)) == 20
    bench.path.from_host(0.0)
    assert len(_all(bench.peer)) == 10
    for number in range(30):
        bench.peer.sendto(plain(PEER, OWN, 8 + number % 2), bench.udp.getsockname())
    bench.path.from_peers(bench.udp, bench.tunnel.datagram, 0, 0.0)
    assert len(_all(bench.host)) == 20


def test_large_packets_end_a_turn_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userspace, "_BATCH_BYTES", 3000)
    for _ in range(10):
        bench.peer.sendto(plain(PEER, OWN, 1200), bench.udp.getsockname())
    bench.path.from_peers(bench.udp, bench.tunnel.datagram, 0, 0.0)
    assert len(_all(bench.host)) == 3


def test_runs_of_two_hosts_behind_one_relay_do_not_mix(bench: Bench) -> None:
    theirs = [udp(bytes(400))] * 3
    others = [each[:23] + b"\x81" + each[24:] for each in theirs]  # another source, and so a wrong checksum
    got = bench.back(*theirs, *others, *theirs)
    assert [Virtio.decode(each[:VIRTIO]).kind for each in got] == [5, 5]
    assert [each for each in bench.tunnel.shown if each != b"performed"] == others
    rows, last = as_rows(theirs)
    assert rows.shape == (3, last)
