"""The nodes of a lab of namespaces, for the lab's own processes: places to open sockets, to work, to run programs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable, Sequence
from itertools import count, islice
from typing import Any, Final

from lab import programs, rtnetlink
from lab.backends import nursery
from lab.backends.linux import NetworkNamespaces
from lab.backends.programs import Local, Reports
from lab.backends.wiring import BRIDGE
from lab.plan import NodePlan
from lab.programs.process import Order
from lab.rtnetlink import Rtnetlink
from lab.state import Lab
from lab.work import WORK

PROCESSES: Final = 128
"""More clients than that share processes."""

_AT_ONCE: Final = 32
"""Programs that have been asked for and have told nothing yet."""

_PATIENCE: Final = 1.0
"""Seconds after which such a program no longer keeps others waiting."""

_BATCH: Final = 100

_GUEST_ADDRESS: Final = "02:00:00:00:00:02"
"""Of every guest: the NAT may still know the one before it, which had the same IPv4 address."""


class NamespacePlaces:
    """Nodes that are network namespaces of this process."""

    def __init__(self, namespaces: NetworkNamespaces) -> None:
        self._namespaces = namespaces

    def open(self, node: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        with self._namespaces.inside(node):
            return socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)

    def do(self, node: str, work: str, /, **arguments: Any) -> Any:  # noqa: ANN401 - as in Places
        with self._namespaces.inside(node):
            return WORK[work](**arguments)

    def wait(self, node: str) -> None:
        """None is ever made anew."""

    def guest(self, nat: NodePlan) -> str:
        """A namespace that goes when this process does."""
        assert nat.nat is not None
        assert nat.nat.guest is not None
        gateway = nat.interfaces[1].addresses[0].split("/")[0]
        name = f"guest{os.getpid()}"  # the one before may not be gone yet
        place = f"{name} of {nat.name}"
        self._namespaces.create(place)
        there = self._namespaces.fds[place]
        with self._namespaces.inside(nat.name), Rtnetlink() as kernel:
            bridge = socket.if_nametoindex(BRIDGE)
            kernel.do(rtnetlink.veth(name, "lan", there, peer_mac=_GUEST_ADDRESS, master=bridge))
        with self._namespaces.inside(place), Rtnetlink() as kernel:
            index = socket.if_nametoindex("lan")
            kernel.do(
                rtnetlink.address(index, nat.nat.guest),
                rtnetlink.set_up(index),
                rtnetlink.route("0.0.0.0/0", index, via=gateway),
            )
        return place


class NamespacePrograms(Local):
    """The programs of nodes that are network namespaces of this process: forked from a nursery, a few at a time.

    Many at once would all be slow, and their servers with them, until they take each other for dead. Each has a
    process of its own, but in a large lab clients share them.
    """

    def __init__(self, lab: Lab, reports: Reports, namespaces: NetworkNamespaces, nodes: Sequence[NodePlan]) -> None:
        super().__init__(lab, reports, logs=True)
        self._namespaces = namespaces
        self._nursery, self._channel = nursery.start()
        self._numbers = count()
        self._waiting: dict[int, Order] = {}
        self._starting: set[int] = set()
        self._all_started = asyncio.Event()
        clients = sum(programs.shareable(program.kind) is not None for node in nodes for program in node.programs)
        self._share = min(nursery.MOST, -(-clients // PROCESSES) or 1)

    async def connect(self, progress: Callable[[int, int], None]) -> None:
        for node in self._namespaces.fds:
            self._lab.node_directory(node).mkdir(parents=True)
        asyncio.get_running_loop().add_reader(self._channel, self._hear)
        progress(1, 1)

    async def started(self) -> None:
        if self._waiting or self._starting:
            self._all_started.clear()
            await self._all_started.wait()

    def _run(self, order: Order) -> int:
        number = next(self._numbers)
        self._waiting[number] = order
        self._start_more()
        return number

    def _end(self, number: int) -> None:
        if self._waiting.pop(number, None) is None:
            nursery.ask_to_stop(self._channel, number)
        else:
            self.ended(number, 0)

    def _start_more(self) -> None:
        while self._waiting and len(self._starting) < _AT_ONCE:
            orders = {number: self._waiting.pop(number) for number in self._next()}
            self._starting |= orders.keys()
            asyncio.get_running_loop().call_later(_PATIENCE, self._no_longer_starting, *orders)
            nursery.ask_to_start(self._channel, orders, [self._namespaces.fds[order.node] for order in orders.values()])
        if not self._waiting and not self._starting:
            self._all_started.set()

    def _next(self) -> list[int]:
        """The programs that are started next, in one process."""
        shareable = (number for number, order in self._waiting.items() if programs.shareable(order.kind) is not None)
        first = next(iter(self._waiting))
        together = list(islice(shareable, self._share))
        return together if first in together else [first]

    def _no_longer_starting(self, *numbers: int) -> None:
        if not self._starting.isdisjoint(numbers):
            self._starting.difference_update(numbers)
            self._start_more()

    def _hear(self) -> None:
        """Take in what the nursery and its programs tell."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_BATCH):
                message = self._channel.recv(nursery.MESSAGE)
                if not message:
                    self._orphaned()
                    return
                told = json.loads(message)
                number = told["number"]
                if "event" in told:
                    self.heard(number, told["event"])
                else:
                    self.ended(number, told["status"])
                self._no_longer_starting(number)

    def _orphaned(self) -> None:
        """The nursery has ended, and its programs with it."""
        asyncio.get_running_loop().remove_reader(self._channel)
        _, status = os.waitpid(self._nursery, 0)
        for number in list(self._running):
            self.ended(number, status)

    def names(self, hosts: str) -> None:
        self._lab.hosts_file.write_text(hosts)  # in place: it is mounted over /etc/hosts

    def facts(self, node: str) -> dict[str, Any]:
        return {"log": str(self._lab.log(node)), "netns_fd": self._namespaces.fds[node]}
