"""nftables rulesets: their memory and their rules follow from the behaviour, and nft understands them."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from ipaddress import IPv4Address

import pytest

from lab.nat.kinds import KINDS, PRESETS, Collision, Filtering, Mapping, NatBehaviour, Pooling, PortChoice
from lab.nat.nftables import FLOW_TIMEOUT, PORTS, firewall
from lab.nat.setup import POOL, NatSetup, UnsupportedError

EXTERNAL = tuple(IPv4Address(f"198.51.100.{number}") for number in (7, 8, 9, 10))
HOSTS = tuple(IPv4Address(f"192.168.1.{number}") for number in (2, 3, 4))


def built(behaviour: NatBehaviour, seed: int = 1) -> str:
    return firewall(NatSetup(behaviour, EXTERNAL[: behaviour.addresses], HOSTS, seed)).nftables


def chains(text: str) -> dict[str, list[str]]:
    found = re.findall(r"^  chain (\S+) {\n(.*?)^  }$", text, re.MULTILINE | re.DOTALL)
    return {name: [line.strip() for line in rules.splitlines()] for name, rules in found}


def memory(text: str) -> dict[str, str]:
    """The type of each map and set."""
    return dict(re.findall(r"^  (?:map|set) (\S+) { type ([^;]*);", text, re.MULTILINE))


def drawn(text: str, index: int = 0) -> list[int]:
    """The ports that are drawn for new mappings, in their order."""
    rule = chains(text)[f"draw{index}"][-1]
    return [int(port) for port in re.findall(r"\d+ : (\d+)", rule.partition("map")[2])]


@pytest.mark.parametrize(
    ("mapping", "remote"), [("EIM", ""), ("ADM", " . ipv4_addr"), ("APDM", " . ipv4_addr . inet_service")]
)
def test_a_mapping_heeds_as_much_of_the_remote_endpoint_as_it_should(mapping: str, remote: str) -> None:
    text = built(NatBehaviour(Mapping(mapping)))
    assert memory(text)["mapped"] == f"ipv4_addr . inet_service{remote} : ipv4_addr . inet_service"
    assert memory(text)["owner"] == "ipv4_addr . inet_service : ipv4_addr . inet_service"


@pytest.mark.parametrize(
    ("mapping", "remote"),
    [
        ("EIM", ""),
        ("ADM", " . ct original ip daddr"),
        ("APDM", " . ct original ip daddr . ct original proto-dst"),
    ],
)
def test_a_first_packet_finds_its_mapping(mapping: str, remote: str) -> None:
    found = chains(built(NatBehaviour(Mapping(mapping), addresses=2)))
    key = f"ip saddr . udp sport{remote}"
    assert found["outward"][:3] == [
        f"meta l4proto udp {key} . udp sport @kept0 snat to 198.51.100.7",
        f"meta l4proto udp {key} . udp sport @kept1 snat to 198.51.100.8",
        f"meta l4proto udp snat to {key} map @mapped",
    ]
    written = f"ct original ip saddr . ct original proto-src{remote}"
    assert found["original_left"][1] == f"meta l4proto udp update @mapped {{ {written} : ip saddr . udp sport }}"


@pytest.mark.parametrize(
    ("filtering", "remote"), [("EIF", None), ("ADF", " . ipv4_addr"), ("APDF", " . ipv4_addr . inet_service")]
)
def test_filtering_heeds_as_much_of_the_remote_endpoint_as_it_should(filtering: str, remote: str | None) -> None:
    text = built(NatBehaviour(filtering=Filtering(filtering)))
    permitted = None if remote is None else f"ipv4_addr . inet_service{remote}"
    assert memory(text).get("permitted") == permitted
    drops = [rules[0] for name, rules in chains(text).items() if name.endswith("_entered")]
    assert len(drops) == 2
    assert all(rule.endswith(f"!= @{'permitted' if remote else 'owner'} drop") for rule in drops)


@pytest.mark.parametrize("addresses", [1, 2, 4])
def test_ports_that_are_kept_are_noted_for_each_external_address(addresses: int) -> None:
    types = memory(built(NatBehaviour(Mapping.ADM, addresses=addresses)))
    each = {f"kept{index}" for index in range(addresses)} | {f"taken{index}" for index in range(addresses)}
    assert types.keys() == {"owner", "mapped", "permitted"} | each
    for index in range(addresses):
        assert types[f"kept{index}"] == "ipv4_addr . inet_service . ipv4_addr . inet_service"
        assert types[f"taken{index}"] == "inet_service"
    for ports in (PortChoice.RANDOM, PortChoice.SEQUENTIAL):
        assert memory(built(NatBehaviour(ports=ports, addresses=addresses))).keys() == {"owner", "mapped", "permitted"}


def test_the_text_replaces_the_table_that_was_there() -> None:
    lines = built(NatBehaviour()).splitlines()
    assert lines[:3] == ["table ip nat_lab", "delete table ip nat_lab", "table ip nat_lab {"]
    assert lines[-1] == "}"
    assert lines.count("table ip nat_lab {") == 1


def test_every_chain_that_is_called_is_there_and_is_called() -> None:
    for mapping, filtering, ports, (hairpin, new, upnp) in itertools.product(
        Mapping, Filtering, PortChoice, ((False, None, True), (True, 9, False))
    ):
        text = built(NatBehaviour(mapping, filtering, ports, hairpin, addresses=2, udp_timeout_new=new, upnp=upnp))
        hooked = {name for name, rules in chains(text).items() if rules[0].startswith("type ")}
        called = set(re.findall(r"(?:jump|goto) (\w+)", text))
        assert hooked | called == chains(text).keys()
        assert not hooked & called
        assert set(re.findall(r"@(\w+)", text)) == memory(text).keys()


def test_hairpinning_is_there_or_dropped_at_the_entrance() -> None:
    with_, without = chains(built(NatBehaviour(hairpin=True))), chains(built(NatBehaviour()))
    assert without["entrance"][-1] == "iifname lan ip daddr { 198.51.100.7 } meta l4proto udp drop"
    assert not any("iifname lan" in rule for rule in without["destination"])
    assert not any("oifname lan" in rule for rule in without["source"])
    assert len(with_["entrance"]) == 1
    assert sum("iifname lan" in rule for rule in with_["destination"]) == 2
    assert with_["source"][-1] == "iifname lan oifname lan ct original ip daddr { 198.51.100.7 } jump outward"


def test_packets_from_outside_prolong_mappings_if_they_should() -> None:
    with_, without = chains(built(NatBehaviour())), chains(built(NatBehaviour(inbound_refresh=False)))
    for direction in ("original", "reply"):
        assert len(without[f"{direction}_entered"]) == 1
        assert sum("update @" in rule for rule in with_[f"{direction}_entered"]) == 5
        assert with_[f"{direction}_left"] == without[f"{direction}_left"]


def test_answered_mappings_have_their_own_timeout() -> None:
    same, other = built(NatBehaviour(udp_timeout=60)), built(NatBehaviour(udp_timeout=60, udp_timeout_new=20))
    assert "answered" not in same
    assert memory(other)["answered"] == "ipv4_addr . inet_service"
    assert built(NatBehaviour(udp_timeout=60, udp_timeout_new=60)) == same
    assert "timeout 60s; }" in same
    assert all("timeout 20s" in rule for rule in chains(other)["original_left"])
    assert all("timeout 60s" in rule for rule in chains(other)["original_left_answered"])
    assert "update @answered" in chains(other)["reply_entered"][1]


def test_conntrack_keeps_flows_for_a_moment_only() -> None:
    slow = firewall(NatSetup(NatBehaviour(udp_timeout=300), EXTERNAL[:1], HOSTS))
    quick = firewall(NatSetup(NatBehaviour(udp_timeout=1), EXTERNAL[:1], HOSTS))
    assert set(slow.sysctls.values()) == {str(FLOW_TIMEOUT)}
    assert set(quick.sysctls.values()) == {"1"}
    assert (slow.engine, slow.iptables, slow.ipset) == ("nftables", "", "")


@pytest.mark.parametrize("delta", [1, 2, 16])
def test_sequential_ports_go_up_by_delta(delta: int) -> None:
    ports = drawn(built(NatBehaviour(ports=PortChoice.SEQUENTIAL, delta=delta)))
    assert [after - before for before, after in itertools.pairwise(ports)] == [delta] * (PORTS - 1)
    assert 1024 <= ports[0] < ports[-1] <= 65535


def test_each_address_counts_its_own_ports() -> None:
    text = built(NatBehaviour(ports=PortChoice.SEQUENTIAL, addresses=3))
    assert drawn(text, 0) == drawn(text, 1) == drawn(text, 2)
    assert [chains(text)[f"draw{index}"][-1].split(" map ")[0] for index in range(3)] == [
        f"meta l4proto udp snat to {address} : numgen inc mod 1365" for address in EXTERNAL[:3]
    ]


@pytest.mark.parametrize(("addresses", "each"), [(1, 2048), (2, 2048), (4, 1024), (16, 256)])
def test_all_addresses_together_have_no_more_ports_than_an_ordinary_user_can_load(addresses: int, each: int) -> None:
    external = tuple(IPv4Address("198.51.100.7") + number for number in range(addresses))
    text = firewall(NatSetup(NatBehaviour(ports=PortChoice.RANDOM, addresses=addresses), external, HOSTS)).nftables
    assert [len(drawn(text, index)) for index in range(addresses)] == [each] * addresses


def test_random_ports_come_from_the_seed_and_never_twice() -> None:
    behaviour = NatBehaviour(ports=PortChoice.RANDOM, addresses=2)
    ports = drawn(built(behaviour))
    assert len(set(ports)) == PORTS
    assert 1024 <= min(ports) < max(ports) <= 65535
    assert ports == drawn(built(behaviour))
    assert ports != drawn(built(behaviour, seed=2))
    assert ports != drawn(built(behaviour), 1)


def test_who_cannot_keep_a_port_gets_one_of_the_pool() -> None:
    text = built(NatBehaviour())
    assert set(drawn(text)) <= set(POOL)
    assert chains(text)["draw0"][0] == "udp sport >= 1024 udp sport < 61440 udp sport != @taken0 snat to 198.51.100.7"
    assert "kept0" not in memory(built(NatBehaviour(ports=PortChoice.RANDOM)))


def test_hosts_are_paired_with_addresses_or_mappings_take_them_in_turn() -> None:
    paired = chains(built(NatBehaviour(addresses=2)))["outward"]
    pairs = "192.168.1.2 : goto draw0, 192.168.1.3 : goto draw1, 192.168.1.4 : goto draw0"
    assert f"meta l4proto udp ip saddr vmap {{ {pairs} }}" in paired
    arbitrary = chains(built(NatBehaviour(addresses=3, pooling=Pooling.ARBITRARY)))["outward"]
    assert "meta l4proto udp numgen inc mod 3 vmap { 0 : goto draw0, 1 : goto draw1, 2 : goto draw2 }" in arbitrary


def test_what_upnp_has_opened_is_not_filtered() -> None:
    text = built(NatBehaviour(upnp=True))
    assert chains(text)["filtering"][1].endswith("ct status dnat ct mark 0 accept")
    assert "ct mark set 1 dnat" in chains(text)["destination"][1]
    assert "ct mark" not in built(NatBehaviour())


def test_without_udp_nothing_of_it_passes() -> None:
    found = chains(built(NatBehaviour(udp=False)))
    assert found["entrance"][-1] == "meta l4proto udp drop"
    assert "draw0" not in found


def test_icmp_errors_can_be_kept_out() -> None:
    assert "errors" not in chains(built(NatBehaviour()))
    for udp in (True, False):
        assert chains(built(NatBehaviour(icmp_errors=False, udp=udp)))["errors"] == [
            "type filter hook forward priority filter;",
            "meta l4proto icmp ct state related drop",
        ]


def test_strangers_die_unconfirmed() -> None:
    for udp in (True, False):
        assert chains(built(NatBehaviour(udp=udp)))["input"] == [
            "type filter hook input priority filter;",
            "iifname wan ct state established,related accept",
            "iifname wan meta l4proto udp drop",
        ]


def test_overloading_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="one owner"):
        built(NatBehaviour(collision=Collision.OVERLOAD))


def test_nft_understands_every_point() -> None:
    unshare = ("unshare", "-n") if os.geteuid() == 0 else ("unshare", "-rn")
    nft = shutil.which("nft", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if nft is None or subprocess.run((*unshare, "true"), check=False, capture_output=True).returncode:
        pytest.skip("needs nft (package nftables) and network namespaces")
    points = [
        NatBehaviour(mapping, filtering, ports, hairpin, addresses=addresses)
        for mapping, filtering, ports, (hairpin, addresses) in itertools.product(
            Mapping, Filtering, PortChoice, ((False, 1), (True, 2))
        )
    ]
    points += [*KINDS.values(), NatBehaviour(udp=False), NatBehaviour(icmp_errors=False, udp_timeout_new=5)]
    points += [NatBehaviour(inbound_refresh=False, pooling=Pooling.ARBITRARY, addresses=4)]
    points += [preset for preset in PRESETS.values() if preset.collision is not Collision.OVERLOAD]
    points += [
        NatBehaviour(Mapping.ADM, Filtering.ADF, ports, True, delta=16, udp_timeout_new=5) for ports in PortChoice
    ]
    text = "".join(built(point) for point in points)
    result = subprocess.run((*unshare, nft, "-f", "-"), input=text, text=True, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr[:2000]


def test_without_udp_only_the_rest_is_translated() -> None:
    found = chains(built(NatBehaviour(udp=False)))
    assert found.keys() == {"entrance", "input", "source"}
    assert found["source"] == ["type nat hook postrouting priority srcnat;", "oifname wan snat to 198.51.100.7"]
