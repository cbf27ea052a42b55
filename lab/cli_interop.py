"""`teredo-lab interop`: our Teredo and Miredo's, with each other."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lab.backends import base
from lab.console import BAD_INPUT, FAILED, Json, err, fail, known_backend, out, progress_bar, writable, write
from lab.launch import fresh, none_left_out

app = typer.Typer()

if TYPE_CHECKING:
    from lab.interop.grid import Cell
    from lab.interop.measure import Progress
    from lab.interop.verdict import Found, Grid

_LEFT: Final = ("client", "server", "relay")
_HEADS: Final = {
    "cone": "cone ",
    "addr_restricted": "addr.\nrestr.",
    "port_restricted": "port-\nrestr.",
    "port_symmetric": "sym-\nmetr.",
}
"""Narrow ones, for a terminal of 80 columns."""


@app.command()
def interop(
    backend: Annotated[
        list[str],
        typer.Option(
            help="`netns` or `docker`; give it twice for both, which must agree.", envvar="TEREDO_LAB_BACKEND"
        ),
    ] = [base.DEFAULT],  # noqa: B006 - what Typer wants for an option that may be repeated
    nat: Annotated[
        list[str] | None,
        typer.Option(help="Only behind this kind of NAT; may be repeated.", show_default=False),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write a page with the packets of what fails.", callback=writable, show_default=False),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Also write the same as Markdown.", callback=writable, show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Run each client with each server and each relay, ours or Miredo, behind each kind of NAT of RFC 4380.

    A lab comes up with a client and a NAT for each cell, so that all paths are cold; clients call a native host, and
    are called by one. A cell that does not work is explained by its packets, and by which part has to be ours for it to
    work. Exit code 1 if it is not Miredo's own failure, or if the backends differ.

    Example: `teredo-lab interop --backend netns --backend docker --html interop.html`
    """
    from lab.interop import report  # noqa: PLC0415 - slow to import
    from lab.interop.grid import NATS  # noqa: PLC0415
    from lab.interop.verdict import Grid  # noqa: PLC0415

    if unknown := set(nat or ()) - set(NATS):
        fail(BAD_INPUT, f"unknown kind of NAT {', '.join(sorted(unknown))}; the grid has {', '.join(NATS)}")
    backends = list(dict.fromkeys(map(known_backend, backend)))
    nats = [each for each in NATS if not nat or each in nat]
    found = {}
    with progress_bar(quiet=as_json) as show:
        for each in backends:

            def progress(what: str, done: int, total: int, name: str = each) -> None:
                show({"what": f"{name}: {what}", "done": done, "total": total})

            found[each] = _run(nats, each, progress)
    grid = Grid(found)
    about = _environment(backends)
    write(html, lambda: report.html_text(grid, about))
    write(markdown, lambda: report.markdown(grid, about))
    if as_json:
        print(json.dumps(report.facts(grid), indent=2))
    else:
        _print(grid)
    if not grid.all_good:
        raise typer.Exit(FAILED)


def _run(nats: list[str], backend: str, progress: Progress) -> dict[Cell, Found]:
    """All cells with one backend."""
    from lab.interop.grid import cells, topology  # noqa: PLC0415
    from lab.interop.measure import measured  # noqa: PLC0415
    from lab.planner import plan  # noqa: PLC0415

    described = topology(nats)
    planned = plan(described).model_copy(update={"name": f"interop-{backend}"})
    progress("bringing up", 0, len(planned.nodes))
    with fresh(described, planned, backend) as (lab, nodes):
        none_left_out(nodes)
        return measured(lab, cells(nats), planned, nodes, progress)


def _environment(backends: list[str]) -> dict[str, str]:
    from lab.environment import docker_engine, miredo  # noqa: PLC0415 - slow to import

    about = {"kernel": f"{platform.system()} {platform.release()}", "Miredo": miredo()}
    return about | ({"Docker engine": docker_engine()} if "docker" in backends else {})


def _print(grid: Grid) -> None:
    from lab.interop import report  # noqa: PLC0415
    from lab.interop.grid import COMBINATIONS, Cell  # noqa: PLC0415

    head = report.columns(grid)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in (*_LEFT, *(f"{_HEADS[nat]}→" if outward else "←" for nat, outward in head)):
        table.add_column(name, no_wrap=True)
    for makers in COMBINATIONS:
        row = []
        for nat, outward in head:
            cell = Cell(makers, nat, outward)
            text = Text(report.mark(grid, cell), "green")
            if not grid.works(cell):
                text.stylize("yellow" if grid.good(cell) else "bold red")
            row.append(text)
        table.add_row(*makers, *row)
    out.print(table)
    out.print(
        f"→ the client begins, ← the native host does; milliseconds to the first answer, {' / '.join(grid.backends)}",
        style="dim",
        highlight=False,
    )
    for cell, found in report.failing(grid):
        line = f"{report.title(cell)}: at fault: {report.blame(grid, cell)}. {found.diagnosis}"
        out.print(line, style="yellow" if grid.good(cell) else "red", highlight=False, soft_wrap=True)
    (out if grid.all_good else err).print(report.summary(grid), highlight=False)
