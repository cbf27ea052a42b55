"""A relay with a million clients: the real one, since what it remembers is bounded.

A native host asks clients, chosen by chance, for echoes; behind the relay there is nothing but what a client answers:
a bubble to a bubble, with its nonce, and an echo to an echo.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from lab.simulation.network import Clock, Receive
from lab.simulation.nodes import RelayNode
from lab.simulation.scale.conditions import LATENCY, Progress, no_progress
from lab.teredo.address import PORT, Endpoint, TeredoAddress, host_text, packed, parse
from lab.teredo.packet import bubble, decode, echo_reply, echo_request
from lab.teredo.relay import Relay, RelayConfig
from lab.teredo.trailers import nonce_trailer, parse_trailers
from lab.teredo.tunnel import MAX_PEERS

_SERVER: Final = Endpoint("192.0.2.1", PORT)
_RELAY: Final = Endpoint("192.0.2.9", PORT)
_OWN, _HOST = "2001:db8::1", packed("2001:db8::2")
_CLIENTS: Final = 8 << 24
"""The first client's IPv4 address."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Each of so many clients is asked every `pause` seconds in the mean, as chance has it, for `requests` in all.

    As many requests again go before, which are not counted; `table` is how many peers the relay holds.
    """

    clients: int
    pause: float
    requests: int
    table: int = MAX_PEERS


@dataclass(frozen=True, slots=True)
class Relayed:
    """How many requests reached their clients, how many were refused, and how many bubbles went to clients' servers.

    Of the clients that were `asked` at all, `served` ones were reached at least once.
    """

    reached: int
    refused: int
    bubbles: int
    asked: int
    served: int


class _Population:
    """All clients, as the relay sees them: what is sent to one, or to its server for it, is answered."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._receive: Receive | None = None
        self.bubbles = self.reached = 0
        self.served: set[Endpoint] = set()

    def attach(self, host: str, receive: Receive) -> None:
        """The relay is here."""
        self._receive = receive

    def send(self, source: Endpoint, to: Endpoint, data: bytes) -> None:
        """The relay has sent something."""
        packet = decode(data)
        client = parse(packet.destination)
        assert client is not None
        assert self._receive is not None
        if packet.is_bubble:  # by way of the server
            self.bubbles += 1
            nonce = nonce_trailer(parse_trailers(packet.trailers).nonce)
            answer, after = bubble(packet.destination, packet.source) + nonce, 3 * LATENCY
        else:
            self.reached += 1
            self.served.add(client.mapped)
            answer, after = echo_reply(packet, packet.destination), 2 * LATENCY
        self._clock.at(self._clock.now + after, self._receive, answer, client.mapped, source)


def _client(number: int) -> Endpoint:
    return Endpoint(host_text((_CLIENTS + number).to_bytes(4, "big")), PORT)


def relay(traffic: Traffic, seed: int, progress: Progress = no_progress) -> Relayed:
    """Have the relay carry this traffic. Tells `progress` how much of it is done."""
    rng, clock = Random(seed), Clock()  # noqa: S311 - to be repeatable, not to be secret
    clients = _Population(clock)
    machine = Relay(RelayConfig(_OWN, max_peers=traffic.table), rng)
    node = RelayNode(clock, machine, clients, _RELAY, lambda _: None, None)
    node.start()
    before = (0, 0, 0)
    asked: set[Endpoint] = set()

    def counted() -> tuple[int, int, int]:
        return clients.reached, machine.counters["unreachable"], clients.bubbles

    for request in range(2 * traffic.requests):
        if request == traffic.requests:
            before = counted()
            clients.served.clear()
            asked.clear()
        if request % 1000 == 0:
            progress(request / (2 * traffic.requests))
        until = clock.now + rng.expovariate(traffic.clients / traffic.pause)
        while clock.step(until):
            pass
        client = _client(rng.randrange(traffic.clients))
        asked.add(client)
        node.packet(echo_request(_HOST, TeredoAddress(_SERVER.host, 0, client).packed, bytes(8)))
    progress(1.0)
    reached, refused, bubbles = (after - earlier for after, earlier in zip(counted(), before, strict=True))
    return Relayed(reached, refused, bubbles, len(asked), len(clients.served & asked))
