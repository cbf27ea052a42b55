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
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import unix
from lab.datapath.choice import DataPath
from lab.teredo.address import Endpoint, packed
from lab.teredo.client import Client
from lab.teredo.machine import Action, Configure, Deliver, Event, Machine, Send
from lab.teredo.packet import MAX_DATAGRAM
from lab.teredo.relay import Relay
from lab.teredo.tun import Tun

BATCH = 64
_RECEIVE = MAX_DATAGRAM + 1
_SOCKET_BUFFER = 4 << 20
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_DONT = 0

Notify = Callable[[str, dict[str, Any]], None]
Receive = Callable[[bytes, Endpoint, float], None]


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
        sockets: list[tuple[socket.socket, Receive]],
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
        self._wakeup_at: float | None = None
        self.io_errors = 0

    @property
    def local(self) -> Endpoint:
        """The local end of the service port."""
        return Endpoint(*self._sockets[0][0].getsockname())

    async def run(self, stop: asyncio.Event, control: Path | None = None) -> None:
        """Start the machine, serve until `stop`, shut down cleanly: no address, no interface, no socket file."""
        async with contextlib.AsyncExitStack() as stack:
            for udp, receive in self._sockets:
                stack.callback(udp.close)
                self._listen(udp, receive)
                stack.callback(self._loop.remove_reader, udp)
            stack.callback(self._tun.close)
            self._loop.add_reader(self._tun.fd, self._read_tun)
            stack.callback(self._loop.remove_reader, self._tun.fd)
            self._carry(stack)
            if control is not None:
                await stack.enter_async_context(_control_socket(control, self._command))
            changes = self._loop.create_task(self._apply_changes())
            await self._started(stack)
            stopped = self._loop.create_task(stop.wait())
            await asyncio.wait({stopped, changes}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if changes.done():
                changes.result()  # the interface could not be configured: let it be seen
            self.do(self.machine.stop)
            await self._stopped()
            await self._changes.join()
            changes.cancel()
            if self._wakeup is not None:
                self._wakeup.cancel()

    def _carry(self, stack: contextlib.AsyncExitStack) -> None:
        """Have data carried without the machine, where there are any; what `stack` holds ends with the program."""

    async def _started(self, stack: contextlib.AsyncExitStack) -> None:
        """Start the machine; what `stack` holds ends when the machine has stopped."""
        self.do(self.machine.start)

    async def _stopped(self) -> None:
        """The machine has stopped: finish what takes time."""

    def _act(self, action: Action) -> None:
        """Do what only some machines ask for."""
        raise AssertionError(action)

    def do(self, step: Callable[[float], None]) -> None:
        """Let the machine take one step at the present time, and do what it asks for."""
        self._sync()
        step(self._loop.time())
        self._perform()

    def _listen(self, udp: socket.socket, receive: Receive, port: int | None = 0) -> None:
        """Hand what comes to a socket to `receive`; `port` is its `Way.send_from`, None where no data come."""
        self._loop.add_reader(udp, self._read_socket, udp, receive)

    def _read_socket(self, udp: socket.socket, receive: Receive) -> None:
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
        self._sync()
        now = self._loop.time()
        try:
            for _ in range(BATCH):
                self.machine.packet(os.read(self._tun.fd, _RECEIVE), now)
        except BlockingIOError:
            pass
        except OSError:
            self.io_errors += 1
        self._perform()

    def _socket(self, action: Send) -> socket.socket:
        """Where a datagram leaves from."""
        return self._sockets[1 if action.secondary else 0][0]

    def _sync(self) -> None:
        """Before the machine is told or asked anything: let it know what has gone without it."""

    def _follow(self) -> None:
        """After the machine was told something, and before what it asks for is done: carry what it says now."""

    def _perform(self) -> None:
        self._follow()
        while actions := self.machine.actions():
            for action in actions:
                match action:
                    case Send(data, to):
                        try:
                            self._socket(action).sendto(data, to)
                        except OSError:  # like loss on the way; the protocol recovers from it
                            self.io_errors += 1
                    case Deliver(ipv6):
                        self._deliver(ipv6)
                    case Configure() | Event():
                        self._changes.put_nowait(action)
                    case _:
                        self._act(action)
        self._arm()

    def _deliver(self, ipv6: bytes) -> None:
        try:
            os.write(self._tun.fd, ipv6)
        except OSError:
            self.io_errors += 1

    def _arm(self) -> None:
        at = self.machine.next_timer
        if at == self._wakeup_at:
            return
        if self._wakeup is not None:
            self._wakeup.cancel()
        self._wakeup = None if at is None else self._loop.call_at(at, self._tick)
        self._wakeup_at = at

    def _tick(self) -> None:
        self._wakeup = self._wakeup_at = None
        self.do(self.machine.tick)

    async def _apply_changes(self) -> None:
        while True:
            change = await self._changes.get()
            try:
                if isinstance(change, Configure):
                    self._tun.configure(change.address, change.mtu)
                else:
                    self._notify(change.name, change.facts)
            finally:
                self._changes.task_done()

    def _command(self, line: str) -> dict[str, Any]:
        """Answer a line that came over the control socket: a command, and for `forget-peers` whom to keep."""
        self._sync()
        now = self._loop.time()
        command, *arguments = line.split()
        if command == "forget-peers" and isinstance(self.machine, Client | Relay):
            self.machine.forget_peers(now, {packed(address) for address in arguments})
        elif command == "refresh" and isinstance(self.machine, Client):
            self.machine.refresh(now)
        elif command != "state":
            return {"problem": f"unknown command {command!r}"}
        self._perform()
        return self.machine.snapshot(now) | self._facts()

    def _facts(self) -> dict[str, Any]:
        """What there is to say besides the machine's state."""
        return {
            "local_mapping": str(self.local),
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
    A client waits for `upnp_wait` seconds for a gateway that answers, and keeps the port that it opened in `memory`.
    """

    tun: str
    control: Path | None = None
    bind: str = "0.0.0.0"  # noqa: S104 - a service port is meant to be reached
    port: int = 0
    upnp_wait: float = 2.0
    memory: Path | None = None
    datapath: DataPath = DataPath.AUTO


def stop_on_signals() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
