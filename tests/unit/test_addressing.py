"""Addresses and ports: the same every time, nobody's twice, and what a topology says comes first."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from itertools import chain

import pytest

from lab.topology.addressing import (
    OVERFLOW,
    PORTS,
    PUBLIC,
    UPNP,
    VANTAGE,
    Addresses,
    allocate,
    guest,
    inside_hosts,
    reserved,
    vantage,
)
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


NESTED = """
servers: {s: }
sites:
  plug: {nat: upnp_port_restricted}
  outer: {nat: addr_symmetric}
  first: {nat: cgn, behind: outer, clients: {alice: }}
  inner: {behind: first}
  other: {nat: {kind: cone, addresses: 2}, behind: outer, external: [100.64.1.4, 100.64.1.9]}
  pair: {nat: {kind: upnp_port_symmetric, addresses: 2}, external: [128.66.0.1, 128.66.3.2]}
"""


def test_external_addresses_are_of_the_internet_or_of_the_lan_around() -> None:
    addresses = allocate(topology(NESTED))
    assert {name: written(own) for name, own in addresses.nats.items()} == {
        "plug": ["128.66.0.2"],
        "outer": ["198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4"],
        "first": ["100.64.1.2", "100.64.1.3", "100.64.1.5", "100.64.1.6"],
        "inner": ["100.64.2.3"],
        "other": ["100.64.1.4", "100.64.1.9"],
        "pair": ["128.66.0.1", "128.66.3.2"],
    }
    assert addresses.public.keys() == {"s", "plug-nat", "outer-nat", "pair-nat"}
    assert all(addresses.public[f"{name}-nat"] == addresses.nats[name] for name in ("plug", "outer", "pair"))
    assert written(addresses.clients.values()) == ["100.64.2.2"]


def test_lans_with_nats_in_them_are_of_the_shared_prefix() -> None:
    assert {name: str(lan) for name, lan in allocate(topology(NESTED)).lans.items()} == {
        "plug": "192.168.1.0/24",
        "outer": "100.64.1.0/24",
        "first": "100.64.2.0/24",
        "inner": "192.168.2.0/24",
        "other": "192.168.3.0/24",
        "pair": "192.168.4.0/24",
    }


def test_a_lan_that_is_somebodys_own_is_not_allocated() -> None:
    lab = topology("{servers: {s: }, sites: {a: , b: {lan: 100.64.1.0/24}, c: {behind: a}, d: {lan: 192.168.1.0/24}}}")
    assert {name: str(lan) for name, lan in allocate(lab).lans.items()} == {
        "a": "100.64.2.0/24",
        "b": "100.64.1.0/24",
        "c": "192.168.2.0/24",
        "d": "192.168.1.0/24",
    }


def test_a_part_of_somebodys_own_lan_is_not_allocated_while_there_are_others() -> None:
    lab = topology("{servers: {s: }, sites: {a: {lan: 192.168.0.0/16}, b: , c: {lan: 10.0.1.128/25}, d: }}")
    assert [str(lan) for lan in allocate(lab).lans.values()] == [
        "192.168.0.0/16",
        "10.0.2.0/24",
        "10.0.1.128/25",
        "10.0.3.0/24",
    ]
    lab = topology(
        "{servers: {s: }, sites: {a: {lan: 192.168.0.0/16}, b: {lan: 10.0.0.0/8}, c: {lan: 172.16.0.0/12}, d: }}"
    )
    assert str(allocate(lab).lans["d"]) == "192.168.0.0/24"


@pytest.mark.parametrize(
    ("site", "hosts", "taken"),
    [
        ("plug", 1, ["10.0.0.0", "10.0.0.1", "10.0.0.13", "10.0.0.15"]),
        ("outer", 1 + 4 + 2, ["10.0.0.0", "10.0.0.1", "10.0.0.13", "10.0.0.14", "10.0.0.15"]),
        ("first", 1 + 1, ["10.0.0.0", "10.0.0.1", "10.0.0.14", "10.0.0.15"]),
    ],
)
def test_addresses_for_measuring_are_kept_free_where_they_are_needed(site: str, hosts: int, taken: list[str]) -> None:
    lab, lan = topology(NESTED), IPv4Network("10.0.0.0/28")
    assert written(sorted(reserved(lab, site, lan))) == taken
    assert inside_hosts(lab, site) == hosts
    assert str(guest(lan)) == "10.0.0.13"


def test_where_a_nat_is_measured_from() -> None:
    lab = topology(NESTED)
    lans = allocate(lab).lans
    assert written(VANTAGE) == written(vantage(lab, "outer", lans["outer"])) == ["192.0.2.1", "192.0.2.254"]
    assert written(vantage(lab, "first", lans["outer"])) == ["100.64.1.1", "100.64.1.254"]
    assert written(vantage(lab, "inner", lans["first"])) == ["100.64.2.1", "100.64.2.254"]


def test_the_smallest_lan_is_filled() -> None:
    lab = topology("{servers: {s: }, sites: {o: {lan: 10.0.0.0/29}, h: {behind: o, nat: {addresses: 3}}}}")
    assert written(allocate(lab).nats["h"]) == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]


def test_many_nats_with_upnp() -> None:
    names = [f"n{index}" for index in range(300)]
    lab = Topology.model_validate(
        {"servers": {"s": None}, "sites": {name: {"nat": "upnp_port_symmetric"} for name in names}}
    )
    nats = allocate(lab).nats
    everything = [address for own in nats.values() for address in own]
    assert len(set(everything)) == 300
    assert all(address in UPNP for address in everything)
    assert written(nats["n253"]) == ["128.66.0.254"]
    assert written(nats["n254"]) == ["128.66.1.1"]
