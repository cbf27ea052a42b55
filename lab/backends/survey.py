"""Measures the NATs of a running lab, side by side, and compares each with what the plan says of it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from ipaddress import ip_interface
from typing import Any, Final

from lab.nat.bench import Bench, SilenceError
from lab.nat.lifetime import lifetimes
from lab.nat.observation import Observation, disagreements
from lab.nat.probe import observe
from lab.places import Places
from lab.plan import NodePlan, Plan

AT_ONCE: Final = 32

Tell = Callable[[dict[str, Any]], None]


def run(plan: Plan, names: Sequence[str], places: Places, request: dict[str, Any], tell: Tell) -> None:
    """Measure these NATs in a process of our own; each is told as an event `nat`, with its row of ``nat --json``.

    `request` may have `thorough`, and `lifetime`: the longest that is looked for, in seconds.
    """
    nodes = [plan.node(name) for name in names]
    benches = [_bench(plan, node, places) for node in nodes]
    asyncio.run(_survey(nodes, benches, request, tell))


def _bench(plan: Plan, node: NodePlan, places: Places) -> Bench:
    assert node.nat is not None
    gateway = next(str(ip_interface(address).ip) for link in node.interfaces[1:] for address in link.addresses)
    inside = [
        (client.name, str(ip_interface(client.interfaces[0].addresses[0]).ip))
        for client in plan.nodes
        if client.role == "client" and client.site == node.site
    ]
    if node.nat.guest is not None:
        inside = [(places.guest(node), str(ip_interface(node.nat.guest).ip))]
    return Bench(places, inside, node.nat.upstream, node.nat.vantage, gateway)


async def _survey(nodes: Sequence[NodePlan], benches: Sequence[Bench], request: dict[str, Any], tell: Tell) -> None:
    places = asyncio.Semaphore(AT_ONCE)
    done = 0

    async def one(node: NodePlan, bench: Bench) -> None:
        nonlocal done
        async with places:
            row = await _row(node, bench, request)
        done += 1
        tell({"event": "nat", "done": done, "total": len(nodes), "row": row})

    await asyncio.gather(*(one(node, bench) for node, bench in zip(nodes, benches, strict=True)))


async def _row(node: NodePlan, bench: Bench, request: dict[str, Any]) -> dict[str, Any]:
    assert node.nat is not None
    assert node.firewall is not None
    try:
        seen = await observe(bench, thorough=request.get("thorough", False))
        longest = request.get("lifetime")
        if longest is not None and seen.udp:
            seen = dataclasses.replace(seen, lifetimes=await lifetimes(bench, longest))
        problems = disagreements(node.nat.setup, seen)
    except SilenceError:
        seen, problems = Observation(udp=False), ["it does not let through what it let through before"]
    return {
        "node": node.name,
        "kind": node.nat.kind,
        "engine": node.firewall.engine,
        **seen.facts(),
        "ok": not problems,
        "problems": problems,
    }
