"""Runs a Teredo server: batches of datagrams, each with a system call, and the common ones of them at once."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final

from lab.teredo.address import PORT, Endpoint, Forbidden
from lab.teredo.mmsg import Incoming, Message, Name, Outgoing
from lab.teredo.runner import Notify, Place, Runner, service_socket
from lab.teredo.server import Server, ServerConfig
from lab.teredo.surroundings import directed_broadcasts
from lab.teredo.tun import Interface, Tun

if TYPE_CHECKING:
    from ctypes import Array

    from lab.teredo.bulk import Bytes, Halves, Numbers, Words

BATCH: Final = 512
HEAD: Final = 64
"""The common datagrams have no more bytes."""

FEW: Final = 4
"""So many datagrams take no longer one by one than at once."""

ROUNDS: Final = 8
"""So many batches of one socket are taken before it is another file's turn."""

Receive = Callable[[bytes, Endpoint, float], None]


class _AtOnce:
    """The way for the common datagrams of a large batch. Made when there is one: small labs do without numpy."""

    def __init__(self, server: Server, incoming: Incoming) -> None:
        # There is no linear algebra here: no threads for it.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from numpy import arange, frombuffer, uint8, uint16, uint32, uintp  # noqa: PLC0415

        from lab.teredo.bulk import Bulk  # noqa: PLC0415

        size = incoming.size

        def bytes_of(array: Array[Any]) -> Bytes:
            return frombuffer(memoryview(array).cast("B"), uint8).reshape(size, -1)

        def ports_and_hosts(names: Array[Any]) -> tuple[Halves, Words]:
            rows = bytes_of(names)
            return rows.view(uint16)[:, Name.port.offset // 2], rows.view(uint32)[:, Name.host.offset // 4]

        self._bulk = Bulk(server)
        self._outgoing = Outgoing(size)
        self._heads = bytes_of(incoming.heads)
        self._lengths = bytes_of(incoming.messages).view(uint32)[:, Message.length.offset // 4]
        self._ports, self._hosts = ports_and_hosts(incoming.names)
        self._to_ports, self._to_hosts = ports_and_hosts(self._outgoing.names)
        self._vectors = bytes_of(self._outgoing.vectors).view(uintp)
        self._numbers = arange(size)

    def answer(
        self, count: int, primary: socket.socket, secondary: socket.socket, *, on_secondary: bool
    ) -> tuple[Numbers, int]:
        """Answer what came to one of the sockets; the slots left to the server, and how many sends were refused."""
        batch = slice(count)
        answers = self._bulk.answer(
            self._heads[batch], self._lengths[batch], self._ports[batch], self._hosts[batch], on_secondary=on_secondary
        )
        sending, rows = len(answers.starts), answers.rows
        self._to_ports[:sending], self._to_hosts[:sending] = answers.ports, answers.hosts
        self._vectors[:sending, 0] = rows.ctypes.data + rows.strides[0] * self._numbers[:sending] + answers.starts
        self._vectors[:sending, 1] = answers.ends - answers.starts
        refused = self._outgoing.send(primary, 0, answers.primaries)
        return answers.left, refused + self._outgoing.send(secondary, answers.primaries, sending)


class ServerRunner(Runner):
    """Drives a server, whose sockets are those of its primary and its secondary address."""

    def __init__(self, server: Server, sockets: list[tuple[socket.socket, Receive]], tun: Tun, notify: Notify) -> None:
        super().__init__(server, sockets, tun, notify)
        self._server = server
        self._incoming = Incoming(BATCH, HEAD)
        self._at_once: asyncio.Future[_AtOnce] | None = None

    def _read_socket(self, udp: socket.socket, receive: Receive) -> None:
        now = self._loop.time()
        try:
            for _ in range(ROUNDS):
                count = self._incoming.receive(udp)
                left: Iterable[int] = range(count)
                if count > FEW and (at_once := self._made()) is not None:
                    primary, secondary = (each for each, _ in self._sockets)
                    left, refused = at_once.answer(count, primary, secondary, on_secondary=udp is secondary)
                    self.io_errors += refused
                for slot in left:
                    receive(*self._incoming.datagram(slot), now)
                self._perform()
                if count <= FEW:
                    break
        except OSError:
            self.io_errors += 1

    def _made(self) -> _AtOnce | None:
        """The way for many at once; nobody waits until it is made."""
        if self._at_once is None:
            self._at_once = self._loop.run_in_executor(None, _AtOnce, self._server, self._incoming)
        return self._at_once.result() if self._at_once.done() else None


async def run_server(config: ServerConfig, place: Place, notify: Notify, stop: asyncio.Event) -> None:
    """Run a server on port 3544 of both its addresses until `stop`. Raises OSError or TunError."""
    machine = Server(config, SystemRandom(), Forbidden(directed_broadcasts()))
    sockets: list[tuple[socket.socket, Receive]] = [
        (service_socket(config.primary, PORT), machine.datagram),
        (service_socket(config.secondary, PORT), partial(machine.datagram, on_secondary=True)),
    ]
    tun = Tun(Interface(place.tun, teredo_route=config.relay is not None))
    await ServerRunner(machine, sockets, tun, notify).run(stop, place.control)
