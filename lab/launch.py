"""Bringing a lab up from a topology, as several commands do: read, launch, settle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lab import state
from lab.backends import base
from lab.console import BAD_INPUT, FAILED, MACHINE, fail, progress_bar
from lab.datapath.choice import DataPath
from lab.plan import Plan
from lab.state import Lab, MachineError, StateError
from lab.topology.changes import described
from lab.topology.load import TopologyError, load
from lab.topology.model import Topology

SETTLE_TIMEOUT: Final = 40.0


def read(file: Path, name: str | None, datapath: DataPath | None = None) -> tuple[Topology, Plan]:
    """Load and plan a topology, perhaps with another data path, or leave with its errors."""
    from lab.planner import plan  # noqa: PLC0415 - only some commands plan

    try:
        topology = load(file)
    except TopologyError as error:
        fail(BAD_INPUT, error)
    if datapath is not None:
        topology = topology.but(datapath=datapath)
    planned = plan(topology)
    return topology, planned.model_copy(update={"name": name or planned.name, "topology": str(file.resolve())})


def launch(topology: Topology, plan: Plan, lab: Lab, *, measure: bool, quiet: bool) -> None:
    """Start a lab and wait until its programs have been started, or leave with what went wrong."""
    try:
        reports = base.launch(plan, described(topology), lab, measure=measure)
    except (MachineError, StateError) as error:
        fail(MACHINE, error)
    try:
        first = next(reports)  # forked: from here on there may be threads
        with progress_bar(quiet=quiet) as show:
            report = first
            while report["event"] == "progress":
                show(report)
                report = next(reports)
        if report["event"] == "failed":
            fail(FAILED, f"{report['why']}\nlog: {report['log']}")
    except MachineError as error:
        fail(MACHINE, error)
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
def fresh(topology: Topology, plan: Plan, backend: str) -> Iterator[tuple[Lab, list[dict[str, Any]]]]:
    """A lab of its own for a while, and its nodes as its status has them, or leave with what went wrong."""
    lab = base.lab_of(backend, plan.name)
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


def none_left_out(nodes: list[dict[str, Any]]) -> None:
    """Leave with what the machine lacks if it cannot run the program of a node."""
    for node in nodes:
        if node["state"] == "left out":
            fail(MACHINE, f"{node['name']}: {node['reason']}")
