"""iptables rules: each behaviour has the rules that make it, and no others."""

from __future__ import annotations

import dataclasses
import itertools
import re
from ipaddress import IPv4Address

import pytest

from lab.nat.iptables import SEQUENCE, firewall
from lab.nat.kinds import NAMES
from lab.nat.setup import NatSetup
from lab.plan import Firewall

EXTERNAL = tuple(IPv4Address(f"198.51.100.{number}") for number in (7, 8, 9, 10))
HOSTS = (IPv4Address("192.168.100.102"), IPv4Address("192.168.100.103"))


def built(kind: str, hosts: int = 1, **changes: object) -> Firewall:
    behaviour = dataclasses.replace(NAMES[kind], udp_timeout=77, udp_timeout_new=None, **changes)  # type: ignore[arg-type]
    return firewall(NatSetup(behaviour, EXTERNAL[: behaviour.addresses], HOSTS[:hosts], seed=1))


def table(rules: Firewall, name: str) -> list[str]:
    """The rules of one table, as arguments of `iptables -t name -A`."""
    match = re.search(rf"^\*{name}\n(.*?)^COMMIT$", rules.iptables, re.MULTILINE | re.DOTALL)
    return [] if match is None else [line[3:] for line in match[1].splitlines() if line.startswith("-A ")]


OWNERSHIP_SETS = ["create used bitmap:port range 1024-65535 timeout 77", "create own hash:ip,port timeout 77"]
OWNERSHIP_MANGLE = [
    "FORWARD -i lan -p udp -j CLAIM",
    "CLAIM -m set ! --match-set used src -j SET --add-set own src,src --exist",
    "CLAIM -m set --match-set own src,src -j SET --add-set own src,src --exist",
    "CLAIM -m set --match-set own src,src -j SET --add-set used src --exist",
    "CLAIM -m set ! --match-set own src,src -j MARK --set-mark 1",
    "FORWARD -i wan -o lan -p udp -m set --match-set own dst,dst -j SET --add-set own dst,dst --exist",
    "FORWARD -i wan -o lan -p udp -m set --match-set own dst,dst -j SET --add-set used dst --exist",
]
POOL = "POSTROUTING -o wan -p udp -m mark --mark 1 -j SNAT --to-source 198.51.100.7:61440-65535"
REST = "POSTROUTING -o wan -j SNAT --to-source 198.51.100.7"
MADE = sorted(kind for kind in NAMES if kind != "cgn")


@pytest.mark.parametrize("kind", MADE)
def test_strangers_die_unconfirmed_and_nothing_hairpins(kind: str) -> None:
    rules = built(kind)
    silence = ["PREROUTING -p udp -j DROP"] if kind == "hotel" else []
    assert table(rules, "raw") == silence + [
        f"PREROUTING -i lan -d {address} -p udp -j DROP" for address in EXTERNAL[: NAMES[kind].addresses]
    ]
    assert table(rules, "filter") == [
        "INPUT -i wan -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "INPUT -i wan -p udp -j DROP",
    ]


@pytest.mark.parametrize("kind", MADE)
def test_the_text_is_well_formed(kind: str) -> None:
    rules = built(kind)
    assert rules.engine == "iptables"
    assert not rules.nftables
    assert rules.iptables.count("*") == rules.iptables.count("COMMIT\n")
    for section in rules.iptables.split("COMMIT\n")[:-1]:
        first, *lines = section.splitlines()
        assert re.fullmatch(r"\*(raw|mangle|nat|filter)", first)
        declared = {line[1:].split()[0] for line in lines if line.startswith(":")}
        used = {line.split()[1] for line in lines if line.startswith("-A")}
        assert used <= declared
        assert {line[0] for line in lines} == {":", "-"}
    created = {line.split()[1] for line in rules.ipset.splitlines()}
    assert set(re.findall(r"--(?:match|add)-set (\S+)", rules.iptables)) <= created
    assert rules.sysctls == {
        "net.netfilter.nf_conntrack_udp_timeout": "77",
        "net.netfilter.nf_conntrack_udp_timeout_stream": "77",
    }


def test_cone_lets_anybody_in_to_an_owned_port() -> None:
    rules = built("cone")
    assert rules.ipset.splitlines() == OWNERSHIP_SETS
    assert table(rules, "mangle") == OWNERSHIP_MANGLE
    assert table(rules, "nat") == [
        POOL,
        "PREROUTING -i wan -d 198.51.100.7 -p udp -m set --match-set used dst -j DNAT --to-destination 192.168.100.102",
        REST,
    ]


def test_addr_restricted_lets_in_whom_the_port_sent_to() -> None:
    rules = built("addr_restricted")
    assert rules.ipset.splitlines() == [*OWNERSHIP_SETS, "create seen hash:ip,port timeout 77"]
    assert table(rules, "mangle") == [
        *OWNERSHIP_MANGLE,
        "CLAIM -j SET --add-set seen dst,src --exist",
        "FORWARD -i wan -o lan -p udp -m set --match-set seen src,dst -j SET --add-set seen src,dst --exist",
    ]
    assert table(rules, "nat")[1] == (
        "PREROUTING -i wan -d 198.51.100.7 -p udp -m set --match-set seen src,dst"
        " -j DNAT --to-destination 192.168.100.102"
    )


@pytest.mark.parametrize("hosts", [1, 2])
def test_port_restricted_leaves_filtering_to_conntrack(hosts: int) -> None:
    rules = built("port_restricted", hosts)
    assert rules.ipset.splitlines() == OWNERSHIP_SETS
    assert table(rules, "mangle") == OWNERSHIP_MANGLE
    assert table(rules, "nat") == [POOL, REST]


def test_a_home_router_leaves_everything_to_conntrack() -> None:
    rules = built("home_router", 2)
    assert (rules.ipset, table(rules, "mangle"), table(rules, "nat")) == ("", [], [REST])


def test_conntrack_knows_new_and_established_flows() -> None:
    rules = firewall(NatSetup(NAMES["home_router"], EXTERNAL[:1], HOSTS))
    assert list(rules.sysctls.values()) == ["30", "180"]


def test_port_symmetric_maps_each_flow_at_random() -> None:
    rules = built("port_symmetric", 2)
    assert not rules.ipset
    assert table(rules, "mangle") == []
    assert table(rules, "nat") == [
        "POSTROUTING -o wan -p udp -j SNAT --to-source 198.51.100.7:1024-65535 --random-fully",
        REST,
    ]


def test_addr_symmetric_takes_its_addresses_in_turn() -> None:
    *each, last, rest = table(built("addr_symmetric", 2), "nat")
    assert each == [
        f"POSTROUTING -o wan -p udp -m statistic --mode nth --every {every} --packet 0"
        f" -j SNAT --to-source {address}:1024-65535 --random-fully"
        for every, address in zip((4, 3, 2), EXTERNAL, strict=False)
    ]
    assert last == "POSTROUTING -o wan -p udp -j SNAT --to-source 198.51.100.10:1024-65535 --random-fully"
    assert rest == REST


@pytest.mark.parametrize("delta", [1, 2, 16])
def test_sequential_ports_go_up_by_delta(delta: int) -> None:
    jump, *each, rest = table(built("sequential_port_symmetric", 2, delta=delta), "nat")
    assert (jump, rest) == ("POSTROUTING -o wan -p udp -j NEXT", REST)
    ports = [int(rule.rsplit(":", 1)[1]) for rule in each]
    assert [after - before for before, after in itertools.pairwise(ports)] == [delta] * (SEQUENCE - 1)
    assert ports[0] >= 1024
    assert ports[-1] <= 65535
    turns = [re.search(r"--every (\d+) --packet 0", rule) for rule in each]
    assert [int(turn[1]) for turn in turns if turn] == list(range(SEQUENCE, 1, -1))
    assert turns[-1] is None


def test_the_first_flow_of_a_port_keeps_it() -> None:
    rules = built("port_preserving_port_symmetric", 2)
    assert rules.ipset.splitlines() == OWNERSHIP_SETS[:1]
    assert table(rules, "mangle") == [
        "FORWARD -i lan -o wan -p udp -m conntrack --ctstate ESTABLISHED -m set --match-set used src"
        " -j SET --add-set used src --exist",
        "FORWARD -i wan -o lan -p udp -m set --match-set used dst -j SET --add-set used dst --exist",
    ]
    assert table(rules, "nat") == [
        "POSTROUTING -o wan -p udp -m set ! --match-set used src -j FRESH",
        "POSTROUTING -o wan -p udp -j SNAT --to-source 198.51.100.7:61440-65535 --random-fully",
        "FRESH -j SET --add-set used src --exist",
        "FRESH -j SNAT --to-source 198.51.100.7",
        REST,
    ]


def test_icmp_errors_can_be_kept_out() -> None:
    *_, last = table(built("port_restricted", icmp_errors=False), "filter")
    assert last == "FORWARD -p icmp -m conntrack --ctstate RELATED -j DROP"


def test_sequential_ports_begin_where_the_seed_says() -> None:
    def begin(seed: int) -> str:
        setup = NatSetup(NAMES["sequential_port_symmetric"], EXTERNAL[:1], HOSTS, seed)
        return table(firewall(setup), "nat")[1]

    assert 256 <= SEQUENCE <= 640  # more rules are too long a message for an ordinary user
    assert begin(1) == begin(1)
    assert len({begin(seed) for seed in range(20)}) == 20


def test_upnp_leaves_the_rules_of_its_kind_alone() -> None:
    assert built("upnp_port_restricted", 2) == built("port_restricted", 2)
    assert built("upnp_port_symmetric", 2) == built("port_preserving_port_symmetric", 2)
