"""What a client's program does besides: random ports, UPnP, and an eye on other IPv6 connectivity."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from random import SystemRandom

from pyroute2.netlink.rtnl import RTMGRP_IPV6_ROUTE

from lab.teredo.address import Endpoint, Forbidden
from lab.teredo.client import Client, ClientConfig
from lab.teredo.machine import Action, Close, MapPort, Open, Send, UnmapPort
from lab.teredo.runner import Notify, Place, Runner, service_socket
from lab.teredo.surroundings import directed_broadcasts, has_native_ipv6
from lab.teredo.tun import Interface, Tun
from lab.teredo.upnp import PortMapper


class ClientRunner(Runner):
    """Drives a client."""

    def __init__(self, client: Client, udp: socket.socket, tun: Tun, notify: Notify, place: Place) -> None:
        super().__init__(client, [(udp, client.datagram)], tun, notify)
        self._client = client
        self._mapper = PortMapper(place.memory, place.upnp_wait)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ports: dict[int, socket.socket] = {}
        client.nat.local = self.local

    @property
    def local(self) -> Endpoint:
        """The local end of the service port, with the address by which this node reaches the server."""
        local = super().local
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            if local.host == "0.0.0.0":  # noqa: S104 - an address, not a socket
                probe.connect((self._client.config.server, 9))
                return Endpoint(probe.getsockname()[0], local.port)
        return local

    async def _started(self, stack: contextlib.AsyncExitStack) -> None:
        stack.callback(self._close_ports)
        stack.enter_context(self._watch_native_ipv6())

    async def _stopped(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _socket(self, action: Send) -> socket.socket:
        return self._ports[action.port] if action.port in self._ports else super()._socket(action)

    def _act(self, action: Action) -> None:
        match action:
            case Open(port):
                self._open(port)
            case Close(port):
                self._close(port)
            case MapPort():
                self._spawn_map()
            case UnmapPort():
                self._keep(self._loop.create_task(self._mapper.unmap()))
            case _:
                super()._act(action)

    # Random ports

    def _open(self, port: int) -> None:
        try:
            udp = service_socket(self._sockets[0][0].getsockname()[0], port)
        except OSError:
            self._client.port_refused(port, self._loop.time())
            return
        self._ports[port] = udp
        self._loop.add_reader(udp, self._read_socket, udp, partial(self._client.datagram, port=port))

    def _close(self, port: int) -> None:
        udp = self._ports.pop(port, None)
        if udp is not None:
            self._loop.remove_reader(udp)
            udp.close()

    def _close_ports(self) -> None:
        for port in list(self._ports):
            self._close(port)

    # UPnP

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _spawn_map(self) -> None:
        async def map_port() -> None:
            local = self._client.nat.local
            external = None if local is None else await self._mapper.map(local)
            self.do(lambda now: self._client.port_mapped(external, now))

        self._keep(self._loop.create_task(map_port()))

    # Other IPv6 connectivity

    @contextlib.contextmanager
    def _watch_native_ipv6(self) -> Iterator[None]:
        """Start the client, unless and until the node has other IPv6 connectivity (RFC 4380 section 5.5)."""
        watch = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        watch.bind((0, RTMGRP_IPV6_ROUTE))
        checking: asyncio.Task[None] | None = None

        async def check(*, first: bool = False) -> None:
            present = await has_native_ipv6(self._tun.interface.name)
            if first and not present:
                self.do(self._client.start)
            else:
                self.do(lambda now: self._client.native_ipv6(present, now))

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


async def run_client(config: ClientConfig, place: Place, notify: Notify, stop: asyncio.Event) -> None:
    """Run a client until `stop`. Raises OSError or TunError when its port or interface cannot be had."""
    client = Client(config, SystemRandom(), Forbidden(await directed_broadcasts()))
    udp = service_socket(place.bind, place.port)
    tun = Tun(Interface(place.tun, default_route=True))
    await ClientRunner(client, udp, tun, notify, place).run(stop, place.control)
