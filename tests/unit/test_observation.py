"""What a NAT was seen to do, held against what it was meant to do: each difference in words, and no others."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address

import pytest

from lab.nat.kinds import KINDS, Collision, Filtering, Mapping, NatBehaviour, Pooling, PortChoice
from lab.nat.observation import Lifetimes, Observation, disagreements
from lab.nat.setup import NatSetup

EXTERNAL = (IPv4Address("198.51.100.7"), IPv4Address("198.51.100.8"))
SEEN = Observation(
    mapping=Mapping.EIM,
    filtering=Filtering.APDF,
    ports=PortChoice.PRESERVING,
    addresses=("198.51.100.7",),
    hairpin=False,
    collision=Collision.ANOTHER,
    icmp_errors=True,
    upnp=False,
    hosts=(("alice", Mapping.EIM, Filtering.APDF),),
    lifetimes=Lifetimes(120, 120, outbound=True, inbound=True),
)


def problems(seen: Observation, behaviour: NatBehaviour = KINDS["port_restricted"]) -> list[str]:
    return disagreements(NatSetup(behaviour, EXTERNAL[: behaviour.addresses], ()), seen)


def test_what_is_as_meant_has_no_problem() -> None:
    assert problems(SEEN) == []


def test_what_was_not_seen_is_not_held_against_a_nat() -> None:
    assert problems(Observation()) == []
    assert problems(Observation(), KINDS["addr_symmetric"]) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"udp": False}, "no UDP passes"),
        ({"mapping": Mapping.APDM, "hosts": ()}, "mapping is APDM, not EIM"),
        ({"filtering": Filtering.EIF, "hosts": ()}, "filtering is EIF, not APDF"),
        ({"ports": PortChoice.RANDOM}, "port choice is random, not preserving"),
        ({"hairpin": True}, "there is hairpinning"),
        ({"collision": Collision.OVERLOAD}, "what becomes of a port that two hosts want is overload, not another"),
        ({"icmp_errors": False}, "there is no translation of ICMP errors"),
        ({"upnp": True}, "there is UPnP"),
        ({"addresses": ("192.0.2.9",)}, "it uses 192.0.2.9, which is not its own"),
        (
            {"hosts": (("alice", Mapping.EIM, Filtering.EIF),)},
            "for alice, with the same local port, it is EIM and EIF",
        ),
        ({"lifetimes": Lifetimes(118, 120)}, "new mappings live 118 s, not 120 s"),
        ({"lifetimes": Lifetimes(120, 122)}, "established mappings live 122 s, not 120 s"),
        ({"lifetimes": Lifetimes(120, 120, outbound=False)}, "packets from inside do not prolong a mapping"),
        ({"lifetimes": Lifetimes(120, 120, inbound=False)}, "packets from outside do not prolong a mapping"),
    ],
)
def test_each_difference_is_told(change: dict[str, object], problem: str) -> None:
    assert problems(dataclasses.replace(SEEN, **change)) == [problem]  # type: ignore[arg-type]


OTHER = NatBehaviour(
    Mapping.APDM, hairpin=True, inbound_refresh=False, icmp_errors=False, upnp=True, udp_timeout_new=20
)
OTHER_SEEN = Observation(
    mapping=Mapping.APDM,
    filtering=Filtering.APDF,
    ports=PortChoice.PRESERVING,
    hairpin=True,
    icmp_errors=False,
    upnp=True,
    lifetimes=Lifetimes(20, 120, outbound=True, inbound=False),
)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"mapping": Mapping.ADM}, "mapping is ADM, not APDM"),
        ({"filtering": Filtering.ADF}, "filtering is ADF, not APDF"),
        ({"ports": PortChoice.SEQUENTIAL, "delta": 1}, "port choice is sequential, not preserving"),
        ({"hairpin": False}, "there is no hairpinning"),
        ({"icmp_errors": True}, "there is translation of ICMP errors"),
        ({"upnp": False}, "there is no UPnP"),
        (
            {"hosts": (("alice", Mapping.APDM, Filtering.APDF), ("bob", Mapping.EIM, Filtering.APDF))},
            "for bob, with the same local port, it is EIM and APDF",
        ),
        ({"lifetimes": Lifetimes(22, 120)}, "new mappings live 22 s, not 20 s"),
        ({"lifetimes": Lifetimes(20, 20)}, "established mappings live 20 s, not 120 s"),
        ({"lifetimes": Lifetimes(0, None)}, "new mappings live 0 s, not 20 s"),
        ({"lifetimes": Lifetimes(None, None, inbound=True)}, "packets from outside prolong a mapping"),
        ({"lifetimes": Lifetimes(None, None, outbound=False)}, "packets from inside do not prolong a mapping"),
    ],
)
def test_each_difference_is_told_the_other_way_round(change: dict[str, object], problem: str | None) -> None:
    expected = [] if problem is None else [problem]
    assert problems(dataclasses.replace(OTHER_SEEN, **change), OTHER) == expected  # type: ignore[arg-type]


def test_all_differences_are_told_at_once() -> None:
    assert problems(OTHER_SEEN) == [
        "mapping is APDM, not EIM",
        "there is hairpinning",
        "there is no translation of ICMP errors",
        "there is UPnP",
        "new mappings live 20 s, not 120 s",
        "packets from outside do not prolong a mapping",
    ]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Observation) if field.name != "udp"])
def test_each_thing_may_remain_unseen(field: str) -> None:
    change: dict[str, object] = {"hosts": ()} | {field: () if field in ("addresses", "hosts") else None}
    assert problems(dataclasses.replace(SEEN, **change)) == []  # type: ignore[arg-type]


def test_of_a_lifetime_parts_may_remain_unseen() -> None:
    assert problems(Observation(lifetimes=Lifetimes(None, None))) == []
    assert problems(Observation(lifetimes=Lifetimes(None, 120, outbound=True))) == []


def test_without_udp_nothing_else_is_told() -> None:
    assert problems(dataclasses.replace(OTHER_SEEN, udp=False)) == ["no UDP passes"]
    assert problems(OTHER_SEEN, NatBehaviour(udp=False)) == ["UDP passes, which it should not"]


def test_a_second_more_or_less_is_as_meant() -> None:
    assert problems(dataclasses.replace(SEEN, lifetimes=Lifetimes(119, 121))) == []


def test_steps_of_sequential_ports() -> None:
    seen = Observation(mapping=Mapping.APDM, filtering=Filtering.APDF, ports=PortChoice.SEQUENTIAL, delta=2)
    assert problems(seen, KINDS["sequential_port_symmetric"]) == ["ports go up by 2, not by 1"]


def test_external_addresses_are_used_as_they_are_pooled() -> None:
    paired = NatBehaviour(addresses=2)
    arbitrary = NatBehaviour(addresses=2, pooling=Pooling.ARBITRARY)
    both, one = ("198.51.100.7", "198.51.100.8"), ("198.51.100.7",)
    assert problems(Observation(addresses=one), paired) == []
    assert problems(Observation(pooling=Pooling.ARBITRARY), NatBehaviour()) == []  # one address has no pooling
    assert problems(Observation(addresses=("192.0.2.9", *one, "192.0.2.8")), paired) == [
        "it uses 192.0.2.8, 192.0.2.9, which is not its own"
    ]
    assert problems(Observation(addresses=both, pooling=Pooling.PAIRED), arbitrary) == [
        "pooling of external addresses is paired, not arbitrary"
    ]
    assert problems(Observation(addresses=one), arbitrary) == ["it does not use 198.51.100.8"]
    assert problems(Observation(addresses=both, pooling=Pooling.ARBITRARY), arbitrary) == []
    assert problems(Observation(addresses=both, pooling=Pooling.ARBITRARY), paired) == [
        "pooling of external addresses is arbitrary, not paired"
    ]


def test_udp_that_passes_where_it_should_not() -> None:
    assert problems(SEEN, NatBehaviour(udp=False)) == ["UDP passes, which it should not"]
    assert problems(Observation(udp=False), NatBehaviour(udp=False)) == []


def test_facts_are_what_json_shows() -> None:
    facts = SEEN.facts()
    assert facts["hosts"] == [{"node": "alice", "mapping": "EIM", "filtering": "APDF"}]
    assert (facts["lifetime"], facts["inbound_refresh"], facts["external"]) == (120, True, ["198.51.100.7"])
    assert Observation().facts()["lifetime"] is None
