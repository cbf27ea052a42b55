"""Namespaces, links and configuration of every node of a plan, as the supervisor makes them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from lab import rtnetlink
from lab.backends import linux
from lab.backends.linux import NetworkNamespaces
from lab.node import NodeError, apply_firewall, apply_sysctls, configure
from lab.plan import Firewall, Network, Plan
from lab.rtnetlink import Request, Rtnetlink

FIREWALL_WORKERS = 8
LINK_TIMEOUT = 5.0

BRIDGE = "lan-bridge"
"""Of a NAT's LAN; not the router's own interface: what leaves by a bridge, the kernel cuts if it is a large packet of a
tunnel."""

Progress = Callable[[str, int, int], None]


def wire(plan: Plan, namespaces: NetworkNamespaces, progress: Progress) -> None:
    """Make the plan's nodes as network namespaces of this process. Raises NodeError, naming the node.

    `progress` is told what is being done, how much of it is done, and how much there is.
    """
    total = len(plan.nodes)
    for done, node in enumerate(plan.nodes, 1):
        namespaces.create(node.name)
        with namespaces.inside(node.name):
            apply_sysctls(node.name, node.sysctls)  # before there are interfaces: they take the defaults
        progress("namespaces", done, total)
    for done, (gateway, links) in enumerate(_by_gateway(plan), 1):
        with namespaces.inside(gateway):
            _link(gateway, links, namespaces)
        progress("links", done, total)
    for done, node in enumerate(plan.nodes, 1):
        with namespaces.inside(node.name):
            configure(node)
        progress("addresses and routes", done, total)
    for node in plan.nodes:
        with namespaces.inside(node.name):
            linux.wait_for_links([interface.name for interface in node.interfaces], LINK_TIMEOUT)


def _by_gateway(plan: Plan) -> Iterator[tuple[str, list[Network]]]:
    """Networks by their first member, in whose namespace their links are made."""
    networks: dict[str, list[Network]] = {}
    for network in plan.networks:
        networks.setdefault(network.members[0][0], []).append(network)
    yield from networks.items()


def _link(gateway: str, networks: list[Network], namespaces: NetworkNamespaces) -> None:
    try:
        with Rtnetlink() as kernel:
            kernel.do(*(rtnetlink.bridge(BRIDGE) for network in networks if network.kind == "lan"))
            kernel.do(*(request for network in networks for request in _ends(network, namespaces)))
    except OSError as error:
        raise NodeError(f"{gateway}: the kernel refused a link: {error.strerror}") from error


def _ends(network: Network, namespaces: NetworkNamespaces) -> Iterator[Request]:
    """The links of a network, made in the namespace of its first member."""
    (gateway, name), *others = network.members
    if network.kind == "p2p":
        for node, interface in others:
            yield rtnetlink.veth(name, interface, namespaces.fds[node])
        return
    bridge = socket.if_nametoindex(BRIDGE)
    yield rtnetlink.veth(f"{name}-port", name, namespaces.fds[gateway], master=bridge)
    yield rtnetlink.no_link_local(bridge)
    yield rtnetlink.set_up(bridge, arp=False)  # or it would answer for the router, whose interface it is not
    for number, (node, interface) in enumerate(others):
        yield rtnetlink.veth(f"{name}{number}", interface, namespaces.fds[node], master=bridge)


def load_firewalls(plan: Plan, namespaces: NetworkNamespaces, progress: Progress) -> None:
    """Load the NATs' rules side by side: most of that time is waiting for the kernel. Raises NodeError."""
    firewalls = [(node.name, node.firewall) for node in plan.nodes if node.firewall is not None]

    def load(node: str, firewall: Firewall) -> None:
        with namespaces.inside(node):
            apply_firewall(node, firewall)

    with ThreadPoolExecutor(FIREWALL_WORKERS) as pool:
        for done, _ in enumerate(pool.map(load, *zip(*firewalls, strict=True)) if firewalls else (), 1):
            progress("firewalls", done, len(firewalls))
