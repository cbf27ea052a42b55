"""What a Teredo server can be seen to do (RFC 4380 section 5.3)."""

from __future__ import annotations

from lab.conformance.bench import Bench, End, Received, indirect_bubble
from lab.conformance.checks import check, must
from lab.teredo.address import (
    ALL_ROUTERS,
    PREFIX,
    Endpoint,
    TeredoAddress,
    host_bytes,
    link_local,
)
from lab.teredo.packet import (
    ECHO_REPLY,
    ROUTER_ADVERTISEMENT,
    ROUTER_SOLICITATION,
    Authentication,
    advertisement,
    bubble,
    decode,
    echo_request,
    icmpv6,
    ipv6_header,
    router_solicitation,
)
from lab.teredo.trailers import nonce_trailer

_PRIVATE = Endpoint("192.168.77.7", 4000)
_PLAIN = link_local(Endpoint("0.0.0.0", 0), cone=False)  # noqa: S104 - an address, not a socket
_CONE = link_local(Endpoint("0.0.0.0", 0), cone=True)  # noqa: S104


def _is_advertisement(received: Received) -> bool:
    return received.packet.icmp_type == ROUTER_ADVERTISEMENT


def _solicit(end: End, server: Endpoint, source: bytes = _PLAIN, nonce: bytes = b"") -> Received:
    head = Authentication(nonce).encode() if nonce else b""
    end.send(head + router_solicitation(source), server)
    return end.get("router advertisement", _is_advertisement)


@check("server", "V6", "V16", "V17", "V19")
def advertises(bench: Bench) -> None:
    """Answers a solicitation with its prefix and with where it came from."""
    with bench.end() as end:
        answer = _solicit(end, bench.primary)
        facts = advertisement(answer.packet)
        must(facts is not None, "the advertisement is not valid by RFC 4861")
        assert facts is not None
        must(facts.prefix == PREFIX + host_bytes(bench.primary.host), f"its prefix is {facts.prefix.hex()}")
        must(answer.packet.origin == end.endpoint, f"its origin indication is {answer.packet.origin}")
        must(answer.packet.destination == _PLAIN, "it is not to the solicitation's source")
        must(answer.packet.source == link_local(bench.primary, cone=True), "its source is not the server's link-local")


@check("server", "V26")
def advertises_mtu(bench: Bench) -> None:
    """Advertises an MTU of 1280."""
    with bench.end() as end:
        facts = advertisement(_solicit(end, bench.primary).packet)
        must(facts is not None and facts.mtu == 1280, f"it says {facts and facts.mtu}")


@check("server", "V1", "V16")
def second_address(bench: Bench) -> None:
    """Answers at its second address, with the prefix of the first."""
    with bench.end() as end:
        answer = _solicit(end, bench.secondary)
        must(answer.source == bench.secondary, f"the answer comes from {answer.source}")
        facts = advertisement(answer.packet)
        prefix = PREFIX + host_bytes(bench.primary.host)
        must(facts is not None and facts.prefix == prefix, "the prefix is not the primary address's")


@check("server", "V18")
def cone_bit(bench: Bench) -> None:
    """Answers from the other address when the cone bit is set, from the same one when it is not."""
    with bench.end() as end:
        must(_solicit(end, bench.primary).source == bench.primary, "a clear cone bit is answered from elsewhere")
        must(_solicit(end, bench.primary, _CONE).source == bench.secondary, "a set cone bit is answered from the same")


@check("server", "V21", "S2")
def nonce(bench: Bench) -> None:
    """Gives the nonce of an authentication header back, with a confirmation byte of zero."""
    with bench.end() as end:
        answer = _solicit(end, bench.primary, nonce=b"conforms").packet.authentication
        must(answer is not None, "there is no authentication header")
        assert answer is not None
        must(answer.nonce == b"conforms", "the nonce is another one")
        must(answer.confirmation == 0, f"the confirmation byte is {answer.confirmation}")


@check("server", "V22")
def no_header(bench: Bench) -> None:
    """Answers without an authentication header where none was sent."""
    with bench.end() as end:
        must(_solicit(end, bench.primary).packet.authentication is None, "there is one")


@check("server", "V3", "V9")
def malformed(bench: Bench) -> None:
    """Is silent about malformed solicitations: bad checksum, hop limit, length, version."""
    good = router_solicitation(_PLAIN)
    low = icmpv6(_PLAIN, ALL_ROUTERS, ROUTER_SOLICITATION, 0, bytes(4), hop_limit=64)
    for what, data in (
        ("a bad checksum", good[:-5] + bytes((good[-5] ^ 1,)) + good[-4:]),
        ("a hop limit of 64", low),
        ("a length beyond the datagram", good[:4] + b"\0\x40" + good[6:]),
        ("IPv4", b"\x45" + good[1:]),
        ("nothing at all", b""),
    ):
        with bench.end() as end:
            end.send(data, bench.primary)
            end.silence(f"an answer to {what}")


@check("server", "V7", "V14", "V15")
def forwards_with_origin(bench: Bench) -> None:
    """Forwards a bubble to a client of its own from port 3544, with the origin indication."""
    with bench.end() as one, bench.end() as two:
        one.send(bubble(one.address, two.address), bench.primary)
        got = two.get("bubble", indirect_bubble)
        must(got.source == bench.primary, f"it comes from {got.source}")
        must(got.packet.origin == one.endpoint, f"its origin indication is {got.packet.origin}")
        must(got.packet.ipv6 == bubble(one.address, two.address), "the IPv6 packet has changed")


@check("server", "V24")
def keeps_trailers(bench: Bench) -> None:
    """Forwards the trailers of a bubble unchanged."""
    with bench.end() as one, bench.end() as two:
        trailers = nonce_trailer(b"\1\2\3\4") + b"\x80\x02ab"
        one.send(bubble(one.address, two.address) + trailers, bench.primary)
        got = two.get("bubble", indirect_bubble)
        must(got.packet.trailers == trailers, f"what follows the packet is {got.packet.trailers.hex() or 'nothing'}")


@check("server", "V7", "V9")
def spoofed(bench: Bench) -> None:
    """Drops a bubble whose Teredo source is somewhere else than it says, to a client of another server."""
    with bench.end() as one, bench.end(server="203.0.113.66") as two:
        claimed = TeredoAddress(bench.primary.host, 0, Endpoint("203.0.113.77", 4000)).packed
        one.send(bubble(claimed, two.address), bench.primary)
        two.silence("the bubble")


@check("server", "V4")
def only_bubbles(bench: Bench) -> None:
    """Forwards bubbles and ICMPv6 only, no data."""
    with bench.end() as one, bench.end() as two:
        one.send(ipv6_header(one.address, two.address, 17, 12, 64) + bytes(12), bench.primary)
        two.silence("the datagram")


@check("server", "V13", "A4")
def private_client(bench: Bench) -> None:
    """Sends nothing to a client whose address carries a private IPv4 address, and goes on."""
    with bench.end() as one:
        private = TeredoAddress(bench.primary.host, 0, _PRIVATE).packed
        one.send(bubble(one.address, private), bench.primary)
        one.silence("an answer")
        _solicit(one, bench.primary)


@check("server", "V25")
def no_loop(bench: Bench) -> None:
    """Does not forward to its own addresses for ever."""
    with bench.end() as one:
        for server in (bench.primary, bench.secondary):
            one.send(bubble(one.address, TeredoAddress(bench.primary.host, 0, server).packed), bench.primary)
        _solicit(one, bench.primary)


@check("server", "V10")
def echo(bench: Bench) -> None:
    """Answers an echo request to its link-local address."""
    with bench.end() as end:
        end.send(echo_request(end.address, link_local(bench.primary, cone=True), b"conformance"), bench.primary)
        answer = end.get("echo reply", lambda got: got.packet.icmp_type == ECHO_REPLY)
        must(decode(answer.data).ipv6[48:] == b"conformance", "its data are other ones")


@check("server", "V12")
def to_the_internet(bench: Bench) -> None:
    """Relays a client's ICMPv6 to the IPv6 Internet, from where the answer comes back by a relay's bubble."""
    with bench.end() as end:
        end.send(echo_request(end.address, bench.web, b"conformance"), bench.primary)
        end.get("bubble of the relay", indirect_bubble)
