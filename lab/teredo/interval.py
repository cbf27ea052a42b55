"""The Teredo refresh interval, and how a client finds out how long it may be (RFC 4380 section 5.2.7).

A second port, the Teredo secondary port, is qualified like the service port and then left idle for longer and longer.
A bubble from the service port to the secondary port's own Teredo address shows whether its mapping has survived:

    primary -> secondary -> waiting -> testing -> success or failure -> primary (maintenance) -> waiting -> ...

The bubble goes through the server, as maintenance does: a direct one would prove that the NAT hairpins. The address of
the secondary port is told to nobody, so that no one else keeps its mapping alive.
"""

from __future__ import annotations

from collections.abc import Hashable
from random import Random
from typing import Final

from lab.teredo.address import Endpoint, TeredoAddress, random_flags
from lab.teredo.machine import Close, Machine, Open
from lab.teredo.packet import ROUTER_ADVERTISEMENT, Packet, bubble
from lab.teredo.solicitation import SOLICITATION_TIMEOUT, Solicitation

REFRESH_INTERVAL: Final = 30.0

MAX_INTERVAL: Final = 120.0
FIRST_CANDIDATE: Final = 60.0
CLOSE_ENOUGH: Final = 0.75
"""After a failure, an interval of 75 % of the shortest one that failed will do."""

LEAST_GAIN: Final = 1.0
"""Where no candidate fails, the RFC has no end: ours is a candidate that would bring less than a second."""

BUBBLE_TIMEOUT: Final = 2.0
BUBBLES: Final = 4
"""One bubble and up to three repeats."""

SECONDARY_PORTS: Final = range(61000, 65536)
"""Above those of `lab.teredo.bubbles.RANDOM_PORTS`, and those that Linux gives to others."""


class IntervalDetermination(Machine):
    """Owns the refresh interval, `seconds`. A client says when it has an address, and what comes in on `port`.

    Without `wanted`, the interval stays what it is; `symmetric` says that the NAT may be symmetric, as for the service
    port (RFC 6081 section 5.2). `port` is 0 while nothing is to be determined.
    """

    def __init__(
        self,
        seconds: float,
        *,
        wanted: bool,
        symmetric: bool,
        servers: tuple[Endpoint, Endpoint],
        solicitation: Solicitation,
        rng: Random,
    ) -> None:
        super().__init__()
        self.seconds = seconds
        self.port = 0
        self._initial = seconds
        self._wanted = wanted
        self._symmetric = symmetric
        self._servers = servers
        self._solicitation = solicitation
        self._rng = rng
        self._reset(b"")

    def _reset(self, service: bytes) -> None:
        self._service = service
        self._mapped: Endpoint | None = None
        self._address = b""
        self._qualified = False
        self._bubbles = 0
        self._maximum, self._candidate = MAX_INTERVAL, FIRST_CANDIDATE

    # Driving it

    def begin(self, service: bytes, service_port: int, now: float) -> None:
        """The service port has this Teredo address now: qualify the secondary port at once, and begin anew."""
        self.stop(now)
        self.seconds = self._initial
        if not self._wanted:
            return
        self._reset(service)
        while self.port in (0, service_port):
            self.port = self._rng.choice(SECONDARY_PORTS)
        self._actions.append(Open(self.port))
        self._ask(self._servers[0], now)

    def stop(self, now: float) -> None:
        """Close the secondary port; what has been determined stays."""
        self._timers.clear()
        self._solicitation.end()
        if self.port:
            self._actions.append(Close(self.port))
            self.port = 0

    def refused(self, now: float) -> None:
        """The secondary port could not be had."""
        self._conclude("no secondary port", now)

    def datagram(self, data: bytes, source: Endpoint, now: float) -> None:
        """A UDP payload has arrived on the secondary port."""
        packet = self._decode(data)
        if packet is None:
            return
        if packet.icmp_type == ROUTER_ADVERTISEMENT and self._solicitation.asked is not None:
            self._advertised(packet, source, now)
        elif self._bubbles and self._is_ours(packet, source):
            self._succeeded(now)
        else:
            self._drop("on the secondary port", source=str(source))
        if "bubble" in self._timers and not self._bubbles:  # whatever came in may have kept the mapping alive
            self._wait(now)

    def _timer(self, key: Hashable, now: float) -> None:
        if key == "solicit":
            self._solicit(now)
        elif self._bubbles == BUBBLES:
            self._failed(now)
        else:
            self._bubbles += 1
            self._send(bubble(self._service, self._address), self._servers[0])
            self._timers.set("bubble", now + BUBBLE_TIMEOUT)

    # Qualification and maintenance of the secondary port

    def _ask(self, server: Endpoint, now: float) -> None:
        self._solicitation.begin(server)
        self._solicit(now)

    def _solicit(self, now: float) -> None:
        server, data = self._solicitation.asked, self._solicitation.datagram()
        assert server is not None
        if data is None:
            self._conclude(f"no answer from server {server.host}", now)
        else:
            self._send(data, server, port=self.port)
            self._timers.set("solicit", now + SOLICITATION_TIMEOUT)

    def _advertised(self, packet: Packet, source: Endpoint, now: float) -> None:
        answer = self._solicitation.answer(packet, source)
        if answer is None:
            self._drop(f"advertisement: {self._solicitation.refused}", source=str(source))
            return
        mapped, _ = answer
        self._timers.cancel("solicit")
        self._solicitation.end()
        if source == self._servers[1]:
            if mapped != self._mapped and not self._symmetric:
                self._conclude("symmetric NAT", now)
                return
            self._qualified = True
        elif mapped != self._mapped:
            self._mapped = mapped
            self._address = TeredoAddress(self._servers[0].host, random_flags(self._rng), mapped).packed
        if self._qualified:
            self._wait(now)
        else:
            self._ask(self._servers[1], now)

    # The procedure

    def _wait(self, now: float) -> None:
        """Step 1: be idle for the candidate interval."""
        self._bubbles = 0
        self._timers.set("bubble", now + self._candidate)

    def _is_ours(self, packet: Packet, source: Endpoint) -> bool:
        """Step 3: whether this is the bubble from the service port."""
        ends = packet.source, packet.destination
        return packet.is_bubble and source == self._servers[0] and ends == (self._service, self._address)

    def _succeeded(self, now: float) -> None:
        """Step 4."""
        self._tested(survived=True)
        self.seconds = self._candidate
        self._candidate = min(2 * self.seconds, (self.seconds + self._maximum) / 2)
        if self._candidate - self.seconds < LEAST_GAIN:
            self._conclude("the longest interval", now)
        else:
            self._ask(self._servers[0], now)

    def _failed(self, now: float) -> None:
        """Step 5."""
        self._tested(survived=False)
        self._maximum = self._candidate
        if self.seconds >= CLOSE_ENOUGH * self._maximum:
            self._conclude("close to one that failed", now)
        else:
            self._candidate = (self.seconds + self._maximum) / 2
            self._ask(self._servers[0], now)

    def _tested(self, *, survived: bool) -> None:
        self._timers.cancel("bubble")
        self._bubbles = 0
        self._report("interval tested", candidate=self._candidate, survived=survived)

    def _conclude(self, why: str, now: float) -> None:
        self._report("interval determined", refresh_interval=self.seconds, why=why)
        self.stop(now)
