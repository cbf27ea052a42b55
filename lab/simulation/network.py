"""Virtual time, the IPv4 Internet that carries UDP, and the IPv6 Internet that knows where Teredo lies.

Both Internets hand a packet over after a latency, or never. Who receives is a plain callable.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple, Protocol

from lab.teredo.address import Endpoint, is_teredo

Receive = Callable[[bytes, Endpoint, Endpoint], None]
"""Takes a UDP payload, the endpoint that it came from and the one that it was sent to."""

Receive6 = Callable[[bytes], None]
"""Takes an IPv6 packet."""


class Clock:
    """Virtual time: calls are made in the order of their time and, at one moment, in that of their making."""

    __slots__ = ("_calls", "_serial", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._calls: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Make a call at a time that is not in the past."""
        self._serial += 1
        heapq.heappush(self._calls, (when, self._serial, call, arguments))

    def step(self, limit: float) -> bool:
        """Make the next call if it is due by `limit`; else let the time be `limit`, and return False."""
        if not self._calls or self._calls[0][0] > limit:
            self.now = max(self.now, limit)
            return False
        self.now, _, call, arguments = heapq.heappop(self._calls)
        call(*arguments)
        return True


class Access(Protocol):
    """What a node is plugged into: the Internet itself, or a NAT."""

    def attach(self, host: str, receive: Receive) -> None:
        """Have what is sent to this IPv4 address handed to `receive`."""

    def send(self, source: Endpoint, to: Endpoint, data: bytes) -> None:
        """Send a UDP payload from an endpoint of an attached address."""


class Outer(NamedTuple):
    """One UDP datagram on the IPv4 Internet, as a capture there would show it."""

    at: float
    source: Endpoint
    to: Endpoint
    data: bytes
    lost: bool


class Internet:
    """Carries UDP between public IPv4 addresses. `trace` collects what was sent, unless it is None."""

    def __init__(self, clock: Clock, rng: Random, *, latency: float, loss: float, trace: list[Outer] | None) -> None:
        self.clock = clock
        self.latency = latency
        self.loss = loss
        self.trace = trace
        self._rng = rng
        self._receivers: dict[str, Receive] = {}

    def attach(self, host: str, receive: Receive) -> None:
        self._receivers[host] = receive

    def send(self, source: Endpoint, to: Endpoint, data: bytes) -> None:
        lost = self.loss > 0 and self._rng.random() < self.loss
        if self.trace is not None:
            self.trace.append(Outer(self.clock.now, source, to, data, lost))
        receive = self._receivers.get(to.host)
        if receive is not None and not lost:
            self.clock.at(self.clock.now + self.latency, receive, data, source, to)


class Internet6:
    """Carries IPv6 packets between native hosts, and those for 2001::/32 to `relay`."""

    def __init__(self, clock: Clock, *, latency: float) -> None:
        self.relay: Receive6 | None = None
        self._clock = clock
        self._latency = latency
        self._receivers: dict[bytes, Receive6] = {}

    def attach(self, address: bytes, receive: Receive6) -> None:
        """Have packets to this address handed to `receive`."""
        self._receivers[address] = receive

    def send(self, ipv6: bytes) -> None:
        destination = ipv6[24:40]
        receive = self.relay if is_teredo(destination) else self._receivers.get(destination)
        if receive is not None:
            self._clock.at(self._clock.now + self._latency, receive, ipv6)
