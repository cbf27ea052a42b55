"""Gives a Teredo machine its sockets, its interface, its clock and its log: the I/O of this package.

One asyncio loop drives one machine. Events are handed to a callback in the order in which they came about, an address
only after the interface has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Any

from pyroute2.netlink.rtnl import RTMGRP_IPV6_ROUTE

from lab import unix
from lab.teredo.address import PORT, Endpoint, Forbidden, packed
from lab.teredo.client import Client, ClientConfig
from lab.teredo.machine import Configure, Deliver, Event, Machine, Send
from lab.teredo.packet import MAX_DATAGRAM
from lab.teredo.relay import Relay, RelayConfig
from lab.teredo.server import Server, ServerConfig
from lab.teredo.surroundings import directed_broadcasts, has_native_ipv6
from lab.teredo.tun import Interface, Tun

BATCH = 64
_RECEIVE = MAX_DATAGRAM + 1
_SOCKET_BUFFER = 4 << 20
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_DONT = 0

Notify = Callable[[str, dict[str, Any]], None]


def service_socket(host: str, port: int) -> socket.socket:
    """A UDP socket that never sets DF (RFC 4380 section 5.1.2). Raises OSError, naming the endpoint."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        udp.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER)
    try:
        udp.bind((host, port))
    except OSError as error:
        udp.close()
        raise OSError(error.errno, f"cannot bind UDP {host}:{port}: {error.strerror}") from None
    return udp


class Runner:
    """Drives one machine until `stop` is set."""

    def __init__(
        self,
        machine: Machine,
        sockets: list[tuple[socket.socket, Callable[[bytes, Endpoint, float], None]]],
        tun: Tun,
        notify: Notify,
    ) -> None:
        self.machine = machine
        self._sockets = sockets
        self._tun = tun
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._changes: asyncio.Queue[Configure | Event] = asyncio.Queue()
        self._wakeup: asyncio.TimerHandle | None = None
        self.io_errors = 0

    async def run(self, stop: asyncio.Event, control: Path | None = None) -> None:
        """Start the machine, serve until `stop`, shut down cleanly: no address, no interface, no socket file."""
        async with contextlib.AsyncExitStack() as stack:
            for udp, receive in self._sockets:
                stack.callback(udp.close)
                self._loop.add_reader(udp, self._read_socket, udp, receive)
                stack.callback(self._loop.remove_reader, udp)
            stack.callback(self._tun.close)
            self._loop.add_reader(self._tun.fd, self._read_tun)
            stack.callback(self._loop.remove_reader, self._tun.fd)
            if control is not None:
                await stack.enter_async_context(_control_socket(control, self._command))
            changes = self._loop.create_task(self._apply_changes())
            if isinstance(self.machine, Client):
                stack.enter_context(self._watch_native_ipv6(self.machine))
            else:
                self.do(self.machine.start)
            stopped = self._loop.create_task(stop.wait())
            await asyncio.wait({stopped, changes}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if changes.done():
                changes.result()  # the interface could not be configured: let it be seen
            self.do(self.machine.stop)
            await self._changes.join()
            changes.cancel()
            if self._wakeup is not None:
                self._wakeup.cancel()

    def do(self, step: Callable[[float], None]) -> None:
        """Let the machine take one step at the present time, and do what it asks for."""
        step(self._loop.time())
        self._perform()

    def _read_socket(self, udp: socket.socket, receive: Callable[[bytes, Endpoint, float], None]) -> None:
        now = self._loop.time()
        try:
            for _ in range(BATCH):
                data, source = udp.recvfrom(_RECEIVE)
                receive(data, Endpoint(*source), now)
        except BlockingIOError:
            pass
        except OSError:
            self.io_errors += 1
        self._perform()

    def _read_tun(self) -> None:
        now = self._loop.time()
        try:
            for _ in range(BATCH):
                self.machine.packet(os.read(self._tun.fd, _RECEIVE), now)
        except BlockingIOError:
            pass
        except OSError:
            self.io_errors += 1
        self._perform()

    def _perform(self) -> None:
        for action in self.machine.actions():
            match action:
                case Send(data, to, secondary):
                    try:
                        self._sockets[1 if secondary else 0][0].sendto(data, to)
                    except OSError:  # like loss on the way; the protocol recovers from it
                        self.io_errors += 1
                case Deliver(ipv6):
                    try:
                        os.write(self._tun.fd, ipv6)
                    except OSError:
                        self.io_errors += 1
                case Configure() | Event():
                    self._changes.put_nowait(action)
        self._arm()

    def _arm(self) -> None:
        if self._wakeup is not None:
            self._wakeup.cancel()
        at = self.machine.next_timer
        self._wakeup = None if at is None else self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._wakeup = None
        self.do(self.machine.tick)

    async def _apply_changes(self) -> None:
        while True:
            change = await self._changes.get()
            try:
                if isinstance(change, Configure):
                    await self._tun.configure(change.address, change.mtu)
                else:
                    self._notify(change.name, change.facts)
            finally:
                self._changes.task_done()

    @contextlib.contextmanager
    def _watch_native_ipv6(self, client: Client) -> Iterator[None]:
        """Start the client, unless and until the node has other IPv6 connectivity (RFC 4380 section 5.5)."""
        watch = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        watch.bind((0, RTMGRP_IPV6_ROUTE))
        checking: asyncio.Task[None] | None = None

        async def check(*, first: bool = False) -> None:
            present = await has_native_ipv6(self._tun.interface.name)
            if first and not present:
                self.do(client.start)
            else:
                self.do(lambda now: client.native_ipv6(present, now))

        def changed() -> None:
            nonlocal checking
            with contextlib.suppress(BlockingIOError):
                while watch.recv(65536):
                    pass
            if checking is None or checking.done():
                checking = self._loop.create_task(check())

        checking = self._loop.create_task(check(first=True))
        self._loop.add_reader(watch, changed)
        try:
            yield
        finally:
            self._loop.remove_reader(watch)
            watch.close()
            if checking is not None:
                checking.cancel()

    def _command(self, line: str) -> dict[str, Any]:
        """Answer a line that came over the control socket: a command, and for `forget-peers` whom to keep."""
        now = self._loop.time()
        command, *arguments = line.split()
        if command == "forget-peers" and isinstance(self.machine, Client | Relay):
            self.machine.forget_peers(now, {packed(address) for address in arguments})
        elif command == "refresh" and isinstance(self.machine, Client):
            self.machine.refresh(now)
        elif command != "state":
            return {"problem": f"unknown command {command!r}"}
        self._perform()
        facts = self.machine.snapshot(now)
        local = Endpoint(*self._sockets[0][0].getsockname())
        external = facts.get("external_mapping")
        if external is not None:
            facts["nat_behaviour"] = "port preserving" if external.endswith(f":{local.port}") else "other port"
        return facts | {
            "local_mapping": str(local),
            "interface": self._tun.interface.name,
            "io_errors": self.io_errors,
        }


@contextlib.asynccontextmanager
async def _control_socket(path: Path, answer: Callable[[str], dict[str, Any]]) -> AsyncIterator[None]:
    """Serve one JSON line for each command line on a Unix socket that only its owner may use."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError):
            while line := await reader.readline():
                writer.write(json.dumps(answer(line.decode())).encode() + b"\n")
                await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, sock=unix.listen(path))
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


def ask(control: Path, command: str, timeout: float = 5.0) -> dict[str, Any]:
    """Send a command to a running program and return its answer. Raises OSError when nobody serves the socket."""
    with unix.connect(control, timeout) as connection:
        connection.sendall(command.encode() + b"\n")
        with connection.makefile("rb") as stream:
            answer: dict[str, Any] = json.loads(stream.readline() or b"{}")
            return answer


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program runs: its interface's name, its control socket, and the local end of its service port.

    Port 0 has the kernel pick one at random (RFC 4380 section 5.2). A server's addresses are in its own configuration.
    """

    tun: str
    control: Path | None = None
    bind: str = "0.0.0.0"  # noqa: S104 - a service port is meant to be reached
    port: int = 0


async def run_client(config: ClientConfig, place: Place, notify: Notify, stop: asyncio.Event) -> None:
    """Run a client until `stop`. Raises OSError or TunError when its port or interface cannot be had."""
    machine = Client(config, SystemRandom(), Forbidden(await directed_broadcasts()))
    udp = service_socket(place.bind, place.port)
    tun = Tun(Interface(place.tun, default_route=True))
    await Runner(machine, [(udp, machine.datagram)], tun, notify).run(stop, place.control)


async def run_relay(config: RelayConfig, place: Place, notify: Notify, stop: asyncio.Event) -> None:
    """Run a relay until `stop`; the kernel routes 2001::/32 to it. Raises like `run_client`."""
    machine = Relay(config, SystemRandom(), Forbidden(await directed_broadcasts()))
    udp = service_socket(place.bind, place.port)
    source = config.address if config.host_specific else None
    tun = Tun(Interface(place.tun, teredo_route=True, preferred_source=source))
    await Runner(machine, [(udp, machine.datagram)], tun, notify).run(stop, place.control)


async def run_server(config: ServerConfig, place: Place, notify: Notify, stop: asyncio.Event) -> None:
    """Run a server on port 3544 of both its addresses until `stop`. Raises like `run_client`."""
    machine = Server(config, SystemRandom(), Forbidden(await directed_broadcasts()))
    sockets: list[tuple[socket.socket, Callable[[bytes, Endpoint, float], None]]] = [
        (service_socket(config.primary, PORT), machine.datagram),
        (service_socket(config.secondary, PORT), partial(machine.datagram, on_secondary=True)),
    ]
    tun = Tun(Interface(place.tun, teredo_route=config.relay is not None))
    await Runner(machine, sockets, tun, notify).run(stop, place.control)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
