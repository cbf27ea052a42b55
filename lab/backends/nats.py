"""The NATs of a running lab: measured, and power-cycled."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from lab.backends import linux, replanning, survey
from lab.backends.nodes import Nodes
from lab.backends.processes import fork, lines
from lab.nat import engines
from lab.plan import Plan

Send = Callable[[dict[str, Any]], Awaitable[None]]


async def measure(plan: Plan, nodes: Nodes, request: dict[str, Any], send: Send) -> bool:
    """Measure NATs, all or those that `request` names, and pass the results on; returns whether it came to an end.

    It happens in a process of its own, which may move between the nodes. The NATs' states become what was found.
    """
    names: Sequence[str] = request.get("nodes") or [node.name for node in plan.nodes if node.nat is not None]

    def main(results: int) -> None:
        linux.set_process_name("nat-probe")
        with os.fdopen(results, "w", buffering=1) as stream:
            survey.run(plan, names, nodes.places, request, lambda answer: print(json.dumps(answer), file=stream))

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
    await replanning.change(plan, new, nodes)
    return new
