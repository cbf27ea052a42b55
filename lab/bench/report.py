"""What was measured, as tables: for the terminal, and as Markdown for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rich.console import Console
from rich.table import Table

_HEAD: Final = """\
# How fast it is

Made by `make bench ARGS='--markdown docs/benchmarks.md'`: measured, not edited. Each figure is the median of
{runs} runs, with the least and the most beside; times are in seconds where nothing else is said. References are of
the same run as what is compared with them. Ratios and aims are what to look at: absolute figures are this machine's.

Measured on: {environment}.
"""


def digits(value: float) -> str:
    """A figure with as many digits as are of use."""
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def verdict(aim: dict[str, float], value: float) -> str:
    """An aim in words, and whether it is met."""
    met = aim.get("at_least", value) <= value <= aim.get("at_most", value)
    bound = f"≥ {digits(aim['at_least'])}" if "at_least" in aim else f"≤ {digits(aim['at_most'])}"
    return f"{bound}: {'met' if met else 'missed'}"


def _rows(section: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, median in section["medians"].items():
        values = [row[key] for row in section["runs"]]
        aim = section["aims"].get(key)
        yield key, *map(digits, (median, min(values), max(values))), "" if aim is None else verdict(aim, median)


def show(report: dict[str, Any]) -> None:
    """Print tables."""
    console = Console()
    console.print(_environment(report), highlight=False)
    for section in report["sections"].values():
        if "left out" in section:
            console.print(f"{section['title']}: left out: {section['left out']}", style="yellow", highlight=False)
            continue
        table = Table(f"{section['title']}, {report['runs']} runs", "median", "least", "most", "aim")
        for row in _rows(section):
            table.add_row(*row, style="red" if row[-1].endswith("missed") else None)
        console.print(table)
        if section["note"]:
            console.print(section["note"], style="dim", highlight=False, markup=False)


def compared(medians: dict[str, float]) -> dict[str, dict[str, float]]:
    """Figures that are measured for several variants, whose names are `figure: variant`, by figure; no ratios."""
    groups: dict[str, dict[str, float]] = {}
    for key, value in medians.items():
        figure, found, variant = key.rpartition(": ")
        if found and not figure.startswith("ratio"):
            groups.setdefault(figure, {})[variant] = value
    return {figure: group for figure, group in groups.items() if len(group) > 1}


def markdown(report: dict[str, Any], plots: dict[str, str]) -> str:
    """The same as a page; `plots` are the file names of sections' pictures."""
    lines = [_HEAD.format(runs=report["runs"], environment=_environment(report))]
    for name, section in report["sections"].items():
        lines.append(f"## {section['title'][0].upper()}{section['title'][1:]}\n")
        if "left out" in section:
            lines.append(f"Left out: {section['left out']}.\n")
            continue
        lines.append(f"`make bench ARGS='--only {name}'`\n")
        if name in plots:
            lines.append(f"![{section['title']}]({plots[name]})\n")
        lines += ["| | median | least | most | aim |", "|---|---:|---:|---:|---|"]
        lines += [f"| {' | '.join(row)} |" for row in _rows(section)]
        lines += ["", f"{section['note']}\n"] if section["note"] else [""]
    return "\n".join(lines)


def _environment(report: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in report["environment"].items())
