"""The kinds of NAT and the figure of RFC 6081 that names them."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from lab.nat.kinds import (
    KINDS,
    NAMES,
    PRESETS,
    Collision,
    Filtering,
    Mapping,
    NatBehaviour,
    Pooling,
    PortChoice,
    figure_kind,
)
from lab.nat.matrix import FIGURE_1, NAT_KINDS, Cell, cell

POINTS = [
    ("cone", "EIM", "EIF", "preserving", 1, False),
    ("addr_restricted", "EIM", "ADF", "preserving", 1, False),
    ("port_restricted", "EIM", "APDF", "preserving", 1, False),
    ("upnp_port_restricted", "EIM", "APDF", "preserving", 1, True),
    ("upnp_port_symmetric", "APDM", "APDF", "preserving", 1, True),
    ("port_preserving_port_symmetric", "APDM", "APDF", "preserving", 1, False),
    ("sequential_port_symmetric", "APDM", "APDF", "sequential", 1, False),
    ("port_symmetric", "APDM", "APDF", "random", 1, False),
    ("addr_symmetric", "APDM", "APDF", "random", 4, False),
    ("home_router", "EIM", "APDF", "preserving", 1, False),
    ("cgn", "EIM", "EIF", "random", 4, False),
    ("office", "APDM", "APDF", "random", 1, False),
]


@pytest.mark.parametrize(("kind", "mapping", "filtering", "ports", "addresses", "upnp"), POINTS)
def test_a_kind(kind: str, mapping: str, filtering: str, ports: str, addresses: int, upnp: bool) -> None:
    seen = NAMES[kind]
    assert (seen.mapping, seen.filtering, seen.ports) == (mapping, filtering, ports)
    assert (seen.addresses, seen.upnp) == (addresses, upnp)
    assert seen.symmetric is (mapping != "EIM")
    assert seen.udp
    assert seen.hairpin is (kind == "cgn")


def test_the_kinds_are_those_of_the_figure_in_its_order() -> None:
    assert tuple(KINDS) == NAT_KINDS
    assert not KINDS.keys() & PRESETS.keys()
    assert {kind for kind, *_ in POINTS} == NAMES.keys() - {"hotel"}
    assert not NAMES["hotel"].udp


@pytest.mark.parametrize(
    ("preset", "point", "timeouts", "collision", "pooling"),
    [
        ("home_router", "EIM+APDF", (30, 180), "overload", "paired"),
        ("cgn", "EIM+EIF", (300, 300), "another", "paired"),
        ("office", "APDM+APDF", (30, 60), "another", "paired"),
        ("hotel", "no UDP", (120, 120), "another", "paired"),
    ],
)
def test_a_preset(preset: str, point: str, timeouts: tuple[int, int], collision: str, pooling: str) -> None:
    seen = PRESETS[preset]
    assert (seen.point, seen.timeouts) == (point, timeouts)
    assert (seen.collision, seen.pooling) == (collision, pooling)
    assert (seen.delta, seen.inbound_refresh, seen.icmp_errors) == (1, True, True)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_kinds_have_in_common(kind: str) -> None:
    seen = KINDS[kind]
    assert (seen.timeouts, seen.delta, seen.collision) == ((120, 120), 1, Collision.ANOTHER)
    assert (seen.inbound_refresh, seen.icmp_errors) == (True, True)
    assert seen.pooling == ("arbitrary" if kind == "addr_symmetric" else "paired")


@pytest.mark.parametrize("mapping", Mapping)
@pytest.mark.parametrize("filtering", Filtering)
def test_a_point_is_called_by_its_mapping_and_filtering(mapping: Mapping, filtering: Filtering) -> None:
    assert NatBehaviour(mapping, filtering).point == f"{mapping.value}+{filtering.value}"
    assert NatBehaviour(mapping, filtering, udp=False).point == "no UDP"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_counts_as_itself(kind: str) -> None:
    assert figure_kind(KINDS[kind]) == kind


def test_what_presets_count_as() -> None:
    assert {name: figure_kind(preset) for name, preset in PRESETS.items() if preset.udp} == {
        "home_router": "port_restricted",
        "cgn": "cone",
        "office": "port_symmetric",
    }


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (NatBehaviour(Mapping.ADM, Filtering.EIF), "port_preserving_port_symmetric"),
        (NatBehaviour(Mapping.EIM, Filtering.EIF, PortChoice.RANDOM, hairpin=True), "cone"),
        (NatBehaviour(Mapping.EIM, Filtering.ADF, PortChoice.SEQUENTIAL, addresses=4), "addr_restricted"),
        (NatBehaviour(Mapping.ADM, Filtering.ADF, PortChoice.SEQUENTIAL), "sequential_port_symmetric"),
        (NatBehaviour(Mapping.ADM, Filtering.APDF, PortChoice.RANDOM), "port_symmetric"),
        (NatBehaviour(Mapping.ADM, Filtering.EIF, upnp=True), "upnp_port_symmetric"),
        (dataclasses.replace(KINDS["addr_symmetric"], pooling=Pooling.PAIRED), "port_symmetric"),
        (dataclasses.replace(KINDS["addr_symmetric"], addresses=1), "port_symmetric"),
        (dataclasses.replace(KINDS["addr_symmetric"], upnp=True), "addr_symmetric"),
        (dataclasses.replace(KINDS["sequential_port_symmetric"], delta=16), "sequential_port_symmetric"),
    ],
)
def test_other_points_count_as_the_nearest_kind(behaviour: NatBehaviour, kind: str) -> None:
    assert figure_kind(behaviour) == kind


def test_timeouts() -> None:
    assert NatBehaviour(udp_timeout=50).timeouts == (50, 50)
    assert NatBehaviour(udp_timeout=50, udp_timeout_new=20).timeouts == (20, 50)


def test_address_dependent_mapping_is_symmetric_to_teredo() -> None:
    assert NatBehaviour(Mapping.ADM, Filtering.EIF, PortChoice.PRESERVING).symmetric


def test_the_figure_is_whole() -> None:
    assert len(NAT_KINDS) == 9
    assert all(tuple(row) == NAT_KINDS for row in FIGURE_1.values())
    counted = Counter(cell for row in FIGURE_1.values() for cell in row.values())
    assert counted == {"Yes": 16, "SNS": 18, "SNS+UPnP": 3, "SNS+PP": 3, "SNS+SS": 3, "No": 38}


def test_one_pair_of_the_figure_depends_on_the_direction() -> None:
    different = {(a, b) for a in NAT_KINDS for b in NAT_KINDS if cell(a, b) is not cell(b, a)}
    preserving, sequential = "port_preserving_port_symmetric", "sequential_port_symmetric"
    assert different == {(preserving, sequential), (sequential, preserving)}
    assert cell(preserving, sequential) is Cell.SNS_SS
    assert cell(sequential, preserving) is Cell.NO


def test_a_kind_that_is_not_of_the_figure() -> None:
    with pytest.raises(KeyError):
        cell("cone", "conee")
