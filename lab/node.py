"""Turns one node's plan into kernel state, in the network namespace where it runs.

The namespace backend calls this after it has entered the node's namespace, a container's entrypoint calls it in the
container: there is no second copy of this logic. It expects the node's interfaces to exist.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from lab import rtnetlink
from lab.plan import Firewall, Interface, NodePlan, Route
from lab.rtnetlink import Request, Rtnetlink

_OPTIONAL = "net.bridge."
"""These are there only where the bridge netfilter module is, and without it nothing has to be switched off. A container
cannot switch it off; it costs time, and no rule of ours is for packets that a bridge passes on."""


_LOOPBACK = 1


class NodeError(Exception):
    """A node cannot be configured; the message says which part of the plan the kernel refused, and why."""


def apply_sysctls(node: str, sysctls: Mapping[str, str]) -> None:
    """Write sysctls of a node. Raises NodeError."""
    with contextlib.ExitStack() as stack:
        # A path from the root is looked for among those of all namespaces; one from here is not.
        directories: dict[str, int] = {}
        for key, value in sysctls.items():
            *parents, name = key.split(".", 2)
            directory = "/".join(("/proc/sys", *parents))
            try:
                if directory not in directories:
                    directories[directory] = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                    stack.callback(os.close, directories[directory])
                _set(directories[directory], name.replace(".", "/"), value)
            except OSError as error:
                if key.startswith(_OPTIONAL):
                    continue
                raise NodeError(f"{node}: cannot set {key} to {value}: {error.strerror}") from error


def _set(directory: int, name: str, value: str) -> None:
    """Write a sysctl that is not so yet: in a container, they are set already, and cannot be written."""
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        there = os.read(file, 64).strip().decode()
    finally:
        os.close(file)
    if there == value:
        return
    file = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(file, value.encode())
    finally:
        os.close(file)


def configure(node: NodePlan) -> None:
    """Addresses, neighbours, routes and rules of a node whose sysctls are set. Raises NodeError."""
    try:
        with Rtnetlink() as kernel:
            kernel.do(*_configuration(node, {each.name: socket.if_nametoindex(each.name) for each in node.interfaces}))
    except OSError as error:
        raise NodeError(f"{node.name}: the kernel refused its links or routes: {error.strerror}") from error


def _configuration(node: NodePlan, indexes: Mapping[str, int]) -> Iterator[Request]:
    yield rtnetlink.set_up(_LOOPBACK)
    for interface in node.interfaces:
        yield from _interface(indexes[interface.name], interface)
    for each in node.neighbours:
        yield rtnetlink.neighbour(indexes[each.interface], each.address, each.mac)
    for route in node.routes:
        yield _route(route, indexes)
    for rule in node.rules:
        yield rtnetlink.source_rule(rule.source, rule.table)


def _interface(index: int, interface: Interface) -> Iterator[Request]:
    if not interface.ipv6:
        yield rtnetlink.no_link_local(index)
    for address in interface.addresses:
        yield rtnetlink.address(index, address)
    yield rtnetlink.set_up(index, mtu=interface.mtu, mac=interface.mac)


def _route(route: Route, indexes: Mapping[str, int], *, present: bool = True) -> Request:
    index = None if route.interface is None else indexes[route.interface]
    return rtnetlink.route(
        route.destination,
        index,
        via=route.via,
        kind=route.kind,
        table=route.table,
        metric=route.metric,
        present=present,
    )


def apply_firewall(node: str, firewall: Firewall) -> None:
    """Load a firewall into a node that has none, then the sysctls that come with it. Raises NodeError."""
    _load(node, firewall)
    apply_sysctls(node, firewall.sysctls)


def remove_firewall(node: str, firewall: Firewall) -> None:
    """Take a firewall's rules away, and what they have remembered with them. Raises NodeError."""
    sets = [line.split()[1] for line in firewall.ipset.splitlines() if line.startswith("create ")]
    tables = re.findall(r"^table (\w+ \w+) {$", firewall.nftables, re.MULTILINE)
    nothing = Firewall(
        engine=firewall.engine,
        iptables=re.sub(r"^(:(?!\S+ ACCEPT)|-A).*\n", "", firewall.iptables, flags=re.MULTILINE),
        nftables="".join(f"table {table}\ndelete table {table}\n" for table in tables),
    )
    _load(node, nothing)
    _load(node, Firewall(engine=firewall.engine, ipset="".join(f"destroy {name}\n" for name in sets)))
    from pyroute2.conntrack import Conntrack  # noqa: PLC0415 - slow to import, and few nodes need it

    with Conntrack() as flows:
        flows.flush()


def reconfigure(old: NodePlan, new: NodePlan) -> None:
    """Change a running node's addresses and routes to what a new plan says. Its interfaces stay. Raises NodeError."""
    try:
        with Rtnetlink() as kernel:
            kernel.do(*_changes(old, new, {each.name: socket.if_nametoindex(each.name) for each in new.interfaces}))
    except OSError as error:
        raise NodeError(
            f"{new.name}: the kernel refused a change of its addresses or routes: {error.strerror}"
        ) from error


def _changes(old: NodePlan, new: NodePlan, indexes: Mapping[str, int]) -> Iterator[Request]:
    before = {interface.name: interface.addresses for interface in old.interfaces}
    for route in set(old.routes) - set(new.routes):
        yield _route(route, indexes, present=False)
    for interface in new.interfaces:
        index, had = indexes[interface.name], before[interface.name]
        for address in interface.addresses:
            if address not in had:
                yield rtnetlink.address(index, address)
        for address in had:
            if address not in interface.addresses:
                yield rtnetlink.address(index, address, present=False)
    for known, present in (
        (set(old.neighbours) - set(new.neighbours), False),
        (set(new.neighbours) - set(old.neighbours), True),
    ):
        for each in known:
            yield rtnetlink.neighbour(indexes[each.interface], each.address, each.mac, present=present)
    for route in new.routes:  # also those that went with an address
        if route not in old.routes or route.via is not None:
            yield _route(route, indexes)


def _load(name: str, firewall: Firewall) -> None:
    for text, command in (
        (firewall.ipset, ("ipset", "restore", "-exist")),
        (firewall.iptables, ("iptables-restore", "-w")),
        (firewall.nftables, ("nft", "-f", "-")),
    ):
        if text:
            run_tool(name, command, text)


def run_tool(node: str, command: Sequence[str], text: str | None = None) -> None:
    """Run a command of the system for a node, with a text to read. Raises NodeError with what it says."""
    try:
        result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NodeError(f"{node}: the command {command[0]} is missing") from error
    if result.returncode != 0:
        raise NodeError(f"{node}: {' '.join(command)} failed: {result.stderr.strip()}")
