"""All cells of a grid, in a lab that has just come up with its topology."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lab.check.recorder import Recorded
from lab.interop.evidence import diagnose, ends, story
from lab.interop.grid import Cell
from lab.interop.verdict import Found
from lab.plan import Plan
from lab.state import Lab

Progress = Callable[[str, int, int], None]
"""Takes what is going on, how much of it is done, and how much there is."""


def measured(
    lab: Lab, cells: Iterable[Cell], plan: Plan, nodes: list[dict[str, Any]], progress: Progress
) -> dict[Cell, Found]:
    """What the lab finds: a cold echo request first, of which all packets are recorded, then UDP and TCP.

    Raises StateError.
    """
    wanted = {cell.ends: cell for cell in cells}
    probes: dict[Cell, dict[str, str | None]] = {cell: {} for cell in wanted.values()}
    first: dict[Cell, float | None] = {}
    packets: list[Recorded] = []
    for kinds in (["icmp6"], ["udp", "tcp"]):
        pairs = [each for each, cell in wanted.items() if not any(probes[cell].values())]
        for answer in lab.ask("check", pairs=pairs, probes=kinds, cold=True, record=kinds == ["icmp6"]):
            if answer["event"] == "packet":
                packets.append(Recorded.heard(answer["packet"]))
            elif answer["event"] == "pair":
                progress(" and ".join(kinds), answer["done"], answer["total"])
                for result in answer["results"]:
                    cell = wanted[result["source"], result["destination"]]
                    reached = result["observed"] == "reachable"
                    probes[cell][result["probe"]] = None if reached else result["reason"]
                    first.setdefault(cell, result["first_packet_ms"])
    found = {}
    for cell, outcome in probes.items():
        found[cell] = Found(outcome, first.get(cell))
        if not found[cell].works:
            who = ends(cell, plan, nodes)
            own = [packet for packet in packets if who.owns(packet)]
            found[cell] = Found(outcome, first.get(cell), diagnose(who, own), story(who, own))
    return found
