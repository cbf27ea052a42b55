"""Sockets inside and outside of a NAT, which talk STUN (RFC 8489) with each other.

All are this process's own, each opened in its node, so what the NAT did is known on both sides. That a packet
does not come through is found out without waiting: a later one from the same place has.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from aioice import stun

from lab.places import Places
from lab.teredo.address import Endpoint

LOCAL_PORTS: Final = range(20000, 32000)
"""Local ports of measurements: no client's service port, and none that Linux takes by itself."""

RESEND: Final = 0.1
ATTEMPTS: Final = 12
LOSSY_ATTEMPTS: Final = 50
_ROUNDS: Final = 3
"""How often an unsolicited packet is sent before it counts as dropped; more often where packets get lost."""

LOSSY_ROUNDS: Final = 15


class SilenceError(Exception):
    """Packets that any NAT lets through do not come back."""


@dataclass(slots=True)
class StunSocket:
    """A UDP socket in a node, which reads STUN."""

    udp: socket.socket
    waiting: dict[bytes, asyncio.Future[Endpoint]] = field(default_factory=dict)
    heard: dict[bytes, Endpoint] = field(default_factory=dict)
    """Indications that came in, by transaction, with their source."""

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(*self.udp.getsockname())

    def read(self) -> None:
        """Take in all that waits; requests are answered with the address that they came from."""
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            while True:
                data, source = self.udp.recvfrom(2048)
                try:
                    message = stun.parse_message(data)
                except ValueError:
                    continue
                transaction = message.transaction_id
                if message.message_class is stun.Class.REQUEST:
                    answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, transaction)
                    answer.attributes["XOR-MAPPED-ADDRESS"] = source
                    self.send(answer, Endpoint(*source))
                elif message.message_class is stun.Class.INDICATION:
                    self.heard[transaction] = Endpoint(*source)
                elif (waiting := self.waiting.get(transaction)) is not None and not waiting.done():
                    waiting.set_result(Endpoint(*message.attributes["XOR-MAPPED-ADDRESS"]))

    def send(self, message: stun.Message, to: Endpoint) -> None:
        with contextlib.suppress(OSError):  # the kernel tells of an earlier packet's ICMP error, or of a full queue
            self.udp.sendto(bytes(message), tuple(to))

    def indicate(self, to: Endpoint) -> bytes:
        """Send a packet that wants no answer; returns the transaction by which it is known."""
        message = stun.Message(stun.Method.BINDING, stun.Class.INDICATION)
        self.send(message, to)
        return message.transaction_id


class Bench:
    """Where a NAT is measured: nodes with their addresses inside of it, and two addresses of one node outside."""

    def __init__(
        self, places: Places, inside: Sequence[tuple[str, str]], outside: str, vantage: tuple[str, str], gateway: str
    ) -> None:
        self.inside = inside
        self.vantage = vantage
        self.gateway = gateway
        self.lossy = False
        self.slowest = 0.0
        self._places = places
        self._outside = outside
        self._sockets: list[StunSocket] = []

    @contextlib.contextmanager
    def open(self) -> Iterator[Bench]:
        """Close all sockets at the end."""
        try:
            yield self
        finally:
            for each in self._sockets:
                asyncio.get_running_loop().remove_reader(each.udp)
                each.udp.close()
            self._sockets.clear()

    def _open(self, node: str, address: str, port: int) -> StunSocket:
        udp = self._places.open(node, socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind((address, port))
        except OSError:
            udp.close()
            raise
        opened = StunSocket(udp)
        self._sockets.append(opened)
        asyncio.get_running_loop().add_reader(udp, opened.read)
        return opened

    def outer(self, which: int) -> StunSocket:
        """A fresh socket at one of the two addresses outside."""
        return self._open(self._outside, self.vantage[which], 0)

    def inner(self, host: int = 0, port: int | None = None) -> StunSocket:
        """A socket at a host inside, with a fresh port unless one is given."""
        node, address = self.inside[host % len(self.inside)]
        while True:
            try:
                return self._open(node, address, port or random.choice(LOCAL_PORTS))  # noqa: S311 - any port will do
            except OSError:
                if port is not None:
                    raise

    def inner_all(self) -> list[StunSocket]:
        """A socket at each host inside, all with the same fresh port."""
        while True:
            sockets = [self.inner()]
            try:
                sockets += [self.inner(host, sockets[0].endpoint.port) for host in range(1, len(self.inside))]
            except OSError:  # one of them has it already
                continue
            return sockets

    async def mapped(self, source: StunSocket, server: StunSocket) -> Endpoint:
        """The endpoint that a server outside sees of a socket inside. Raises SilenceError."""
        loop = asyncio.get_running_loop()
        request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        answer = source.waiting[request.transaction_id] = loop.create_future()
        began = loop.time()
        for attempt in range(LOSSY_ATTEMPTS if self.lossy else ATTEMPTS):
            source.send(request, server.endpoint)
            done, _ = await asyncio.wait([answer], timeout=RESEND)
            if done:
                if attempt == 0:
                    self.slowest = max(self.slowest, loop.time() - began)
                self.lossy = self.lossy or attempt > 0
                mapped: Endpoint = answer.result()
                return mapped
        raise SilenceError

    async def settle(self, source: StunSocket, server: StunSocket) -> None:
        """Return when whatever was sent before has arrived, if it ever will."""
        await self.mapped(source, server)
        if self.lossy or self.slowest > RESEND / 2:  # slow links may reorder
            await asyncio.sleep(self.slowest)

    @property
    def rounds(self) -> int:
        return LOSSY_ROUNDS if self.lossy else _ROUNDS

    async def arrives(self, sender: StunSocket, receiver: StunSocket, to: Endpoint) -> bool:
        """Whether a packet from outside to a mapped endpoint comes in."""
        witness, server = self.inner(), self.outer(0)
        for attempt in range(LOSSY_ROUNDS):
            if attempt >= self.rounds:
                break
            token = sender.indicate(to)
            await self.settle(witness, server)
            if token in receiver.heard:
                return True
        return False

    def pair(self) -> Pair:
        """A fresh socket inside and one outside, which have not spoken yet."""
        return Pair(self, self.inner(), self.outer(0))


@dataclass(slots=True)
class Pair:
    """A socket inside and one outside, between which each packet is sent for itself and none is answered."""

    bench: Bench
    inside: StunSocket
    outside: StunSocket
    mapped: Endpoint | None = None

    async def outward(self) -> None:
        """Have a packet leave. Raises SilenceError when none gets out."""
        for _ in range(ATTEMPTS):
            token = self.inside.indicate(self.outside.endpoint)
            deadline = asyncio.get_running_loop().time() + RESEND
            while token not in self.outside.heard and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(RESEND / 100)
            if token in self.outside.heard:
                self.mapped = self.outside.heard[token]
                return
        raise SilenceError

    async def inward(self) -> bool:
        """Whether a packet comes in by the mapping that the last one left by."""
        return self.mapped is not None and await self.bench.arrives(self.outside, self.inside, self.mapped)
