"""iptables rules: each behaviour has the rules that make it, and no others; what it cannot do exactly it refuses."""

from __future__ import annotations

import dataclasses
import itertools
import re
from ipaddress import IPv4Address

import pytest

from lab.nat.engines import choose
from lab.nat.iptables import SEQUENCE, firewall, objection
from lab.nat.kinds import NAMES, Collision, Engine, Filtering, Mapping, NatBehaviour, Pooling, PortChoice
from lab.nat.setup import NatSetup, UnsupportedError
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


REFUSED = [
    (NatBehaviour(hairpin=True), 1, "it would let hairpinned packets pass unfiltered"),
    (NatBehaviour(Mapping.ADM), 1, "conntrack maps for all remote endpoints alike"),
    (NatBehaviour(Mapping.APDM, Filtering.EIF), 1, "conntrack filters a symmetric NAT's flows by address and port"),
    (NatBehaviour(ports=PortChoice.RANDOM), 1, "conntrack would draw a random port for each flow"),
    (NatBehaviour(filtering=Filtering.EIF), 2, "only the first would get EIF, since DNAT finds no other"),
    (NatBehaviour(filtering=Filtering.ADF), 2, "only the first would get ADF"),
    (NatBehaviour(addresses=2), 1, "its sets know the ports of one external address only"),
    (NatBehaviour(inbound_refresh=False), 1, "packets from outside always prolong a flow of conntrack's"),
    (NatBehaviour(udp_timeout_new=9), 1, "its sets have one timeout for new and for established mappings"),
]


@pytest.mark.parametrize(("behaviour", "hosts", "why"), REFUSED)
def test_what_iptables_cannot_do_exactly_is_refused(behaviour: NatBehaviour, hosts: int, why: str) -> None:
    assert why in (objection(behaviour, hosts) or "")
    with pytest.raises(UnsupportedError, match="iptables cannot do"):
        firewall(NatSetup(behaviour, EXTERNAL[: behaviour.addresses], HOSTS[:hosts]))
    assert choose(behaviour, hosts) == "nftables"
    with pytest.raises(UnsupportedError, match="iptables cannot do this exactly"):
        choose(behaviour, hosts, Engine.IPTABLES)


def test_iptables_is_taken_wherever_it_is_exact() -> None:
    exact = {kind for kind in NAMES if choose(NAMES[kind], 2) == "iptables"}
    assert exact == NAMES.keys() - {"cone", "addr_restricted", "cgn"}
    assert choose(NAMES["cone"], 1) == choose(NAMES["addr_restricted"], 1) == "iptables"


@pytest.mark.parametrize("hosts", [1, 2])
def test_every_point_has_an_engine(hosts: int) -> None:
    for mapping, filtering, ports, hairpin, addresses, pooling in itertools.product(
        Mapping, Filtering, PortChoice, (False, True), (1, 4), Pooling
    ):
        behaviour = NatBehaviour(mapping, filtering, ports, hairpin, addresses=addresses, pooling=pooling)
        assert choose(behaviour, hosts, Engine.NFTABLES) == "nftables"
        assert choose(behaviour, hosts) in Engine


def test_who_overloads_cannot_hairpin() -> None:
    with pytest.raises(UnsupportedError, match=r"iptables cannot do this exactly: .*; nftables cannot do this exactly"):
        choose(NatBehaviour(collision=Collision.OVERLOAD, hairpin=True), 1)
