"""The nodes of a lab of namespaces, for the lab's own processes: places to open sockets, to work, to run programs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, Final

from lab import rtnetlink
from lab.backends.linux import NetworkNamespaces
from lab.backends.programs import Forked, Reports
from lab.plan import NodePlan
from lab.rtnetlink import Rtnetlink
from lab.state import Lab
from lab.work import WORK

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
            bridge = socket.if_nametoindex("lan")
            kernel.do(rtnetlink.veth(name, "lan", there, peer_mac=_GUEST_ADDRESS, master=bridge))
        with self._namespaces.inside(place), Rtnetlink() as kernel:
            index = socket.if_nametoindex("lan")
            kernel.do(
                rtnetlink.address(index, nat.nat.guest),
                rtnetlink.set_up(index),
                rtnetlink.route("0.0.0.0/0", index, via=gateway),
            )
        return place


class NamespacePrograms(Forked):
    """The programs of nodes that are network namespaces of this process."""

    def __init__(self, lab: Lab, reports: Reports, namespaces: NetworkNamespaces) -> None:
        super().__init__(lab, reports, namespaces.enter, lab.log)
        self._namespaces = namespaces

    async def connect(self, progress: Callable[[int, int], None]) -> None:
        for node in self._namespaces.fds:
            self._lab.node_directory(node).mkdir(parents=True)
        progress(1, 1)

    def names(self, hosts: str) -> None:
        self._lab.hosts_file.write_text(hosts)  # in place: it is mounted over /etc/hosts

    def facts(self, node: str) -> dict[str, Any]:
        return {"log": str(self._lab.log(node)), "netns_fd": self._namespaces.fds[node]}
