"""Turns one node's plan into kernel state, in the network namespace where it runs.

The namespace backend calls this after it has entered the node's namespace, a container's entrypoint calls it in the
container: there is no second copy of this logic. It expects the node's interfaces to exist.
"""

from __future__ import annotations

import ipaddress
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from lab.plan import Firewall, Interface, NodePlan, Route

_OPTIONAL = "net.bridge."
"""These are there only where the bridge netfilter module is, and without it nothing has to be switched off."""

_SCOPE_LINK = 253


class NodeError(Exception):
    """A node cannot be configured; the message says which part of the plan the kernel refused, and why."""


def apply_sysctls(node: str, sysctls: Mapping[str, str]) -> None:
    """Write sysctls of a node. Raises NodeError."""
    for key, value in sysctls.items():
        path = Path("/proc/sys") / key.replace(".", "/")
        try:
            path.write_text(value)
        except OSError as error:
            if key.startswith(_OPTIONAL) and not path.exists():
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
            for route in node.routes:
                _route(ip, route, indexes)
            for rule in node.rules:
                ip.rule("add", family=socket.AF_INET6, src=rule.source, table=rule.table)
    except (NetlinkError, OSError) as error:
        raise NodeError(f"{node.name}: the kernel refused its links or routes: {error}") from error


def _interface(ip: IPRoute, interface: Interface) -> int:
    index = socket.if_nametoindex(interface.name)
    if not interface.ipv6:
        Path(f"/proc/sys/net/ipv6/conf/{interface.name}/disable_ipv6").write_text("1")
    for address in interface.addresses:
        parsed = ipaddress.ip_interface(address)
        ip.addr("add", index=index, address=str(parsed.ip), prefixlen=parsed.network.prefixlen)
    ip.link("set", index=index, mtu=interface.mtu, state="up")
    return index


def _route(ip: IPRoute, route: Route, indexes: dict[str, int]) -> None:
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
    ip.route("add", **options)


def apply_firewall(node: str, firewall: Firewall) -> None:
    """Load a firewall into a node that has none, then the sysctls that come with it. Raises NodeError."""
    _load(node, firewall)
    apply_sysctls(node, firewall.sysctls)


def _load(name: str, firewall: Firewall) -> None:
    for text, command in (
        (firewall.ipset, ("ipset", "restore", "-exist")),
        (firewall.iptables, ("iptables-restore", "-w")),
        (firewall.nftables, ("nft", "-f", "-")),
    ):
        if not text:
            continue
        try:
            result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise NodeError(f"{name}: the command {command[0]} is missing") from error
        if result.returncode != 0:
            raise NodeError(f"{name}: {' '.join(command)} refused the firewall: {result.stderr.strip()}")
