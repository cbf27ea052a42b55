"""What packets have shown of a NAT, and whether that is what it was meant to be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lab.nat.kinds import Collision, Filtering, Mapping, NatBehaviour, Pooling, PortChoice
from lab.nat.setup import NatSetup


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long idle mappings live, in seconds: the last whole second in which a packet still came in.

    `new` is for mappings that were never answered. `outbound` and `inbound`: whether a packet that way prolongs one.
    """

    new: int | None
    established: int | None
    outbound: bool | None = None
    inbound: bool | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen from outside and inside; None where nothing could be seen.

    `hosts`: mapping and filtering by inside host, where several were looked at, with one local port for all of them.
    """

    udp: bool = True
    mapping: Mapping | None = None
    filtering: Filtering | None = None
    ports: PortChoice | None = None
    delta: int | None = None
    addresses: tuple[str, ...] = ()
    pooling: Pooling | None = None
    hairpin: bool | None = None
    collision: Collision | None = None
    icmp_errors: bool | None = None
    upnp: bool | None = None
    hosts: tuple[tuple[str, Mapping, Filtering], ...] = ()
    lifetimes: Lifetimes | None = None

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        lifetimes = self.lifetimes
        return {
            "udp": self.udp,
            "mapping": self.mapping,
            "filtering": self.filtering,
            "ports": self.ports,
            "delta": self.delta,
            "external": list(self.addresses),
            "pooling": self.pooling,
            "hairpin": self.hairpin,
            "collision": self.collision,
            "icmp_errors": self.icmp_errors,
            "upnp": self.upnp,
            "hosts": [
                {"node": host, "mapping": mapping, "filtering": filter_} for host, mapping, filter_ in self.hosts
            ],
            "lifetime_new": lifetimes.new if lifetimes else None,
            "lifetime": lifetimes.established if lifetimes else None,
            "outbound_refresh": lifetimes.outbound if lifetimes else None,
            "inbound_refresh": lifetimes.inbound if lifetimes else None,
        }


def disagreements(nat: NatSetup, seen: Observation) -> list[str]:
    """In words, everything in which a NAT is not what it was meant to be; what was not seen is not held against it."""
    meant = nat.behaviour
    if seen.udp != meant.udp:
        return ["UDP passes, which it should not" if seen.udp else "no UDP passes"]
    return list(_disagreements(nat, meant, seen)) if meant.udp else []


def _disagreements(nat: NatSetup, meant: NatBehaviour, seen: Observation) -> Iterator[str]:
    for what, wanted, found in (
        ("mapping", meant.mapping, seen.mapping),
        ("filtering", meant.filtering, seen.filtering),
        ("port choice", meant.ports, seen.ports),
        ("what becomes of a port that two hosts want", meant.collision, seen.collision),
        ("pooling of external addresses", meant.pooling if meant.addresses > 1 else None, seen.pooling),
    ):
        if found is not None and wanted is not None and found is not wanted:
            yield f"{what} is {found}, not {wanted}"
    for host, mapping, filtering in seen.hosts:
        if (mapping, filtering) != (seen.mapping, seen.filtering):
            yield f"for {host}, with the same local port, it is {mapping} and {filtering}"
    if seen.delta is not None and meant.ports is PortChoice.SEQUENTIAL and seen.delta != meant.delta:
        yield f"ports go up by {seen.delta}, not by {meant.delta}"
    external = set(map(str, nat.external))
    if strange := set(seen.addresses) - external:
        yield f"it uses {', '.join(sorted(strange))}, which is not its own"
    if meant.pooling is Pooling.ARBITRARY and seen.addresses and (unused := external - set(seen.addresses)):
        yield f"it does not use {', '.join(sorted(unused))}"
    for what, wanted_, found_ in (
        ("hairpinning", meant.hairpin, seen.hairpin),
        ("translation of ICMP errors", meant.icmp_errors, seen.icmp_errors),
        ("UPnP", meant.upnp, seen.upnp),
    ):
        if found_ is not None and found_ != wanted_:
            yield f"there is {'' if found_ else 'no '}{what}"
    if seen.lifetimes is not None:
        yield from _ages(meant, seen.lifetimes)


def _ages(meant: NatBehaviour, seen: Lifetimes) -> Iterator[str]:
    for what, wanted, found in (
        ("new", meant.timeouts[0], seen.new),
        ("established", meant.timeouts[1], seen.established),
    ):
        if found is not None and abs(found - wanted) > 1:
            yield f"{what} mappings live {found} s, not {wanted} s"
    if seen.outbound is False:
        yield "packets from inside do not prolong a mapping"
    if seen.inbound is not None and seen.inbound != meant.inbound_refresh:
        yield f"packets from outside {'prolong' if seen.inbound else 'do not prolong'} a mapping"
