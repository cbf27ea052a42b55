"""The nodes of a running lab: their programs, what these report, and what is known of each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lab.backends import linux
from lab.backends.processes import fork, lines
from lab.logs import set_up as set_up_logs
from lab.plan import NodePlan, Plan, Program
from lab.programs import PROBLEMS, PROGRAMS, Context
from lab.state import Lab

_log = logging.getLogger("supervisor")

_SETTLED = ("running", "qualified", "dormant", "off-line", "left out", "failed")
"""States in which a program stays, from good to bad; a node's state is the worst of its programs'."""

_NAT, _KERNEL = "nat", "kernel"
"""What the states of nodes without programs stand under among the reports of programs."""

_SHUTDOWN_TIMEOUT = 1.0


@dataclass(slots=True)
class Node:
    """A node of the running lab: its plan, and what its programs have last reported, by their kind."""

    plan: NodePlan
    reports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    teredo_address: str | None = None
    addresses: list[str] = field(init=False)
    pids: dict[int, str] = field(default_factory=dict)

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
    """All nodes; starts their programs, follows their reports, and wakes whoever waits for a change."""

    def __init__(self, plan: Plan, lab: Lab) -> None:
        self._lab = lab
        self.namespaces = linux.NetworkNamespaces()
        self.by_name = {node.name: Node(node) for node in plan.nodes}
        self._followers: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopping = False
        self.one_survey = asyncio.Lock()
        self._began = time.monotonic()
        self.timings: dict[str, float] = {}

    @property
    def uptime(self) -> float:
        """Seconds since the supervisor began."""
        return round(time.monotonic() - self._began, 4)

    def took(self, what: str) -> None:
        """Note, the first time, how long after the supervisor's begin something was done."""
        self.timings.setdefault(what, self.uptime)

    def ready(self) -> None:
        """The kernel's part is done: nodes without programs are running, the others may start."""
        for name, node in self.by_name.items():
            self._lab.node_directory(name).mkdir(parents=True)
            node.reports = {program.kind: ("starting", None) for program in node.plan.programs}
            if node.plan.nat is not None:
                node.reports[_NAT] = ("measuring", None)
            elif not node.plan.programs:
                node.reports[_KERNEL] = ("running", None)
        self._write_hosts()

    def start(self, node: Node) -> None:
        """Start a node's programs, but for those that cannot run on this machine."""
        for program in node.plan.programs:
            why = PROBLEMS[program.kind]() if program.kind in PROBLEMS else None
            if why is not None:
                self._report(node, program.kind, "left out", why)
            else:
                self._spawn(node, program)

    def replace(self, plan: NodePlan) -> None:
        """Go on with another plan of a node; programs that come with a NAT start anew."""
        node = self.by_name[plan.name]
        node.plan = plan
        node.addresses = addresses_of(plan, 6) + addresses_of(plan, 4)
        pids, node.pids = node.pids, {}  # so that nobody calls their end a failure
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        kept = {kind: report for kind, report in node.reports.items() if kind in (_NAT, _KERNEL)}
        node.reports = kept | {program.kind: ("starting", None) for program in plan.programs}
        self.start(node)

    def _spawn(self, node: Node, program: Program) -> None:
        name = node.plan.name

        def main(events: int) -> None:
            log = os.open(self._lab.log(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            self.namespaces.enter(name)
            linux.set_process_name(f"{program.kind.split('-')[-1]}:{name}")
            set_up_logs(node=name)

            def notify(event: str, facts: dict[str, Any]) -> None:
                os.write(events, json.dumps({"name": event, **facts}).encode() + b"\n")

            context = Context(name, self._lab.node_directory(name), self._lab.control(name), notify)
            PROGRAMS[program.kind](program.options, context)

        pid, events = fork(main)
        node.pids[pid] = program.kind
        task = asyncio.get_running_loop().create_task(self._follow(node, program.kind, events))
        self._followers.add(task)  # a loop holds its tasks only weakly
        task.add_done_callback(self._followers.discard)

    async def _follow(self, node: Node, kind: str, events: int) -> None:
        """Take a program's events as they come; its end shows as the end of the pipe."""
        async with lines(events) as stream:
            async for line in stream:
                event = json.loads(line)
                if event["name"] == "state":
                    if "address" in event:
                        node.teredo_address = event["address"]
                    self._report(node, kind, event["state"], event["reason"])
                elif event["name"] == "mapping changed":
                    node.teredo_address = event["new"]
                    self._report(node, kind, *node.reports[kind])

    def _report(self, node: Node, kind: str, state: str, reason: str | None) -> None:
        node.reports[kind] = (state, reason)
        _log.info("%s: %s%s", node.plan.name, state, f" ({reason})" if reason else "")
        self._write_hosts()
        if all(other.settled for other in self.by_name.values()):
            self.took("settled")
        self._changed.set()
        self._changed = asyncio.Event()

    def found(self, name: str, problem: str | None) -> None:
        """Note what a measurement of a NAT has found."""
        state = ("running", None) if problem is None else ("failed", f"not what the topology says: {problem}")
        self._report(self.by_name[name], _NAT, *state)

    @property
    def changed(self) -> asyncio.Event:
        """What the next report of any node sets: take it before looking, wait for it after."""
        return self._changed

    async def settled(self, nodes: Iterable[Node]) -> None:
        """Wait until these nodes are in states in which they stay."""
        waiting = list(nodes)
        while not all(node.settled for node in waiting):
            await self.changed.wait()

    def reap(self) -> None:
        """Take note of programs that have ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                for node in self.by_name.values():
                    kind = node.pids.pop(pid, None)
                    if kind is not None and not self._stopping:
                        code = os.waitstatus_to_exitcode(status)
                        ended = f"signal {-code}" if code < 0 else f"exit code {code}"
                        log = self._lab.log(node.plan.name)
                        node.teredo_address = None
                        self._report(node, kind, "failed", f"{kind} ended with {ended}; its log is {log}")

    async def shut_down(self) -> None:
        """Let the programs say good-bye; what does not listen goes with the namespaces."""
        self._stopping = True
        for node in self.by_name.values():
            for pid in node.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_TIMEOUT):
                while any(node.pids for node in self.by_name.values()):
                    await asyncio.sleep(0.01)

    def _write_hosts(self) -> None:
        """Names for `exec` and `shell`: each node's Teredo or native address, else its IPv4 address."""
        text = ["127.0.0.1 localhost", "::1 localhost"]
        for name, node in self.by_name.items():
            own = [node.teredo_address] if node.teredo_address else []
            text += [f"{address} {name}" for address in (own or node.addresses)[:1]]
        self._lab.hosts_file.write_text("\n".join(text) + "\n")  # in place: it is mounted over /etc/hosts

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
                "log": str(self._lab.log(name)),
                "netns_fd": self.namespaces.fds[name],
            }
            for name, node in self.by_name.items()
        ]


def addresses_of(node: NodePlan, version: int) -> list[str]:
    """A node's own addresses of one IP version, without prefix lengths, each once."""
    addresses = (address.split("/")[0] for interface in node.interfaces for address in interface.addresses)
    return list(dict.fromkeys(address for address in addresses if (":" in address) == (version == 6)))
