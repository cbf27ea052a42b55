"""The NATs of a running lab: measured, power-cycled, changed."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from lab.backends import linux
from lab.backends.nodes import Nodes
from lab.backends.processes import fork, lines
from lab.nat import survey
from lab.plan import Plan

_log = logging.getLogger("supervisor")

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

    _, results = fork(main)
    missing = set(names)
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
