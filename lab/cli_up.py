"""`teredo-lab up`: a lab from a topology."""

from __future__ import annotations

from typing import Annotated

import typer

from lab import state
from lab.backends import base
from lab.cli_check import Capture, Html, run_check
from lab.cli_lab import print_status
from lab.console import BAD_INPUT, DEFAULT_TOPOLOGY, FAILED, Backend, Json, Name, TopologyFile, err, fail
from lab.datapath.choice import VARIABLE, DataPath
from lab.launch import launch, read, settle
from lab.plan import Plan
from lab.state import Lab

app = typer.Typer()


@app.command()
def up(
    file: TopologyFile = DEFAULT_TOPOLOGY,
    name: Name = None,
    backend: Backend = base.DEFAULT,
    check: Annotated[bool, typer.Option("--check", help="Check reachability as soon as the lab is up.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure whether each NAT is what the topology says.")
    ] = True,
    recreate: Annotated[bool, typer.Option("--recreate", help="Take down a lab of this name first.")] = False,
    datapath: Annotated[
        DataPath | None,
        typer.Option(
            help="How our programs carry data, in place of what the topology says: `kernel` needs root.",
            envvar=VARIABLE,
            show_default=False,
        ),
    ] = None,
    capture: Capture = True,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Bring a lab up. A lab that is up already, from the same topology, is left as it is.

    Example: `teredo-lab up topologies/default.yaml --check`
    """
    if html is not None and not check:
        fail(BAD_INPUT, "--html is the report of a check: add --check")
    topology, plan = read(file, name, datapath)
    lab = base.lab_of(backend, plan.name)
    with state.starting():
        if recreate:
            lab.down()
        _only_here(lab)
        if not lab.runs():
            lab.down()  # what a crash may have left
            launch(topology, plan, lab, measure=measure, quiet=as_json)
        elif Plan.model_validate(lab.ask_once("plan")["plan"]) != plan:
            fail(
                BAD_INPUT,
                f"lab {lab.name!r} is up with another topology: `teredo-lab down -n {lab.name}`, or --recreate",
            )
        elif measure:
            for _ in lab.ask("nat"):  # it may have been tampered with since
                pass
    settled = settle(lab, quiet=as_json)
    status = lab.ask_once("status")
    if not (as_json and check):
        print_status(status, as_json=as_json)
    failed = [node for node in status["nodes"] if node["state"] == "failed"]
    for node in failed if as_json else ():
        err.print(f"{node['name']} has failed: {node['reason']}", style="red", highlight=False, soft_wrap=True)
    if not settled:
        err.print("some nodes have not settled; see `teredo-lab status`", style="yellow")
    if check:
        run_check(lab, [], as_json=as_json, junit=None, html=html, capture=capture)
    if failed:
        raise typer.Exit(FAILED)


def _only_here(lab: Lab) -> None:
    """Two labs of one name, one in each backend, could not be told apart."""
    other = base.find(lab.name)
    if type(other) is not type(lab) and other.runs():
        fail(BAD_INPUT, f"lab {lab.name!r} is up in the other backend: `teredo-lab down -n {lab.name}`, or --name")
