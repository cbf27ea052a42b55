"""Turns one node's plan into kernel state, in the network namespace where it runs.

The namespace backend calls this after it has entered the node's namespace, a container's entrypoint calls it in the
container: there is no second copy of this logic. It expects the node's interfaces to exist.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.conntrack import Conntrack
from pyroute2.netlink.exceptions import NetlinkError

from lab.plan import Firewall, Interface, Neighbour, NodePlan, Route

_OPTIONAL = "net.bridge."
"""These are there only where the bridge netfilter module is, and without it nothing has to be switched off. A container
cannot switch it off; it costs time, and no rule of ours is for packets that a bridge passes on."""

_SCOPE_LINK = 253
NUD_PERMANENT: Final = 0x80

NO_LINK_LOCAL: Final[dict[str, Any]] = {
    "IFLA_AF_SPEC": {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}
}
"""What keeps an interface that is not up yet from having IPv6 addresses of its own; no sysctl, since containers may
not write these."""


class NodeError(Exception):
    """A node cannot be configured; the message says which part of the plan the kernel refused, and why."""


def apply_sysctls(node: str, sysctls: Mapping[str, str]) -> None:
    """Write sysctls of a node. Raises NodeError."""
    for key, value in sysctls.items():
        path = Path("/proc/sys") / key.replace(".", "/")
        try:
            if path.read_text().strip() != value:  # in a container, they are set already, and cannot be written
                path.write_text(value)
        except OSError as error:
            if key.startswith(_OPTIONAL):
                continue
            raise NodeError(f"{node}: cannot set {key} to {value}: {error.strerror}") from error


def configure(node: NodePlan) -> None:
    """Addresses, routes and rules of a node whose sysctls are set. Raises NodeError."""
    try:
        with IPRoute() as ip:
            ip.link("set", index=1, state="up")
            indexes = {"lo": 1}
            for interface in node.interfaces:
                indexes[interface.name] = _interface(ip, interface)
            for neighbour in node.neighbours:
                _neighbour(ip, "add", neighbour, indexes)
            for route in node.routes:
                _route(ip, "add", route, indexes)
            for rule in node.rules:
                ip.rule("add", family=socket.AF_INET6, src=rule.source, table=rule.table)
    except (NetlinkError, OSError) as error:
        raise NodeError(f"{node.name}: the kernel refused its links or routes: {error}") from error


def _interface(ip: IPRoute, interface: Interface) -> int:
    index = socket.if_nametoindex(interface.name)
    if not interface.ipv6:
        ip.link("set", index=index, **NO_LINK_LOCAL)
    for address in interface.addresses:
        _address(ip, "add", index, address)
    own = {"address": interface.mac} if interface.mac else {}
    ip.link("set", index=index, mtu=interface.mtu, state="up", **own)
    return index


def _neighbour(ip: IPRoute, change: str, neighbour: Neighbour, indexes: dict[str, int]) -> None:
    index = indexes[neighbour.interface]
    ip.neigh(change, dst=neighbour.address, lladdr=neighbour.mac, ifindex=index, state=NUD_PERMANENT)


def _address(ip: IPRoute, change: str, index: int, address: str) -> None:
    parsed = ipaddress.ip_interface(address)
    ip.addr(change, index=index, address=str(parsed.ip), prefixlen=parsed.network.prefixlen)


def _route(ip: IPRoute, change: str, route: Route, indexes: dict[str, int]) -> None:
    network = ipaddress.ip_network(route.destination)
    options: dict[str, Any] = {
        "dst": route.destination,
        "family": socket.AF_INET if network.version == 4 else socket.AF_INET6,
        "table": route.table,
        "type": route.kind,
    }
    if route.interface is not None:
        options["oif"] = indexes[route.interface]
    if route.via is not None:
        options["gateway"] = route.via
    elif route.kind == "unicast" and network.version == 4:
        options["scope"] = _SCOPE_LINK
    ip.route(change, **options)


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
    with Conntrack() as flows:
        flows.flush()


def reconfigure(old: NodePlan, new: NodePlan) -> None:
    """Change a running node's addresses and routes to what a new plan says. Its interfaces stay. Raises NodeError."""
    try:
        with IPRoute() as ip:
            indexes = {interface.name: socket.if_nametoindex(interface.name) for interface in new.interfaces}
            before = {interface.name: interface.addresses for interface in old.interfaces}
            for route in set(old.routes) - set(new.routes):
                _route(ip, "del", route, indexes)
            for interface in new.interfaces:
                had = before[interface.name]
                changes = [("add", address) for address in interface.addresses if address not in had]
                changes += [("del", address) for address in had if address not in interface.addresses]
                for change, address in changes:
                    _address(ip, change, indexes[interface.name], address)
            for change, neighbours in (
                ("del", set(old.neighbours) - set(new.neighbours)),
                ("replace", set(new.neighbours) - set(old.neighbours)),
            ):
                for neighbour in neighbours:
                    _neighbour(ip, change, neighbour, indexes)
            for route in new.routes:  # also those that went with an address
                if route not in old.routes or route.via is not None:
                    _route(ip, "replace", route, indexes)
    except (NetlinkError, OSError) as error:
        raise NodeError(f"{new.name}: the kernel refused a change of its addresses or routes: {error}") from error


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
