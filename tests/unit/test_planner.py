"""The plan of a topology: the routed core, the nodes around it, and their programs."""

from __future__ import annotations

import re
import zlib
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

import pytest

from lab.check.expectation import expectations
from lab.nat import engines, nftables, upnp
from lab.nat.kinds import Engine, Filtering, NatBehaviour, PortChoice
from lab.nat.setup import NatSetup
from lab.plan import Interface, LinkQuality, Nat, Network, NodePlan, Plan, Program, Route, SourceRule
from lab.planner import plan
from lab.teredo.extensions import ALL
from lab.topology.load import load
from tests.unit.helpers.topologies import topology

TOPOLOGIES = sorted((Path(__file__).parents[2] / "topologies").glob("*.yaml"))

LAB = """
    name: small
    servers: {server: , other: {program: miredo}}
    relays: {relay: , second: {program: miredo, port: 4000}}
    hosts: {web: , west: {relay: second}, alone: {relay: local}}
    sites:
      home:
        nat: {kind: addr_restricted, udp_timeout: 45, engine: nftables}
        link: {loss: 5%}
        lan: 10.1.0.0/16
        clients:
          alice: {refresh_interval: 9}
          bob: {program: miredo, server: other, port: 5000}
"""


def strangers(lab: Plan) -> Plan:
    """The same plan without MAC addresses, which `test_neighbours` is about."""
    nodes = []
    for node in lab.nodes:
        interfaces = tuple(interface.model_copy(update={"mac": ""}) for interface in node.interfaces)
        nodes.append(node.model_copy(update={"interfaces": interfaces, "neighbours": ()}))
    return lab.model_copy(update={"nodes": tuple(nodes)})


@pytest.fixture(scope="module")
def small() -> Plan:
    return strangers(plan(topology(LAB)))


def route(destination: str, **options: Any) -> Route:
    return Route(destination=destination, **options)


COMMON = {
    "net.ipv6.conf.default.accept_ra": "0",
    "net.ipv6.conf.default.autoconf": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.all.accept_ra": "0",
    "net.ipv6.conf.all.autoconf": "0",
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.default.router_solicitations": "0",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.all.accept_redirects": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv4.conf.default.send_redirects": "0",
    "net.ipv4.conf.default.accept_redirects": "0",
}


def test_the_nodes(small: Plan) -> None:
    assert small.name == "small"
    assert [(node.name, node.role, node.site, node.program, node.nat and node.nat.kind) for node in small.nodes] == [
        ("internet", "internet", None, None, None),
        ("server", "server", None, "teredo-lab", None),
        ("other", "server", None, "miredo", None),
        ("relay", "relay", None, "teredo-lab", None),
        ("second", "relay", None, "miredo", None),
        ("web", "host", None, None, None),
        ("west", "host", None, None, None),
        ("alone", "host", None, "teredo-lab", None),
        ("home-nat", "nat", "home", None, "addr_restricted"),
        ("alice", "client", "home", "teredo-lab", None),
        ("bob", "client", "home", "miredo", None),
    ]


def test_the_networks(small: Plan) -> None:
    public = {node.name: node.interfaces[0].name for node in small.nodes[1:] if node.role != "client"}
    assert small.networks == (
        *(
            Network(
                name=f"internet--{name}",
                kind="p2p",
                members=(("internet", name), (name, interface)),
                qualities={name: LinkQuality(loss=5.0)} if name == "home-nat" else {},
            )
            for name, interface in public.items()
        ),
        Network(name="lan--home", kind="lan", members=(("home-nat", "lan"), ("alice", "lan"), ("bob", "lan"))),
    )
    assert public["home-nat"] == "wan"


def test_the_core(small: Plan) -> None:
    core = small.node("internet")
    native = ["server", "other", "relay", "second", "web", "west", "alone"]
    assert core.interfaces == (
        *(
            Interface(
                name=name,
                network=f"internet--{name}",
                addresses=("192.0.2.1/32", f"2001:db8:0:{index}::1/64", *(("192.0.2.254/32",) if index == 1 else ())),
                ipv6=True,
            )
            for index, name in enumerate(native, start=1)
        ),
        Interface(name="home-nat", network="internet--home-nat", addresses=("192.0.2.1/32",), ipv6=False),
    )
    assert core.sysctls == COMMON | {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}
    assert core.routes == (
        route("192.0.2.2/32", interface="server"),
        route("192.0.2.3/32", interface="server"),
        route("192.0.2.4/32", interface="other"),
        route("192.0.2.5/32", interface="other"),
        route("192.0.2.6/32", interface="relay"),
        route("192.0.2.7/32", interface="second"),
        route("192.0.2.8/32", interface="alone"),
        route("198.51.100.1/32", interface="home-nat"),
        route("10.0.0.0/8", kind="unreachable"),
        route("172.16.0.0/12", kind="unreachable"),
        route("192.168.0.0/16", kind="unreachable"),
        route("100.64.0.0/10", kind="unreachable"),
        route("169.254.0.0/16", kind="unreachable"),
        route("2001::/32", via="2001:db8:0:3::2", interface="relay"),
        route("2001::/32", via="2001:db8:0:4::2", interface="second", table=1001),
    )
    assert core.rules == (SourceRule(source="2001:db8:0:6::/64", table=1001),)


def test_a_server(small: Plan) -> None:
    assert small.node("server") == NodePlan(
        name="server",
        role="server",
        program="teredo-lab",
        interfaces=(
            Interface(
                name="wan",
                network="internet--server",
                addresses=("192.0.2.2/32", "192.0.2.3/32", "2001:db8:0:1::2/64"),
                ipv6=True,
            ),
        ),
        sysctls=COMMON | {"net.ipv6.conf.all.forwarding": "1"},
        routes=(
            route("192.0.2.1/32", interface="wan"),
            route("0.0.0.0/0", via="192.0.2.1", interface="wan"),
            route("::/0", via="2001:db8:0:1::1", interface="wan"),
        ),
        programs=(
            Program(
                kind="teredo-server",
                options={
                    "primary": "192.0.2.2",
                    "secondary": "192.0.2.3",
                    "tun": "teredo",
                    "secrets": {},
                    "relay": None,
                },
            ),
        ),
    )


def test_a_host_without_ipv4(small: Plan) -> None:
    assert small.node("web") == NodePlan(
        name="web",
        role="host",
        interfaces=(Interface(name="wan", network="internet--web", addresses=("2001:db8:0:5::2/64",), ipv6=True),),
        sysctls=COMMON,
        routes=(route("::/0", via="2001:db8:0:5::1", interface="wan"),),
        programs=(Program(kind="web", options={"address": "2001:db8:0:5::2", "port": 80}),),
    )


def test_a_relay_sends_nothing_back_while_its_program_does_not_run(small: Plan) -> None:
    for name in ("relay", "second"):
        assert small.node(name).routes[-1] == route("2001::/32", kind="unreachable", metric=65536)


def test_a_host_that_is_its_own_relay(small: Plan) -> None:
    alone = small.node("alone")
    assert alone.sysctls == COMMON
    assert alone.interfaces[0].addresses == ("192.0.2.8/32", "2001:db8:0:7::2/64")
    assert alone.programs == (
        Program(
            kind="teredo-relay",
            options={
                "bind": "192.0.2.8",
                "port": 3545,
                "address": "2001:db8:0:7::2",
                "tun": "teredo",
                "host_specific": True,
            },
        ),
        Program(kind="web", options={"address": "2001:db8:0:7::2", "port": 80}),
    )


def test_relays(small: Plan) -> None:
    relay, second = small.node("relay"), small.node("second")
    assert relay.sysctls == second.sysctls == COMMON | {"net.ipv6.conf.all.forwarding": "1"}
    assert relay.programs == (
        Program(
            kind="teredo-relay",
            options={
                "bind": "192.0.2.6",
                "port": 3545,
                "address": "2001:db8:0:3::2",
                "tun": "teredo",
                "host_specific": False,
            },
        ),
    )
    assert second.programs == (
        Program(kind="miredo-relay", options={"bind": "192.0.2.7", "port": 4000, "tun": "teredo"}),
    )


def test_a_miredo_server(small: Plan) -> None:
    assert small.node("other").programs == (
        Program(kind="miredo-server", options={"primary": "192.0.2.4", "secondary": "192.0.2.5", "tun": "teredo"}),
    )


def test_a_nat(small: Plan) -> None:
    setup = NatSetup(
        behaviour=NatBehaviour(filtering=Filtering.ADF, udp_timeout=45),
        external=(IPv4Address("198.51.100.1"),),
        hosts=(IPv4Address("10.1.0.2"), IPv4Address("10.1.0.3")),
        seed=zlib.crc32(b"small/home-nat"),
    )
    assert small.node("home-nat") == NodePlan(
        name="home-nat",
        role="nat",
        site="home",
        nat=Nat(
            kind="addr_restricted",
            setup=setup,
            upstream="internet",
            vantage=("192.0.2.1", "192.0.2.254"),
            guest=None,
        ),
        interfaces=(
            Interface(name="wan", network="internet--home-nat", addresses=("198.51.100.1/32",)),
            Interface(name="lan", network="lan--home", addresses=("10.1.0.1/16",)),
        ),
        sysctls=COMMON | {"net.ipv4.ip_forward": "1", "net.bridge.bridge-nf-call-iptables": "0"},
        routes=(route("192.0.2.1/32", interface="wan"), route("0.0.0.0/0", via="192.0.2.1", interface="wan")),
        firewall=nftables.firewall(setup),
    )


def test_a_nat_behind_a_nat() -> None:
    lab = strangers(
        plan(
            topology("""
            servers: {server: }
            sites:
              carrier: {nat: cgn}
              home: {nat: {kind: addr_symmetric, addresses: 2}, behind: carrier, clients: {alice: }}
        """)
        )
    )
    carrier, home = lab.node("carrier-nat"), lab.node("home-nat")
    assert carrier.nat is not None
    assert home.nat is not None
    assert [interface.addresses for interface in carrier.interfaces] == [
        tuple(f"198.51.100.{number}/32" for number in (1, 2, 3, 4)),
        ("100.64.1.1/24", "100.64.1.254/24"),
    ]
    assert home.interfaces[0] == Interface(
        name="wan", network="lan--carrier", addresses=("100.64.1.2/24", "100.64.1.3/24")
    )
    assert home.routes == (route("0.0.0.0/0", via="100.64.1.1", interface="wan"),)
    assert list(map(str, carrier.nat.setup.hosts)) == ["100.64.1.253", "100.64.1.2", "100.64.1.3"]
    assert carrier.nat.guest == "100.64.1.253/24"
    assert (home.nat.upstream, home.nat.vantage) == ("carrier-nat", ("100.64.1.1", "100.64.1.254"))
    lan = next(network for network in lab.networks if network.name == "lan--carrier")
    assert lan.members == (("carrier-nat", "lan"), ("home-nat", "wan"))


NESTED = """
    name: nested
    servers: {server: }
    sites:
      carrier: {nat: cgn, clients: {carla: }}
      flat: {nat: {kind: cone, addresses: 2}, behind: carrier, link: {loss: 3%}}
      attic: {nat: port_restricted, behind: flat, clients: {ben: {link: {rate: 1mbit}}}}
      alone: {nat: {kind: addr_symmetric, addresses: 2}, clients: {dora: }}
"""


@pytest.fixture(scope="module")
def nested() -> Plan:
    return strangers(plan(topology(NESTED)))


@pytest.mark.parametrize("text", [LAB, NESTED], ids=["small", "nested"])
def test_neighbours(text: str) -> None:
    """Whoever shares a network with its first member knows where each of its addresses is, and is known to it."""
    lab = plan(topology(text))
    ends = {(node.name, interface.name): interface for node in lab.nodes for interface in node.interfaces}
    assert len({interface.mac for interface in ends.values()}) == len(ends)
    assert all(re.fullmatch("02(:[0-9a-f]{2}){5}", interface.mac) for interface in ends.values())
    wanted = set()
    for network in lab.networks:
        first, *others = network.members
        for here, there in [(first, other) for other in others] + [(other, first) for other in others]:
            for address in ends[there].addresses:
                wanted.add((*here, address.split("/")[0], ends[there].mac))
    known = [(node.name, known.interface, known.address, known.mac) for node in lab.nodes for known in node.neighbours]
    assert len(known) == len(wanted)
    assert set(known) == wanted


def facts(lab: Plan, name: str) -> Nat:
    found = lab.node(name).nat
    assert found is not None
    return found


def test_nested_nats_come_after_those_on_the_internet(nested: Plan) -> None:
    assert [node.name for node in nested.nodes] == [
        *("internet", "server", "carrier-nat", "alone-nat"),
        *("flat-nat", "attic-nat", "carla", "ben", "dora"),
    ]


def test_the_core_knows_nothing_of_nested_nats(nested: Plan) -> None:
    core = nested.node("internet")
    assert [interface.name for interface in core.interfaces] == ["server", "carrier-nat", "alone-nat"]
    assert [(each.destination, each.interface) for each in core.routes if each.kind == "unicast"] == [
        ("192.0.2.2/32", "server"),
        ("192.0.2.3/32", "server"),
        *((f"198.51.100.{number}/32", "carrier-nat") for number in (1, 2, 3, 4)),
        *((f"198.51.100.{number}/32", "alone-nat") for number in (5, 6)),
    ]


def test_interfaces_of_nested_nats(nested: Plan) -> None:
    assert {name: nested.node(name).interfaces for name in ("carrier-nat", "flat-nat", "attic-nat")} == {
        "carrier-nat": (
            Interface(
                name="wan",
                network="internet--carrier-nat",
                addresses=tuple(f"198.51.100.{number}/32" for number in (1, 2, 3, 4)),
            ),
            Interface(name="lan", network="lan--carrier", addresses=("100.64.1.1/24", "100.64.1.254/24")),
        ),
        "flat-nat": (
            Interface(name="wan", network="lan--carrier", addresses=("100.64.1.3/24", "100.64.1.4/24")),
            Interface(name="lan", network="lan--flat", addresses=("100.64.2.1/24", "100.64.2.254/24")),
        ),
        "attic-nat": (
            Interface(name="wan", network="lan--flat", addresses=("100.64.2.2/24",)),
            Interface(name="lan", network="lan--attic", addresses=("192.168.1.1/24",)),
        ),
    }


def test_routes_of_nested_nats(nested: Plan) -> None:
    assert nested.node("carrier-nat").routes == (
        route("192.0.2.1/32", interface="wan"),
        route("0.0.0.0/0", via="192.0.2.1", interface="wan"),
    )
    assert nested.node("flat-nat").routes == (route("0.0.0.0/0", via="100.64.1.1", interface="wan"),)
    assert nested.node("attic-nat").routes == (route("0.0.0.0/0", via="100.64.2.1", interface="wan"),)
    assert nested.node("ben").routes == (route("0.0.0.0/0", via="192.168.1.1", interface="lan"),)


def test_networks_of_nested_nats(nested: Plan) -> None:
    lans = [network for network in nested.networks if network.kind == "lan"]
    assert lans == [
        Network(
            name="lan--carrier",
            kind="lan",
            members=(("carrier-nat", "lan"), ("carla", "lan"), ("flat-nat", "wan")),
            qualities={"flat-nat": LinkQuality(loss=3.0)},
        ),
        Network(name="lan--flat", kind="lan", members=(("flat-nat", "lan"), ("attic-nat", "wan"))),
        Network(
            name="lan--attic",
            kind="lan",
            members=(("attic-nat", "lan"), ("ben", "lan")),
            qualities={"ben": LinkQuality(rate=1_000_000)},
        ),
        Network(name="lan--alone", kind="lan", members=(("alone-nat", "lan"), ("dora", "lan"))),
    ]
    assert [network.name for network in nested.networks if network.kind == "p2p"] == [
        "internet--server",
        "internet--carrier-nat",
        "internet--alone-nat",
    ]


@pytest.mark.parametrize(
    ("name", "external", "hosts", "upstream", "vantage", "guest", "engine"),
    [
        (
            "carrier-nat",
            ["198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4"],
            ["100.64.1.2", "100.64.1.3", "100.64.1.4"],
            "internet",
            ("192.0.2.1", "192.0.2.254"),
            None,
            "nftables",
        ),
        (
            "flat-nat",
            ["100.64.1.3", "100.64.1.4"],
            ["100.64.2.253", "100.64.2.2"],
            "carrier-nat",
            ("100.64.1.1", "100.64.1.254"),
            "100.64.2.253/24",
            "nftables",
        ),
        (
            "attic-nat",
            ["100.64.2.2"],
            ["192.168.1.2"],
            "flat-nat",
            ("100.64.2.1", "100.64.2.254"),
            None,
            "iptables",
        ),
        (
            "alone-nat",
            ["198.51.100.5", "198.51.100.6"],
            ["192.168.2.2"],
            "internet",
            ("192.0.2.1", "192.0.2.254"),
            None,
            "iptables",
        ),
    ],
)
def test_what_a_nat_is_meant_to_be(
    nested: Plan,
    name: str,
    external: list[str],
    hosts: list[str],
    upstream: str,
    vantage: tuple[str, str],
    guest: str | None,
    engine: str,
) -> None:
    found, rules = facts(nested, name), nested.node(name).firewall
    assert rules is not None
    assert [str(address) for address in found.setup.external] == external
    assert [str(address) for address in found.setup.hosts] == hosts
    assert found.setup.behaviour.addresses == len(external)
    assert found.setup.seed == zlib.crc32(f"nested/{name}".encode())
    assert (found.upstream, found.vantage, found.guest) == (upstream, vantage, guest)
    assert rules == engines.firewall(found.setup, Engine(engine))
    assert rules.engine == engine


def test_a_nat_without_kind_is_called_by_its_point() -> None:
    sites = "a: {nat: {mapping: ADM, filtering: EIF}}, b: {nat: {udp: no}}, c: {nat: {kind: cgn, hairpin: no}}, d:"
    lab = plan(topology(f"{{servers: {{s: }}, sites: {{{sites} }}}}"))
    assert [facts(lab, f"{name}-nat").kind for name in "abcd"] == ["ADM+EIF", "no UDP", "cgn", "port_restricted"]
    assert facts(lab, "c-nat").setup.behaviour == NatBehaviour(
        filtering=Filtering.EIF, ports=PortChoice.RANDOM, addresses=4, udp_timeout=300
    )


def test_external_addresses_that_are_written_down_are_counted() -> None:
    lab = plan(topology("{servers: {s: }, sites: {a: {nat: cgn, external: [203.0.113.9, 198.18.0.1]}}}"))
    assert facts(lab, "a-nat").setup.behaviour.addresses == 2
    assert lab.node("a-nat").interfaces[0].addresses == ("203.0.113.9/32", "198.18.0.1/32")


@pytest.mark.parametrize(
    ("nat", "engine", "timeouts"),
    [
        ("port_restricted", "iptables", ("120", "120")),
        ("{kind: port_restricted, udp_timeout: 7}", "iptables", ("7", "7")),
        ("{kind: port_restricted, engine: nftables}", "nftables", ("2", "2")),
        ("{kind: port_restricted, engine: nftables, udp_timeout: 1}", "nftables", ("1", "1")),
        ("home_router", "iptables", ("30", "180")),
        ("{kind: home_router, udp_timeout: 20}", "iptables", ("20", "20")),
        ("office", "iptables", ("30", "60")),
        ("hotel", "iptables", ("120", "120")),
        ("cgn", "nftables", ("2", "2")),
        ("{udp_timeout: 9, udp_timeout_new: 1}", "nftables", ("1", "2")),
    ],
)
def test_the_sysctls_of_a_nat_come_with_its_rules(nat: str, engine: str, timeouts: tuple[str, str]) -> None:
    node = plan(topology(f"{{servers: {{s: }}, sites: {{home: {{nat: {nat}, clients: {{a: }}}}}}}}")).node("home-nat")
    assert node.firewall is not None
    assert node.firewall.engine == engine
    assert node.firewall.sysctls == {
        "net.netfilter.nf_conntrack_udp_timeout": timeouts[0],
        "net.netfilter.nf_conntrack_udp_timeout_stream": timeouts[1],
    }
    assert not any("conntrack" in name for name in node.sysctls)


def test_the_ports_of_a_nat_depend_on_the_names_of_lab_and_nat() -> None:
    text = "{name: %s, servers: {s: }, sites: {%s: {nat: cgn}}}"
    seeds = {facts(plan(topology(text % names)), f"{names[1]}-nat").setup.seed for names in (("x", "a"), ("y", "a"))}
    assert seeds == {zlib.crc32(b"x/a-nat"), zlib.crc32(b"y/a-nat")}


def test_a_nat_with_upnp() -> None:
    nat = plan(topology("{servers: {s: }, sites: {home: {nat: upnp_port_symmetric}}}")).node("home-nat")
    assert nat.interfaces[0].addresses == ("128.66.0.1/32",)
    assert nat.programs == (Program(kind="upnp", options={"external": "128.66.0.1", "inside": "192.168.1.1"}),)
    assert nat.firewall is not None
    assert (nat.firewall.engine, nat.firewall.nftables) == ("iptables", upnp.TABLE)


def test_clients(small: Plan) -> None:
    alice, bob = small.node("alice"), small.node("bob")
    assert alice.interfaces == (Interface(name="lan", network="lan--home", addresses=("10.1.0.2/16",), ipv6=False),)
    assert alice.routes == (route("0.0.0.0/0", via="10.1.0.1", interface="lan"),)
    assert alice.sysctls == COMMON
    (program,) = alice.programs
    port = program.options["port"]
    assert 49152 <= port <= 60999
    assert program == Program(
        kind="teredo-client",
        options={
            "server": "192.0.2.2",
            "secondary": "192.0.2.3",
            "bind": "10.1.0.2",
            "port": port,
            "tun": "teredo",
            "refresh_interval": 9,
            "extensions": sorted(ALL),
            "determine_interval": False,
            "local_discovery": False,
            "client_id": None,
            "secret": None,
        },
    )
    assert bob.programs == (
        Program(
            kind="miredo-client",
            options={
                "server": "192.0.2.4",
                "secondary": "192.0.2.5",
                "bind": "10.1.0.3",
                "port": 5000,
                "tun": "teredo",
            },
        ),
    )


def test_secrets() -> None:
    lab = plan(
        topology("{servers: {s: {secrets: {me: x}}}, sites: {a: {clients: {alice: {client_id: me, secret: x}}}}}")
    )
    assert lab.node("s").programs[0].options["secrets"] == {"me": "x"}
    options = lab.node("alice").programs[0].options
    assert (options["client_id"], options["secret"]) == ("me", "x")


def teredo_routes(lab: str) -> tuple[list[tuple[str | None, int]], list[tuple[str, int]]]:
    core = plan(topology(lab)).node("internet")
    routes = [(each.via, each.table) for each in core.routes if each.destination == "2001::/32"]
    return routes, [(rule.source, rule.table) for rule in core.rules]


@pytest.mark.parametrize(
    ("lab", "routes", "rules"),
    [
        ("{servers: {s: }, hosts: {web: }}", [], []),
        ("{servers: {s: }, hosts: {web: {relay: local}}}", [], []),
        ("{servers: {s: , t: {relay: true}}, hosts: {web: }}", [("2001:db8:0:2::2", 254)], []),
        ("{servers: {s: {relay: true}}, relays: {r: }, hosts: {web: }}", [("2001:db8:0:2::2", 254)], []),
        (
            "{servers: {s: {relay: true}}, relays: {r: }, hosts: {web: {relay: s}, two: {relay: s}, own: {relay: r}}}",
            [("2001:db8:0:2::2", 254), ("2001:db8:0:1::2", 1001)],
            [("2001:db8:0:3::/64", 1001), ("2001:db8:0:4::/64", 1001)],
        ),
        ("{servers: {s: }, relays: {r: , unused: }, hosts: {web: }}", [("2001:db8:0:2::2", 254)], []),
    ],
    ids=["none", "local", "server", "first", "named", "unused"],
)
def test_who_relays_for_whom(lab: str, routes: list[tuple[str, int]], rules: list[tuple[str, int]]) -> None:
    assert teredo_routes(lab) == (routes, rules)


def test_a_server_that_relays() -> None:
    (program,) = plan(topology("{servers: {s: {relay: true}}}")).node("s").programs
    assert program.options["relay"] == {"address": "2001:db8:0:1::2"}


def test_interface_names_that_linux_takes() -> None:
    lab = plan(
        topology("{servers: {a-name-of-fifteen: , fifteen-letters: , lo: , n1: , default: }, sites: {a-long-name: }}")
    )
    assert [(link.name, link.network) for link in lab.node("internet").interfaces] == [
        ("n2", "internet--a-name-of-fifteen"),
        ("fifteen-letters", "internet--fifteen-letters"),
        ("n3", "internet--lo"),
        ("n1", "internet--n1"),
        ("n4", "internet--default"),
        ("a-long-name-nat", "internet--a-long-name-nat"),
    ]


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.name)
def test_every_plan_is_whole(path: Path) -> None:
    lab = plan(load(path))
    assert lab.model_dump_json() == plan(load(path)).model_dump_json()
    assert Plan.model_validate_json(lab.model_dump_json()) == lab
    assert lab.expectations == expectations(load(path))
    members = [member for network in lab.networks for member in network.members]
    interfaces = [(node.name, interface.name) for node in lab.nodes for interface in node.interfaces]
    assert sorted(members) == sorted(interfaces)
    assert len(set(members)) == len(members)
    for node in lab.nodes:
        names = {interface.name for interface in node.interfaces}
        assert all(len(name) <= 15 for name in names)
        for each in node.routes:
            ip_network(each.destination)
            assert (each.interface in names) is (each.kind == "unicast")
    everywhere = [
        address
        for node in lab.nodes
        for interface in node.interfaces
        for address in interface.addresses
        if address != "192.0.2.1/32"
    ]
    assert len(set(everywhere)) == len(everywhere)


def test_data_paths() -> None:
    """Programs are told what is not `auto`: by themselves, or by the topology."""
    text = """
    datapath: %s
    servers: {server: }
    relays: {relay: , other: {datapath: kernel}, foreign: {program: miredo, port: 4000}}
    hosts: {alone: {relay: local}}
    sites: {home: {clients: {alice: , bob: {datapath: kernel}, dave: {program: miredo}}}}
    """
    names = ("relay", "other", "foreign", "alone", "alice", "bob", "dave")

    def told(choice: str) -> dict[str, str]:
        lab = plan(topology(text % choice))
        options = {name: lab.node(name).programs[0].options for name in names}
        return {name: options[name]["datapath"] for name in names if "datapath" in options[name]}

    assert told("auto") == {"other": "kernel", "bob": "kernel"}
    ours = ("relay", "alone", "alice")
    assert told("userspace") == {**dict.fromkeys(ours, "userspace"), "other": "kernel", "bob": "kernel"}
