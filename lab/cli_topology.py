"""The commands for topologies that make nothing: their plan, their Compose file, their schema."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import typer

from lab.console import BAD_INPUT, DEFAULT_TOPOLOGY, FAILED, Name, TopologyFile, fail
from lab.launch import read

app = typer.Typer()


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
