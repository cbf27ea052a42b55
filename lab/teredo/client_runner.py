"""What a client's program does besides: more ports, UPnP, local discovery, an eye on other IPv6 connectivity."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from random import SystemRandom

from lab import rtnetlink
from lab.teredo.address import DISCOVERY_ADDRESS, PORT, Endpoint, Forbidden
from lab.teredo.client import Client, ClientConfig
from lab.teredo.machine import Action, Close, JoinGroup, LeaveGroup, MapPort, Open, SendToGroup, UnmapPort
from lab.teredo.runner import Notify, Place, service_socket
from lab.teredo.surroundings import directed_broadcasts, has_native_ipv6, subnet_of
from lab.teredo.tun import Interface, Tun
from lab.teredo.tunnel_runner import TunnelRunner
from lab.teredo.upnp import PortMapper


def group_socket(host: str) -> socket.socket:
    """A UDP socket for what comes to the Teredo IPv4 Discovery Address on the link of a local address. Raises OSError.

    It is bound to the group, so nothing that was sent to a unicast address gets there (RFC 4380 section 5.2.8).
    """
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # this host may have several clients
        udp.bind((DISCOVERY_ADDRESS, PORT))
        member = socket.inet_aton(DISCOVERY_ADDRESS) + socket.inet_aton(host)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    except OSError:
        udp.close()
        raise
    return udp


def multicast_from(udp: socket.socket, host: str) -> None:
    """Have what a socket sends to a group leave on the link of a local address, and no further. Raises OSError."""
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host))


class ClientRunner(TunnelRunner):
    """Drives a client."""

    def __init__(self, client: Client, udp: socket.socket, tun: Tun, notify: Notify, place: Place) -> None:
        super().__init__(client, [(udp, client.datagram)], tun, notify, place.datapath)
        self._client = client
        self._mapper = PortMapper(place.memory, place.upnp_wait)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ports: dict[int, socket.socket] = {}
        self._group: socket.socket | None = None
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
        stack.callback(self._leave_group)
        stack.enter_context(self._watch_native_ipv6())

    async def _stopped(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _socket_of(self, port: int) -> socket.socket:
        return self._ports[port] if port in self._ports else super()._socket_of(port)

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
            case JoinGroup():
                self._join_group()
            case LeaveGroup():
                self._leave_group()
            case SendToGroup(data):
                self._send_to_group(data)
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
        self._listen(udp, partial(self._client.datagram, port=port), port)

    def _close(self, port: int) -> None:
        udp = self._ports.pop(port, None)
        if udp is not None:
            self._loop.remove_reader(udp)
            udp.close()

    def _close_ports(self) -> None:
        for port in list(self._ports):
            self._close(port)

    # Local discovery

    def _join_group(self) -> None:
        try:
            multicast_from(self._sockets[0][0], self.local.host)
            self._group = group_socket(self.local.host)
        except OSError:  # a link without multicast has no local discovery
            self.io_errors += 1
            return
        self._listen(self._group, self._client.discovered, None)

    def _leave_group(self) -> None:
        if self._group is not None:
            self._loop.remove_reader(self._group)
            self._group.close()
            self._group = None

    def _send_to_group(self, data: bytes) -> None:
        if self._group is not None:
            try:
                self._sockets[0][0].sendto(data, (DISCOVERY_ADDRESS, PORT))
            except OSError:
                self.io_errors += 1

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
        watch.bind((0, rtnetlink.IPV6_ROUTES))

        def check(*, first: bool = False) -> None:
            present = has_native_ipv6(self._tun.interface.name)
            if first and not present:
                self.do(self._client.start)
            else:
                self.do(lambda now: self._client.native_ipv6(present, now))

        def changed() -> None:
            with contextlib.suppress(BlockingIOError):
                while watch.recv(65536):
                    pass
            check()

        check(first=True)
        self._loop.add_reader(watch, changed)
        try:
            yield
        finally:
            self._loop.remove_reader(watch)
            watch.close()


async def run_client(config: ClientConfig, place: Place, notify: Notify, stop: asyncio.Event) -> None:
    """Run a client until `stop`. Raises OSError or TunError when its port or interface cannot be had."""
    client = Client(config, SystemRandom(), Forbidden(directed_broadcasts()))
    udp = service_socket(place.bind, place.port)
    tun = Tun(Interface(place.tun, default_route=True), offloads=True)
    runner = ClientRunner(client, udp, tun, notify, place)
    client.subnet = subnet_of(runner.local.host)
    await runner.run(stop, place.control)
