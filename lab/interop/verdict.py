"""What a grid means: which cells work, and whose fault it is where one does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

from lab.interop.grid import SYMMETRIC, Cell, Makers
from lab.story import Line

_PARTS: Final = Makers._fields


@dataclass(frozen=True, slots=True)
class Found:
    """What one backend has found of a cell: per probe why it failed, or None; the cold first answer in milliseconds.

    Of a cell that does not work: what its packets say, in a sentence, and the packets themselves.
    """

    probes: Mapping[str, str | None]
    first_packet: float | None = None
    diagnosis: str | None = None
    packets: tuple[Line, ...] = field(default=(), repr=False)

    @property
    def works(self) -> bool:
        return bool(self.probes) and not any(self.probes.values())


@dataclass(frozen=True)
class Grid:
    """All cells, each as every backend has found it."""

    found: Mapping[str, Mapping[Cell, Found]]

    @property
    def backends(self) -> tuple[str, ...]:
        return tuple(self.found)

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(next(iter(self.found.values())))

    def works(self, cell: Cell) -> bool:
        """Whether a cell works with every backend."""
        return all(found[cell].works for found in self.found.values())

    def differs(self, cell: Cell) -> bool:
        """Whether the backends disagree about a cell."""
        return len({found[cell].works for found in self.found.values()}) > 1

    def miredos(self, cell: Cell) -> tuple[str, ...]:
        """The parts whose being Miredo makes the difference: with the fewest replaced by ours, the cell works.

        Empty if the cell works, or if it does not even with ours alone.
        """
        parts = [part for part in _PARTS if getattr(cell.makers, part) == "miredo"]
        for count in range(len(parts) + 1):
            for chosen in combinations(parts, count):
                twin = cell._replace(makers=cell.makers.with_ours(chosen))
                if self.works(twin):
                    return chosen
        return ()

    def good(self, cell: Cell) -> bool:
        """Whether nothing of ours is at fault: the cell works, or what Miredo does keeps it from working."""
        return not self.differs(cell) and (self.works(cell) or bool(self.miredos(cell)))

    @property
    def all_good(self) -> bool:
        return all(self.good(cell) for cell in self.cells)


def promised(cell: Cell) -> bool:
    """Whether RFC 4380 alone promises that a cell works."""
    return cell.nat != SYMMETRIC
