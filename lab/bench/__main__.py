"""`make bench`: every figure a median of several runs, beside its reference of the same run."""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from lab.bench import capturing, containers, datapath, labs, mininet, server, webpage
from lab.bench.report import compared, markdown, show
from lab.bench.section import Section
from lab.console import BAD_INPUT, FAILED, fail, writable, write
from lab.environment import machine

_ALL = (
    *labs.SECTIONS,
    *mininet.SECTIONS,
    *datapath.SECTIONS,
    *capturing.SECTIONS,
    *server.SECTIONS,
    *containers.SECTIONS,
    *webpage.SECTIONS,
)
_SECTIONS = {section.name: section for section in _ALL}


def main(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each section.")] = 5,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Only this section: {', '.join(_SECTIONS)}; may be repeated.", show_default=False),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--markdown", help="Write a page: docs/benchmarks.md.", callback=writable, show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Measure how fast labs come up, data go and servers are; medians, and ratios to references of the same run."""
    if unknown := set(only or ()) - _SECTIONS.keys():
        fail(BAD_INPUT, f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(_SECTIONS)}")
    wanted = [section for name, section in _SECTIONS.items() if not only or name in only]
    sections: dict[str, Any] = {}
    for section in wanted:
        sections[section.name] = _measured(section, runs, sections, quiet=as_json)
    report = {"environment": machine(), "runs": runs, "sections": sections}
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    write(page, lambda: markdown(report, _drawn(report, page)))


def _drawn(report: dict[str, Any], page: Path | None) -> dict[str, str]:
    """Draw what is compared, beside the page; the files' names by section. Without matplotlib there are no pictures."""
    try:
        from lab.plots import bars  # noqa: PLC0415 - only this needs matplotlib
    except ImportError:
        return {}
    assert page is not None
    drawn = {}
    for name, section in report["sections"].items():
        if groups := compared(section.get("medians", {})):
            drawn[name] = f"{page.stem}-{name}.svg"
            bars(section["title"], groups, page.with_name(drawn[name]))
    return drawn


def _measured(section: Section, runs: int, before: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """A section's title and figures, or why it is left out; or leave with what went wrong.

    `before` are the sections that have been measured.
    """
    if (why := section.lacking()) is not None:
        return {"title": section.title, "left out": why}
    with tempfile.TemporaryDirectory() as directory:
        rounds = track(range(runs), section.title, disable=quiet, console=Console(stderr=True))
        try:
            rows = [section.once(Path(directory)) for _ in rounds]
        except RuntimeError as error:
            fail(FAILED, f"{section.name}: {error}")
    for ratio in section.ratios:
        for row, other in zip(rows, before.get(ratio.section, {}).get("runs", ()), strict=False):
            row[ratio.name] = row[ratio.figure] / other[ratio.figure]
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    aims = {aim.figure: aim.bounds for aim in section.aims}
    return {"title": section.title, "medians": medians, "aims": aims, "runs": rows, "note": section.note}


if __name__ == "__main__":
    typer.run(main)
