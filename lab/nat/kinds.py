"""The kinds of NAT as data, in the words of RFC 4787: how each maps, filters and chooses ports.

The ids are those of the columns of RFC 6081 Figure 1 (`lab.nat.matrix`). A kind is here when the lab can build it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Mapping(StrEnum):
    """For which remote endpoints one inside endpoint keeps its mapping (RFC 4787 section 4.1)."""

    EIM = "EIM"
    ADM = "ADM"
    APDM = "APDM"


class Filtering(StrEnum):
    """From which remote endpoints a mapping lets packets in (RFC 4787 section 5)."""

    EIF = "EIF"
    ADF = "ADF"
    APDF = "APDF"


class PortChoice(StrEnum):
    """How a mapping's external port is chosen (RFC 4787 section 4.2.1)."""

    PRESERVING = "preserving"
    RANDOM = "random"
    SEQUENTIAL = "sequential"


@dataclass(frozen=True, slots=True)
class NatBehaviour:
    """What a NAT does to UDP. `hairpin`: inside hosts reach each other by external addresses (RFC 4787 section 6)."""

    mapping: Mapping
    filtering: Filtering
    ports: PortChoice
    hairpin: bool = False

    @property
    def symmetric(self) -> bool:
        """Whether peers see another mapping than the Teredo server does, which RFC 4380 cannot live with."""
        return self.mapping is not Mapping.EIM


KINDS: Final[dict[str, NatBehaviour]] = {
    "cone": NatBehaviour(Mapping.EIM, Filtering.EIF, PortChoice.PRESERVING),
    "addr_restricted": NatBehaviour(Mapping.EIM, Filtering.ADF, PortChoice.PRESERVING),
    "port_restricted": NatBehaviour(Mapping.EIM, Filtering.APDF, PortChoice.PRESERVING),
    "port_symmetric": NatBehaviour(Mapping.APDM, Filtering.APDF, PortChoice.RANDOM),
}
