"""Packets of a recording as facts, and as lines to read."""

from __future__ import annotations

from typing import NamedTuple

from lab.seeing import fields, frames
from lab.seeing.pcapng import Interface, Packet
from lab.story import describe, describe_ipv6
from lab.teredo.address import text
from lab.teredo.packet import MalformedError


class Told(NamedTuple):
    """What a packet is: from whom, to whom, in words, and its fields if it is Teredo's or IPv6's."""

    source: str
    to: str
    what: str
    fields: tuple[fields.Field, ...] = ()


def told(interface: Interface, packet: Packet) -> Told:
    """What a packet of a recording is."""
    match frames.content(interface.link_type, packet.whole):
        case frames.Datagram(source, to, data):
            try:
                found = fields.datagram(data)
            except MalformedError:
                found = ()
            return Told(str(source), str(to), describe(data, to), found)
        case bytes(ipv6):
            return Told(text(ipv6[8:24]), text(ipv6[24:40]), describe_ipv6(ipv6), (fields.ipv6(ipv6),))
        case frames.Other(what, source, to):
            return Told(source, to, what)


def line(interface: Interface, packet: Packet, began: int) -> str:
    """A packet in a line; `began` is when the recording did, in nanoseconds since the epoch."""
    facts = told(interface, packet)
    where = f"{interface.name:<14} " if interface.name else ""
    ends = f"{facts.source} → {facts.to}" if facts.source else ""
    more = packet.comment.removeprefix(facts.what).removeprefix("; ")
    return f"{(packet.at - began) / 1e6:>10.3f} ms  {where}{ends:<45} {facts.what}{f'; {more}' if more else ''}"
