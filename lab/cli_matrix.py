"""`teredo-lab matrix`: RFC 6081 Figure 1 by experiment."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lab.backends import base
from lab.console import BAD_INPUT, FAILED, Backend, Json, err, fail, out, progress_bar, writable, write
from lab.launch import fresh, read

app = typer.Typer()

if TYPE_CHECKING:
    from lab.matrix.experiment import Found, Progress
    from lab.matrix.verdict import Judgement
    from lab.story import Line
    from lab.topology.model import Topology
    from lab.topology.pairs import Pair

MATRIX_TOPOLOGY = Path("topologies/rfc6081.yaml")
_COLOURS = {"Yes": "green", "SNS": "cyan", "SNS+UPnP": "magenta", "SNS+PP": "blue", "SNS+SS": "yellow", "No": "dim"}


@app.command()
def matrix(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="A topology with a matrix.")] = MATRIX_TOPOLOGY,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these extensions: `none`, `SNS`, `SNS+UPnP`, `SNS+PP`, `SNS+SS` or `all`; may be repeated.",
            show_default=False,
        ),
    ] = None,
    simulated: Annotated[bool, typer.Option("--simulated", help="In virtual time, with models of the NATs.")] = False,
    packets: Annotated[
        list[str] | None,
        typer.Option(
            help="Print the packets of this cell, `ROW-COLUMN`, with the last set of extensions; may be repeated.",
            show_default=False,
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Also write CSV to this file.", callback=writable, show_default=False)
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write a page with every packet to this file.", callback=writable, show_default=False),
    ] = None,
    backend: Backend = base.DEFAULT,
    as_json: Json = False,
) -> None:
    """Find out by experiment which NATs Teredo connects, and by which extension, and compare with RFC 6081 Figure 1.

    For each set of extensions a lab comes up in which every caller calls its own callee, all at once; the first set
    that connects a cell gives its label. Exit code 1 if a label is not the figure's. A cell may do better than a `No`.

    Example: `teredo-lab matrix --html matrix.html`
    """
    from lab.matrix import report  # noqa: PLC0415 - slow to import
    from lab.matrix.experiment import simulated as simulate  # noqa: PLC0415
    from lab.matrix.verdict import RUNS, Judgement  # noqa: PLC0415
    from lab.topology.pairs import pairs  # noqa: PLC0415

    if unknown := set(only or ()) - RUNS.keys():
        fail(BAD_INPUT, f"unknown set of extensions {', '.join(sorted(unknown))}; known: {', '.join(RUNS)}")
    topology, _ = read(file, None)
    kinds = _kinds(topology, file)
    cells = {f"{pair.row}-{pair.column}": pair for pair in pairs(topology)}
    if unknown := set(packets or ()) - cells.keys():
        fail(BAD_INPUT, f"unknown cell {', '.join(sorted(unknown))}; cells are ROW-COLUMN of {', '.join(kinds)}")
    if packets and simulated:
        fail(BAD_INPUT, "--packets are those of the kernel: leave out --simulated")
    found: dict[str, Found] = {}
    wanted = [name for name in RUNS if not only or name in only]
    record = {wanted[-1]} if packets or html is not None else set()
    with progress_bar(quiet=as_json) as show:
        for name in wanted:

            def progress(what: str, done: int, total: int, name: str = name) -> None:
                show({"what": f"{name}: {what}", "done": done, "total": total})

            if simulated:
                found[name] = simulate(topology, RUNS[name], progress)
            else:
                found[name] = _run(topology, name, file, backend, progress, record=name in record)
    judged = {
        pair: Judgement(kinds[pair.row], kinds[pair.column], {name: each.tries[pair] for name, each in found.items()})
        for pair in pairs(topology)
    }
    stories = found[wanted[-1]].stories
    write(csv, lambda: report.csv_text(judged))
    write(html, lambda: report.html_text(judged, stories))
    complete = found.keys() == RUNS.keys()
    if as_json:
        print(json.dumps(_facts(judged, complete=complete), indent=2))
    else:
        _print(judged, list(topology.matrix), complete=complete)
        for name in packets or ():
            _print_packets(judged[cells[name]], stories.get(cells[name], []))
    if complete and not all(each.agrees for each in judged.values()):
        raise typer.Exit(FAILED)


def _kinds(topology: Topology, file: Path) -> dict[str, str]:
    """The kind of each NAT of the matrix, or leave with what is wrong."""
    from lab.nat.matrix import FIGURE_1  # noqa: PLC0415

    if not topology.matrix:
        fail(BAD_INPUT, f"{file}: this topology has no matrix; add matrix: with names of NATs and their kinds")
    kinds = {name: nat.name for name, nat in topology.matrix.items()}
    for name, kind in kinds.items():
        if kind not in FIGURE_1:
            known = ", ".join(FIGURE_1)
            fail(BAD_INPUT, f"{file}: {name} is {kind}, which the figure does not have; take one of {known}")
    return kinds


def _run(topology: Topology, name: str, file: Path, backend: str, progress: Progress, *, record: bool) -> Found:
    """All pairs with one set of extensions, in a lab."""
    from lab.matrix.experiment import measured  # noqa: PLC0415
    from lab.matrix.verdict import RUNS  # noqa: PLC0415
    from lab.planner import plan  # noqa: PLC0415
    from lab.topology.pairs import with_extensions  # noqa: PLC0415

    changed = with_extensions(topology, RUNS[name])
    lab_name = f"{topology.name[:20]}-{name.lower().replace('+', '-')}"
    planned = plan(changed).model_copy(update={"name": lab_name, "topology": str(file.resolve())})
    with fresh(changed, planned, backend) as (lab, nodes):
        broken = [node for node in nodes if node["state"] in ("failed", "left out")]
        if broken:
            fail(FAILED, "\n".join(f"{node['name']} is {node['state']}: {node['reason']}" for node in broken))
        return measured(lab, changed, planned, progress, record=record)


def _facts(judged: dict[Pair, Judgement], *, complete: bool) -> dict[str, Any]:
    return {
        "agree": sum(each.agrees for each in judged.values()) if complete else None,
        "cells": [
            {
                "source": each.source,
                "destination": each.destination,
                "figure": each.figure,
                "derived": each.derived if complete else None,
                "agrees": each.agrees if complete else None,
                "beyond": each.beyond,
                "tries": {name: asdict(found) for name, found in each.tries.items()},
            }
            for each in judged.values()
        ],
    }


def _print(judged: dict[Pair, Judgement], names: list[str], *, complete: bool) -> None:
    table = Table("caller \\ callee", *names, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    cells = {(pair.row, pair.column): each for pair, each in judged.items()}
    for row in names:
        table.add_row(row, *(_cell(cells[row, column], complete=complete) for column in names))
    out.print(table)
    last = list(next(iter(judged.values())).tries)[-1]
    out.print(f"below each label: milliseconds to the first answer with {last}; + is beyond RFC 6081", style="dim")
    if not complete:
        return
    for each in judged.values():
        if each.beyond:
            text = f"+ {each.source} → {each.destination}: {each.beyond}"
            out.print(text, style="dim", highlight=False, soft_wrap=True)
    wrong = [each for each in judged.values() if not each.agrees]
    for each in wrong:
        text = f"{each.source} → {each.destination} is {each.derived}, and {each.figure} in RFC 6081 Figure 1"
        err.print(text, style="red", highlight=False, soft_wrap=True)
    out.print(f"{len(judged) - len(wrong)} of {len(judged)} labels agree with RFC 6081 Figure 1", highlight=False)


def _print_packets(each: Judgement, lines: list[Line]) -> None:
    out.print(f"{each.source} → {each.destination}", style="bold", highlight=False)
    wide = max((len(end) for line in lines for end in (line.source, line.to)), default=0)
    for line in lines:
        ends = f"{line.source:<{wide}} → {line.to:<{wide}}"
        out.print(f"{line.at:9.1f} ms  {ends}  {line.what}", highlight=False, soft_wrap=True, markup=False)


def _cell(each: Judgement, *, complete: bool) -> Text:
    label = each.derived if complete and not each.agrees else each.figure
    style = "bold red" if complete and not each.agrees else _COLOURS[label]
    time = "·" if each.last.first_packet is None else f"{each.last.first_packet:.0f}"
    return Text(f"{label}{'+' if each.beyond else ''}\n{time}", style)
