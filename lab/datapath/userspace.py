"""The data path that needs nothing but sockets and a TUN device: many packets a system call, in both directions.

What a `Way` covers goes straight between the Teredo interface and UDP. Everything else is shown to the machine, in its
place in the order: what came before it has gone, and what the machine asks for is done before what comes after.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from lab.datapath.offload import NEEDS_CHECKSUM, PLAIN, VIRTIO, Bytes, Virtio, complete, cut, merged, runs
from lab.teredo.address import Endpoint
from lab.teredo.mmsg import SEGMENTS, UDP_SEGMENT
from lab.teredo.packet import HEADER, MAX_DATAGRAM, is_plain
from lab.teredo.tun import Tun
from lab.teredo.tunnel import Tunnel, Way, is_whole_ipv6

_BATCH: Final = 256
"""System calls that read, and …"""

_BATCH_BYTES: Final = 1 << 18
"""… bytes read, before timers and the other readers have their turn."""

_LARGEST: Final = HEADER + 65535
"""Bytes of an IPv6 packet."""

_WORTH_MERGING: Final = 1024
"""Bytes from which on a super-packet costs less than its packets do."""

_UDP_GRO = 104
_CONTROL = socket.CMSG_SPACE(4)

Receive = Callable[[bytes, Endpoint, float], None]


@dataclass(slots=True)
class _Run:
    """Datagrams of one size, but for the last, that lie one behind the other."""

    source: Endpoint
    size: int
    start: int
    end: int

    def takes(self, source: Endpoint, size: int, length: int) -> bool:
        """Add what has just been received behind it, if it follows; a shorter one is the last."""
        so_far = self.end - self.start
        follows = (
            (size == self.size or size == length < self.size)
            and so_far % self.size == 0
            and so_far + length <= SEGMENTS * self.size
            and source == self.source
        )
        if follows:
            self.end += length
        return follows


class Userspace:
    """Carries data between the TUN device of a tunnel and its sockets.

    `socket_of` tells the socket that is bound to a `Way`'s port; `perform` does what the machine has asked for.
    `errors` counts what the kernel did not take, `cut` and `merged` super-packets from the host and to it.
    """

    def __init__(
        self,
        tunnel: Tunnel,
        tun: Tun,
        socket_of: Callable[[int], socket.socket],
        perform: Callable[[], None],
    ) -> None:
        self._tunnel = tunnel
        self._tun = tun
        self._socket_of = socket_of
        self._perform = perform
        self.errors = 0
        self.cut = self.merged = 0
        self._virtio = bytearray(VIRTIO)
        # Memory that is not touched costs nothing: most programs never see a large packet.
        self._outgoing: Bytes = np.empty(MAX_DATAGRAM + _LARGEST, np.uint8)
        self._incoming: Bytes = np.empty(_BATCH_BYTES + 2 * _LARGEST, np.uint8)
        self._out, self._in = self._outgoing.data, self._incoming.data
        self._sent: Counter[bytes] = Counter()
        self._received: Counter[bytes] = Counter()
        self._outward: dict[tuple[int, bytes], Way | None] = {}
        self._inward: dict[bytes, Way | None] = {}

    @staticmethod
    def prepare(udp: socket.socket) -> None:
        """Have a socket receive many datagrams at once."""
        with contextlib.suppress(OSError):
            udp.setsockopt(socket.SOL_UDP, _UDP_GRO, 1)

    def deliver(self, packet: bytes | memoryview) -> None:
        """Hand an IPv6 packet to the host."""
        self._write(PLAIN, packet)

    # Ways are asked for once a batch, and again when the machine has seen something

    def _way_out(self, packet: memoryview, now: float) -> Way | None:
        kind = len(packet), packet[: HEADER + 1].tobytes()  # all that says whether it is plain, and where it goes
        if kind not in self._outward:
            plain = is_whole_ipv6(packet) and is_plain(packet) and self._tunnel.inside(packet[8:24].tobytes())
            self._outward[kind] = self._tunnel.way(packet[24:HEADER].tobytes(), now) if plain else None
        return self._outward[kind]

    def _way_in(self, addresses: bytes, now: float) -> Way | None:
        if addresses not in self._inward:
            known = self._tunnel.inside(addresses[16:])
            self._inward[addresses] = self._tunnel.way(addresses[:16], now) if known else None
        return self._inward[addresses]

    def _settle(self, now: float) -> None:
        """Tell the machine what went without it, and trust nothing that it said before."""
        for address, count in self._sent.items():
            self._tunnel.carried(address, sent=count, sent_at=now)
        for address, count in self._received.items():
            self._tunnel.carried(address, received=count, received_at=now)
        for each in (self._sent, self._received, self._outward, self._inward):
            each.clear()

    def _show(self, step: Callable[[float], None], now: float) -> None:
        """Let the machine take a step, and do what it asks for."""
        self._settle(now)
        step(now)
        self._perform()

    # From the host to peers

    def from_host(self, now: float) -> None:
        """Take what the host sends, until there is no more or it is the others' turn."""
        out, waiting, left = self._out, _Waiting(), _BATCH_BYTES
        for _ in range(_BATCH):
            at = waiting.end
            try:
                length = os.readv(self._tun.fd, (self._virtio, out[at : at + _LARGEST])) - VIRTIO
            except BlockingIOError:
                break
            except OSError:
                self.errors += 1
                break
            virtio = Virtio.decode(bytes(self._virtio))
            packet = out[at : at + length]
            way = self._way_out(packet, now)
            if virtio.kind:
                self._send_waiting(waiting)
                self._send_cut(self._outgoing[at : at + length], virtio, way, now)
            else:
                if virtio.flags & NEEDS_CHECKSUM:
                    complete(packet, virtio.checksum_start, virtio.checksum_offset)
                if way is None:
                    whole = packet.tobytes()
                    self._send_waiting(waiting)
                    self._show(partial(self._tunnel.packet, whole), now)
                elif not waiting.takes(way, length):
                    self._send_waiting(waiting)
                    if at:
                        out[:length] = packet
                    waiting.begin(way, length)
            left -= length
            if left <= 0:
                break
        self._send_waiting(waiting)
        self._settle(now)

    def _send_cut(self, packet: Bytes, virtio: Virtio, way: Way | None, now: float) -> None:
        """Send a super-packet of the host."""
        parts = cut(packet, virtio)
        if parts is None:
            self.errors += 1
            return
        self.cut += 1
        data, size = parts[0].data, parts[1]
        if way is not None:
            self._send(data, size, way)
            return
        for at in range(0, len(data), size):
            self._show(partial(self._tunnel.packet, data[at : at + size].tobytes()), now)

    def _send_waiting(self, waiting: _Waiting) -> None:
        if waiting.end:
            assert waiting.way is not None
            self._send(self._out[: waiting.end], waiting.size, waiting.way)
            waiting.end = 0

    def _send(self, data: memoryview, size: int, way: Way) -> None:
        """Send datagrams of one size, but for the last: as many at once as the kernel takes."""
        self._sent[data[24:HEADER].tobytes()] += -(-len(data) // size)
        udp = self._socket_of(way.send_from)
        most = min(SEGMENTS, MAX_DATAGRAM // size) * size
        for begin in range(0, len(data), most):
            part = data[begin : begin + most]
            try:
                if len(part) <= size:
                    udp.sendto(part, way.send_to)
                else:
                    udp.sendmsg(
                        [part], [(socket.SOL_UDP, UDP_SEGMENT, size.to_bytes(2, sys.byteorder))], 0, way.send_to
                    )
            except BlockingIOError:
                self.errors += 1
            except OSError:  # the way out may be too narrow, or have no offload
                for at in range(0, len(part), size):
                    try:
                        udp.sendto(part[at : at + size], way.send_to)
                    except OSError:
                        self.errors += 1

    # From peers to the host

    def from_peers(self, udp: socket.socket, receive: Receive, port: int | None, now: float) -> None:
        """Take what has come to a socket, until there is no more or it is the others' turn.

        `port` is its `Way.send_from`, None for a socket that has nothing to do with ways.
        """
        at, gathered = 0, list[_Run]()
        for _ in range(_BATCH):
            try:
                length, control, _flags, source = udp.recvmsg_into((self._in[at : at + _LARGEST],), _CONTROL)
            except BlockingIOError:
                break
            except OSError:
                self.errors += 1
                break
            size = int.from_bytes(control[0][2], sys.byteorder) if control else length
            if not (gathered and size and gathered[-1].size and gathered[-1].takes(source, size, length)):
                gathered.append(_Run(Endpoint(*source), size, at, at + length))
            at += length
            if size:  # what follows is no neighbour of a shorter one
                filled = at + (gathered[-1].start - at) % gathered[-1].size
                self._incoming[at:filled] = 0
                at = filled
            if at >= _BATCH_BYTES:
                break
        for run in gathered:
            self._take(run, receive, port, now)
        self._settle(now)

    def _take(self, run: _Run, receive: Receive, port: int | None, now: float) -> None:
        count = -(-(run.end - run.start) // run.size) if run.size else 1
        if count == 1 or run.end - run.start < _WORTH_MERGING or port is None:
            for at in (run.start + number * run.size for number in range(count)):
                self._take_one(self._in[at : min(at + run.size, run.end)], run.source, receive, port, now)
            return
        rows = self._incoming[run.start : run.start + count * run.size].reshape(count, run.size)
        last = run.end - run.start - (count - 1) * run.size
        first = 0
        for length in runs(rows, last, udp=self._tun.udp_offload):
            end = first + length
            at = run.start + first * run.size
            addresses = self._in[at + 8 : at + HEADER].tobytes()
            if length > 1 and _comes_from(self._way_in(addresses, now), run.source, port):
                self._write(merged(rows[first:end], last if end == count else run.size).data)
                self._received[addresses[:16]] += length
                self.merged += 1
            else:
                for one in range(at, at + length * run.size, run.size):
                    self._take_one(self._in[one : min(one + run.size, run.end)], run.source, receive, port, now)
            first = end

    def _take_one(self, packet: memoryview, source: Endpoint, receive: Receive, port: int | None, now: float) -> None:
        if port is not None and is_whole_ipv6(packet) and is_plain(packet):
            addresses = packet[8:HEADER].tobytes()
            if _comes_from(self._way_in(addresses, now), source, port):
                self.deliver(packet)
                self._received[addresses[:16]] += 1
                return
        self._show(partial(receive, packet.tobytes(), source), now)

    def _write(self, *parts: bytes | memoryview) -> None:
        try:
            os.writev(self._tun.fd, parts)
        except OSError:
            self.errors += 1


@dataclass(slots=True)
class _Waiting:
    """Packets of one size, but for the last, that go one way: they lie in the buffer from its beginning to `end`."""

    way: Way | None = None
    size: int = 0
    end: int = 0

    def takes(self, way: Way, length: int) -> bool:
        """Add the packet that lies behind the others, if they can go together."""
        if (
            not self.end
            or way is not self.way
            or length > self.size
            or self.end % self.size
            or self.end + length > MAX_DATAGRAM
            or self.end >= SEGMENTS * self.size
        ):
            return False
        self.end += length
        return True

    def begin(self, way: Way, length: int) -> None:
        """The packet at the beginning of the buffer is the first."""
        self.way, self.size, self.end = way, length, length


def _comes_from(way: Way | None, source: Endpoint, port: int) -> bool:
    return way is not None and way.mapping == source and way.send_from == port
