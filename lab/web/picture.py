"""Where the nodes of a lab are drawn: servers, relays and hosts above the Internet, NATs and who is behind them below.

Coordinates are pixels of a drawing that the page scales.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field
from typing import Any, Final

from lab.link import uplinks
from lab.plan import NodePlan, Plan
from lab.topology.rules import INTERNET

COLUMN: Final = 190
LEVEL: Final = 148
_PUBLIC, _CORE, _BELOW = 62, 172, 326
_HALF, _PADDING, _GAP, _LABEL = 84, 40, 20, 30
"""Half of a node's width; what a site's box keeps below its nodes; what is between two boxes; and a box's words."""

_TRUNK, _BAR = 56, 30
"""Room at the left for what joins the bars that are the Internet, where each row has its own; and above such a bar."""

_ABREAST: Final = 6
"""So many clients are always drawn side by side before another row begins."""

_FOLDED_BELOW, _WIDE = 112, 1.7
"""Of drawings in which sites are folded: from a bar to its NATs, and how much wider than high they are, in nodes."""


@dataclass
class _Tree:
    """A node below the Internet, and those whose links lead to it."""

    name: str
    below: list[_Tree] = field(default_factory=list)

    @property
    def leaves(self) -> int:
        return sum(each.leaves for each in self.below) or 1

    @property
    def names(self) -> list[str]:
        """All that is below."""
        return [name for each in self.below for name in (each.name, *each.names)]

    @property
    def depth(self) -> int:
        return 1 + max((each.depth for each in self.below), default=0)


class _Drawing:
    """Positions and boxes as they are found."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[float, float]] = {}
        self.boxes: list[dict[str, Any]] = []

    def tree(self, tree: _Tree, left: float, top: float) -> float:
        """Place a tree, with its left edge there; returns its right edge."""
        right = left
        for each in tree.below:
            right = self.tree(each, right, top + LEVEL)
        right = max(right, left + COLUMN)
        self.places[tree.name] = ((left + right) / 2, top)
        if tree.below:
            around = tree.depth - 2  # boxes that are within this one
            height = (tree.depth - 1) * LEVEL + _PADDING + _LABEL * around
            inset = _GAP / 2 - 4 * around
            box = {"nat": tree.name, "x": left + inset, "y": top, "width": right - left - 2 * inset, "height": height}
            self.boxes.insert(0, box)  # those around others come first
        return right


def picture(plan: Plan) -> dict[str, Any]:
    """The lab drawn twice: the `whole`, and `folded`, where a site's NAT stands for all that is behind it.

    It stays the same as long as the lab does: kinds of NAT, states and addresses are the status's.
    """
    return {"name": plan.name, "half": _HALF, "whole": drawing(plan), "folded": drawing(plan, folded=True)}


def drawing(plan: Plan, *, folded: bool = False) -> dict[str, Any]:
    """Nodes with places and what they are, boxes around what is private, and the Internet.

    The Internet is a bar for each row, and `core` is where a node's link meets its own. `folds` are the nodes for which
    a node stands.
    """
    ends = uplinks(plan.networks)
    upstream = {name: above for name, (_, (above, _)) in ends.items()}
    trees = {name: _Tree(name) for name in upstream}
    for name, above in upstream.items():
        if above in trees:
            trees[above].below.append(trees[name])
    roles = {node.name: node.role for node in plan.nodes}
    first = [name for name, above in upstream.items() if above == INTERNET]
    public = [name for name in first if roles[name] not in ("nat", "client")]
    below = [trees[name] for name in first if roles[name] in ("nat", "client")]

    folds = {tree.name: tree.names for tree in below} if folded else {}
    if folded:
        below = [_Tree(tree.name) for tree in below]

    drawn = _Drawing()
    wide, first_level = (_WIDE, _FOLDED_BELOW) if folded else (2.0, _BELOW - _CORE)
    abreast = max(_ABREAST, math.ceil(wide * math.sqrt(sum(tree.leaves for tree in below))))
    rows = _rows(below, abreast)
    left = float(_TRUNK if len(rows) > 1 else 0)
    width, bottom, bars = COLUMN * 3.0, float(_CORE + 60), [_CORE]
    cores = dict.fromkeys(public, _CORE)
    for row in rows:
        if row is not rows[0]:
            bars.append(round(bottom) + _BAR)
        right, top = left, float(bars[-1] + first_level)
        for tree in row:
            right = drawn.tree(tree, right, top)
            cores[tree.name] = bars[-1]
        width = max(width, right)
        depth = max(tree.depth for tree in row)
        bottom = top + (depth - 1) * LEVEL + _PADDING + _LABEL * max(0, depth - 2) + 50
    width = max(width, left + COLUMN * len(public))
    for number, name in enumerate(public):
        drawn.places[name] = (left + (number + 0.5) * (width - left) / len(public), _PUBLIC)

    return {
        "width": width,
        "height": bottom,
        "internet": {"name": INTERNET, "x": width / 2, "width": width - 2 * _GAP, "bars": bars},
        "nodes": [_node(node, drawn.places[node.name], upstream[node.name])
                  | {"core": cores.get(node.name), "folds": folds.get(node.name, [])}
                  for node in plan.nodes
                  if node.name in drawn.places],
        "boxes": [_labelled(box, plan.node(box["nat"])) for box in drawn.boxes],
    }  # fmt: skip


def _rows(trees: list[_Tree], abreast: int) -> list[list[_Tree]]:
    """The trees in rows of about so many leaves."""
    rows: list[list[_Tree]] = []
    room = 0
    for tree in trees:
        if tree.leaves > room:
            rows.append([])
            room = abreast
        rows[-1].append(tree)
        room -= tree.leaves
    return rows


def _node(node: NodePlan, place: tuple[float, float], upstream: str) -> dict[str, Any]:
    return {
        "name": node.name,
        "role": node.role,
        "site": node.site,
        "program": node.program,
        "upstream": upstream,
        "outside": [str(address) for address in node.nat.setup.external] if node.nat is not None else [],
        "x": place[0],
        "y": place[1],
    }


def _labelled(box: dict[str, Any], nat: NodePlan) -> dict[str, Any]:
    """A box with the network that is in it: the NAT's own, which is not the one outside."""
    assert nat.nat is not None
    external = {*nat.nat.setup.external}
    own = (ipaddress.ip_interface(address) for interface in nat.interfaces for address in interface.addresses)
    inside = next((str(each.network) for each in own if each.version == 4 and each.ip not in external), "")
    return box | {"site": nat.site, "inside": inside}
