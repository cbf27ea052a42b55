"""The commands for a lab that is up: what it is doing, its nodes from inside, and its end."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lab.backends import base
from lab.console import BAD_INPUT, Json, Name, err, fail, out, the_lab
from lab.state import Lab, node_facts

_STYLES = {"failed": "red", "off-line": "yellow", "left out": "yellow"}

app = typer.Typer()


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
        print_status(facts, as_json=as_json)
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


def print_status(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print a lab's status."""
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
