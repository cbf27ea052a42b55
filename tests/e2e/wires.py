"""A relay of ours between two wires that the test holds: IPv4 on one side, native IPv6 on the other.

What it sends is seen frame by frame, and it gets frames that no kernel would send. Two namespaces: the relay's own, and
the one where both wires end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lab.backends import linux
from lab.teredo.address import Endpoint, TeredoAddress, packed
from lab.teredo.packet import bubble
from lab.teredo.runner import ask
from tests.e2e.labs import COMMAND, until

RELAY: Final = Endpoint("192.0.2.1", 3545)
RELAY_ADDRESS: Final = "2001:db8:1::1"
HOST: Final = packed("2001:db8:1::2")
"""A native host, at the end of the IPv6 wire."""

PEER: Final = Endpoint("198.51.100.9", 40009)
SERVER: Final = "203.0.113.1"
CLIENT: Final = TeredoAddress(SERVER, 0x2C41, PEER).packed
"""A Teredo client, at the end of the IPv4 wire."""

_NEAR, _FAR = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_SET_UP: Final = """
ip link add wan address 02:00:00:00:00:01 type veth peer name four address 02:00:00:00:00:02 netns {outside}
ip link add lan address 02:00:00:00:00:01 type veth peer name six address 02:00:00:00:00:02 netns {outside}
ethtool -K wan tx off
ethtool -K lan tx off
sysctl -q net.ipv6.conf.all.forwarding=1 net.ipv6.conf.wan.disable_ipv6=1 net.ipv6.conf.lan.accept_dad=0
ip addr add 192.0.2.1/24 dev wan
ip addr add 2001:db8:1::1/64 dev lan nodad
ip link set lo up
ip link set wan up
ip link set lan up
ip route add default via 192.0.2.2
ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev wan nud permanent
ip neigh add 2001:db8:1::2 lladdr 02:00:00:00:00:02 dev lan nud permanent
"""


@dataclass
class Wire:
    """The far end of a link: frames go in, and what comes out is kept."""

    socket: socket.socket
    kind: bytes

    def send(self, packet: bytes, padding: bytes = b"") -> None:
        self.socket.send(_NEAR + _FAR + self.kind + packet + padding)

    def listen(self, wanted: Callable[[bytes], bool], timeout: float = 5.0) -> list[bytes]:
        """All packets that come, up to the one that is wanted, and without it."""
        deadline = time.monotonic() + timeout
        heard: list[bytes] = []
        while True:
            ready, _, _ = select.select([self.socket], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"nothing of the kind came; {[packet.hex() for packet in heard]} did"
            frame, address = self.socket.recvfrom(1 << 17)
            if address[2] != socket.PACKET_OUTGOING and frame[12:14] == self.kind:
                if wanted(frame[14:]):
                    return heard
                heard.append(frame[14:])


class Wires:
    """A relay that runs, and the wires."""

    def __init__(self, four: Wire, six: Wire, control: Path, process: subprocess.Popen[bytes]) -> None:
        self.four, self.six, self.control, self.process = four, six, control, process

    def state(self) -> dict[str, Any]:
        return ask(self.control, "state")

    def tunnelled(self, ipv6: bytes, source: Endpoint = PEER, to: Endpoint = RELAY, **fields: Any) -> None:
        """Send a UDP payload to the relay."""
        self.four.send(datagram(ipv6, source, to, **fields))

    def befriend(self, client: bytes = CLIENT, endpoint: Endpoint = PEER) -> None:
        """Have the relay trust a client: a host's packet makes it call, and the client answers."""
        self.six.send(ipv6(HOST, client, 17, udp(HOST, client, b"first")))
        self.four.listen(lambda packet: packet[28:][6] == 59)
        self.tunnelled(bubble(client, packed(RELAY_ADDRESS)), endpoint)
        self.four.listen(lambda packet: packet.endswith(b"first"))


def ones(data: bytes) -> int:
    """The sum of the Internet checksum, folded."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1])) + (
        data[-1] << 8 if len(data) % 2 else 0
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ipv6(
    source: bytes, destination: bytes, next_header: int, payload: bytes, *, hops: int = 64, first: int = 0x60000000
) -> bytes:
    return struct.pack("!IHBB", first, len(payload), next_header, hops) + source + destination + payload


def checked(source: bytes, destination: bytes, next_header: int, payload: bytes, at: int) -> bytes:
    """A payload with its checksum filled in."""
    pseudo = source + destination + struct.pack("!II", len(payload), next_header)
    check = ~ones(pseudo + payload) & 0xFFFF or 0xFFFF
    return payload[:at] + struct.pack("!H", check) + payload[at + 2 :]


def udp(source: bytes, destination: bytes, data: bytes, port: int = 5000) -> bytes:
    return checked(source, destination, 17, struct.pack("!HHHH", 4000, port, 8 + len(data), 0) + data, 6)


def tcp(source: bytes, destination: bytes, data: bytes = b"", options: bytes = b"", flags: int = 0x18) -> bytes:
    words = (20 + len(options)) // 4
    head = struct.pack("!HHIIBBHHH", 4000, 80, 12345, 67890, words << 4, flags, 512, 0, 0)
    return checked(source, destination, 6, head + options + data, 16)


def icmp(source: bytes, destination: bytes, kind: int, body: bytes) -> bytes:
    return checked(source, destination, 58, bytes((kind, 0, 0, 0)) + body, 2)


def datagram(
    payload: bytes,
    source: Endpoint,
    to: Endpoint,
    *,
    check: int | None = None,
    length: int | None = None,
    ip_check: int | None = None,
    ttl: int = 64,
    fragment: int = 0,
    options: bytes = b"",
    tos: int = 0,
) -> bytes:
    """An IPv4 packet with a UDP payload, right unless it shall be wrong."""
    hosts = socket.inet_aton(source.host) + socket.inet_aton(to.host)
    size = 8 + len(payload)
    segment = struct.pack("!HHHH", source.port, to.port, size if length is None else length, 0) + payload
    if check is None:
        check = ~ones(hosts + struct.pack("!HH", 17, size) + segment) & 0xFFFF or 0xFFFF
    segment = segment[:6] + struct.pack("!H", check) + segment[8:]
    return ipv4(segment, hosts, ip_check=ip_check, ttl=ttl, fragment=fragment, options=options, tos=tos)


def ipv4(
    segment: bytes,
    hosts: bytes,
    *,
    ip_check: int | None = None,
    ttl: int = 64,
    fragment: int = 0,
    options: bytes = b"",
    tos: int = 0,
) -> bytes:
    """An IPv4 packet of protocol UDP; `hosts` are source and destination."""
    words, total = 5 + len(options) // 4, 20 + len(options) + len(segment)
    head = struct.pack("!BBHHHBBH", 0x40 | words, tos, total, 7, fragment, ttl, 17, 0) + hosts + options
    if ip_check is None:
        ip_check = ~ones(head) & 0xFFFF
    return head[:10] + struct.pack("!H", ip_check) + head[12:] + segment


@contextlib.contextmanager
def wires(directory: Path, datapath: str, *more: str) -> Iterator[Wires]:
    """A relay with this data path, its wires, and a client that it trusts."""
    with contextlib.ExitStack() as stack:
        home = linux.current_netns()
        names = linux.NetworkNamespaces()
        for name in ("relay", "outside"):
            names.create(name)
            stack.callback(os.close, names.fds[name])
        stack.callback(os.close, home)
        outside = f"/proc/{os.getpid()}/fd/{names.fds['outside']}"
        with names.inside("relay"):
            subprocess.run(("sh", "-ec", _SET_UP.format(outside=outside)), check=True)
        opened = {}
        with names.inside("outside"):
            for name, kind in (("four", _IPV4), ("six", _IPV6)):
                subprocess.run(
                    ("sh", "-ec", f"sysctl -q net.ipv6.conf.{name}.disable_ipv6=1; ip link set {name} up"), check=True
                )
                raw = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
                raw.bind((name, 3))
                opened[name] = Wire(raw, kind)
        control = directory / f"{datapath}.sock"
        command = ("teredo", "relay", RELAY_ADDRESS, "--bind", RELAY.host, "--port", str(RELAY.port))
        with names.inside("relay"):
            linux.wait_for_links(("wan", "lan"), 5.0)
            process = subprocess.Popen(
                (*COMMAND, *command, "--control", str(control), "--datapath", datapath, *more),
                stderr=(directory / f"{datapath}.log").open("wb"),
            )
        stack.callback(process.wait, 10)
        stack.callback(process.send_signal, signal.SIGTERM)
        until(lambda: process.poll() is None and _answers(control))
        with names.inside("relay"):
            until(_routed)
        here = Wires(opened["four"], opened["six"], control, process)
        here.befriend()
        yield here


def _routed() -> bool:
    return "2001::/32" in subprocess.run(("ip", "-6", "route"), capture_output=True, text=True, check=True).stdout


def _answers(control: Path) -> bool:
    try:
        return bool(ask(control, "state")["state"] == "running")
    except OSError:
        return False
