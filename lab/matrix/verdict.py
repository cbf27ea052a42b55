"""From which extensions connect a cell of RFC 6081 Figure 1 to its label, beside the label that the figure has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lab.nat.matrix import BEYOND, OPEN, SUBSETS, Cell, cell
from lab.teredo.extensions import ALL, Extension

EVERYTHING: Final = "all"

RUNS: Final[dict[str, frozenset[Extension]]] = {
    **{"none" if label is Cell.YES else str(label): extensions for label, extensions in SUBSETS.items()},
    EVERYTHING: ALL,
}
"""The sets of extensions that the matrix is run with, by name, in the order in which labels are derived."""


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt of a caller to reach its callee; `first_packet` is in milliseconds, `why` says why it failed."""

    reached: bool
    first_packet: float | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A cell: its NAT kinds, what the figure says, and what was found with each set of extensions."""

    source: str
    destination: str
    tries: Mapping[str, Try]

    @property
    def figure(self) -> Cell:
        """The figure's label."""
        return cell(self.source, self.destination)

    @property
    def last(self) -> Try:
        """What was found with the last set: all extensions, unless others were asked for."""
        return list(self.tries.values())[-1]

    @property
    def derived(self) -> Cell:
        """The label of the first set that connects; `No` if only all extensions together do, or not even they."""
        for name, found in self.tries.items():
            if found.reached and name != EVERYTHING:
                return Cell.YES if name == "none" else Cell(name)
        return Cell.NO

    @property
    def beyond(self) -> str | None:
        """Why a cell connects of which the figure promises nothing; None if it does not."""
        by = [name for name, found in self.tries.items() if found.reached]
        if self.figure is not Cell.NO or not by:
            return None
        kinds = self.source, self.destination
        if kinds in OPEN:
            return "the address-symmetric NAT happened to take the address that the other one lets in"
        if kinds in BEYOND and (EVERYTHING in by or Cell.SNS_UPNP in by):
            return BEYOND[kinds]
        return f"with {', '.join(by)} only: without UPnP its symmetric NAT is a port-preserving one"

    @property
    def agrees(self) -> bool:
        """Whether the labels are the same; a cell may do better than a `No`."""
        return self.figure is self.derived or self.figure is Cell.NO
