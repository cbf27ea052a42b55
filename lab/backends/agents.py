"""The nodes of a lab of containers, for its controller: reached by their agents over Unix sockets that they share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from pydantic_core import to_jsonable_python

from lab import unix
from lab.backends.containers import guest_of
from lab.backends.programs import Reports
from lab.node import NodeError
from lab.plan import NodePlan
from lab.state import Lab

_POLL: Final = 0.02
_NAMES_PAUSE: Final = 0.2
_NAMES_PAUSE_EACH: Final = 0.01
"""Seconds between two tellings of all names to all nodes, and what each node adds: every telling wakes all of them."""

_PATIENCE: Final = 120.0
"""Seconds without another container that comes up, after which the others count as lost."""

_LIMIT: Final = 1 << 22
_KERNEL: Final = "container"

_log = logging.getLogger("supervisor")


def _raise_obstacle(lab: Lab, node: str) -> None:
    """Raises NodeError if a container has said why it cannot be its node."""
    with contextlib.suppress(FileNotFoundError):
        raise NodeError(lab.obstacle(node).read_text())


class AgentPlaces:
    """Nodes whose agents open sockets and work there for us."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def open(self, node: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        request = {"request": "socket", "family": family, "kind": kind, "protocol": protocol}
        with self._ask(node, request) as connection:
            data, fds, _, _ = socket.recv_fds(connection, 4096, 1)
        if not fds:
            number = json.loads(data or b"{}").get("errno", 0)
            raise OSError(number, f"{node} opens no socket: {os.strerror(number)}")
        return socket.socket(fileno=fds[0])

    def do(self, node: str, work: str, /, **arguments: Any) -> Any:  # noqa: ANN401 - as in Places
        request = {"request": "do", "work": work, "arguments": to_jsonable_python(arguments)}
        try:
            with self._ask(node, request) as connection, connection.makefile("rb") as stream:
                answer = json.loads(stream.readline() or b'{"problem": "its container has stopped"}')
        except OSError as error:
            raise NodeError(f"{node}: its container does not answer: {error.strerror}") from error
        if "problem" in answer:
            raise NodeError(answer["problem"])
        return answer["result"]

    def wait(self, node: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(OSError):
                unix.connect(self._lab.agent(node)).close()
                return
            _raise_obstacle(self._lab, node)
            if time.monotonic() > deadline:
                raise NodeError(f"this container does not come up: {node}")
            time.sleep(_POLL)

    def guest(self, nat: NodePlan) -> str:
        return guest_of(nat.name)

    def _ask(self, node: str, request: dict[str, Any]) -> socket.socket:
        connection = unix.connect(self._lab.agent(node))
        connection.sendall(json.dumps(request).encode() + b"\n")
        return connection


class AgentPrograms:
    """The programs of nodes that are containers: their agents run them, and tell what becomes of them."""

    def __init__(self, lab: Lab, nodes: Sequence[NodePlan], reports: Reports) -> None:
        self._lab = lab
        self._plans = {node.name: node for node in nodes}
        self._reports = reports
        self._writers: dict[str, asyncio.StreamWriter] = {}
        self._started: set[str] = set()
        self._hosts = ""
        self._telling: asyncio.Task[None] | None = None
        self._followers: list[asyncio.Task[None]] = []

    async def connect(self, progress: Callable[[int, int], None]) -> None:
        """Wait until all agents are there. Raises NodeError."""
        loop = asyncio.get_running_loop()
        self._followers = [loop.create_task(self._follow(node)) for node in self._plans]
        deadline = loop.time() + _PATIENCE
        known = -1
        while len(self._writers) < len(self._plans):
            if loop.time() > deadline:
                missing = ", ".join(sorted(self._plans.keys() - self._writers.keys()))
                raise NodeError(f"these containers do not come up: {missing}")
            for node in self._plans.keys() - self._writers.keys():
                _raise_obstacle(self._lab, node)
            if known != len(self._writers):
                known = len(self._writers)
                deadline = loop.time() + _PATIENCE
                progress(known, len(self._plans))
            await asyncio.sleep(_POLL)
        progress(len(self._plans), len(self._plans))

    async def _follow(self, node: str) -> None:
        """Be connected to a node's agent whenever there is one; start the programs of one that has come back."""
        while True:
            try:
                connection = unix.connect(self._lab.agent(node))
            except OSError:
                await asyncio.sleep(_POLL * 5 if node in self._started else _POLL)
                continue
            connection.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=connection, limit=_LIMIT)
            writer.write(b'{"request": "watch"}\n')
            self._writers[node] = writer
            if node in self._started:
                self._order(node, {"order": "names", "hosts": self._hosts})
                self._start(self._plans[node], anew=False)
                self._reports.report(node, _KERNEL, "running", None)
            with contextlib.suppress(ConnectionError):
                async for line in reader:
                    self._heard(node, json.loads(line))
            writer.close()
            del self._writers[node]
            for program in self._plans[node].programs:
                self._reports.address(node, None)
                self._reports.report(node, program.kind, "failed", "its container has stopped")
            if node in self._started:
                self._reports.report(node, _KERNEL, "failed", "its container has stopped")

    def _heard(self, node: str, told: dict[str, Any]) -> None:
        self._reports.address(node, told["address"])
        for kind, (state, reason) in told["reports"].items():
            self._reports.report(node, kind, state, reason)

    def _order(self, node: str, order: dict[str, Any]) -> None:
        writer = self._writers.get(node)
        if writer is not None and not writer.is_closing():
            writer.write(json.dumps(order).encode() + b"\n")

    def start(self, node: NodePlan) -> None:
        """Start a node's programs; those that run already go on: another controller may have started them."""
        self._start(node, anew=False)

    async def started(self) -> None:
        """Whoever starts them tells."""

    def replace(self, node: NodePlan) -> None:
        self._start(node, anew=True)

    def _start(self, node: NodePlan, *, anew: bool) -> None:
        self._plans[node.name] = node
        self._started.add(node.name)
        if node.programs:
            self._order(node.name, {"order": "start", "node": node.model_dump(mode="json"), "anew": anew})

    def names(self, hosts: str) -> None:
        """Tell all nodes, but not at each of many changes."""
        if hosts == self._hosts:
            return
        self._hosts = hosts
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell_names())

    async def _tell_names(self) -> None:
        await asyncio.sleep(_NAMES_PAUSE + _NAMES_PAUSE_EACH * len(self._plans))
        for node in self._plans:
            self._order(node, {"order": "names", "hosts": self._hosts})

    def facts(self, node: str) -> dict[str, Any]:
        return {"container": node}

    async def shut_down(self) -> None:
        """The engine stops the containers; here is nothing to stop."""
        for follower in self._followers:
            follower.cancel()
