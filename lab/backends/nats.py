"""The NATs of a running lab: measured, power-cycled, changed, shown."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from lab.backends import linux, survey
from lab.backends.nodes import Nodes
from lab.backends.processes import fork, lines
from lab.nat import engines
from lab.node import NodeError, apply_firewall, reconfigure, remove_firewall
from lab.plan import NodePlan, Plan

Send = Callable[[dict[str, Any]], Awaitable[None]]


async def measure(plan: Plan, nodes: Nodes, request: dict[str, Any], send: Send) -> bool:
    """Measure NATs, all or those that `request` names, and pass the results on; returns whether it came to an end.

    It happens in a process of its own, which may move between the nodes. The NATs' states become what was found.
    """
    names: Sequence[str] = request.get("nodes") or [node.name for node in plan.nodes if node.nat is not None]

    def main(results: int) -> None:
        linux.set_process_name("nat-probe")
        with os.fdopen(results, "w", buffering=1) as stream:
            survey.run(plan, names, nodes.namespaces, request, lambda answer: print(json.dumps(answer), file=stream))

    missing = set(names)
    async with nodes.one_survey:  # they would meet in LANs that have guests only
        _, results = fork(main)
        async with lines(results) as stream:
            async for line in stream:
                answer = json.loads(line)
                row = answer["row"]
                missing.discard(row["node"])
                nodes.found(row["node"], "; ".join(row["problems"]) or None)
                await send(answer)
    for name in missing:
        nodes.found(name, "it could not be measured; see the supervisor's log")
    return not missing


def trust(plan: Plan, nodes: Nodes) -> None:
    """Take the NATs for what they shall be."""
    for node in plan.nodes:
        if node.nat is not None:
            nodes.found(node.name, None)


async def change(old: Plan, new: Plan, nodes: Nodes) -> None:
    """Make the running lab another plan's, which may differ in NATs, and in the routes and addresses of the core.

    NATs that differ lose all they remember. Raises NodeError; if the plans differ in more, nothing has changed.
    """
    before = {node.name: node for node in old.nodes}
    changed = [node for node in new.nodes if node != before.get(node.name)]
    if len(before) != len(new.nodes) or any(node.role not in ("nat", "internet") for node in changed):
        raise NodeError("only NATs can change while the lab runs: take it down, and up again")
    await asyncio.to_thread(_apply, [(before[node.name], node) for node in changed], nodes)
    for node in changed:
        nodes.replace(node)


def _apply(changes: Sequence[tuple[NodePlan, NodePlan]], nodes: Nodes) -> None:
    """In a thread: pyroute2 has an event loop of its own, and a thread may be in another namespace than the rest."""
    for old, new in changes:
        with nodes.namespaces.inside(new.name):
            if old.firewall is not None:
                remove_firewall(old.name, old.firewall)
            reconfigure(old, new)
            if new.firewall is not None:
                apply_firewall(new.name, new.firewall)


async def reset(plan: Plan, name: str, nodes: Nodes) -> Plan:
    """Power-cycle a NAT; returns the plan with the new seed of its ports. Raises NodeError."""
    node = plan.node(name)
    assert node.nat is not None
    assert node.firewall is not None
    setup = dataclasses.replace(node.nat.setup, seed=node.nat.setup.seed + 1)
    fresh = node.model_copy(
        update={
            "nat": node.nat.model_copy(update={"setup": setup}),
            "firewall": engines.firewall(setup, node.firewall.engine),
        }
    )
    new = plan.model_copy(update={"nodes": tuple(fresh if each is node else each for each in plan.nodes)})
    await change(plan, new, nodes)
    return new


def rules(plan: Plan, name: str, nodes: Nodes) -> dict[str, str]:
    """The rules that the kernel has for a NAT now, as each tool prints them."""
    firewall = plan.node(name).firewall
    assert firewall is not None
    tables = re.findall(r"^table (\w+ \w+) {$", firewall.nftables, re.MULTILINE)
    commands = [["ipset", "list", "-terse"]] if firewall.ipset else []
    commands += [["iptables-save"]] if firewall.iptables else []
    commands += [["nft", "list", "table", *table.split()] for table in tables]
    with nodes.namespaces.inside(name):
        return {
            " ".join(command): subprocess.run(command, capture_output=True, text=True, check=False).stdout
            for command in commands
        }
