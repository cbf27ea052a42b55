"""The grid as JSON, as one HTML page that needs nothing else, and as Markdown for docs/interop.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from lab.interop.grid import COMBINATIONS, Cell, Makers
from lab.interop.verdict import Found, Grid, promised
from lab.page import packets_table, page

_SHOWN: Final = 12
"""Packets of a cell that does not work; what follows repeats them."""

_STYLE: Final = """
.grid td { border: 2px solid var(--paper); min-width: 4rem } .grid a { color: inherit; display: block }
.works { background: #cdeccf; color: #1c2430 } .miredo { background: #f8ecc4; color: #1c2430 }
.wrong { background: #f3b8b8; color: #1c2430 } .beyond { font-style: italic }
"""


_HEAD: Final = """# Ours and Miredo's, with each other

`teredo-lab interop` runs each client with each server and each relay, ours or Debian's Miredo, behind each of the
four kinds of NAT of RFC 4380, in both directions. Each cell has a client and a NAT of its own, so every path is cold:
→ means that the client begins to talk to a native IPv6 host, ← that the host does. A cell works if ICMPv6, UDP, and a
megabyte by TCP pass. `make interop` does that with both backends and writes this page.

Whose fault a cell is that does not work is found out by replacing: the fewest parts of Miredo that have to be ours
for the cell to work. Why it does not is read from the packets that crossed the lab's Internet.

RFC 4380 promises nothing behind a symmetric NAT: section 5.2.1 has the client notice it and do without an address.
Our client connects there by RFC 6081, and our relay as well. Miredo's client does not notice, and takes an address at
which most others cannot reach it. That it talks to Miredo's own relay all the same is no accident: each bubble of
that relay comes from another link-local IPv6 address, and the client's answer goes there. An answer to the right one
proves, as the nonce of RFC 6081 does, that it is from the client that was asked, wherever its NAT lets it out.

"""


def mark(grid: Grid, cell: Cell) -> str:
    """``46`` or ``46/120``: milliseconds with each backend; ``no`` where a cell does not work."""
    return "/".join(_time(grid.found[backend][cell]) for backend in grid.backends)


def _time(found: Found) -> str:
    return f"{found.first_packet:.0f}" if found.works and found.first_packet is not None else "no"


def blame(grid: Grid, cell: Cell) -> str | None:
    """Whose fault it is that a cell does not work; None if it works."""
    if grid.works(cell):
        return None
    if grid.differs(cell):
        return "the backends differ"
    parts = grid.miredos(cell)
    return f"Miredo's {' and '.join(parts)}" if parts else "ours"


def columns(grid: Grid) -> list[tuple[str, bool]]:
    """NATs and directions, as the columns of a table."""
    return list(dict.fromkeys((cell.nat, cell.outward) for cell in grid.cells))


def title(cell: Cell) -> str:
    """``Miredo's client, our server, our relay, behind port_symmetric, inward``"""
    whose = {"ours": "our", "miredo": "Miredo's"}
    parts = ", ".join(f"{whose[maker]} {part}" for part, maker in zip(Makers._fields, cell.makers, strict=True))
    return f"{parts}, behind {cell.nat}, {'outward' if cell.outward else 'inward'}"


def facts(grid: Grid) -> dict[str, Any]:
    """The grid as JSON has it."""
    return {
        "ok": grid.all_good,
        "cells": [
            {
                **cell.makers._asdict(),
                "nat": cell.nat,
                "direction": "outward" if cell.outward else "inward",
                "promised": promised(cell),
                "works": grid.works(cell),
                "fault": blame(grid, cell),
                "backends": {backend: _found(found[cell]) for backend, found in grid.found.items()},
            }
            for cell in grid.cells
        ],
    }


def _found(found: Found) -> dict[str, Any]:
    return {
        "works": found.works,
        "probes": {probe: why or "reachable" for probe, why in found.probes.items()},
        "first_packet_ms": found.first_packet,
        "diagnosis": found.diagnosis,
        "packets": [[line.at, line.source, line.to, line.what] for line in found.packets],
    }


def summary(grid: Grid) -> str:
    """One line of how many cells work, and how many of the others are Miredo's failures."""
    working = sum(grid.works(cell) for cell in grid.cells)
    miredo = sum(bool(grid.miredos(cell)) for cell in grid.cells)
    text = f"{working} of {len(grid.cells)} cells work; Miredo's own failures: {miredo}"
    if len(grid.backends) > 1:
        same = sum(not grid.differs(cell) for cell in grid.cells)
        text += f"; the backends agree about {same} of {len(grid.cells)}"
    return text


def failing(grid: Grid) -> Iterator[tuple[Cell, Found]]:
    """The cells that do not work, each as the first backend has found it in which it does not."""
    for cell in grid.cells:
        for found in grid.found.values():
            if not found[cell].works:
                yield cell, found[cell]
                break


def markdown(grid: Grid, environment: Mapping[str, str]) -> str:
    """docs/interop.md."""
    head = columns(grid)
    names = " | ".join(f"{nat} {'→' if outward else '←'}" for nat, outward in head)
    lines = [
        _HEAD.rstrip(),
        "",
        *(f"- {what}: {value}" for what, value in environment.items()),
        "",
        f"{summary(grid)}. Numbers are milliseconds to the first answer on a cold path,"
        f" with {' / '.join(grid.backends)}.",
        "",
        f"| client | server | relay | {names} |",
        f"|---|---|---|{'---|' * len(head)}",
    ]
    for makers in COMBINATIONS:
        row = []
        for nat, outward in head:
            fault = blame(grid, cell := Cell(makers, nat, outward))
            row.append(f"no: {fault}" if fault else mark(grid, cell))
        lines.append(f"| {' | '.join((*makers, *row))} |")
    lines += ["", "## What does not work, and why"]
    for cell, found in failing(grid):
        lines += ["", f"### {title(cell)}", "", f"At fault: {blame(grid, cell)}. {found.diagnosis}", ""]
        lines += [f"    {each.at:8.1f} ms  {each.source} → {each.to}  {each.what}" for each in found.packets[:_SHOWN]]
    return "\n".join(lines) + "\n"


def html_text(grid: Grid, environment: Mapping[str, str]) -> str:
    """A page: the grid, and of each cell that does not work why, with its packets."""
    head = columns(grid)
    names = "".join(f"<th>{escape(nat)} {'→' if outward else '←'}</th>" for nat, outward in head)
    rows = "".join(
        f"<tr>{''.join(f'<th>{maker}</th>' for maker in makers)}"
        f"{''.join(_cell(grid, Cell(makers, nat, outward)) for nat, outward in head)}</tr>"
        for makers in COMBINATIONS
    )
    about = "".join(f"<li>{escape(what)}: {escape(value)}</li>" for what, value in environment.items())
    sections = "".join(_section(grid, cell, found) for cell, found in failing(grid))
    return page(
        "Teredo, ours and Miredo's, with each other",
        _STYLE,
        f"<p>{escape(summary(grid))}. Each cell is a client behind a NAT of its own that begins to talk to a native"
        " host (→), or is called by it (←). Numbers are milliseconds to the first answer on a cold path, with"
        f" {escape(' / '.join(grid.backends))}; choose one that says no to see why. Of cells in italics RFC 4380"
        f" promises nothing.</p><ul>{about}</ul><table class='grid'>"
        f"<tr><th>client</th><th>server</th><th>relay</th>{names}</tr>{rows}</table>{sections}",
    )


def _cell(grid: Grid, cell: Cell) -> str:
    kind = "works" if grid.works(cell) else "miredo" if grid.good(cell) else "wrong"
    text = escape(mark(grid, cell))
    if kind != "works":
        text = f"<a href='#{cell.client}'>{text}<br><small>{escape(str(blame(grid, cell)))}</small></a>"
    return f"<td class='{kind}{'' if promised(cell) else ' beyond'}'>{text}</td>"


def _section(grid: Grid, cell: Cell, found: Found) -> str:
    return (
        f"<section id='{cell.client}'><h2>{escape(title(cell))}</h2><p>At fault: {escape(str(blame(grid, cell)))}."
        f" {escape(found.diagnosis or '')}</p>{packets_table(found.packets)}</section>"
    )
