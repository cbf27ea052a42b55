"""The nodes of a running lab: what their programs report, and what is known of each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lab.backends.programs import Programs
from lab.places import Places
from lab.plan import NodePlan, Plan

_log = logging.getLogger("supervisor")

_SETTLED = ("running", "qualified", "dormant", "off-line", "left out", "failed")
"""States in which a program stays, from good to bad; a node's state is the worst of its programs'."""

_NAT, _KERNEL = "nat", "kernel"
"""What the states of nodes without programs stand under among the reports of programs."""


@dataclass(slots=True)
class Node:
    """A node of the running lab: its plan, and what its programs have last reported, by their kind."""

    plan: NodePlan
    reports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    teredo_address: str | None = None
    addresses: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.addresses = addresses_of(self.plan, 6) + addresses_of(self.plan, 4)

    @property
    def worst(self) -> tuple[str, str | None]:
        """State and reason of the program that is worst off; one that has not settled comes before all others."""
        unsettled = [report for report in self.reports.values() if report[0] not in _SETTLED]
        reports = unsettled or sorted(self.reports.values(), key=lambda report: _SETTLED.index(report[0]))
        return reports[-1] if reports else ("starting", None)

    @property
    def settled(self) -> bool:
        return self.worst[0] in _SETTLED


class Nodes:
    """All nodes of a lab; follows what is reported of them, and wakes whoever waits for a change.

    A backend sets `places` and `programs`.
    """

    places: Places
    programs: Programs

    def __init__(self, plan: Plan) -> None:
        self.by_name = {node.name: Node(node) for node in plan.nodes}
        self._changed = asyncio.Event()
        self.one_survey = asyncio.Lock()
        self._began = time.monotonic()
        self.timings: dict[str, float] = {}
        self.unsettled = set(self.by_name)
        self._names: dict[str, str] = {}

    @property
    def uptime(self) -> float:
        """Seconds since the supervisor began."""
        return round(time.monotonic() - self._began, 4)

    def took(self, what: str) -> None:
        """Note, the first time, how long after the supervisor's begin something was done."""
        self.timings.setdefault(what, self.uptime)

    def ready(self) -> None:
        """The kernel's part is done: nodes without programs are running, the others may start."""
        for node in self.by_name.values():
            node.reports = {program.kind: ("starting", None) for program in node.plan.programs}
            if node.plan.nat is not None:
                node.reports[_NAT] = ("measuring", None)
            elif not node.plan.programs:
                node.reports[_KERNEL] = ("running", None)
            self._look(node)
        self._tell_names()

    def replace(self, plan: NodePlan) -> None:
        """Go on with another plan of a node; its programs start anew."""
        node = self.by_name[plan.name]
        node.plan, node.teredo_address = plan, None
        node.addresses = addresses_of(plan, 6) + addresses_of(plan, 4)
        kept = {kind: report for kind, report in node.reports.items() if kind in (_NAT, _KERNEL)}
        node.reports = kept | {program.kind: ("starting", None) for program in plan.programs}
        self._look(node)
        self._tell_names()
        self.programs.replace(plan)

    def report(self, node: str, kind: str, state: str, reason: str | None) -> None:
        """A program of a node has a state, and why."""
        its = self.by_name[node]
        its.reports[kind] = (state, reason)
        _log.info("%s: %s%s", node, state, f" ({reason})" if reason else "")
        if self._look(its):
            self._tell_names()
        if not self.unsettled:
            self.took("settled")
        self._changed.set()
        self._changed = asyncio.Event()

    def address(self, node: str, address: str | None) -> None:
        """A node has this Teredo address, or none; a report follows."""
        self.by_name[node].teredo_address = address

    def found(self, name: str, problem: str | None) -> None:
        """Note what a measurement of a NAT has found."""
        state = ("running", None) if problem is None else ("failed", f"not what the topology says: {problem}")
        self.report(name, _NAT, *state)

    @property
    def changed(self) -> asyncio.Event:
        """What the next report of any node sets: take it before looking, wait for it after."""
        return self._changed

    async def settled(self, nodes: Iterable[Node]) -> None:
        """Wait until these nodes are in states in which they stay."""
        waiting = list(nodes)
        while any(node.plan.name in self.unsettled for node in waiting):
            await self.changed.wait()

    def _look(self, node: Node) -> bool:
        """Keep up with whether a node has settled, and by which address it is known; whether that is another one.

        That is its Teredo or native address, else its IPv4 address.
        """
        name = node.plan.name
        if node.settled:
            self.unsettled.discard(name)
        else:
            self.unsettled.add(name)
        own = [node.teredo_address] if node.teredo_address else node.addresses
        line = f"{own[0]} {name}\n" if own else ""
        before, self._names[name] = self._names.get(name), line
        return line != before

    def _tell_names(self) -> None:
        """Names for `exec` and `shell`."""
        self.programs.names("127.0.0.1 localhost\n::1 localhost\n" + "".join(self._names.values()))

    def facts(self) -> list[dict[str, Any]]:
        """The nodes of `status --json`, with what other commands need to enter them."""
        return [
            {
                "name": name,
                "role": node.plan.role,
                "site": node.plan.site,
                "program": node.plan.program,
                "state": node.worst[0],
                "reason": node.worst[1],
                "ipv4": addresses_of(node.plan, 4),
                "ipv6": addresses_of(node.plan, 6),
                "teredo_address": node.teredo_address,
                "nat_kind": node.plan.nat.kind if node.plan.nat is not None else None,
                "extensions": node.plan.extensions,
                **self.programs.facts(name),
            }
            for name, node in self.by_name.items()
        ]


def addresses_of(node: NodePlan, version: int) -> list[str]:
    """A node's own addresses of one IP version, without prefix lengths, each once."""
    addresses = (address.split("/")[0] for interface in node.interfaces for address in interface.addresses)
    return list(dict.fromkeys(address for address in addresses if (":" in address) == (version == 6)))
