"""iptables rules: each behaviour has the rules that make it, and no others."""

from __future__ import annotations

import re
from ipaddress import IPv4Address

import pytest

from lab.nat.iptables import UnsupportedError, firewall
from lab.nat.kinds import KINDS, Filtering, Mapping, NatBehaviour, PortChoice
from lab.plan import Firewall

EXTERNAL = IPv4Address("198.51.100.7")
HOSTS = (IPv4Address("192.168.100.102"), IPv4Address("192.168.100.103"))


def built(kind: str) -> Firewall:
    return firewall(KINDS[kind], EXTERNAL, HOSTS, udp_timeout=77)


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
OWNERSHIP_NAT = [
    "POSTROUTING -o wan -j OUT",
    "OUT -p udp -m mark --mark 1 -j SNAT --to-source 198.51.100.7:61440-65535",
    "OUT -j SNAT --to-source 198.51.100.7",
]


@pytest.mark.parametrize("kind", KINDS)
def test_strangers_die_unconfirmed_and_nothing_hairpins(kind: str) -> None:
    rules = built(kind)
    assert table(rules, "raw") == ["PREROUTING -i lan -d 198.51.100.7 -p udp -j DROP"]
    assert table(rules, "filter") == [
        "INPUT -i wan -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "INPUT -i wan -p udp -j DROP",
    ]


@pytest.mark.parametrize("kind", KINDS)
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
    named = set(re.findall(r"--(?:match|add)-set (\S+)", rules.iptables))
    assert named <= created
    assert all(len(name) <= 31 for name in created)


def test_cone_lets_anybody_in_to_an_owned_port() -> None:
    rules = built("cone")
    assert rules.ipset.splitlines() == [
        *OWNERSHIP_SETS,
        "create own_192.168.100.102 bitmap:port range 1024-65535 timeout 77",
        "create own_192.168.100.103 bitmap:port range 1024-65535 timeout 77",
    ]
    host, other = map(str, HOSTS)
    assert table(rules, "mangle") == OWNERSHIP_MANGLE + [
        rule
        for inside in (host, other)
        for rule in (
            f"CLAIM -s {inside} -m mark ! --mark 1 -j SET --add-set own_{inside} src --exist",
            f"FORWARD -i wan -o lan -d {inside} -p udp -m set --match-set own_{inside} dst"
            f" -j SET --add-set own_{inside} dst --exist",
        )
    ]
    assert table(rules, "nat") == OWNERSHIP_NAT + [
        f"PREROUTING -i wan -d 198.51.100.7 -p udp -m set --match-set own_{inside} dst"
        f" -j DNAT --to-destination {inside}"
        for inside in (host, other)
    ]


def test_addr_restricted_lets_in_whom_the_port_sent_to() -> None:
    rules = built("addr_restricted")
    host = str(HOSTS[0])
    assert f"create seen_{host} hash:ip,port timeout 77" in rules.ipset.splitlines()
    assert f"create own_{host} bitmap:port range 1024-65535 timeout 77" in rules.ipset.splitlines()
    assert table(rules, "mangle")[: len(OWNERSHIP_MANGLE) + 3] == [
        *OWNERSHIP_MANGLE,
        f"CLAIM -s {host} -m mark ! --mark 1 -j SET --add-set own_{host} src --exist",
        f"FORWARD -i wan -o lan -d {host} -p udp -m set --match-set own_{host} dst"
        f" -j SET --add-set own_{host} dst --exist",
        f"CLAIM -s {host} -m mark ! --mark 1 -j SET --add-set seen_{host} dst,src --exist",
    ]
    assert table(rules, "nat") == OWNERSHIP_NAT + [
        f"PREROUTING -i wan -d 198.51.100.7 -p udp -m set --match-set seen_{inside} src,dst"
        f" -j DNAT --to-destination {inside}"
        for inside in HOSTS
    ]


def test_port_restricted_leaves_filtering_to_conntrack() -> None:
    rules = built("port_restricted")
    assert rules.ipset.splitlines() == OWNERSHIP_SETS
    assert table(rules, "mangle") == OWNERSHIP_MANGLE
    assert table(rules, "nat") == OWNERSHIP_NAT


def test_port_symmetric_maps_each_flow_at_random() -> None:
    rules = built("port_symmetric")
    assert not rules.ipset
    assert table(rules, "mangle") == []
    assert table(rules, "nat") == [
        "POSTROUTING -o wan -p udp -j SNAT --to-source 198.51.100.7:1024-65535 --random-fully",
        "POSTROUTING -o wan -j SNAT --to-source 198.51.100.7",
    ]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (
            NatBehaviour(Mapping.EIM, Filtering.EIF, PortChoice.PRESERVING, hairpin=True),
            "iptables rules here do not hairpin",
        ),
        (
            NatBehaviour(Mapping.ADM, Filtering.ADF, PortChoice.PRESERVING),
            "no iptables rules for ADM with ADF and preserving ports",
        ),
        (
            NatBehaviour(Mapping.EIM, Filtering.EIF, PortChoice.RANDOM),
            "no iptables rules for EIM with EIF and random ports",
        ),
        (
            NatBehaviour(Mapping.APDM, Filtering.EIF, PortChoice.RANDOM),
            "no iptables rules for APDM with EIF and random ports",
        ),
        (
            NatBehaviour(Mapping.APDM, Filtering.APDF, PortChoice.SEQUENTIAL),
            "no iptables rules for APDM with APDF and sequential ports",
        ),
    ],
)
def test_what_iptables_cannot_do_is_refused(behaviour: NatBehaviour, reason: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        firewall(behaviour, EXTERNAL, HOSTS, udp_timeout=77)
    assert str(caught.value) == reason
