"""`make bench`: every figure a median of several runs, beside its reference of the same run."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lab.bench import containers, labs, mininet
from lab.bench.section import Section
from lab.console import BAD_INPUT, FAILED, fail

_SECTIONS = {section.name: section for section in (*labs.SECTIONS, *mininet.SECTIONS, *containers.SECTIONS)}


def main(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each section.")] = 5,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Only this section: {', '.join(_SECTIONS)}; may be repeated.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Measure how fast labs come up; medians in seconds, and ratios to references of the same run."""
    if unknown := set(only or ()) - _SECTIONS.keys():
        fail(BAD_INPUT, f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(_SECTIONS)}")
    wanted = [section for name, section in _SECTIONS.items() if not only or name in only]
    report: dict[str, Any] = {
        "environment": {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()},
        "runs": runs,
        "sections": {section.name: _measured(section, runs, quiet=as_json) for section in wanted},
    }
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)


def _measured(section: Section, runs: int, *, quiet: bool) -> dict[str, Any]:
    """A section's title and figures, or why it is left out; or leave with what went wrong."""
    if (why := section.lacking()) is not None:
        return {"title": section.title, "left out": why}
    with tempfile.TemporaryDirectory() as directory:
        rounds = track(range(runs), section.title, disable=quiet, console=Console(stderr=True))
        try:
            rows = [section.once(Path(directory)) for _ in rounds]
        except RuntimeError as error:
            fail(FAILED, f"{section.name}: {error}")
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    return {"title": section.title, "medians": medians, "runs": rows}


def _print(report: dict[str, Any]) -> None:
    console = Console()
    console.print(" ".join(f"{key} {value}" for key, value in report["environment"].items()), highlight=False)
    for section in report["sections"].values():
        if "left out" in section:
            console.print(f"{section['title']}: left out: {section['left out']}", style="yellow", highlight=False)
            continue
        table = Table(f"{section['title']}, {report['runs']} runs", "median", "least", "most")
        for key, median in section["medians"].items():
            values = [row[key] for row in section["runs"]]
            digits = 0 if key.startswith("count") else 3
            table.add_row(key, *(f"{value:.{digits}f}" for value in (median, min(values), max(values))))
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
