"""Why a cell does not work, from the packets that crossed the Internet for it.

Between a client and a relay that do not know each other, a bubble has to go from the relay through the client's server
to the client, and another one from the client straight to the relay (RFC 4380 sections 5.2.3 and 5.4.1). The first step
that is missing is the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lab.check.recorder import Recorded
from lab.interop.grid import Cell
from lab.plan import Plan
from lab.story import Line, describe
from lab.teredo.address import Endpoint, packed, parse
from lab.teredo.packet import MalformedError, decode
from lab.teredo.trailers import parse_trailers
from lab.topology.model import nat_node


@dataclass(frozen=True)
class Ends:
    """Who is who in a cell: the client's Teredo address, None if it has none, and everybody's IPv4 addresses."""

    client: str | None
    nat: frozenset[str]
    server: frozenset[str]
    relay: frozenset[str]

    def name(self, end: Endpoint) -> str:
        """``NAT 192.0.2.9:40000``"""
        for who, hosts in (("NAT", self.nat), ("server", self.server), ("relay", self.relay)):
            if end.host in hosts:
                return f"{who} {end}"
        return str(end)

    def owns(self, packet: Recorded) -> bool:
        """Whether a packet is of this cell: it passes the client's NAT, or it is about the client."""
        if {packet.source.host, packet.to.host} & self.nat:
            return True
        try:
            inner = decode(packet.data)
        except MalformedError:
            return False
        return self.client is not None and packed(self.client) in (inner.source, inner.destination)


def ends(cell: Cell, plan: Plan, nodes: Iterable[dict[str, Any]]) -> Ends:
    """The ends of a cell, from a lab's plan and what its status says of its nodes."""
    by_name = {node["name"]: node for node in nodes}
    nat = plan.node(nat_node(cell.client)).nat
    assert nat is not None

    def hosts(name: str) -> frozenset[str]:
        return frozenset(by_name[name]["ipv4"])

    return Ends(
        client=by_name[cell.client]["teredo_address"],
        nat=frozenset(map(str, nat.setup.external)),
        server=hosts(f"server-{cell.makers.server}"),
        relay=hosts(f"relay-{cell.makers.relay}"),
    )


def story(who: Ends, packets: Sequence[Recorded]) -> tuple[Line, ...]:
    """A cell's packets, in milliseconds since its first."""
    return tuple(
        Line(
            round((packet.at - packets[0].at) * 1000, 3),
            who.name(packet.source),
            who.name(packet.to),
            describe(packet.data, packet.to),
        )
        for packet in packets
    )


class _Steps(NamedTuple):
    """A cell's packets by what they are for."""

    from_relay: list[Recorded]
    forwarded: list[Recorded]
    answers: list[Recorded]
    direct: list[Recorded]


def _steps(who: Ends, packets: Sequence[Recorded]) -> _Steps:
    def between(sources: frozenset[str], destinations: frozenset[str]) -> list[Recorded]:
        return [each for each in packets if each.source.host in sources and each.to.host in destinations]

    relays = {packet.source for packet in between(who.relay, who.server | who.nat)}
    forwarded = [packet for packet in between(who.server, who.nat) if decode(packet.data).origin in relays]
    return _Steps(between(who.relay, who.server), forwarded, between(who.nat, who.relay), between(who.relay, who.nat))


def diagnose(who: Ends, packets: Sequence[Recorded]) -> str:
    """In a sentence, how far a cell that does not work came."""
    if who.client is None:
        return "The client has no Teredo address."
    address = parse(packed(who.client))
    assert address is not None
    steps = _steps(who, packets)
    if not steps.from_relay and not steps.direct:
        return "The relay sends nothing, neither to the client's server nor to the client."
    if steps.from_relay and not steps.forwarded:
        return f"The server forwards none of the relay's {_bubbles(steps.from_relay)} to the client."
    if not steps.answers:
        return f"The client answers none of the {_bubbles(steps.forwarded)} that the server forwards from the relay."
    strange = [packet for packet in steps.answers if packet.source != address.mapped]
    if not strange:
        return "Bubbles pass both ways; what follows them does not."
    sent = parse_trailers(decode(steps.forwarded[0].data).trailers).nonce if steps.forwarded else None
    returned = parse_trailers(decode(strange[0].data).trailers).nonce
    if not sent:
        nonce = "and the relay's bubbles carried no nonce"
    elif returned == sent:
        nonce = "with the relay's nonce"
    else:
        nonce = "without the nonce of the relay's bubble, which would prove whose it is (RFC 6081 section 5.2.4.2)"
    said = (
        f"The client answers with {_bubbles(strange)} that leave its NAT from port {strange[0].source.port}, and its"
        f" address says {address.mapped.port}, {nonce}."
    )
    if not steps.direct:
        return f"{said} The relay may not take that for its peer's (RFC 4380 section 5.4.2), and sends it nothing."
    return f"{said} What the relay sends to port {steps.direct[0].to.port} stays unanswered."


def _bubbles(packets: Sequence[Recorded]) -> str:
    return "bubble" if len(packets) == 1 else f"{len(packets)} bubbles"
