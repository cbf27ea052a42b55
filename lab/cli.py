"""The command `teredo-lab`."""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lab import state
from lab.backends import base
from lab.cli_capture import capture as capture_command
from lab.cli_check import Capture, Html, run_check
from lab.cli_check import check as check_command
from lab.cli_client import app as client_app
from lab.cli_conformance import conformance
from lab.cli_decode import decode
from lab.cli_doctor import doctor
from lab.cli_interop import interop
from lab.cli_link import link
from lab.cli_matrix import matrix
from lab.cli_nat import app as nat_app
from lab.cli_scale import scale
from lab.cli_story import story
from lab.cli_teredo import app as teredo_app
from lab.cli_web import web
from lab.cli_workshop import app as workshop_app
from lab.console import BAD_INPUT, FAILED, MACHINE, Backend, Json, Name, err, fail, out, the_lab
from lab.datapath.choice import VARIABLE, DataPath
from lab.launch import launch, read, settle
from lab.plan import Plan
from lab.state import Lab, MachineError, RefusedError, StateError, node_facts

app = typer.Typer(
    name="teredo-lab",
    help="A laboratory in which Teredo really runs: clients behind real NATs, servers, relays, native IPv6 hosts.",
    epilog="Exit codes: 0 all as expected, 1 an expectation failed, 2 bad input, 3 the machine lacks something.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)
app.add_typer(teredo_app, name="teredo")
app.add_typer(nat_app, name="nat")
app.add_typer(client_app, name="client")
app.add_typer(workshop_app, name="workshop")
app.command()(link)
app.command()(matrix)
app.command()(conformance)
app.command("check")(check_command)
app.command("capture")(capture_command)
app.command()(decode)
app.command()(story)
app.command()(doctor)
app.command()(interop)
app.command()(scale)
app.command()(web)

TopologyFile = Annotated[Path, typer.Argument(metavar="[FILE]", help="The topology to read.", show_default=True)]
_STYLES = {"failed": "red", "off-line": "yellow", "left out": "yellow"}
DEFAULT_TOPOLOGY = Path("topologies/default.yaml")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"teredo-lab {metadata.version('teredo-lab')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the command itself."""


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
        _print_status(status, as_json=as_json)
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


@app.command()
def down(
    name: Name = None,
    all_: Annotated[bool, typer.Option("--all", help="Take all of your labs down.")] = False,
) -> None:
    """Take a lab down, in whatever state it is. Nothing of it is left."""
    gone = []
    for lab in _labs(name, all_=all_):
        if lab.down():
            gone.append(lab.name)
    err.print(f"down: {', '.join(gone)}" if gone else "nothing was up", highlight=False)


def _labs(name: str | None, *, all_: bool) -> list[Lab]:
    """What is to go: everything, all of one name, or the only lab."""
    known = base.everything()
    if all_:
        return known
    if name is not None:
        return [lab for lab in known if lab.name == name] or [Lab(name)]
    if len(known) > 1:
        fail(BAD_INPUT, f"several labs are up, say which with --name, or --all: {', '.join(lab.name for lab in known)}")
    return known


@app.command()
def status(
    node: Annotated[str | None, typer.Argument(help="Show one node in full.", show_default=False)] = None,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Show a running lab, or one node with the state of its Teredo program."""
    lab = the_lab(name)
    facts = lab.ask_once("status")
    if node is None:
        _print_status(facts, as_json=as_json)
        return
    from lab.cli_teredo import print_state  # noqa: PLC0415

    row = node_facts(facts, node)
    row["teredo"] = lab.ask_once("program", node=node, request="state")["answer"]
    if as_json:
        print(json.dumps(row, indent=2))
        return
    for key, value in row.items():
        if key not in ("teredo", "netns_fd", "container") and value not in (None, []):
            out.print(f"{key + ':':<16} {', '.join(value) if isinstance(value, list) else value}", highlight=False)
    if row["teredo"] is not None:
        out.print()
        print_state(row["teredo"], out)


def _print_status(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table("node", "role", "state", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("addresses", no_wrap=True)
    for node in facts["nodes"]:
        if node["role"] != "internet":
            role = node["nat_kind"] if node["role"] == "nat" else node["role"]
            role += " (miredo)" if node["program"] == "miredo" else ""
            state_ = Text(node["state"], style=_STYLES.get(node["state"], ""))
            addresses = [node["teredo_address"]] if node["teredo_address"] else [*node["ipv4"], *node["ipv6"]]
            table.add_row(node["name"], role, state_, "\n".join(addresses))
    out.print(f"lab {facts['name']} ({facts['backend']})", style="bold", highlight=False)
    out.print(table)
    for node in facts["nodes"]:
        if node["reason"]:
            style = _STYLES.get(node["state"], "")
            out.print(
                f"{node['name']} is {node['state']}: {node['reason']}", style=style, highlight=False, soft_wrap=True
            )


@app.command("exec", context_settings={"ignore_unknown_options": True})
def exec_(
    node: Annotated[str, typer.Argument(help="The node to run it in.")],
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND…", help="The command and its arguments.")],
    name: Name = None,
) -> None:
    """Run a command in a node. Nodes know each other by name.

    Example: `teredo-lab exec alice -- ping -6 -c 3 web`
    """
    _execute(name, node, command)


@app.command()
def shell(node: Annotated[str, typer.Argument(help="The node to enter.")], name: Name = None) -> None:
    """Open a shell in a node."""
    _execute(name, node, [os.environ.get("SHELL", "/bin/sh")])


def _execute(name: str | None, node: str, command: list[str]) -> NoReturn:
    lab = the_lab(name)
    sys.stdout.flush()
    raise typer.Exit(lab.execute(node, command))


@app.command()
def logs(
    node: Annotated[str | None, typer.Argument(help="A node; without one, the supervisor.", show_default=False)] = None,
    name: Name = None,
) -> None:
    """Print the log of a node's programs, or of the lab's supervisor."""
    print(the_lab(name).log_text(node), end="")


@app.command("plan")
def plan_(file: TopologyFile = DEFAULT_TOPOLOGY, name: Name = None) -> None:
    """Print the plan of a topology as JSON: every address, route, firewall line and program. Makes nothing."""
    print(read(file, name)[1].model_dump_json(indent=2))


@app.command()
def compose(
    file: TopologyFile = DEFAULT_TOPOLOGY,
    name: Name = None,
    subnet: Annotated[
        str, typer.Option(help="An IPv4 network that neither the machine nor the topology has.")
    ] = "172.30.77.0/24",
) -> None:
    """Print a topology as a Compose file, with which Docker alone runs and checks the lab.

    Example: `teredo-lab compose topologies/default.yaml > compose.yaml`
    """
    from lab.backends.compose import compose_text  # noqa: PLC0415 - slow to import
    from lab.backends.containers import room  # noqa: PLC0415
    from lab.topology.changes import described  # noqa: PLC0415

    try:
        network = ipaddress.IPv4Network(subnet)
    except ValueError as error:
        fail(BAD_INPUT, f"--subnet {subnet}: {error}")
    topology, planned = read(file, name)
    planned = planned.model_copy(update={"topology": str(file)})  # whose place differs from machine to machine
    if network.prefixlen > room(planned):
        fail(BAD_INPUT, f"--subnet {subnet} is too small for this lab: it needs a /{room(planned)}")
    print(compose_text(planned, described(topology), network), end="")


@app.command()
def schema(
    check: Annotated[bool, typer.Option("--check", help="Compare with the copy in the package instead.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Renew the copy in the package.")] = False,
) -> None:
    """Print the JSON Schema of topology files, for editors."""
    from lab.topology.schema import SCHEMA_FILE, schema_text  # noqa: PLC0415

    text = schema_text()
    if write:
        SCHEMA_FILE.write_text(text)
    elif check:
        if SCHEMA_FILE.read_text() != text:
            fail(FAILED, f"{SCHEMA_FILE} is out of date: run `teredo-lab schema --write`")
    else:
        print(text, end="")


def main() -> None:
    """Entry point: problems of the lab's state become one line and exit code 2; 3 if the lab could not do it."""
    try:
        app()
    except (MachineError, StateError) as error:
        err.print(f"teredo-lab: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(BAD_INPUT if isinstance(error, StateError) and not isinstance(error, RefusedError) else MACHINE)
    except BrokenPipeError:
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
