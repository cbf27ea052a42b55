"""`teredo-lab conformance`: what a Teredo implementation does, as seen from outside."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lab.backends import base
from lab.console import FAILED, Backend, Json, out, progress_bar
from lab.launch import fresh, none_left_out
from lab.plan import Plan
from lab.topology.model import Topology

app = typer.Typer()


class Program(StrEnum):
    OURS = "ours"
    MIREDO = "miredo"


@app.command()
def conformance(
    program: Annotated[Program, typer.Option(help="The implementation that is examined.")] = Program.OURS,
    backend: Backend = base.DEFAULT,
    as_json: Json = False,
) -> None:
    """Examine a Teredo implementation from outside: its server, its client and its relay, requirement by requirement.

    A lab comes up in which all three are this program. Every check sends packets to it, forged ones too, and judges by
    what comes back. Exit code 1 if a requirement is not met. The requirements are those of docs/requirements.md.

    Example: `teredo-lab conformance --program miredo`
    """
    topology, planned = _lab(program)
    results: list[dict[str, Any]] = []
    with fresh(topology, planned, backend) as (lab, nodes):
        none_left_out(nodes)
        with progress_bar(quiet=as_json) as show:
            for answer in lab.ask("conformance"):
                results.append(answer["result"])
                show({"what": "checks", "done": answer["done"], "total": answer["total"]})
    if as_json:
        print(json.dumps({"program": program, "results": results}, indent=2))
    else:
        _print(results, program)
    if not all(result["met"] for result in results):
        raise typer.Exit(FAILED)


def _lab(program: Program) -> tuple[Topology, Plan]:
    """The lab whose programs are examined."""
    from lab.conformance.run import TOPOLOGY  # noqa: PLC0415 - slow to import
    from lab.planner import plan  # noqa: PLC0415
    from lab.topology.load import parse  # noqa: PLC0415

    name = "teredo-lab" if program is Program.OURS else "miredo"
    topology = parse(TOPOLOGY.format(program=name).encode(), "conformance", f"conformance-{program}")
    return topology, plan(topology)


def _print(results: list[dict[str, Any]], program: Program) -> None:
    table = Table("", "requirements", "what is examined", "", box=SIMPLE_HEAD, pad_edge=False)
    part = None
    for result in results:
        if result["part"] != part:
            part = result["part"]
            table.add_row(Text(part, "bold"), "", "", "")
        met = Text("yes", "green") if result["met"] else Text("no", "red")
        title = result["title"] + (f"\n[dim]{result['why']}[/dim]" if result["why"] else "")
        table.add_row("", " ".join(result["requirements"]), title, met)
    out.print(table)
    out.print(f"{program}: {sum(result['met'] for result in results)} of {len(results)} met", highlight=False)
