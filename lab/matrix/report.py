"""The matrix as CSV, and as one HTML page that needs nothing else."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from lab.matrix.verdict import Judgement
from lab.page import packets_table, page
from lab.story import Line
from lab.topology.pairs import Pair

_COLUMNS: Final = ("source", "destination", "figure", "derived", "agrees", "beyond", "extensions", "first_packet_ms")

_STYLE: Final = """
.matrix td { border: 2px solid var(--paper); min-width: 5.2rem; color: #1c2430 }
.matrix a { color: inherit; text-decoration: none; display: block } .matrix small { display: block; opacity: .75 }
.Yes { background: #cdeccf } .SNS { background: #cbe7f5 } .SNS-UPnP { background: #ecd5f3 }
.SNS-PP { background: #d3dcf7 } .SNS-SS { background: #f8ecc4 } .matrix .No { background: #e9ebee; color: #5d6673 }
.wrong { outline: 3px solid #c62828 }
"""


def csv_text(judged: Mapping[Pair, Judgement]) -> str:
    """One line a cell: its labels, the sets of extensions that connect it, and the time of the last one's answer."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for each in judged.values():
        reached = [name for name, found in each.tries.items() if found.reached]
        writer.writerow(
            (
                *(each.source, each.destination, each.figure, each.derived, "yes" if each.agrees else "no"),
                *(
                    each.beyond or "",
                    " ".join(reached),
                    "" if each.last.first_packet is None else each.last.first_packet,
                ),
            )
        )
    return stream.getvalue()


def html_text(judged: Mapping[Pair, Judgement], stories: Mapping[Pair, Sequence[Line]]) -> str:
    """A page: the matrix, and for each cell what was found with each set of extensions, and the packets of the last."""
    names = list(dict.fromkeys(pair.row for pair in judged))
    kinds = {pair.row: each.source for pair, each in judged.items()}
    by_place = {(pair.row, pair.column): (pair, each) for pair, each in judged.items()}
    head = "".join(f"<th title='{escape(kinds[name])}'>{escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{escape(kinds[row])}</th>{''.join(_cell(*by_place[row, column]) for column in names)}</tr>"
        for row in names
    )
    agreeing = sum(each.agrees for each in judged.values())
    sections = "".join(_section(pair, each, stories.get(pair, ())) for pair, each in judged.items())
    return page(
        "RFC 6081 Figure 1 by experiment",
        _STYLE,
        "<p>Rows are the NAT of the client that calls, columns that of the one"
        f" that is called. {agreeing} of {len(judged)} labels agree with the figure; + means that the cell connects"
        " though the figure promises nothing. Choose a cell to see its packets.</p>"
        f"<table class='matrix'><tr><th>caller \\ callee</th>{head}</tr>{rows}</table>{sections}",
    )


def _cell(pair: Pair, each: Judgement) -> str:
    time = "no answer" if each.last.first_packet is None else f"{each.last.first_packet:.0f} ms"
    classes = str(each.figure).replace("+", "-") + ("" if each.agrees else " wrong")
    label = f"{each.figure}{'+' if each.beyond else ''}" if each.agrees else f"{each.derived}, not {each.figure}"
    return f"<td class='{classes}'><a href='#{pair.caller[:-2]}'>{escape(label)}<small>{time}</small></a></td>"


def _section(pair: Pair, each: Judgement, lines: Sequence[Line]) -> str:
    found = "; ".join(
        f"{name}: {f'{one.first_packet:.0f} ms' if one.first_packet is not None else one.why}"
        for name, one in each.tries.items()
    )
    beyond = f"<p>Beyond the RFC: {escape(each.beyond)}.</p>" if each.beyond else ""
    return (
        f"<section id='{pair.caller[:-2]}'><h2>{escape(each.source)} → {escape(each.destination)}: {each.figure}</h2>"
        f"<p>{escape(found)}</p>{beyond}{packets_table(lines)}</section>"
    )
