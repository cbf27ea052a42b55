"""A lab's container that is no node: it has the nodes' programs started, checks, and answers the command line.

It needs no rights: the nodes' agents open sockets for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from lab.agent import HEALTHY, place, prepare
from lab.backends.agents import AgentPlaces, AgentPrograms
from lab.backends.nodes import Nodes
from lab.backends.supervisor import Supervisor
from lab.logs import set_up as set_up_logs
from lab.planner import plan
from lab.topology.model import Topology

NAME: Final = "TEREDO_LAB_NAME"
FILE: Final = "TEREDO_LAB_FILE"
TOPOLOGY: Final = "TEREDO_LAB_TOPOLOGY"
CHECK: Final = "TEREDO_LAB_CHECK"
MEASURE: Final = "TEREDO_LAB_MEASURE"
"""The environment variables that tell a controller its lab: its name, its file, the topology as JSON; whether it checks
by itself, and whether it measures the NATs."""

SICK: Final = Path("/tmp/failed")  # noqa: S108 - a container's own
"""There while the last check has found what is not as expected."""

_QUIET = 0.5
"""Seconds without a change before a check begins."""


def _judge(*, good: bool) -> None:
    (HEALTHY if good else SICK).touch()
    (SICK if good else HEALTHY).unlink(missing_ok=True)


async def _check_again_and_again(nodes: Nodes, lab: str) -> None:
    """Check whenever the nodes have settled in other states than before; the container's health is what came out.

    A node that fails makes it sick at once: a check takes a minute to give up those that the node served.
    """
    checked: dict[str, str] = {}
    while True:
        await nodes.settled(nodes.by_name.values())
        changed = nodes.changed
        states = {name: node.worst[0] for name, node in nodes.by_name.items()}
        if "failed" in states.values():
            _judge(good=False)
        if states == checked:
            await changed.wait()
            continue
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_QUIET):
                await changed.wait()
            continue
        checked = states
        command = ("check", "--no-capture", "--name", lab)  # it would fill the memory that all containers share
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "lab.cli", *command)
        _judge(good=await process.wait() == 0)


async def _show_health(nodes: Nodes) -> None:
    """Without checks of its own, a controller is healthy when its nodes have settled."""
    await nodes.settled(nodes.by_name.values())
    HEALTHY.touch()


async def _serve(supervisor: Supervisor, nodes: Nodes, lab: str, *, measure: bool, check: bool) -> None:
    watching = asyncio.create_task(_check_again_and_again(nodes, lab) if check else _show_health(nodes))
    await supervisor.serve(supervisor.note, measure=measure)
    watching.cancel()


def main() -> int:
    """Run the lab that the environment describes until SIGTERM. Exit code 2: the environment describes none."""
    try:
        name = os.environ[NAME]
        described: dict[str, Any] = json.loads(os.environ[TOPOLOGY])
        topology = Topology.model_validate(described)
    except (KeyError, ValueError, ValidationError) as error:
        print(f"teredo-lab: {NAME} and {TOPOLOGY} do not describe a lab: {error}", file=sys.stderr)
        return 2
    set_up_logs(lab=name)
    HEALTHY.unlink(missing_ok=True)
    planned = plan(topology).model_copy(update={"name": name, "topology": os.environ.get(FILE)})
    lab = place(name)
    prepare(lab.directory)
    with lab.pid_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        nodes = Nodes(planned)
        nodes.places = AgentPlaces(lab)
        nodes.programs = AgentPrograms(lab, planned.nodes, nodes)
        supervisor = Supervisor(planned, described, lab, nodes, {"backend": "docker"}, ends_on_failure=False)
        check, measure = (os.environ.get(each) == "1" for each in (CHECK, MEASURE))
        asyncio.run(_serve(supervisor, nodes, name, measure=measure, check=check))
    return 0


if __name__ == "__main__":
    sys.exit(main())
