"""The programs of nodes, run from this process: forked, followed, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from lab import programs
from lab.backends import linux, processes
from lab.logs import set_up as set_up_logs
from lab.plan import NodePlan, Program
from lab.state import Lab

_SHUTDOWN_TIMEOUT = 1.0


def process_name(kind: str, node: str) -> str:
    """What ps shows of a node's program: ``client:alice``."""
    return f"{kind.rsplit('-', maxsplit=1)[-1]}:{node}"


class Reports(Protocol):
    """Who is told what becomes of nodes and their programs."""

    def report(self, node: str, kind: str, state: str, reason: str | None) -> None:
        """A program has a state, and why."""

    def address(self, node: str, address: str | None) -> None:
        """A node has this Teredo address, or none."""


class Programs(Protocol):
    """How a lab's nodes are made to run their programs."""

    async def connect(self, progress: Callable[[int, int], None]) -> None:
        """Wait until programs can be started. Raises NodeError."""

    def start(self, node: NodePlan) -> None:
        """Start a node's programs."""

    def replace(self, node: NodePlan) -> None:
        """Stop a node's programs, and start those of another plan."""

    def names(self, hosts: str) -> None:
        """Let all nodes know each other by these lines of /etc/hosts."""

    def facts(self, node: str) -> dict[str, Any]:
        """What other commands need to find a node."""

    async def shut_down(self) -> None:
        """Let the programs say good-bye."""


class Forked:
    """Programs that are forked from this process, each in its node."""

    def __init__(
        self, lab: Lab, reports: Reports, enter: Callable[[str], None], log: Callable[[str], Path] | None
    ) -> None:
        """`enter` moves a process into a node for good; `log` is where its programs write, or None: where we do."""
        self._lab = lab
        self._reports = reports
        self._enter = enter
        self._log = log
        self._running: dict[int, tuple[str, str]] = {}
        self._followers: set[asyncio.Task[None]] = set()

    def start(self, node: NodePlan) -> None:
        """Start a node's programs, but for those that cannot run on this machine."""
        for program in node.programs:
            why = programs.problem(program.kind)
            if why is not None:
                self._reports.report(node.name, program.kind, "left out", why)
            else:
                self._spawn(node.name, program)

    def replace(self, node: NodePlan) -> None:
        """Stop a node's programs, and start those of another plan; nobody calls their end a failure."""
        for pid in [pid for pid, (name, _) in self._running.items() if name == node.name]:
            del self._running[pid]
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self.start(node)

    def _spawn(self, node: str, program: Program) -> None:
        run = programs.program(program.kind)  # here, so that all that are forked share it

        def main(events: int) -> None:
            if self._log is not None:
                log = os.open(self._log(node), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                os.dup2(log, 1)
                os.dup2(log, 2)
            self._enter(node)
            linux.set_process_name(process_name(program.kind, node))
            set_up_logs(node=node)

            def notify(event: str, facts: dict[str, Any]) -> None:
                os.write(events, json.dumps({"name": event, **facts}).encode() + b"\n")

            context = programs.Context(node, self._lab.node_directory(node), self._lab.control(node), notify)
            run(program.options, context)

        pid, events = processes.fork(main)
        self._running[pid] = node, program.kind
        task = asyncio.get_running_loop().create_task(self._follow(node, program.kind, events))
        self._followers.add(task)  # a loop holds its tasks only weakly
        task.add_done_callback(self._followers.discard)

    async def _follow(self, node: str, kind: str, events: int) -> None:
        """Take a program's events as they come; its end shows as the end of the pipe."""
        state: tuple[str, str | None] = "starting", None
        async with processes.lines(events) as stream:
            async for line in stream:
                event = json.loads(line)
                if event["name"] == "state":
                    if "address" in event:
                        self._reports.address(node, event["address"])
                    state = event["state"], event["reason"]
                    self._reports.report(node, kind, *state)
                elif event["name"] == "mapping changed":
                    self._reports.address(node, event["new"])
                    self._reports.report(node, kind, *state)

    def reap(self) -> None:
        """Take note of programs that have ended; called upon SIGCHLD."""
        for pid, status in processes.ended():
            if pid in self._running:
                node, kind = self._running.pop(pid)
                code = os.waitstatus_to_exitcode(status)
                ended = f"signal {-code}" if code < 0 else f"exit code {code}"
                where = f"; its log is {self._log(node)}" if self._log is not None else ""
                self._reports.address(node, None)
                self._reports.report(node, kind, "failed", f"{kind} ended with {ended}{where}")

    async def shut_down(self) -> None:
        """Let the programs say good-bye; what does not listen goes with this process."""
        running, self._running = self._running, {}
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_TIMEOUT):
                while any(processes.lives(pid) for pid in running):
                    await asyncio.sleep(0.01)
