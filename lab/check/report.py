"""Results of checks for people and for machines: a matrix in the terminal, JUnit XML for CI. `html` has the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree as Xml

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

Result = dict[str, Any]


class Grid(NamedTuple):
    """Sources and destinations in order, and the results of each pair of them that was checked."""

    sources: list[str]
    destinations: list[str]
    cells: dict[tuple[str, str], list[Result]]


def grid(results: Iterable[Result]) -> Grid:
    """The results by pair."""
    cells: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        cells[result["source"], result["destination"]].append(result)
    return Grid(sorted({source for source, _ in cells}), sorted({destination for _, destination in cells}), cells)


def words(results: Sequence[Result]) -> tuple[str, ...]:
    """What there is to say of a pair in a cell, in lines: ``direct`` and ``8.9 ms``, for the first packet."""
    first = results[0]
    if first["observed"] == "reachable":
        return first["path"] or "reached", f"{first['first_packet_ms']:.1f} ms"
    return ("unreachable",) if first["expected"] == "reachable" else ("no,", "expected")


def matrix(results: list[Result]) -> RenderableType:
    """Who reaches whom: sources down, destinations across; path and time of the first packet in each cell."""
    sources, destinations, cells = grid(results)
    table = Table(title="who reaches whom (first packet, cold)", title_justify="left", row_styles=["", "dim"])
    table.add_column("from", style="bold", no_wrap=True)
    for destination in destinations:
        table.add_column(f"to {destination}", justify="right", no_wrap=True)
    for source in sources:
        table.add_row(source, *(_cell(cells.get((source, destination), [])) for destination in destinations))
    return Group(table, *_failures(results))


def _cell(results: list[Result]) -> Text:
    if not results:
        return Text("·", style="dim")
    good = all(result["ok"] for result in results)
    text = "\n".join(words(results))
    return Text(text if good else f"✗ {text}", style="green" if good else "bold red")


def _failures(results: list[Result]) -> list[Text]:
    lines = []
    for result in results:
        if not result["ok"]:
            pair = f"{result['source']} → {result['destination']} ({result['probe']})"
            reason = f": {result['reason']}" if result["reason"] else ""
            expected = f"expected {result['expected']} ({result['because']})"
            lines.append(Text(f"✗ {pair} {expected}, observed {result['observed']}{reason}", style="red"))
    return lines


def summary(results: list[Result]) -> str:
    """One line: how many results are as expected."""
    good = sum(result["ok"] for result in results)
    return f"{good} of {len(results)} results are as expected"


def junit(results: list[Result], name: str) -> str:
    """JUnit XML: a test case for each result."""
    failures = sum(not result["ok"] for result in results)
    suite = Xml.Element(
        "testsuite", name=name, tests=str(len(results)), failures=str(failures), errors="0", skipped="0"
    )
    for result in results:
        case = Xml.SubElement(
            suite,
            "testcase",
            classname=f"{name}.{result['source']}",
            name=f"{result['source']} to {result['destination']} by {result['probe']}",
            time=str((result["first_packet_ms"] or 0) / 1000),
        )
        if not result["ok"]:
            message = f"expected {result['expected']}, observed {result['observed']}"
            Xml.SubElement(case, "failure", message=message).text = result["reason"] or result["because"]
    return Xml.tostring(suite, encoding="unicode", xml_declaration=True)


def show(results: list[Result], console: Console) -> None:
    """Print matrix, failures and summary."""
    console.print(matrix(results))
    console.print(summary(results), style="bold green" if all(result["ok"] for result in results) else "bold red")
