"""A load generator for Teredo servers, to be run in the node that their answers are routed to.

    python -m lab.bench.load 192.0.2.2 --what qualifications --window 256 --seconds 3

It speaks for as many clients as a prefix has addresses, on each of its ports, and counts right answers alone: for a
solicitation an advertisement of the server's prefix with its nonce, and the endpoint it came from as the origin; for a
bubble the same bubble, where it was sent to, with its origin. It prints its figures as JSON.
"""

from __future__ import annotations

import ctypes
import json
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network
from typing import Annotated, Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import typer
from pyroute2 import IPRoute

from lab.teredo.address import PORT, PREFIX, Endpoint, TeredoAddress, host_bytes, host_text
from lab.teredo.mmsg import Incoming, Message, Outgoing
from lab.teredo.packet import Authentication, MalformedError, advertisement, bubble, decode, router_solicitation
from lab.teredo.solicitation import SOLICITATION_SOURCE

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

CLIENTS: Final = IPv4Network("198.18.0.0/15")
"""The addresses of the clients: those that RFC 2544 has for benchmarks."""

BATCH: Final = 256
LOST_AFTER: Final = 0.25
"""Seconds after which an answer is no longer waited for."""

_ROW: Final = 128
_FIRST_PORT: Final = 40000
_SOCKET_BUFFER: Final = 16 << 20
_SLOTS: Final = 1 << 20
"""Datagrams that can be told apart: the flow label, which is a bubble's number, has 20 bits."""

_IP_PKTINFO: Final = 8
_CONTROL: Final = struct.Struct("@NiiI4s4s4x")
"""A control message that says which address a datagram leaves from: cmsghdr and in_pktinfo (ip(7))."""

_FROM: Final = struct.calcsize("@NiiI")
"""Where in it the address is (`ipi_spec_dst`)."""


class Task(Protocol):
    """What is asked of a server."""

    datagram: bytes

    def write(self, rows: Bytes, numbers: Numbers, hosts: Bytes, port: bytes) -> None:
        """Make copies of `datagram` those with these numbers, from these IPv4 addresses and this port."""

    def read(self, rows: Bytes, lengths: Numbers, port: bytes) -> tuple[Flags, Numbers]:
        """Which datagrams that came to a port are right answers, and the numbers that they have if they are."""


class Solicitations:
    """Solicitations whose nonces are a number and the client's address."""

    def __init__(self, server: str) -> None:
        self._prefix = PREFIX + host_bytes(server)
        self.datagram = Authentication(bytes(8)).encode() + router_solicitation(SOLICITATION_SOURCE)
        self._known: Bytes | None = None

    def write(self, rows: Bytes, numbers: Numbers, hosts: Bytes, port: bytes) -> None:
        rows[:, 4:8] = numbers.astype(">u4").view(np.uint8).reshape(-1, 4)
        rows[:, 8:12] = hosts

    def read(self, rows: Bytes, lengths: Numbers, port: bytes) -> tuple[Flags, Numbers]:
        """Each advertisement has to be like one that was examined in full, as the first of each batch is."""
        if self._sound(bytes(rows[0, : lengths[0]]), port):
            self._known = rows[0, : lengths[0]].copy()
        if self._known is None:
            return np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.int64)
        known = self._known
        right = lengths == len(known)
        for constant in (slice(0, 4), slice(12, 17), slice(21, len(known))):
            right &= (rows[:, constant] == known[constant]).all(axis=1)
        right &= (rows[:, 17:21] == ~rows[:, 8:12]).all(axis=1)
        return right, np.ascontiguousarray(rows[:, 4:8]).view(">u4")[:, 0].astype(np.int64)

    def _sound(self, data: bytes, port: bytes) -> bool:
        try:
            packet = decode(data)
        except MalformedError:
            return False
        if packet.authentication is None or packet.origin is None or packet.destination != SOLICITATION_SOURCE:
            return False
        seen = Endpoint(host_text(packet.authentication.nonce[4:]), int.from_bytes(port, "big"))
        told = advertisement(packet)
        return told is not None and told.prefix == self._prefix and packet.origin == seen


class Bubbles:
    """Bubbles of the server's clients to each other, whose flow labels are numbers."""

    def __init__(self, server: str) -> None:
        address = TeredoAddress(server, 0, Endpoint("0.0.0.0", 0)).packed  # noqa: S104 - no socket's
        self.datagram = bubble(address, address)
        self._constant = np.frombuffer(self.datagram, np.uint8)

    def write(self, rows: Bytes, numbers: Numbers, hosts: Bytes, port: bytes) -> None:
        ports = np.frombuffer(port, np.uint8)
        rows[:, 1:4] = (numbers % _SLOTS).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
        for address, of in ((8, hosts), (24, hosts[::-1])):
            rows[:, address + 10 : address + 12] = ~ports
            rows[:, address + 12 : address + 16] = ~of

    def read(self, rows: Bytes, lengths: Numbers, port: bytes) -> tuple[Flags, Numbers]:
        ipv6, ports = rows[:, 8:48], np.frombuffer(port, np.uint8)
        right = (lengths == 48) & ~rows[:, :2].any(axis=1) & (rows[:, 2:8] == ipv6[:, 18:24]).all(axis=1)
        right &= (ipv6[:, 34:36] == ~ports).all(axis=1)
        for constant in (slice(0, 1), slice(4, 18), slice(24, 34)):
            right &= (ipv6[:, constant] == self._constant[constant]).all(axis=1)
        numbers = np.zeros((len(rows), 4), np.uint8)
        numbers[:, 1:] = ipv6[:, 1:4]
        return right, numbers.view(">u4")[:, 0].astype(np.int64)


class What(StrEnum):
    """What is measured."""

    QUALIFICATIONS = "qualifications"
    BUBBLES = "bubbles"


TASKS: Final[dict[What, type[Solicitations] | type[Bubbles]]] = {
    What.QUALIFICATIONS: Solicitations,
    What.BUBBLES: Bubbles,
}


@dataclass
class Tally:
    """What came of it. `latencies` are seconds from sending to the answer, of each."""

    sent: int = 0
    refused: int = 0
    answered: int = 0
    wrong: int = 0
    lost: int = 0
    latencies: list[npt.NDArray[np.float64]] = field(default_factory=list)


class Load:
    """Clients at `ports` ports of each address of a prefix that is this node's own."""

    def __init__(self, server: str, task: Task, ports: int, clients: IPv4Network = CLIENTS) -> None:
        self._task = task
        self._first, self._hosts = int(clients.network_address), clients.num_addresses
        self._poll = select.poll()
        self._sockets = [self._open(_FIRST_PORT + number) for number in range(ports)]
        self._by_fd = {udp.fileno(): udp for udp in self._sockets}
        self._incoming, self._outgoing = Incoming(BATCH, _ROW), Outgoing(BATCH)
        self._came = _bytes(self._incoming.heads)
        self._lengths = _bytes(self._incoming.messages).view(np.uint32)[:, Message.length.offset // 4]
        self._rows = np.tile(np.frombuffer(task.datagram, np.uint8), (BATCH, 1))
        self._controls = np.tile(np.frombuffer(_control(), np.uint8), (BATCH, 1))
        for number, (name, vector, message) in enumerate(
            zip(self._outgoing.names, self._outgoing.vectors, self._outgoing.messages, strict=True)
        ):
            ctypes.memmove(name.port, PORT.to_bytes(2, "big"), 2)
            ctypes.memmove(name.host, host_bytes(server), 4)
            vector.base, vector.length = self._rows[number].ctypes.data, self._rows.shape[1]
            message.control, message.control_length = self._controls[number].ctypes.data, self._controls.shape[1]
        self._sent_at = np.zeros(_SLOTS)
        self._batches = 0
        self._number = 0
        self.tally = Tally()

    def _open(self, port: int) -> socket.socket:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            udp.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER)
        udp.bind(("0.0.0.0", port))  # noqa: S104 - all of the prefix
        self._poll.register(udp, select.POLLIN)
        return udp

    def send(self, count: int) -> None:
        """Send datagrams of the clients whose turn it is: address by address on one port, then on the next."""
        udp = self._sockets[self._number // self._hosts % len(self._sockets)]
        count = min(count, BATCH, self._hosts - self._number % self._hosts)
        numbers = np.arange(self._number, self._number + count)
        hosts = (self._first + numbers % self._hosts).astype(">u4").view(np.uint8).reshape(-1, 4)
        self._task.write(self._rows[:count], numbers, hosts, udp.getsockname()[1].to_bytes(2, "big"))
        self._controls[:count, _FROM : _FROM + 4] = hosts
        self._sent_at[numbers % _SLOTS] = time.monotonic()
        self.tally.refused += self._outgoing.send(udp, 0, count)
        self.tally.sent += count
        self._number += count

    def receive(self, wait: float) -> int:
        """Take answers in, after waiting for them so many seconds at most; how many were right and new."""
        found = 0
        for fd, _ in self._poll.poll(wait * 1000):
            udp = self._by_fd[fd]
            while count := self._incoming.receive(udp):
                found += self._count(count, udp.getsockname()[1].to_bytes(2, "big"))
                if count < BATCH:
                    break
        return found

    def _count(self, count: int, port: bytes) -> int:
        now = time.monotonic()
        right, numbers = self._task.read(self._came[:count], self._lengths[:count].astype(np.int64), port)
        numbers = np.unique(numbers[right] % _SLOTS)
        sent_at = self._sent_at[numbers]
        numbers, sent_at = numbers[sent_at > 0], sent_at[sent_at > 0]
        self._sent_at[numbers] = 0
        self.tally.latencies.append(now - sent_at)
        self.tally.answered += len(numbers)
        self.tally.wrong += count - len(numbers)
        return len(numbers)

    def expire(self, age: float = LOST_AFTER) -> int:
        """Give up waiting for answers to what was sent so many seconds ago; how many."""
        old = (self._sent_at > 0) & (self._sent_at <= time.monotonic() - age)
        self._sent_at[old] = 0
        lost = int(np.count_nonzero(old))
        self.tally.lost += lost
        return lost

    def closed(self, window: int, seconds: float, count: int | None = None) -> float:
        """Keep `window` datagrams under way, for so many seconds or until so many are sent; the seconds it took."""
        began = now = time.monotonic()
        under_way, looked = 0, began
        while now - began < seconds and (count is None or self.tally.sent < count):
            while under_way < window:
                before = self.tally.sent
                self.send(window - under_way)
                under_way += self.tally.sent - before
            under_way -= self.receive(LOST_AFTER)
            now = time.monotonic()
            if now - looked > LOST_AFTER / 2:
                under_way -= self.expire()
                looked = now
        took = time.monotonic() - began
        self._finish()
        return took

    def open(self, rate: float, seconds: float) -> float:
        """Send at a rate, whatever comes back; the seconds it took."""
        began = now = time.monotonic()
        sent = self.tally.sent
        while now - began < seconds:
            due = int((now - began) * rate) - (self.tally.sent - sent)
            while due > 0:
                self.send(due)
                due -= BATCH
            self.receive(0.001)
            now = time.monotonic()
        took = now - began
        self._finish()
        return took

    def _finish(self) -> None:
        """Take in what is late, without counting it among the answers of the time that was measured."""
        answered = self.tally.answered
        end = time.monotonic() + LOST_AFTER
        while (left := end - time.monotonic()) > 0 and self._sent_at.any():
            self.receive(left)
        self.expire(0)
        self.tally.answered = answered


def _bytes(array: ctypes.Array[Any]) -> Bytes:
    return np.frombuffer(memoryview(array).cast("B"), np.uint8).reshape(len(array), -1)


def _control() -> bytes:
    length = struct.calcsize("@NiiI4s4s")
    return _CONTROL.pack(length, socket.IPPROTO_IP, _IP_PKTINFO, 0, bytes(4), bytes(4))


def own_all(clients: IPv4Network = CLIENTS) -> None:
    """Have this node take all addresses of a prefix for its own."""
    with IPRoute() as ip:
        ip.route("replace", dst=str(clients), oif=1, type="local", table=255, scope=254)


def main(
    server: Annotated[str, typer.Argument(help="The server's primary IPv4 address.")],
    what: Annotated[What, typer.Option(help="What is asked of it.")] = What.QUALIFICATIONS,
    window: Annotated[int, typer.Option(min=1, help="Datagrams that are under way.")] = 256,
    rate: Annotated[float, typer.Option(min=0, help="Datagrams a second, in place of a window.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long.")] = 3.0,
    count: Annotated[int | None, typer.Option(help="How many datagrams at most.", show_default=False)] = None,
    ports: Annotated[int, typer.Option(min=1, max=20000, help="Ports of each client address.")] = 1,
) -> None:
    """Load a Teredo server, and say how many right answers a second it gives."""
    own_all()
    load = Load(server, TASKS[what](server), ports)
    used = time.process_time()
    took = load.open(rate, seconds) if rate else load.closed(window, seconds, count)
    busy = (time.process_time() - used) / took
    tally = load.tally
    latencies = np.concatenate([*tally.latencies, np.zeros(0)])
    shown = np.percentile(latencies, (50, 99)) * 1e3 if latencies.size else (None, None)
    report = {
        "seconds": took,
        "sent": tally.sent,
        "answered": tally.answered,
        "per second": tally.answered / took,
        "lost": tally.lost,
        "wrong": tally.wrong,
        "refused": tally.refused,
        "median ms": shown[0],
        "99th percentile ms": shown[1],
        "share of a core": busy,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    typer.run(main)
