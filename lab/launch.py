"""Bringing a lab up from a topology, as several commands do: read, launch, settle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lab import state
from lab.console import BAD_INPUT, FAILED, MACHINE, fail, progress_bar
from lab.plan import Plan
from lab.state import Lab, StateError
from lab.topology.changes import pinned
from lab.topology.load import TopologyError, load
from lab.topology.model import Topology

SETTLE_TIMEOUT: Final = 40.0


def read(file: Path, name: str | None) -> tuple[Topology, Plan]:
    """Load and plan a topology, or leave with its errors."""
    from lab.planner import plan  # noqa: PLC0415 - only some commands plan

    try:
        topology = load(file)
    except TopologyError as error:
        fail(BAD_INPUT, error)
    planned = plan(topology)
    return topology, planned.model_copy(update={"name": name or planned.name, "topology": str(file.resolve())})


def launch(topology: Topology, plan: Plan, lab: Lab, *, measure: bool, quiet: bool) -> None:
    """Start a lab and wait until its programs have been started, or leave with what went wrong."""
    from lab.backends import netns  # noqa: PLC0415 - slow to import, and only used here

    try:
        netns.preflight(plan)
        lab.prepare()
    except (netns.MachineError, StateError) as error:
        fail(MACHINE, error)
    reports = netns.launch(plan, lab, measure=measure)
    try:
        first = next(reports)  # forked: from here on there may be threads
        with progress_bar(quiet=quiet) as show:
            report = first
            while report["event"] == "progress":
                show(report)
                report = next(reports)
        if report["event"] == "failed":
            fail(FAILED, f"{report['why']}\nlog: {report['log']}")
        lab.plan_file.write_text(plan.model_dump_json())
        lab.topology_file.write_text(pinned(topology).model_dump_json(by_alias=True))
    except StateError as error:
        fail(FAILED, error)
    except KeyboardInterrupt:
        lab.down()
        fail(FAILED, "interrupted; the lab is down")


def settle(lab: Lab, *, quiet: bool) -> bool:
    """Wait until all nodes are in a state in which they stay. Returns whether that came about."""
    settled = True
    with progress_bar(quiet=quiet) as show:
        for report in lab.ask("settle", timeout=SETTLE_TIMEOUT):
            if report["event"] == "progress":
                show(report)
            else:
                settled = False
    return settled


@contextmanager
def fresh(topology: Topology, plan: Plan) -> Iterator[tuple[Lab, list[dict[str, Any]]]]:
    """A lab of its own for a while, and its nodes as its status has them, or leave with what went wrong."""
    lab = Lab(plan.name)
    try:
        with state.starting():
            lab.down()
            launch(topology, plan, lab, measure=True, quiet=True)
        settle(lab, quiet=True)
        yield lab, lab.ask_once("status")["nodes"]
    except StateError as error:
        fail(FAILED, error)
    finally:
        lab.down()
