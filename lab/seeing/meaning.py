"""Why a Teredo packet is sent, in a sentence, and where an RFC says so."""

from __future__ import annotations

from typing import NamedTuple

from lab.seeing.frames import Datagram
from lab.story import kind
from lab.teredo.address import is_global_unicast, is_teredo
from lab.teredo.packet import MalformedError, decode
from lab.teredo.trailers import parse_trailers


class Meaning(NamedTuple):
    """A sentence, and a section: ``RFC 4380 section 5.2.6``."""

    why: str
    rfc: str


def meaning(content: Datagram | bytes, sender: str, receiver: str, *, sequential: bool) -> Meaning:
    """Of a packet between nodes of these roles; `sequential`: its sender is behind a sequential symmetric NAT."""
    if isinstance(content, bytes):
        return _native(content, sender, receiver)
    try:
        packet = decode(content.data)
    except MalformedError:
        return Meaning("not Teredo", "")
    trailers = parse_trailers(packet.trailers)
    match kind(packet, content.to):
        case "router solicitation" if sequential:
            return Meaning(
                "asks the server which endpoint it sees: qualification, refresh, or an echo test, which finds out the"
                " port that a sequential NAT will give next",
                "RFC 4380 section 5.2.1, RFC 6081 section 5.5",
            )
        case "router solicitation":
            return Meaning("asks the server for its prefix, and which endpoint it sees", "RFC 4380 section 5.2.1")
        case "router advertisement":
            return Meaning(
                "the origin indication is the endpoint that the server sees: the client's address carries it",
                "RFC 4380 section 5.2.1",
            )
        case "discovery bubble":
            return Meaning("looks for other Teredo clients on the same link", "RFC 4380 section 5.2.8")
        case "indirect bubble" if sender == "server":
            return Meaning(
                "the server passes the bubble on, and the origin indication says from where it has it; the receiver's"
                " NAT lets it in, since the receiver talks to its server",
                "RFC 4380 section 5.3.1",
            )
        case "indirect bubble":
            why = "asks the receiver's server to pass it on, since the receiver's NAT lets its server in"
            if trailers.random_port:
                return Meaning(f"{why}; answers may also come to the random port", "RFC 6081 sections 5.4.4.2, 5.5.4")
            if trailers.nonce:
                why += "; who answers proves by the nonce that it got this"
                return Meaning(why, "RFC 4380 section 5.2.6, RFC 6081 section 5.2.4.1")
            return Meaning(why, "RFC 4380 section 5.2.6")
        case "direct bubble" if not is_global_unicast(content.to.host):
            return Meaning(
                "to an address that the other end has told of itself: it helps if both are behind one NAT",
                "RFC 6081 section 5.6",
            )
        case "direct bubble" if trailers.nonce:
            return Meaning(
                "answers the indirect bubble with its nonce: so the other end knows whose it is, whatever endpoint the"
                " sender's NAT gives it; and it opens that NAT for what comes back",
                "RFC 6081 section 5.2.4.2",
            )
        case "direct bubble":
            return Meaning(
                "opens its sender's own NAT for answers; the receiver's NAT may well drop it, which does no harm",
                "RFC 4380 section 5.2.6",
            )
        case "echo request (connectivity test)":
            return Meaning("finds the relay that is near a native host, by way of the server", "RFC 4380 section 5.2.9")
    if sender in ("relay", "host"):
        return Meaning("from the native host: its relay has put it into the tunnel", "RFC 4380 section 5.4.1")
    if not is_teredo(packet.destination):
        return Meaning("for a native host, to the relay that has answered for it", "RFC 4380 section 5.2.4")
    return Meaning("data goes straight from one to the other: the path is open", "RFC 4380 section 5.2.4")


def _native(ipv6: bytes, sender: str, receiver: str) -> Meaning:
    if is_teredo(ipv6[24:40]):
        return Meaning(f"plain IPv6 for 2001::/32: routed to the {receiver}", "RFC 4380 section 5.4")
    if sender == "server":
        return Meaning("the server passes the connectivity test on into the IPv6 Internet", "RFC 4380 section 5.3.1")
    return Meaning(f"the {sender} has taken it out of the tunnel", "RFC 4380 section 5.4.2")
