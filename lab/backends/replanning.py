"""A running lab becomes another plan's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from lab.backends.nodes import Nodes
from lab.node import NodeError
from lab.plan import NodePlan, Plan


async def change(old: Plan, new: Plan, nodes: Nodes, fresh: Sequence[str] = ()) -> None:
    """Make the running lab another plan's, which may differ in NATs, in the routes and addresses of the core, and in
    the programs of clients.

    NATs that differ lose all they remember, and clients their peers. Nodes that are `fresh` have been made of the new
    plan already. Raises NodeError; if the plans differ in more, nothing has changed.
    """
    before = {node.name: node for node in old.nodes}
    changed = [node for node in new.nodes if node != before.get(node.name)]
    if len(before) != len(new.nodes) or not all(_can_change(before.get(node.name), node) for node in changed):
        raise NodeError("only NATs and programs of clients can change while the lab runs: take it down, and up again")

    def apply() -> None:
        # In a thread: pyroute2 has an event loop of its own, and a thread may be elsewhere than the rest.
        for node in changed:
            if node.name in fresh:
                nodes.places.wait(node.name)
            elif node.role != "client":
                nodes.places.do(node.name, "change", old=before[node.name], new=node)

    await asyncio.to_thread(apply)
    for node in changed:
        nodes.replace(node)


def _can_change(old: NodePlan | None, new: NodePlan) -> bool:
    if new.role == "client":
        return old is not None and old.model_copy(update={"programs": new.programs}) == new
    return new.role in ("nat", "internet")
