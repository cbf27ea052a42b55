"""RFC 6081 Figure 1 by experiment: all pairs of a topology's matrix at once, on the real kernel or in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from lab.check.recorder import Recorded
from lab.matrix.packets import stories
from lab.matrix.verdict import Try
from lab.plan import Plan
from lab.simulation import ClientNode, Simulation
from lab.state import Lab
from lab.story import Line
from lab.teredo.extensions import Extension
from lab.topology.model import Topology
from lab.topology.pairs import Pair, pairs

Progress = Callable[[str, int, int], None]
"""Takes what is going on, how much of it is done, and how much there is."""


@dataclass(slots=True)
class Found:
    """What a run has found: whether each pair connects, and the packets that crossed the Internet for it."""

    tries: dict[Pair, Try] = field(default_factory=dict)
    stories: dict[Pair, list[Line]] = field(default_factory=dict)


def measured(lab: Lab, topology: Topology, plan: Plan, progress: Progress, *, record: bool) -> Found:
    """What a lab that has just come up finds, with the packets if they are to be recorded. Raises StateError."""
    wanted = {(pair.caller, pair.callee): pair for pair in pairs(topology)}
    found = Found()
    packets: list[Recorded] = []
    for answer in lab.ask("check", pairs=list(wanted), probes=["icmp6"], cold=True, record=record):
        if answer["event"] == "packet":
            packets.append(Recorded.heard(answer["packet"]))
        elif answer["event"] == "pair":
            progress("pairs", answer["done"], answer["total"])
            for result in answer["results"]:
                pair = wanted[result["source"], result["destination"]]
                reached = result["observed"] == "reachable"
                found.tries[pair] = Try(reached, result["first_packet_ms"], None if reached else result["reason"])
    found.stories = stories(plan, wanted.values(), packets)
    return found


def simulated(topology: Topology, extensions: Collection[Extension], progress: Progress, seed: int = 0) -> Found:
    """The same in virtual time, each pair in a simulation of its own, with latencies of its default."""
    wanted = list(pairs(topology))
    found = Found()
    for done, pair in enumerate(wanted, 1):
        simulation = Simulation(seed)
        simulation.server()
        nats = (topology.matrix[name].behaviour for name in (pair.row, pair.column))
        caller, callee = (simulation.client(nat, extensions=extensions) for nat in nats)
        simulation.run_for(20.0)
        found.tries[pair] = _ping(simulation, caller.host.address, callee.host.address, caller)
        progress("pairs", done, len(wanted))
    return found


def _ping(simulation: Simulation, source: bytes | None, destination: bytes | None, caller: ClientNode) -> Try:
    if source is None or destination is None:
        return Try(False, None, f"{'the caller' if source is None else 'the callee'} has no Teredo address")
    ping = caller.host.ping(destination)
    simulation.run_until(lambda: ping.done)
    if ping.seconds is not None:
        return Try(True, round(ping.seconds * 1000, 3))
    return Try(False, None, "no route to host" if ping.unreachable is not None else "no answer")
