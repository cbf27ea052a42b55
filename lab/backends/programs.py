"""The programs of nodes: started, followed, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Protocol

from lab import programs
from lab.backends import processes
from lab.plan import NodePlan
from lab.programs.process import Order, run
from lab.state import Lab

_SHUTDOWN_TIMEOUT: Final = 1.0


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
        """Have a node's programs started."""

    async def started(self) -> None:
        """Wait until all that were to be started have been."""

    def replace(self, node: NodePlan) -> None:
        """Stop a node's programs, and start those of another plan."""

    def names(self, hosts: str) -> None:
        """Let all nodes know each other by these lines of /etc/hosts."""

    def facts(self, node: str) -> dict[str, Any]:
        """What other commands need to find a node."""

    async def shut_down(self) -> None:
        """Let the programs say good-bye."""


class Local(ABC):
    """Programs that run on this machine, each known by a number; subclasses say how they are run."""

    def __init__(self, lab: Lab, reports: Reports, *, logs: bool) -> None:
        """`logs`: whether each node's programs write into a log of the node's own."""
        self._lab = lab
        self._reports = reports
        self._logs = logs
        self._running: dict[int, tuple[str, str]] = {}
        self._states: dict[int, tuple[str, str | None]] = {}
        self._ending: dict[int, str] = {}
        self._coming: dict[str, NodePlan] = {}
        self._leaving: set[int] = set()
        self._all_gone = asyncio.Event()

    @abstractmethod
    def _run(self, order: Order) -> int:
        """Have a program run; returns the number by which it is known."""

    @abstractmethod
    def _end(self, number: int) -> None:
        """Have it end."""

    def start(self, node: NodePlan) -> None:
        """Start a node's programs, but for those that cannot run on this machine."""
        directory, control = self._lab.node_directory(node.name), self._lab.control(node.name)
        log = str(self._lab.log(node.name)) if self._logs else None
        for program in node.programs:
            why = programs.problem(program.kind)
            if why is not None:
                self._reports.report(node.name, program.kind, "left out", why)
            else:
                order = Order(node.name, program.kind, program.options, str(directory), str(control), log)
                self._running[self._run(order)] = node.name, program.kind

    def replace(self, node: NodePlan) -> None:
        """Stop a node's programs, and start those of another plan; nobody calls their end a failure.

        They start when those before have ended, whose ports and interfaces they want.
        """
        self._coming[node.name] = node
        before = [number for number, (name, _) in self._running.items() if name == node.name]
        for number in before:
            del self._running[number]
        self._ending |= dict.fromkeys(before, node.name)
        for number in before:
            self._end(number)
        self._go_on(node.name)

    def _go_on(self, name: str) -> None:
        """Start what a node shall run, if nothing is in its way any more."""
        if name in self._coming and name not in self._ending.values():
            self.start(self._coming.pop(name))

    def heard(self, number: int, event: dict[str, Any]) -> None:
        """Take in what a program tells."""
        if number not in self._running:
            return  # it has been replaced
        node, kind = self._running[number]
        if event["name"] == "state":
            if "address" in event:
                self._reports.address(node, event["address"])
            self._states[number] = event["state"], event["reason"]
            self._reports.report(node, kind, *self._states[number])
        elif event["name"] == "mapping changed":
            self._reports.address(node, event["new"])
            self._reports.report(node, kind, *self._states.get(number, ("starting", None)))

    def ended(self, number: int, status: int) -> None:
        """Take note that a program has ended, with this wait status."""
        self._states.pop(number, None)
        self._go_on(self._ending.pop(number, ""))
        self._leaving.discard(number)
        if not self._leaving:
            self._all_gone.set()
        if number in self._running:
            node, kind = self._running.pop(number)
            code = os.waitstatus_to_exitcode(status)
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            where = f"; its log is {self._lab.log(node)}" if self._logs else ""
            self._reports.address(node, None)
            self._reports.report(node, kind, "failed", f"{kind} ended with {ended}{where}")

    async def shut_down(self) -> None:
        """Let the programs say good-bye; what does not listen goes with this process."""
        self._leaving = set(self._running)
        self._running.clear()
        self._coming.clear()
        if not self._leaving:
            return
        self._all_gone.clear()
        for number in self._leaving:
            self._end(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_TIMEOUT):
                await self._all_gone.wait()


class Forked(Local):
    """Programs that are forked from this process, in whose network they are; their numbers are process ids."""

    def __init__(self, lab: Lab, reports: Reports) -> None:
        super().__init__(lab, reports, logs=False)
        self._followers: set[asyncio.Task[None]] = set()

    def _run(self, order: Order) -> int:
        programs.program(order.kind)  # here, so that all that are forked share it

        def main(events: int) -> None:
            run(order, lambda event: _write(events, event))

        pid, events = processes.fork(main)
        task = asyncio.get_running_loop().create_task(self._follow(pid, events))
        self._followers.add(task)  # a loop holds its tasks only weakly
        task.add_done_callback(self._followers.discard)
        return pid

    def _end(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGTERM)

    async def _follow(self, pid: int, events: int) -> None:
        """Take a program's events as they come; its end shows as the end of the pipe."""
        async with processes.lines(events) as stream:
            async for line in stream:
                self.heard(pid, json.loads(line))

    async def started(self) -> None:
        """They have been: forking does not wait."""

    def reap(self) -> None:
        """Take note of programs that have ended; called upon SIGCHLD."""
        for pid, status in processes.ended():
            self.ended(pid, status)


def _write(pipe: int, event: dict[str, Any]) -> None:
    os.write(pipe, json.dumps(event).encode() + b"\n")
