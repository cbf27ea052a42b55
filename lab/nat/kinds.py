"""What a NAT does to UDP, in the words of RFC 4787, and the names that points of that space have.

The ids of `KINDS` are those of the columns of RFC 6081 Figure 1 (`lab.nat.matrix`). `PRESETS` are NATs as people meet
them. Both are nothing but names: everything else asks for the behaviour.
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


class Collision(StrEnum):
    """What a port-preserving NAT does when the port has an owner: takes another one, or overloads (section 4.2.1)."""

    ANOTHER = "another"
    OVERLOAD = "overload"


class Pooling(StrEnum):
    """Which of several external addresses a mapping gets (RFC 4787 section 4.1): always its host's, or any."""

    PAIRED = "paired"
    ARBITRARY = "arbitrary"


class Engine(StrEnum):
    """What in the kernel makes a NAT."""

    IPTABLES = "iptables"
    NFTABLES = "nftables"


@dataclass(frozen=True, slots=True)
class NatBehaviour:
    """What a NAT does to UDP. Times are in seconds.

    `delta`: what is added to the last external port, for sequential ports. `hairpin`: inside hosts reach each other by
    external addresses, and see external ones (section 6). `udp_timeout`: how long an idle mapping lives; until it was
    answered for the first time, `udp_timeout_new` if that is given. `inbound_refresh`: packets from outside prolong it
    as well (section 4.3). `icmp_errors`: ICMP errors about mapped packets are let through, translated (section 9).
    `upnp`: inside hosts may open ports by UPnP IGD, NAT-PMP and PCP. Without `udp` no UDP passes at all.
    """

    mapping: Mapping = Mapping.EIM
    filtering: Filtering = Filtering.APDF
    ports: PortChoice = PortChoice.PRESERVING
    hairpin: bool = False
    delta: int = 1
    collision: Collision = Collision.ANOTHER
    addresses: int = 1
    pooling: Pooling = Pooling.PAIRED
    udp_timeout: int = 120
    udp_timeout_new: int | None = None
    inbound_refresh: bool = True
    icmp_errors: bool = True
    upnp: bool = False
    udp: bool = True

    @property
    def symmetric(self) -> bool:
        """Whether peers see another mapping than the Teredo server does, which RFC 4380 cannot live with."""
        return self.mapping is not Mapping.EIM

    @property
    def timeouts(self) -> tuple[int, int]:
        """Lifetimes of an idle mapping that was not answered yet, and of one that was."""
        return self.udp_timeout_new or self.udp_timeout, self.udp_timeout

    @property
    def point(self) -> str:
        """A name for a point that has none: ``ADM+EIF``."""
        return f"{self.mapping}+{self.filtering}" if self.udp else "no UDP"


_SYMMETRIC: Final = (Mapping.APDM, Filtering.APDF)

KINDS: Final[dict[str, NatBehaviour]] = {
    "cone": NatBehaviour(Mapping.EIM, Filtering.EIF),
    "addr_restricted": NatBehaviour(Mapping.EIM, Filtering.ADF),
    "port_restricted": NatBehaviour(Mapping.EIM, Filtering.APDF),
    "upnp_port_restricted": NatBehaviour(Mapping.EIM, Filtering.APDF, upnp=True),
    "upnp_port_symmetric": NatBehaviour(*_SYMMETRIC, PortChoice.PRESERVING, upnp=True),
    "port_preserving_port_symmetric": NatBehaviour(*_SYMMETRIC, PortChoice.PRESERVING),
    "sequential_port_symmetric": NatBehaviour(*_SYMMETRIC, PortChoice.SEQUENTIAL),
    "port_symmetric": NatBehaviour(*_SYMMETRIC, PortChoice.RANDOM),
    "addr_symmetric": NatBehaviour(*_SYMMETRIC, PortChoice.RANDOM, addresses=4, pooling=Pooling.ARBITRARY),
}
"""The kinds of RFC 6081. Four external addresses: a client's first peers, its server's two among them, all differ."""

PRESETS: Final[dict[str, NatBehaviour]] = {
    "home_router": NatBehaviour(
        Mapping.EIM, Filtering.APDF, collision=Collision.OVERLOAD, udp_timeout=180, udp_timeout_new=30
    ),
    "cgn": NatBehaviour(Mapping.EIM, Filtering.EIF, PortChoice.RANDOM, hairpin=True, addresses=4, udp_timeout=300),
    "office": NatBehaviour(*_SYMMETRIC, PortChoice.RANDOM, udp_timeout=60, udp_timeout_new=30),
    "hotel": NatBehaviour(udp=False),
}
"""NATs as people meet them.

A Linux home router is plain connection tracking with its default times; a carrier's NAT follows RFC 6888 (paired
pooling, endpoint-independent, hairpinning, long times); an office firewall is symmetric; a hotel lets no UDP through.
"""

NAMES: Final[dict[str, NatBehaviour]] = KINDS | PRESETS


def figure_kind(behaviour: NatBehaviour) -> str:
    """The kind of RFC 6081 Figure 1 that a behaviour counts as: its own, or the nearest that is no more than it."""
    if not behaviour.symmetric:
        if behaviour.upnp:
            return "upnp_port_restricted"
        return {"EIF": "cone", "ADF": "addr_restricted", "APDF": "port_restricted"}[behaviour.filtering]
    if behaviour.addresses > 1 and behaviour.pooling is Pooling.ARBITRARY:
        return "addr_symmetric"
    if behaviour.upnp:
        return "upnp_port_symmetric"
    return {
        PortChoice.PRESERVING: "port_preserving_port_symmetric",
        PortChoice.SEQUENTIAL: "sequential_port_symmetric",
        PortChoice.RANDOM: "port_symmetric",
    }[behaviour.ports]
