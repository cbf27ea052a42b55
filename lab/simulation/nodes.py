"""Teredo machines wired to the networks: a node does what its machine asks for, and wakes it in time."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Interface
from typing import Any, Final, Generic, TypeVar

from lab.simulation.hosts import Host
from lab.simulation.nat import NatModel
from lab.simulation.network import Access, Clock, Receive6
from lab.teredo.address import DISCOVERY_ADDRESS, PORT, Endpoint
from lab.teredo.client import Client
from lab.teredo.machine import (
    Action,
    Close,
    Configure,
    Deliver,
    Event,
    JoinGroup,
    LeaveGroup,
    Machine,
    MapPort,
    Open,
    Send,
    SendToGroup,
    UnmapPort,
)
from lab.teredo.relay import Relay
from lab.teredo.server import Server

DISCOVERY: Final = Endpoint(DISCOVERY_ADDRESS, PORT)
LAN: Final = 16
"""Prefix length of every LAN: there is room for many clients."""

M = TypeVar("M", bound=Machine)


class Node(Generic[M]):
    """Drives one machine from its endpoint, where `access` is a NAT or the Internet. `deliver` takes its IPv6 packets.

    `events` collects what the machine reports, unless it is None.
    """

    def __init__(
        self,
        clock: Clock,
        machine: M,
        access: Access,
        endpoint: Endpoint,
        deliver: Receive6,
        events: list[Event] | None,
    ) -> None:
        self.machine = machine
        self.endpoint = endpoint
        self.events = events
        self._clock = clock
        self._access = access
        self._deliver = deliver
        self._wake: float | None = None
        self._busy = False
        access.attach(endpoint.host, self._receive)

    def start(self) -> None:
        self.do(self.machine.start)

    def stop(self) -> None:
        self.do(self.machine.stop)

    def snapshot(self) -> dict[str, Any]:
        return self.machine.snapshot(self._clock.now)

    def do(self, step: Callable[[float], None]) -> None:
        """Let the machine take one step at the present time, and do what it asks for."""
        step(self._clock.now)
        self._perform()

    def packet(self, ipv6: bytes) -> None:
        """The IPv6 side has a packet for the machine."""
        self.machine.packet(ipv6, self._clock.now)
        self._perform()

    def _receive(self, data: bytes, source: Endpoint, to: Endpoint) -> None:
        if to.port == self.endpoint.port:
            self.machine.datagram(data, source, self._clock.now)
            self._perform()

    def _do(self, action: Action) -> None:
        """An action that not every machine asks for."""
        raise AssertionError(action)

    def _perform(self) -> None:
        if self._busy:  # an action has led back here: what it brought about comes after what is under way
            return
        self._busy = True
        while actions := self.machine.actions():
            for action in actions:
                match action:
                    case Send():
                        self._send(action)
                    case Deliver(ipv6):
                        self._deliver(ipv6)
                    case Configure(address):
                        self._configure(address)
                    case Event():
                        if self.events is not None:
                            self.events.append(action)
                    case _:
                        self._do(action)
        self._busy = False
        at = self.machine.next_timer
        if at is not None and (self._wake is None or at < self._wake):
            self._wake = at
            self._clock.at(at, self._tick, at)

    def _tick(self, at: float) -> None:
        if at == self._wake:  # else an earlier call has taken its place
            self._wake = None
            self.do(self.machine.tick)

    def _send(self, action: Send) -> None:
        self._access.send(self.endpoint, action.to, action.data)

    def _configure(self, address: bytes | None) -> None:
        """The Teredo interface has another address, or none."""


class RelayNode(Node[Relay]):
    """A Teredo relay, of the IPv6 Internet or of one host."""


class ClientNode(Node[Client]):
    """A Teredo client and the host that it serves."""

    def __init__(
        self, clock: Clock, machine: Client, access: Access, endpoint: Endpoint, events: list[Event] | None
    ) -> None:
        self.host = Host(clock, self.packet)
        self.ports: set[int] = set()
        self.joined = False
        machine.nat.local = endpoint
        machine.subnet = IPv4Interface(f"{endpoint.host}/{LAN}").network
        super().__init__(clock, machine, access, endpoint, self.host.receive, events)

    def _configure(self, address: bytes | None) -> None:
        self.host.address = address

    def _receive(self, data: bytes, source: Endpoint, to: Endpoint) -> None:
        if to == DISCOVERY:
            if self.joined:
                self.machine.discovered(data, source, self._clock.now)
                self._perform()
        elif to.port in self.ports:
            self.machine.datagram(data, source, self._clock.now, to.port)
            self._perform()
        else:
            super()._receive(data, source, to)

    def _send(self, action: Send) -> None:
        source = Endpoint(self.endpoint.host, action.port) if action.port else self.endpoint
        self._access.send(source, action.to, action.data)

    def _do(self, action: Action) -> None:
        nat = self._access if isinstance(self._access, NatModel) else None
        match action:
            case Open(port):
                self.ports.add(port)
            case Close(port):
                self.ports.discard(port)
            case MapPort():
                self.machine.port_mapped(None if nat is None else nat.open(self.endpoint), self._clock.now)
            case UnmapPort() if nat is not None:
                nat.close(self.endpoint)
            case JoinGroup():
                self.joined = True
            case LeaveGroup():
                self.joined = False
            case SendToGroup(data) if nat is not None:  # else it has its link for itself
                nat.multicast(self.endpoint, DISCOVERY, data)


class ServerNode(Node[Server]):
    """A Teredo server; its second address is `secondary`."""

    def __init__(
        self,
        clock: Clock,
        machine: Server,
        access: Access,
        endpoint: Endpoint,
        deliver: Receive6,
        events: list[Event] | None,
    ) -> None:
        super().__init__(clock, machine, access, endpoint, deliver, events)
        self.secondary = Endpoint(machine.config.secondary, endpoint.port)
        access.attach(self.secondary.host, self._receive)

    def _receive(self, data: bytes, source: Endpoint, to: Endpoint) -> None:
        if to.port == self.endpoint.port:
            self.machine.datagram(data, source, self._clock.now, on_secondary=to == self.secondary)
            self._perform()

    def _send(self, action: Send) -> None:
        self._access.send(self.secondary if action.secondary else self.endpoint, action.to, action.data)
