"""Draws what the simulation at scale and benchmarks have found, as SVG. Needs matplotlib, which nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from lab.simulation.scale.shown import Found

_STYLE: Final[Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "teredo-lab",
}
_COLOURS: Final = {"kernel": "C0", "userspace": "C2", "Miredo": "C1", "plain": "C7"}


def bars(title: str, groups: dict[str, dict[str, float]], path: Path) -> None:
    """Write horizontal bars, a panel for each group, to an SVG file; the unit is the group's name's."""
    with mpl.rc_context(_STYLE):
        rows = sum(len(group) for group in groups.values())
        figure = Figure(figsize=(8, 0.8 + 0.35 * rows + 0.5 * len(groups)), layout="constrained", facecolor="white")
        figure.suptitle(title)
        heights = [len(group) for group in groups.values()]
        panels = figure.subplots(len(groups), squeeze=False, height_ratios=heights)[:, 0]
        for axes, (name, group) in zip(panels, groups.items(), strict=True):
            drawn = axes.barh(list(group), list(group.values()), color=[_COLOURS.get(each, "C7") for each in group])
            axes.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize="small")
            axes.invert_yaxis()
            axes.margins(x=0.12)
            axes.set_title(name, loc="left")
        figure.savefig(path, format="svg", metadata={"Date": None})


def draw(found: Found, path: Path) -> None:
    """Write the panels of a scenario, one below the other, to an SVG file; the same ones give the same bytes."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, 0.5 + 2.4 * len(found.panels)), layout="constrained", facecolor="white")
        figure.suptitle(found.title)
        for axes, panel in zip(figure.subplots(len(found.panels), squeeze=False)[:, 0], found.panels, strict=True):
            colours: dict[str, Any] = {}
            for curve in panel.curves:
                if curve.dots:
                    axes.plot(curve.x, curve.y, "o", markersize=2.5, color=colours[curve.name])
                else:
                    (line,) = axes.plot(curve.x, curve.y, label=curve.name, linewidth=1.2)
                    colours[curve.name] = line.get_color()
            axes.set(xlabel=panel.x, ylabel=panel.y)
            axes.set_ylim(bottom=0)
            axes.ticklabel_format(axis="y", style="plain")
            if panel.x_log:
                axes.set_xscale("log")
            dots = any(curve.dots for curve in panel.curves)
            axes.legend(fontsize="small", title="dots: state machines" if dots else None, title_fontsize="small")
        figure.savefig(path, format="svg", metadata={"Date": None})
