"""The links of a running lab, and making them as good or bad as they shall be."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping

from lab.backends.linux import NetworkNamespaces
from lab.link import loss_rules, queue, uplinks
from lab.node import NodeError, run_tool
from lab.plan import LinkQuality, Plan


def qualities(plan: Plan) -> dict[str, LinkQuality]:
    """The quality of each node's link to the one upstream, as planned."""
    planned = {node: quality for network in plan.networks for node, quality in network.qualities.items()}
    return {node: planned.get(node, LinkQuality()) for node in uplinks(plan.networks)}


def shape(plan: Plan, changed: Mapping[str, LinkQuality], namespaces: NetworkNamespaces) -> None:
    """Make these nodes' links so, at both ends. Raises NodeError."""
    ends = uplinks(plan.networks)
    for name, quality in changed.items():
        for node, interface in ends[name]:
            with namespaces.inside(node):
                run_tool(node, ("nft", "-f", "-"), loss_rules(interface, quality))
                wanted = queue(interface, quality)
                if wanted:
                    run_tool(node, ("tc", *wanted))
                else:  # there may be none, and without tc there is none
                    clear = ("tc", "qdisc", "del", "dev", interface, "root")
                    with contextlib.suppress(FileNotFoundError):
                        subprocess.run(clear, capture_output=True, check=False)


def change(
    plan: Plan, links: dict[str, LinkQuality], node: str, quality: LinkQuality, namespaces: NetworkNamespaces
) -> None:
    """Make one node's link so, and note it in `links`. Raises NodeError; then the link is as it was, at both ends."""
    try:
        shape(plan, {node: quality}, namespaces)
    except NodeError:
        with contextlib.suppress(NodeError):  # what cannot be undone could not be done either
            shape(plan, {node: links[node]}, namespaces)
        raise
    links[node] = quality
