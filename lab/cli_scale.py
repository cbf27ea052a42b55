"""`teredo-lab scale`: a million clients in virtual time."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lab.console import BAD_INPUT, MACHINE, Json, err, fail, out, progress_bar

app = typer.Typer()

if TYPE_CHECKING:
    from lab.simulation.scale.scenarios import Size
    from lab.simulation.scale.shown import Found

_BEGIN, _END = "<!-- figures -->\n", "<!-- end of figures -->\n"


@app.command()
def scale(
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this: `start`, `nat-restart`, `server-outage`, `load-reduction`, `relay`; may be repeated.",
            show_default=False,
        ),
    ] = None,
    clients: Annotated[int, typer.Option(help="How many Teredo clients there are; an even number.", min=2)] = 1_000_000,
    minutes: Annotated[float, typer.Option(help="For how long, where clients are watched over time.")] = 30.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same numbers.", min=0)] = 0,
    machines: Annotated[
        int, typer.Option(help="Also run so many state machines, as dots beside the curves; 1000 take minutes.", min=0)
    ] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="Draw curves there: `scale-NAME.svg`.", show_default=False),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Renew the table of numbers in this file.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Let a million clients work in virtual time with one server and one relay: what these two have to bear.

    What one client does is the state machines'; numpy says when a million do it. Needs numpy, and matplotlib to draw.

    Example: `teredo-lab scale --only nat-restart --plot .`
    """
    for name in ("numpy", *(("matplotlib",) if plot is not None else ())):
        if util.find_spec(name) is None:
            fail(MACHINE, f"this needs {name}, which is not installed: `python -m pip install {name}`")
    from lab.simulation.scale.scenarios import LEAST_SECONDS, SCENARIOS, Size  # noqa: PLC0415 - slow to import

    if unknown := set(only or ()) - SCENARIOS.keys():
        fail(BAD_INPUT, f"unknown scenario {', '.join(sorted(unknown))}; known: {', '.join(SCENARIOS)}")
    if not minutes >= LEAST_SECONDS / 60:
        fail(BAD_INPUT, f"--minutes {minutes:g} is too short to see anything end: give {LEAST_SECONDS / 60:g} or more")
    for option, count in (("--clients", clients), ("--machines", machines)):
        if count % 2:
            fail(BAD_INPUT, f"{option} {count} is odd, and some talk in pairs: give {count + 1}")
    size = Size(clients, 60 * minutes, seed, machines)
    found: dict[str, Found] = {}
    with progress_bar(quiet=as_json) as show:

        def report(what: str, share: float) -> None:
            show({"what": what, "done": int(100 * share), "total": 100})

        for name, run in SCENARIOS.items():
            if not only or name in only:
                found[name] = run(size, report)
    _draw(found, plot)
    _renew(markdown, found, size)
    if as_json:
        print(json.dumps({"size": asdict(size), "scenarios": {name: asdict(each) for name, each in found.items()}}))
    else:
        _print(found)


def _draw(found: dict[str, Found], folder: Path | None) -> None:
    if folder is None:
        return
    from lab.plots import draw  # noqa: PLC0415 - slow to import

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, each in found.items():
            draw(each, folder / f"scale-{name}.svg")
    except OSError as error:
        fail(BAD_INPUT, f"cannot write to {folder}: {error.strerror}")
    err.print(f"drawn: {', '.join(str(folder / f'scale-{name}.svg') for name in found)}", highlight=False)


def _renew(path: Path | None, found: dict[str, Found], size: Size) -> None:
    """Put the numbers into a page that has a place for them."""
    if path is None:
        return
    rows = [f"{size.clients} clients, {size.seconds / 60:g} minutes, seed {size.seed}.\n", "| | | |", "|---|---:|---|"]
    for each in found.values():
        rows.append(f"| **{each.title}** | | |")
        rows += [f"| {figure.what} | {number(figure.value)} | {figure.unit} |" for figure in each.figures]
    try:
        head, begin, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
        _, end, tail = rest.partition(_END)
        if not (begin and end):
            fail(BAD_INPUT, f"{path} has no place for numbers: give it the lines {_BEGIN.strip()} and {_END.strip()}")
        path.write_text(head + begin + "\n" + "\n".join(rows) + "\n\n" + end + tail, encoding="utf-8")
    except OSError as error:
        fail(BAD_INPUT, f"cannot renew {path}: {error.strerror}")


def _print(found: dict[str, Found]) -> None:
    table = Table("", "", "", box=SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.columns[1].justify = "right"
    for each in found.values():
        table.add_row(Text(each.title, "bold"))
        for figure in each.figures:
            table.add_row(figure.what, number(figure.value), figure.unit)
    out.print(table)


def number(value: float) -> str:
    """Three digits that count, and none behind the point of large numbers."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
