"""The kinds of NAT and the figure of RFC 6081 that names them."""

from __future__ import annotations

from collections import Counter

import pytest

from lab.nat.kinds import KINDS, Filtering, Mapping, NatBehaviour, PortChoice
from lab.nat.matrix import FIGURE_1, NAT_KINDS, Cell, cell

BUILT = [
    ("cone", "EIM", "EIF", "preserving", False),
    ("addr_restricted", "EIM", "ADF", "preserving", False),
    ("port_restricted", "EIM", "APDF", "preserving", False),
    ("port_symmetric", "APDM", "APDF", "random", True),
]


@pytest.mark.parametrize(("kind", "mapping", "filtering", "ports", "symmetric"), BUILT)
def test_a_kind(kind: str, mapping: str, filtering: str, ports: str, symmetric: bool) -> None:
    behaviour = KINDS[kind]
    assert behaviour == NatBehaviour(Mapping(mapping), Filtering(filtering), PortChoice(ports), hairpin=False)
    assert behaviour.symmetric is symmetric


def test_address_dependent_mapping_is_symmetric_to_teredo() -> None:
    assert NatBehaviour(Mapping.ADM, Filtering.EIF, PortChoice.PRESERVING).symmetric


def test_all_kinds_are_of_the_figure() -> None:
    assert len(KINDS) == len(BUILT)
    assert KINDS.keys() <= set(NAT_KINDS)


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
