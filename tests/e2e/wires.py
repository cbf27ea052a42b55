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
from lab.datapath.choice import DataPath
from lab.datapath.kernel import KernelPath
from lab.teredo.address import Endpoint, TeredoAddress, packed
from lab.teredo.packet import MTU, bubble
from lab.teredo.relay import Relay
from lab.teredo.runner import ask, service_socket
from lab.teredo.tun import Interface, Tun
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
_ALL: Final = 3
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
    """The far end of a link; `last` is the last frame that came out of it."""

    socket: socket.socket
    kind: bytes
    last: bytes = b""

    def send(self, packet: bytes, padding: bytes = b"") -> None:
        self.socket.send(_NEAR + _FAR + self.kind + packet + padding)

    def next(self, wanted: Callable[[bytes], bool]) -> bytes:
        """The next packet of a kind."""
        return self.listen(wanted)[-1]

    def listen(self, wanted: Callable[[bytes], bool], timeout: float = 5.0) -> list[bytes]:
        """All packets that come, up to the one that is wanted; but for what the node's IPv6 itself has to say."""
        deadline = time.monotonic() + timeout
        heard: list[bytes] = []
        while True:
            ready, _, _ = select.select([self.socket], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"nothing of the kind came; {[packet.hex() for packet in heard]} did"
            frame, address = self.socket.recvfrom(1 << 17)
            if address[2] != socket.PACKET_OUTGOING and frame[12:14] == self.kind:
                if self.kind == _IPV6 and frame[22:24] == b"\xfe\x80":
                    continue
                self.last = frame
                heard.append(frame[14:])
                if wanted(frame[14:]):
                    return heard


class Wires:
    """A relay that runs, and the wires."""

    def __init__(self, four: Wire, six: Wire, control: Path, process: subprocess.Popen[bytes]) -> None:
        self.four, self.six, self.control, self.process = four, six, control, process

    def state(self) -> dict[str, Any]:
        return ask(self.control, "state")

    def tunnelled(self, ipv6: bytes, source: Endpoint = PEER, to: Endpoint = RELAY, **fields: Any) -> None:
        """Send a UDP payload to the relay."""
        self.four.send(datagram(ipv6, source, to, **fields))

    def befriend(self, to: Endpoint = RELAY, endpoint: Endpoint = PEER) -> None:
        """Have the relay trust the client: a host's packet makes it call, and the client answers, from anywhere."""
        self.six.send(ipv6(HOST, CLIENT, 17, udp(HOST, CLIENT, b"first")))
        called = self.four.next(lambda packet: packet[34] == 59)
        self.tunnelled(bubble(CLIENT, packed(RELAY_ADDRESS)) + called[68:], endpoint, to)  # with the nonce that it had
        self.four.next(lambda packet: packet.endswith(b"first"))

    def host_sends(self, data: bytes) -> bytes:
        """What of a host's datagram leaves for the client."""
        self.six.send(ipv6(HOST, CLIENT, 17, udp(HOST, CLIENT, data)))
        return self.four.next(lambda packet: packet.endswith(data))

    def client_sends(self, data: bytes, endpoint: Endpoint = PEER, to: Endpoint = RELAY) -> bytes:
        """What of a client's datagram gets to the host."""
        self.tunnelled(ipv6(CLIENT, HOST, 17, udp(CLIENT, HOST, data)), endpoint, to)
        return self.six.next(lambda packet: packet.endswith(data))


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


@dataclass
class Ground:
    """Two namespaces with the wires between them, and nothing that runs there yet."""

    names: linux.NetworkNamespaces
    four: Wire
    six: Wire

    @contextlib.contextmanager
    def program(
        self, directory: Path, name: str, *options: str, wrapped: tuple[str, ...] = (), port: int = RELAY.port
    ) -> Iterator[Wires]:
        """A relay of ours in the inner one, or wherever the command that it is `wrapped` in takes it; its log is
        `directory/name.log`."""
        control = directory / f"{name}.sock"
        command = ("teredo", "relay", RELAY_ADDRESS, "--bind", RELAY.host, "--port", str(port), *options)
        with self.names.inside("relay"), (directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen((*wrapped, *COMMAND, *command, "--control", str(control)), stderr=log)
        try:
            until(lambda: process.poll() is None and _answers(control))
            with self.names.inside("relay"):
                until(lambda: bool(wrapped) or _routed())
            yield Wires(self.four, self.six, control, process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    with contextlib.ExitStack() as stack:
        names = linux.NetworkNamespaces()
        for name in ("relay", "outside"):
            names.create(name)
            stack.callback(os.close, names.fds[name])
        outside = f"/proc/{os.getpid()}/fd/{names.fds['outside']}"
        with names.inside("relay"):
            subprocess.run(("sh", "-ec", _SET_UP.format(outside=outside)), check=True)
        wires = {}
        with names.inside("outside"):
            for name, kind in (("four", _IPV4), ("six", _IPV6)):
                up = f"sysctl -q net.ipv6.conf.{name}.disable_ipv6=1; ip link set {name} up"
                subprocess.run(("sh", "-ec", up), check=True)
                raw = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)))
                raw.bind((name, _ALL))
                wires[name] = Wire(raw, kind)
        with names.inside("relay"):
            linux.wait_for_links(("wan", "lan"), 5.0)
        yield Ground(names, wires["four"], wires["six"])


@contextlib.contextmanager
def kernel_path(relay: Relay, now: float) -> Iterator[tuple[KernelPath, Tun, socket.socket]]:
    """The kernel data path of a relay that the test itself drives, and where what it leaves arrives.

    To be entered in the relay's namespace, in an event loop.
    """
    with (
        contextlib.closing(Tun(Interface("teredo", teredo_route=True))) as tun,
        contextlib.closing(service_socket(RELAY.host, RELAY.port)) as service,
    ):
        tun.configure(None, MTU)
        path = KernelPath(relay, "teredo", service, DataPath.KERNEL, lambda *_: None)
        with contextlib.closing(path):
            path.start(now)
            assert path.facts["datapath"] == "kernel", path.facts
            yield path, tun, service


@contextlib.contextmanager
def wires(directory: Path, datapath: str) -> Iterator[Wires]:
    """A relay with this data path, its wires, and a client that it trusts."""
    with ground() as here, here.program(directory, datapath, "--datapath", datapath) as relay:
        relay.befriend()
        yield relay


def _routed() -> bool:
    return "2001::/32" in subprocess.run(("ip", "-6", "route"), capture_output=True, text=True, check=True).stdout


def _answers(control: Path) -> bool:
    try:
        return bool(ask(control, "state")["state"] == "running")
    except OSError:
        return False
