"""Each class of packet, through the kernel and through userspace: what comes out is the same, byte for byte."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from lab.teredo.address import Endpoint, TeredoAddress, packed
from lab.teredo.packet import Authentication, bubble, origin_indication
from lab.teredo.trailers import nonce_trailer
from tests.e2e import wires as w
from tests.e2e.wires import CLIENT, HOST, PEER, RELAY, Wires, icmp, ipv6, tcp, udp

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for the kernel data path")]

STRANGER = Endpoint("198.51.100.77", 4077)
UNKNOWN = TeredoAddress(w.SERVER, 0x2C42, STRANGER).packed
HOSTS = socket.inet_aton(PEER.host) + socket.inet_aton(RELAY.host)


@dataclass(frozen=True)
class Case:
    """A packet; whether the kernel is to carry it; and whether anything of it is to come out at the other side.

    `answered`: the relay's node tells the sender of an error, and the kernel carries that.
    """

    packet: bytes
    carried: bool
    arrives: bool = True
    wire: dict[str, Any] = field(default_factory=dict)
    source: Endpoint = PEER
    to: Endpoint = RELAY
    whole: bytes = b""
    padding: bytes = b""
    answered: bool = False


SIZES = (1, 2, 61, 504, 505, 1016, 1017, 1020, 1231, 1232)


def both_ways(here: bytes, there: bytes) -> dict[str, Case]:
    """What may go in either direction."""

    def of(next_header: int, payload: bytes, **fields: int) -> bytes:
        return ipv6(here, there, next_header, payload, **fields)

    wrong = udp(here, there, b"wrong checksum")
    wrong_length = of(17, wrong)
    bad_tcp = tcp(here, there, b"wrong checksum")
    return {
        "UDP": Case(of(17, udp(here, there, b"some")), True),
        "UDP without data": Case(of(17, udp(here, there, b"")), True),
        "UDP of odd length": Case(of(17, udp(here, there, b"odd")), True),
        **{
            f"UDP of {size} bytes": Case(of(17, udp(here, there, (bytes(range(256)) * 5)[:size])), True)
            for size in SIZES
        },
        "UDP whose sum is zero": Case(of(17, _zero_sum(here, there)), True),
        "UDP without checksum": Case(of(17, wrong[:6] + b"\0\0" + wrong[8:]), here == CLIENT),
        "UDP with a wrong checksum": Case(of(17, wrong[:6] + b"\x12\x34" + wrong[8:]), True),
        "TCP SYN": Case(of(6, tcp(here, there, options=b"\2\4\4\xc4", flags=2)), True),
        "TCP ACK": Case(of(6, tcp(here, there, options=b"\1\1\x08\x0a" + bytes(8), flags=16)), True),
        "TCP ACK without options": Case(of(6, tcp(here, there, flags=16)), True),
        "TCP data": Case(of(6, tcp(here, there, b"x" * 1220)), True),
        "TCP with a wrong checksum": Case(of(6, bad_tcp[:16] + b"\x12\x34" + bad_tcp[18:]), True),
        "TCP cut short": Case(of(6, tcp(here, there)[:12]), here == CLIENT),
        "echo request": Case(of(58, icmp(here, there, 128, b"\0\1\0\1data")), True),
        "error": Case(of(58, icmp(here, there, 1, bytes(4) + bytes(48))), True),
        "ICMPv6 of four bytes": Case(of(58, icmp(here, there, 200, b"")), False),
        "router solicitation": Case(of(58, icmp(here, there, 133, bytes(4))), False),
        "router advertisement": Case(of(58, icmp(here, there, 134, bytes(12))), False),
        "no next header, but data": Case(of(59, b"data"), False),
        "hop-by-hop options": Case(of(0, b"\x11\0\1\4\0\0\0\0" + udp(here, there, b"after")), False),
        "destination options": Case(of(60, b"\x11\0\1\4\0\0\0\0" + udp(here, there, b"after")), False),
        "fragment": Case(of(44, b"\x11\0\0\1\0\0\0\7" + udp(here, there, b"first of it....")), False),
        "ESP": Case(of(50, b"\0\0\0\1\0\0\0\1" + bytes(32)), False),
        "SCTP": Case(of(132, bytes(32)), False),
        "class and flow": Case(of(17, udp(here, there, b"flow"), first=0x6AB12345), True),
        "another version": Case(of(17, udp(here, there, b"v"), first=0x50000000), False, arrives=False),
        "two hops": Case(of(17, udp(here, there, b"two"), hops=2), True),
        "length zero": Case(wrong_length[:4] + b"\0\0" + wrong_length[6:], False),
    }


def _zero_sum(here: bytes, there: bytes) -> bytes:
    """UDP whose checksum would be zero, which stands for none: it is sent as all ones."""
    first = udp(here, there, b"\0\0")
    data = (0xFFFF - (~struct.unpack("!H", first[6:8])[0] & 0xFFFF)) & 0xFFFF
    found = udp(here, there, struct.pack("!H", data))
    assert found[6:8] == b"\xff\xff"
    return found


OUT = both_ways(HOST, CLIENT) | {
    "one hop": Case(ipv6(HOST, CLIENT, 17, udp(HOST, CLIENT, b"one"), hops=1), False, arrives=False),
    "from a client": Case(ipv6(UNKNOWN, CLIENT, 17, udp(UNKNOWN, CLIENT, b"x")), False, arrives=False),
    "too long a packet": Case(ipv6(HOST, CLIENT, 17, udp(HOST, CLIENT, b"x" * 1300)), False, arrives=False),
}


def _inward() -> dict[str, Case]:
    plain = ipv6(CLIENT, HOST, 17, udp(CLIENT, HOST, b"plain"))
    segment = w.datagram(plain, PEER, RELAY)[20:]
    long = ipv6(CLIENT, HOST, 17, udp(CLIENT, HOST, b"x" * 400))
    return {
        "no outer checksum": Case(plain, True, wire={"check": 0}),
        "a wrong outer checksum": Case(plain, False, arrives=False, wire={"check": 0x1234}),
        "a wrong checksum of the IPv4 header": Case(plain, False, arrives=False, wire={"ip_check": 0x1234}),
        "IPv4 options": Case(plain, False, wire={"options": b"\1\1\1\0"}),
        "TTL 1": Case(plain, True, wire={"ttl": 1}),
        "don't fragment": Case(plain, True, wire={"fragment": 0x4000}),
        "another class of service": Case(plain, True, wire={"tos": 0xB8}),
        "first fragment": Case(b"", False, arrives=False, whole=w.ipv4(segment[:32], HOSTS, fragment=0x2000)),
        "padding of the frame": Case(plain, False, padding=bytes(6)),
        "a longer UDP length": Case(plain, False, arrives=False, wire={"length": len(plain) + 9}),
        "a nonce trailer": Case(plain + nonce_trailer(b"1234"), False),
        "a random trailer": Case(plain + b"\x05\x02ab", False),
        "an unknown trailer that is to be discarded": Case(plain + b"\x77\x02ab", False, arrives=False),
        "an origin indication": Case(origin_indication(PEER) + plain, False),
        "an authentication header": Case(Authentication(bytes(8)).encode() + plain, False),
        "a bubble": Case(bubble(CLIENT, HOST), False, arrives=False),
        "an IPv6 length beyond the datagram": Case(long[:-4], False, arrives=False),
        "less than a header": Case(plain[:30], False, arrives=False),
        "from another port": Case(plain, False, arrives=False, source=Endpoint(PEER.host, 999)),
        "from another host": Case(plain, False, arrives=False, source=STRANGER),
        "an unknown client": Case(
            ipv6(UNKNOWN, HOST, 17, udp(UNKNOWN, HOST, b"x")), False, arrives=False, source=STRANGER
        ),
        "to another port": Case(plain, False, arrives=False, to=Endpoint(RELAY.host, 4000)),
        "to a client": Case(ipv6(CLIENT, UNKNOWN, 17, udp(CLIENT, UNKNOWN, b"x")), False, arrives=False),
        "to a group": Case(
            ipv6(CLIENT, packed("ff0e::1"), 17, udp(CLIENT, packed("ff0e::1"), b"x")), False, arrives=False
        ),
        "to a link-local address": Case(
            ipv6(CLIENT, packed("fe80::9"), 17, udp(CLIENT, packed("fe80::9"), b"x")), False, arrives=False
        ),
        "one hop": Case(ipv6(CLIENT, HOST, 17, udp(CLIENT, HOST, b"one"), hops=1), True, arrives=False, answered=True),
        "no hop": Case(ipv6(CLIENT, HOST, 17, udp(CLIENT, HOST, b"none"), hops=0), False, arrives=False, answered=True),
    }


IN = both_ways(CLIENT, HOST) | _inward()


@pytest.fixture(scope="module")
def relays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Wires]]:
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("wires")
        yield {each: stack.enter_context(w.wires(directory, each)) for each in ("kernel", "userspace")}


def outward(here: Wires, case: Case) -> list[bytes]:
    """What leaves for the client; without what differs from packet to packet, which has to be right."""
    here.six.send(case.packet)
    found = here_and_back(here, here.six.send, here.four, HOST, CLIENT)
    for packet in found:
        assert w.ones(packet[:20]) == 0xFFFF, "the checksum of the IPv4 header"
        pseudo = packet[12:20] + struct.pack("!HH", 17, len(packet) - 20)
        assert w.ones(pseudo + packet[20:]) == 0xFFFF, "the outer checksum"
        assert packet[26:28] != b"\0\0"
    return [packet[:4] + b"\0\0" + packet[6:10] + b"\0\0" + packet[12:] for packet in found]


def inward(here: Wires, case: Case) -> list[bytes]:
    """What leaves for the host."""
    whole = case.whole or w.datagram(case.packet, case.source, case.to, **case.wire)
    here.four.send(whole, case.padding)
    return here_and_back(here, here.tunnelled, here.six, CLIENT, HOST)


def here_and_back(
    here: Wires, send: Callable[[bytes], None], wire: w.Wire, source: bytes, destination: bytes
) -> list[bytes]:
    """What came out before two packets that follow: one that the kernel would never carry, and one that it would."""
    found: list[bytes] = []
    for marker in (
        ipv6(source, destination, 59, b"the marker for userspace"),
        ipv6(source, destination, 17, udp(source, destination, b"the marker")),
    ):
        send(marker)
        found += wire.listen(lambda packet, end=marker[40:]: packet.endswith(end))[:-1]  # type: ignore[misc]
    return found


def judge(relays: dict[str, Wires], case: Case, through: Callable[[Wires, Case], list[bytes]]) -> None:
    before = relays["kernel"].state()["kernel_carried"]
    kernel, userspace = through(relays["kernel"], case), through(relays["userspace"], case)
    assert kernel == userspace
    assert bool(kernel) == case.arrives
    assert relays["kernel"].state()["kernel_carried"] - before == 1 + case.carried + case.answered
    assert relays["userspace"].state()["kernel_carried"] == 0


@pytest.mark.parametrize("name", OUT)
def test_what_a_host_sends(name: str, relays: dict[str, Wires]) -> None:
    judge(relays, OUT[name], outward)


@pytest.mark.parametrize("name", IN)
def test_what_a_client_sends(name: str, relays: dict[str, Wires]) -> None:
    judge(relays, IN[name], inward)
