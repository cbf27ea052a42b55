"""The links of a running lab, and making them as good or bad as they shall be."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from lab.link import uplinks
from lab.node import NodeError
from lab.places import Places
from lab.plan import LinkQuality, Plan


def qualities(plan: Plan) -> dict[str, LinkQuality]:
    """The quality of each node's link to the one upstream, as planned."""
    planned = {node: quality for network in plan.networks for node, quality in network.qualities.items()}
    return {node: planned.get(node, LinkQuality()) for node in uplinks(plan.networks)}


def shape(plan: Plan, changed: Mapping[str, LinkQuality], places: Places) -> None:
    """Make these nodes' links so, at both ends. Raises NodeError."""
    ends = uplinks(plan.networks)
    for name, quality in changed.items():
        for node, interface in ends[name]:
            places.do(node, "shape", name=node, interface=interface, quality=quality)


def change(plan: Plan, links: dict[str, LinkQuality], node: str, quality: LinkQuality, places: Places) -> None:
    """Make one node's link so, and note it in `links`. Raises NodeError; then the link is as it was, at both ends."""
    try:
        shape(plan, {node: quality}, places)
    except NodeError:
        with contextlib.suppress(NodeError):  # what cannot be undone could not be done either
            shape(plan, {node: links[node]}, places)
        raise
    links[node] = quality
