"""Addresses and ports: the same every time, nobody's twice, and what a topology says comes first."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from itertools import chain

from lab.topology.addressing import OVERFLOW, PORTS, PUBLIC, VANTAGE, Addresses, allocate
from lab.topology.model import Topology
from tests.unit.helpers.topologies import topology


def written(addresses: Iterable[IPv4Address]) -> list[str]:
    return [str(address) for address in addresses]


def flat(addresses: Addresses) -> list[IPv4Address]:
    return list(chain.from_iterable(addresses.public.values()))


def many(servers: int = 1, relays: int = 0, sites: int = 0) -> Topology:
    return Topology.model_validate(
        {
            "servers": {f"s{index}": None for index in range(servers)},
            "relays": {f"r{index}": None for index in range(relays)},
            "sites": {f"n{index}": None for index in range(sites)},
        }
    )


def test_who_gets_what() -> None:
    addresses = allocate(
        topology("""
            servers: {east: , west: }
            relays: {relay: }
            hosts: {web: , alone: {relay: local}}
            sites:
              a: {clients: {alice: , bob: }}
              b: {clients: {carol: }}
        """)
    )
    assert {name: written(own) for name, own in addresses.public.items()} == {
        "east": ["192.0.2.2", "192.0.2.3"],
        "west": ["192.0.2.4", "192.0.2.5"],
        "relay": ["192.0.2.6"],
        "alone": ["192.0.2.7"],
        "a-nat": ["198.51.100.1"],
        "b-nat": ["198.51.100.2"],
    }
    assert {name: str(native.prefix) for name, native in addresses.native.items()} == {
        "east": "2001:db8:0:1::/64",
        "west": "2001:db8:0:2::/64",
        "relay": "2001:db8:0:3::/64",
        "web": "2001:db8:0:4::/64",
        "alone": "2001:db8:0:5::/64",
    }
    assert str(addresses.native["web"].core) == "2001:db8:0:4::1"
    assert str(addresses.native["web"].node) == "2001:db8:0:4::2"
    assert addresses.lans == {"a": IPv4Network("192.168.1.0/24"), "b": IPv4Network("192.168.2.0/24")}
    assert {name: str(own) for name, own in addresses.clients.items()} == {
        "alice": "192.168.1.2",
        "bob": "192.168.1.3",
        "carol": "192.168.2.2",
    }


def test_what_the_topology_says_comes_first() -> None:
    addresses = allocate(
        topology("""
            servers: {east: , west: {ipv4: [192.0.2.3, 203.0.113.1]}}
            relays: {relay: , other: {ipv4: 192.0.2.6}}
            sites:
              a: {clients: {alice: , bob: {ipv4: 192.168.2.2}, carol: }}
              b: {external: [198.51.100.1], lan: 192.168.1.0/24}
        """)
    )
    assert {name: written(own) for name, own in addresses.public.items()} == {
        "east": ["192.0.2.4", "192.0.2.5"],
        "west": ["192.0.2.3", "203.0.113.1"],
        "relay": ["192.0.2.2"],
        "other": ["192.0.2.6"],
        "a-nat": ["198.51.100.2"],
        "b-nat": ["198.51.100.1"],
    }
    assert str(addresses.lans["a"]) == "192.168.2.0/24"
    assert {name: str(own) for name, own in addresses.clients.items()} == {
        "alice": "192.168.2.3",
        "bob": "192.168.2.2",
        "carol": "192.168.2.4",
    }


def test_a_lab_that_outgrows_the_documentation_prefixes() -> None:
    addresses = allocate(many(servers=150, relays=50, sites=600))
    everything = flat(addresses)
    assert len(set(everything)) == len(everything) == 150 * 2 + 50 + 600
    assert all(any(address in pool for pool in PUBLIC) for address in everything)
    assert not set(VANTAGE) & set(everything)
    assert not {0, 255} & {address.packed[3] for address in everything}
    for index in range(150):
        first, second = addresses.public[f"s{index}"]
        assert int(first) % 2 == 0
        assert int(second) == int(first) + 1
    assert written(addresses.public["s125"]) == ["192.0.2.252", "192.0.2.253"]
    assert written(addresses.public["s126"]) == ["198.18.0.2", "198.18.0.3"]
    assert addresses.public["r0"][0] in OVERFLOW  # 192.0.2.254 is for measuring NATs
    assert written(addresses.public["n253-nat"]) == ["198.51.100.254"]
    assert written(addresses.public["n254-nat"]) == ["203.0.113.1"]
    assert written(addresses.public["n507-nat"]) == ["203.0.113.254"]
    assert addresses.public["n508-nat"][0] in OVERFLOW


def test_lans_go_on_in_ten() -> None:
    lans = allocate(many(sites=300)).lans
    assert len(set(lans.values())) == 300
    assert str(lans["n254"]) == "192.168.255.0/24"
    assert str(lans["n255"]) == "10.0.1.0/24"


def test_native_prefixes_are_counted_in_hexadecimal() -> None:
    assert str(allocate(many(servers=17)).native["s16"].prefix) == "2001:db8:0:11::/64"


def test_a_large_lan() -> None:
    lab = Topology.model_validate(
        {
            "servers": {"s": None},
            "sites": {"n": {"lan": "10.7.0.0/16", "clients": {f"c{index}": None for index in range(300)}}},
        }
    )
    clients = allocate(lab).clients
    assert str(clients["c0"]) == "10.7.0.2"
    assert str(clients["c299"]) == "10.7.1.45"
    assert len(set(clients.values())) == 300


def test_ports_look_random_but_never_change() -> None:
    text = "{name: %s, servers: {s: }, sites: {a: {clients: {alice: , bob: {port: 5000}}}, b: {clients: {carol: }}}}"
    ports = allocate(topology(text % "one")).ports
    assert ports == {"alice": 49573, "bob": 5000, "carol": 51416}
    assert allocate(topology(text % "two")).ports["alice"] != ports["alice"]


def test_ports_are_distinct_behind_one_nat() -> None:
    clients = {f"c{index}": None for index in range(1000)}
    lab = Topology.model_validate({"servers": {"s": None}, "sites": {"n": {"lan": "10.0.0.0/16", "clients": clients}}})
    free = allocate(lab).ports
    assert len(set(free.values())) == 1000
    assert all(port in PORTS for port in free.values())
    taken = Topology.model_validate(
        {"servers": {"s": None}, "sites": {"n": {"clients": {"c0": None, "x": {"port": free["c0"]}}}}}
    )
    assert allocate(taken).ports["c0"] == free["c0"] + 1


def test_ports_go_round_at_the_end() -> None:
    lab = "{servers: {s: }, sites: {n: {clients: {%s: , x: {port: 60999}}}}}"
    alone = "{servers: {s: }, sites: {n: {clients: {%s: }}}}"
    names = (f"c{index}" for index in range(100_000))
    at_the_end = next(name for name in names if allocate(topology(alone % name)).ports[name] == 60999)
    assert allocate(topology(lab % at_the_end)).ports[at_the_end] == 49152
