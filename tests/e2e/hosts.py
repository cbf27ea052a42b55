"""What testinfra shall find in nodes, as their plan has it: the same in both backends."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from typing import Any

import pytest

from lab.nat.upnp import HTTP_PORT
from lab.plan import NodePlan, Plan
from lab.planner import plan
from lab.programs.process import process_name
from lab.teredo.address import PORT
from lab.testing.running import RunningLab
from lab.topology.load import parse

TOPOLOGY = """
servers: {server: }
relays: {relay: }
hosts: {web: }
sites:
  home: {nat: upnp_port_restricted, clients: {alice: }}
  away: {nat: port_symmetric, clients: {carol: {program: miredo}}}
"""
"""A node of each role, of both makers, and NATs of both engines."""

SYSCTLS = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.rp_filter")


LONGEST_NAME = 15
"""Of a process, as the kernel keeps it."""


NAMES = tuple(node.name for node in plan(parse(TOPOLOGY.encode(), "hosts", "hosts")).nodes)


def planned(lab: RunningLab) -> Plan:
    """The plan of a lab that runs; ports differ from plan to plan."""
    return Plan.model_validate(lab.lab.ask_once("plan")["plan"])


def interfaces_and_addresses(lab: RunningLab, node: NodePlan) -> None:
    """Each interface of the plan is there, up, and has the addresses of the plan."""
    host = lab.host(node.name)
    for interface in node.interfaces:
        found = host.interface(interface.name)
        assert found.exists, interface.name
        shown = json.loads(host.check_output("ip -json address show dev %s", interface.name))[0]
        assert "UP" in shown["flags"]
        assert shown["mtu"] == interface.mtu
        wanted = {str(ipaddress.ip_interface(address).ip) for address in interface.addresses}
        assert wanted <= set(found.addresses)
        own = {address for address in found.addresses if not address.startswith("fe80:")}
        assert own == wanted


def routes(lab: RunningLab, node: NodePlan) -> None:
    """Each route of the plan is in the table that it shall be in."""
    host = lab.host(node.name)
    for route in node.routes:
        version = ipaddress.ip_network(route.destination).version
        command = f"ip -{version} -json route show table {route.table} %s"
        destination = "default" if route.destination in ("0.0.0.0/0", "::/0") else route.destination
        there = json.loads(host.check_output(command, destination))
        (found,) = [each for each in there if route.metric in (None, each.get("metric"))]
        assert found.get("type", "unicast") == route.kind
        if route.via is not None:
            assert found["gateway"] == route.via
        if route.interface is not None:
            assert found["dev"] == route.interface


def sockets(lab: RunningLab, node: NodePlan) -> None:
    """Servers, relays, hosts and clients listen where they shall, and a NAT's UPnP does."""
    for program in node.programs:
        options: dict[str, Any] = program.options
        wanted = {
            "server": [f"udp://{options.get('primary')}:{PORT}", f"udp://{options.get('secondary')}:{PORT}"],
            "relay": [f"udp://{options.get('bind')}:{options.get('port')}"],
            "client": [f"udp://{options.get('bind')}:{options.get('port')}"],
            "web": [f"tcp://{options.get('address')}:{options.get('port')}"],
            "upnp": [f"tcp://*%lan:{HTTP_PORT}"],
        }[program.kind.split("-")[-1]]
        assert set(wanted) <= set(lab.host(node.name).socket.get_listening_sockets())


def processes(lab: RunningLab, node: NodePlan) -> None:
    """Each program of the plan runs once."""
    found = [process.comm for process in lab.host(node.name).process.filter()]
    for program in node.programs:
        assert found.count(process_name(program.kind, node.name)[:LONGEST_NAME]) == 1, found


def files(lab: RunningLab, node: NodePlan) -> None:
    """Nodes know each other by name, and their sysctls are those of the plan."""
    host = lab.host(node.name)
    names = {name for line in host.file("/etc/hosts").content_string.splitlines() for name in line.split()[1:]}
    assert {other.name for other in planned(lab).nodes if other.role in ("server", "relay", "host")} <= names
    assert host.run("hostname").stdout.strip() == node.name
    for key, value in node.sysctls.items():
        if key in SYSCTLS:
            assert str(host.sysctl(key)) == value
    assert host.file("/dev/net/tun").exists


EVERYTHING = (interfaces_and_addresses, routes, sockets, processes, files)


@pytest.mark.parametrize("look", EVERYTHING, ids=lambda look: look.__name__)
@pytest.mark.parametrize("node", NAMES)
def test_a_node_is_what_its_plan_says(
    look: Callable[[RunningLab, NodePlan], None], node: str, nodes: RunningLab
) -> None:
    """For the modules that import it, each with a fixture `nodes` of its backend."""
    look(nodes, planned(nodes).node(node))
