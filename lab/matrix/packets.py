"""The packets of each pair of a matrix, as lines of a story: when, from whom to whom, and what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lab.check.recorder import Recorded
from lab.plan import Plan
from lab.story import Line, describe
from lab.teredo.address import Endpoint, is_global_unicast
from lab.topology.pairs import Pair


def stories(plan: Plan, pairs: Iterable[Pair], packets: Iterable[Recorded]) -> dict[Pair, list[Line]]:
    """The packets of each pair in their order. Ends are called A, B and server, with their external ports."""
    owners: dict[str, tuple[Pair, str]] = {}
    for pair in pairs:
        for letter, client in zip("AB", (pair.caller, pair.callee), strict=True):
            nat = next(node.nat for node in plan.nodes if node.site == client and node.nat is not None)
            owners |= {str(address): (pair, letter) for address in nat.setup.external}
    found: dict[Pair, list[Line]] = {}
    began: dict[Pair, float] = {}
    for packet in packets:
        owner = owners.get(packet.source.host) or owners.get(packet.to.host)
        if owner is None:
            continue
        pair = owner[0]
        first = began.setdefault(pair, packet.at)
        at = round((packet.at - first) * 1000, 3)
        line = Line(at, _name(packet.source, owners), _name(packet.to, owners), describe(packet.data, packet.to))
        found.setdefault(pair, []).append(line)
    return found


def _name(end: Endpoint, owners: Mapping[str, tuple[Pair, str]]) -> str:
    owner = owners.get(end.host)
    if owner is not None:
        return f"{owner[1]} {end}"
    return f"server {end.host}" if is_global_unicast(end.host) else f"(local) {end}"
