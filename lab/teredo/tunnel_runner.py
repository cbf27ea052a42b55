"""Drives a client or a relay: plain data of trusted peers go by the data path, all else through the machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from random import SystemRandom
from typing import Any

from lab.datapath.choice import DataPath
from lab.datapath.kernel import KernelPath
from lab.datapath.userspace import Userspace
from lab.teredo.address import Forbidden
from lab.teredo.machine import Send
from lab.teredo.relay import Relay, RelayConfig
from lab.teredo.runner import Notify, Place, Receive, Runner, service_socket
from lab.teredo.surroundings import directed_broadcasts
from lab.teredo.tun import Interface, Tun
from lab.teredo.tunnel import Tunnel


class TunnelRunner(Runner):
    """Drives a machine that has peers; its `tun` has offloads."""

    def __init__(
        self,
        machine: Tunnel,
        sockets: list[tuple[socket.socket, Receive]],
        tun: Tun,
        notify: Notify,
        datapath: DataPath,
    ) -> None:
        super().__init__(machine, sockets, tun, notify)
        self._path = Userspace(machine, tun, self._socket_of, self._perform)
        self._kernel = KernelPath(machine, tun.interface.name, sockets[0][0], datapath, notify)

    def _carry(self, stack: contextlib.AsyncExitStack) -> None:
        stack.callback(self._kernel.close)
        self._kernel.start(self._loop.time())

    def _sync(self) -> None:
        self._kernel.sync()

    def _follow(self) -> None:
        self._kernel.follow(self._loop.time())

    def _socket_of(self, port: int) -> socket.socket:
        """The socket of a random port, or if it is 0 the service port's."""
        return self._sockets[0][0]

    def _socket(self, action: Send) -> socket.socket:
        return self._socket_of(action.port)

    def _listen(self, udp: socket.socket, receive: Receive, port: int | None = 0) -> None:
        self._path.prepare(udp)
        self._loop.add_reader(udp, self._receive, udp, receive, port)

    def _receive(self, udp: socket.socket, receive: Receive, port: int | None) -> None:
        self._sync()
        self._path.from_peers(udp, receive, port, self._loop.time())
        self._follow()
        self._arm()

    def _read_tun(self) -> None:
        self._sync()
        self._path.from_host(self._loop.time())
        self._follow()
        self._arm()

    def _facts(self) -> dict[str, Any]:
        path = self._path
        facts = super()._facts()
        return facts | {
            "io_errors": facts["io_errors"] + path.errors,
            "super_packets": {"cut": path.cut, "merged": path.merged},
            **self._kernel.facts,
        }

    def _deliver(self, ipv6: bytes) -> None:
        self._path.deliver(ipv6)


async def run_relay(config: RelayConfig, place: Place, notify: Notify, stop: asyncio.Event) -> None:
    """Run a relay until `stop`; the kernel routes 2001::/32 to it. Raises OSError or TunError."""
    machine = Relay(config, SystemRandom(), Forbidden(directed_broadcasts()))
    udp = service_socket(place.bind, place.port)
    source = config.address if config.host_specific else None
    tun = Tun(Interface(place.tun, teredo_route=True, preferred_source=source), offloads=True)
    await TunnelRunner(machine, [(udp, machine.datagram)], tun, notify, place.datapath).run(stop, place.control)
