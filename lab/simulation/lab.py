"""Builds a simulated lab and runs it.

    simulation = Simulation(seed=1)
    simulation.server()
    one, two = simulation.client("cone"), simulation.client("port_restricted")
    simulation.run_for(5)
    assert simulation.ping(one, two).reached

Whatever is left out has a default; addresses and ports are handed out, and the same seed gives the same run.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import count, islice
from random import Random
from typing import Final, Protocol

from lab.nat.kinds import KINDS, NatBehaviour
from lab.simulation.hosts import Host, NativeHost, Ping
from lab.simulation.nat import TIMEOUT, NatModel
from lab.simulation.network import Access, Clock, Internet, Internet6, Outer
from lab.simulation.nodes import ClientNode, RelayNode, ServerNode
from lab.teredo.address import PORT, Endpoint, text
from lab.teredo.client import Client, ClientConfig
from lab.teredo.extensions import ALL, Extension
from lab.teredo.interval import REFRESH_INTERVAL
from lab.teredo.machine import Event
from lab.teredo.relay import Relay, RelayConfig
from lab.teredo.server import Server, ServerConfig
from lab.teredo.tunnel import MAX_PEERS

PATIENCE: Final = 15.0
"""Seconds to wait for a ping: longer than any attempt to reach a peer lasts."""

Nat = str | NatBehaviour | NatModel | None
"""A NAT that is there, a new one of a named kind or of a behaviour, or none."""


class Speaker(Protocol):
    """Whoever has an IPv6 host: a client, or a native host itself."""

    @property
    def host(self) -> Host: ...


class Simulation:
    """A lab in virtual time. Latencies are in seconds and one-way; `loss` is a probability on the IPv4 Internet.

    With `tracing`, `trace` holds every outer packet on the Internet, and nodes keep their machine's events.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        latency: float = 0.02,
        latency6: float = 0.01,
        loss: float = 0.0,
        tracing: bool = False,
    ) -> None:
        self.rng = Random(seed)  # noqa: S311 - to be repeatable, not to be secret
        self.clock = Clock()
        self.trace: list[Outer] | None = [] if tracing else None
        self.internet = Internet(self.clock, self.rng, latency=latency, loss=loss, trace=self.trace)
        self.internet6 = Internet6(self.clock, latency=latency6)
        self._public = _addresses("198.18.0.1")
        self._private: dict[NatModel, Iterator[str]] = {}
        self._native = (f"2001:db8::{number:x}" for number in count(1))
        self._server: ServerNode | None = None

    @property
    def now(self) -> float:
        return self.clock.now

    # Building it

    def server(
        self,
        *,
        secrets: Mapping[bytes, bytes] | None = None,
        retired: frozenset[bytes] = frozenset(),
        relay: bool = False,
        start: bool = True,
    ) -> ServerNode:
        """Add a Teredo server, which the clients made from now on use; with `relay` it is the relay as well."""
        too = RelayConfig(next(self._native)) if relay else None
        config = ServerConfig(next(self._public), next(self._public), secrets or {}, retired, too)
        machine, endpoint = Server(config, self.rng), Endpoint(config.primary, PORT)
        node = ServerNode(self.clock, machine, self.internet, endpoint, self.internet6.send, self._events())
        self._server = node
        if relay:
            self.internet6.relay = node.packet
        if start:
            node.start()
        return node

    def relay(self, *, host: NativeHost | None = None, nat: Nat = None, serves: tuple[str, ...] = ()) -> RelayNode:
        """Add a relay: the common one if it is the first; with `host` that host's own; behind `nat` if given."""
        config = RelayConfig(
            next(self._native) if host is None else text(host.native),
            serves=serves,
            host_specific=host is not None,
            direct_bubbles=nat is not None,
        )
        access, endpoint = self._plug(nat)
        deliver = self.internet6.send if host is None else host.receive
        node = RelayNode(self.clock, Relay(config, self.rng), access, endpoint, deliver, self._events())
        if host is not None:
            host.relay = node.packet
        elif self.internet6.relay is None:
            self.internet6.relay = node.packet
        node.start()
        return node

    def host(self, relay: RelayNode | None = None) -> NativeHost:
        """Add a host with native IPv6, next to `relay` if one is given."""
        host = NativeHost(self.clock, self.internet6, next(self._native))
        host.relay = None if relay is None else relay.packet
        return host

    def nat(self, kind: str | NatBehaviour, *, timeout: float = TIMEOUT, behind: NatModel | None = None) -> NatModel:
        """Add a NAT, for several clients to share or to be reset; `behind` another one if that is given."""
        behaviour = KINDS[kind] if isinstance(kind, str) else kind
        outside, addresses = (self.internet, self._public) if behind is None else (behind, self._private[behind])
        external = list(islice(addresses, behaviour.addresses))
        nat = NatModel(outside, self.clock, external, behaviour, self.rng, timeout=timeout)
        self._private[nat] = _addresses("192.168.0.2" if behind is None else "172.16.0.2")
        return nat

    def client(
        self,
        nat: Nat = None,
        *,
        server: ServerNode | None = None,
        port: int | None = None,
        refresh_interval: float = REFRESH_INTERVAL,
        client_id: bytes = b"",
        secret: bytes | None = None,
        max_peers: int = MAX_PEERS,
        extensions: Collection[Extension] = ALL,
        determine_interval: bool = False,
        local_discovery: bool = False,
        start: bool = True,
    ) -> ClientNode:
        """Add a Teredo client and start it. Raises ValueError when there is no server yet."""
        server = server or self._server
        if server is None:
            raise ValueError("a client needs a server: add one first")
        config = ClientConfig(
            server.machine.config.primary,
            server.machine.config.secondary,
            refresh_interval=refresh_interval,
            client_id=client_id,
            secret=secret,
            max_peers=max_peers,
            extensions=frozenset(extensions),
            determine_interval=determine_interval,
            local_discovery=local_discovery,
        )
        access, endpoint = self._plug(nat, port)
        node = ClientNode(self.clock, Client(config, self.rng), access, endpoint, self._events())
        if start:
            node.start()
        return node

    def _plug(self, nat: Nat, port: int | None = None) -> tuple[Access, Endpoint]:
        if port is None:
            port = self.rng.randrange(1024, 65536)
        if nat is None:
            return self.internet, Endpoint(next(self._public), port)
        if not isinstance(nat, NatModel):
            nat = self.nat(nat)
        return nat, Endpoint(next(self._private[nat]), port)

    def _events(self) -> list[Event] | None:
        return None if self.trace is None else []

    # Running it

    def run_for(self, seconds: float) -> None:
        """Let so much time pass."""
        limit = self.now + seconds
        while self.clock.step(limit):
            pass

    def run_until(self, condition: Callable[[], bool], limit: float = PATIENCE) -> bool:
        """Run until a condition holds, for `limit` seconds at most. Returns whether it holds."""
        end = self.now + limit
        while not condition():
            if not self.clock.step(end):
                return condition()
        return True

    def ping(self, source: Speaker, destination: Speaker, limit: float = PATIENCE) -> Ping:
        """Ping one from the other and run until the outcome is known. Raises ValueError for a host with no address."""
        address = destination.host.address
        if address is None:
            raise ValueError("the destination has no IPv6 address")
        ping = source.host.ping(address)
        self.run_until(lambda: ping.done, limit)
        return ping


def _addresses(first: str) -> Iterator[str]:
    """IPv4 addresses one after the other, but for those that end in 0 or 255."""
    start = int(ipaddress.IPv4Address(first))
    return (str(ipaddress.IPv4Address(value)) for value in count(start) if value & 0xFF not in (0, 255))
