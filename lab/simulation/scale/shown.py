"""What a scenario shows: numbers and curves, for whoever prints or draws them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.simulation.scale.conditions import Counts


@dataclass(frozen=True, slots=True)
class Curve:
    """Values over time, or over what was varied. `dots` come from state machines; the line has the same name."""

    name: str
    x: list[float]
    y: list[float]
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves that have both axes in common."""

    x: str
    y: str
    curves: list[Curve]
    x_log: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A number worth telling, with its unit."""

    what: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a scenario has brought to light."""

    title: str
    figures: list[Figure]
    panels: list[Panel]


def over_time(
    name: str, counts: Counts, first: int, last: int, *, zero: float = 0.0, scale: float = 1.0, every: int = 1
) -> Curve:
    """What was counted from the second `first` to `last`, the mean of `every` seconds at a time; time 0 is at `zero`.

    Several seconds at a time are dots: machines are few, and their curve would be a restless one.
    """
    groups = (min(last, counts.size) - first) // every
    y = counts[first : first + groups * every].reshape(groups, every).mean(axis=1) * scale
    x = first + every * (np.arange(groups) + 0.5) - zero
    return Curve(name, x.tolist(), y.round(2).tolist(), dots=every > 1)
