"""What is done in the nodes of a running lab, each function in its node's network namespace, by name.

Arguments and results can be written as JSON, since some nodes are in containers.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable
from typing import Any, Final

from lab.link import loss_rules, queue
from lab.nat.flows import forget_remotes, mappings
from lab.node import apply_firewall, reconfigure, remove_firewall, run_tool
from lab.plan import LinkQuality, NodePlan


def change(old: NodePlan, new: NodePlan) -> None:
    """Make a running node another plan's, which may differ in firewall, addresses and routes. Raises NodeError."""
    if old.firewall is not None:
        remove_firewall(old.name, old.firewall)
    reconfigure(old, new)
    if new.firewall is not None:
        apply_firewall(new.name, new.firewall)


def forget(node: NodePlan, kept: list[str]) -> None:
    """Have a NAT forget whom its inside has talked to, but for these remote addresses."""
    if node.nat is not None and node.firewall is not None:
        forget_remotes(node.nat.setup.behaviour, node.firewall, set(kept))


def shape(name: str, interface: str, quality: LinkQuality) -> None:
    """Make what leaves and comes in by an interface as bad as it shall be. Raises NodeError."""
    run_tool(name, ("nft", "-f", "-"), loss_rules(interface, quality))
    wanted = queue(interface, quality)
    if wanted:
        run_tool(name, ("tc", *wanted))
        return
    with contextlib.suppress(FileNotFoundError):  # there may be no queue, and without tc there is none
        subprocess.run(("tc", "qdisc", "del", "dev", interface, "root"), capture_output=True, check=False)


def rules(node: NodePlan) -> dict[str, str]:
    """The rules that the kernel has for a NAT now, as each tool prints them."""
    assert node.firewall is not None
    tables = re.findall(r"^table (\w+ \w+) {$", node.firewall.nftables, re.MULTILINE)
    commands = [["ipset", "list", "-terse"]] if node.firewall.ipset else []
    commands += [["iptables-save"]] if node.firewall.iptables else []
    commands += [["nft", "list", "table", *table.split()] for table in tables]
    return {
        " ".join(command): subprocess.run(command, capture_output=True, text=True, check=False).stdout
        for command in commands
    }


WORK: Final[dict[str, Callable[..., Any]]] = {each.__name__: each for each in (change, forget, shape, rules, mappings)}
