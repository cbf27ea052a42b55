"""RFC 6081 Figure 1: which pairs of NATs Teredo connects, and by which extension."""

from __future__ import annotations

import csv
from enum import StrEnum
from importlib import resources
from typing import Final


class Cell(StrEnum):
    """What a client behind one NAT needs to reach one behind another. `YES`: nothing but RFC 4380."""

    YES = "Yes"
    SNS = "SNS"
    SNS_UPNP = "SNS+UPnP"
    SNS_PP = "SNS+PP"
    SNS_SS = "SNS+SS"
    NO = "No"


def _read() -> dict[str, dict[str, Cell]]:
    text = resources.files("lab.nat").joinpath("rfc6081-matrix.csv").read_text(encoding="utf-8")
    (_, *columns), *rows = csv.reader(text.splitlines())
    return {source: dict(zip(columns, map(Cell, cells), strict=True)) for source, *cells in rows}


FIGURE_1: Final = _read()
"""Caller's NAT kind to callee's NAT kind to cell: it is not symmetric."""

NAT_KINDS: Final = tuple(FIGURE_1)
"""The ids of all nine NAT kinds, in the order of the figure."""


def cell(source: str, destination: str) -> Cell:
    """The cell for a caller behind a NAT of kind `source` and a callee behind `destination`. Raises KeyError."""
    return FIGURE_1[source][destination]
