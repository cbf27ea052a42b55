"""What the server bears of one thing that a client does: found out by having the state machines do it once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from lab.nat.kinds import KINDS
from lab.simulation.lab import Simulation
from lab.simulation.nat import TIMEOUT
from lab.simulation.network import Outer
from lab.simulation.nodes import ClientNode
from lab.simulation.scale.conditions import LATENCY
from lab.teredo.extensions import Extension
from lab.teredo.packet import ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION, decode
from lab.teredo.peers import PEER_VALIDITY

UNDERLAY: Final = 20 + 8
"""Bytes of the IPv4 and UDP headers that each datagram has on the wire."""

_SETTLED: Final = 2.0
"""Seconds in which two clients have qualified and exchanged an echo."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Bytes on the wire of a solicitation and of its answer."""

    solicitation: int
    advertisement: int


@dataclass(frozen=True, slots=True)
class Resumption:
    """How two clients go on after a pause of at least `after` seconds, where one sends an echo request.

    Bytes on the wire of the packets that the server `received` and `sent`; when its last one arrives at the caller and
    at the callee, or None; and when the answer is there: in seconds from the request on.
    """

    after: float
    received: tuple[int, ...]
    sent: tuple[int, ...]
    to_caller: float | None
    to_callee: float | None
    answered: float


def exchange() -> Exchange:
    """What a refresh costs."""
    simulation = Simulation(latency=LATENCY, tracing=True)
    simulation.server()
    simulation.client("port_restricted")
    simulation.run_for(_SETTLED)
    solicitation, advertisement = (simulation.trace or [])[:2]
    return Exchange(UNDERLAY + len(solicitation.data), UNDERLAY + len(advertisement.data))


def resumptions(kind: str, extensions: Collection[Extension]) -> list[Resumption]:
    """What it costs to go on after pauses of all lengths, behind NATs of this kind.

    Two moments make a difference: when peers have to be called anew, and when NATs let nobody in any more.
    """
    moments = (0.0, PEER_VALIDITY, TIMEOUT, TIMEOUT + 2 * PEER_VALIDITY)
    return [_resumption(kind, extensions, after, (after + before) / 2) for after, before in pairwise(moments)]


def _resumption(kind: str, extensions: Collection[Extension], after: float, pause: float) -> Resumption:
    simulation = Simulation(latency=LATENCY, tracing=True)
    server = simulation.server()
    caller, callee = (simulation.client(simulation.nat(KINDS[kind]), extensions=extensions) for _ in range(2))
    simulation.run_for(_SETTLED)
    assert simulation.ping(caller, callee).reached
    simulation.run_for(pause)
    assert simulation.trace is not None
    simulation.trace.clear()
    began = simulation.now
    ping = simulation.ping(caller, callee)
    simulation.run_for(_SETTLED)
    assert ping.seconds is not None
    packets = [outer for outer in simulation.trace if not is_refresh(outer)]
    sent = [outer for outer in packets if outer.source == server.endpoint]

    def last_at(client: ClientNode) -> float | None:
        assert client.machine.address is not None
        arrivals = (outer.at + LATENCY - began for outer in sent if outer.to == client.machine.address.mapped)
        return max(arrivals, default=None)

    return Resumption(
        after,
        tuple(UNDERLAY + len(outer.data) for outer in packets if outer.to == server.endpoint),
        tuple(UNDERLAY + len(outer.data) for outer in sent),
        last_at(caller),
        last_at(callee),
        ping.seconds,
    )


def is_refresh(outer: Outer) -> bool:
    """Whether a packet solicits the server, or is its answer."""
    return decode(outer.data).icmp_type in (ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT)
