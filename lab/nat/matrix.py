"""RFC 6081 Figure 1: which pairs of NATs Teredo connects, and by which extension."""

from __future__ import annotations

import csv
from enum import StrEnum
from importlib import resources
from typing import Final

from lab.nat.kinds import KINDS
from lab.teredo.extensions import Extension


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


SYMMETRIC_WITHOUT_UPNP: Final = tuple(kind for kind, does in KINDS.items() if does.symmetric and not does.upnp)

FIGURE_1: Final = _read()
"""Caller's NAT kind to callee's NAT kind to cell: it is not symmetric."""

NAT_KINDS: Final = tuple(FIGURE_1)
"""The ids of all nine NAT kinds, in the order of the figure."""


SUBSETS: Final = {
    Cell.YES: frozenset[Extension](),
    Cell.SNS: frozenset({Extension.SYMMETRIC}),
    Cell.SNS_UPNP: frozenset({Extension.SYMMETRIC, Extension.UPNP}),
    Cell.SNS_PP: frozenset({Extension.SYMMETRIC, Extension.PORT_PRESERVING}),
    Cell.SNS_SS: frozenset({Extension.SYMMETRIC, Extension.PORT_PRESERVING, Extension.SEQUENTIAL}),
}
"""The extensions that each label of the figure names; the sequential one builds on the port-preserving one."""

_UPNP_OPEN = "a port that UPnP has opened is as good as a cone NAT's, since its mapping is endpoint-independent"

BEYOND: Final = {
    ("port_restricted", "upnp_port_symmetric"): "what answers a packet that came in through a port of UPnP's leaves"
    " through it",
    **{("upnp_port_restricted", kind): _UPNP_OPEN for kind in SYMMETRIC_WITHOUT_UPNP},
    **{(kind, "upnp_port_restricted"): _UPNP_OPEN for kind in SYMMETRIC_WITHOUT_UPNP},
}
"""Cells marked No that a client with all extensions connects all the same, always, and why."""

OPEN: Final = frozenset({("addr_restricted", "addr_symmetric"), ("addr_symmetric", "addr_restricted")})
"""Cells marked No where it depends on which of its addresses the NAT happens to take."""


def cell(source: str, destination: str) -> Cell:
    """The cell for a caller behind a NAT of kind `source` and a callee behind `destination`. Raises KeyError."""
    return FIGURE_1[source][destination]
