"""What a Teredo client can be seen to do (RFC 4380 section 5.2, RFC 6081 section 5)."""

from __future__ import annotations

from lab.conformance.bench import QUIET, Bench, End, Received, direct_bubble, indirect_bubble
from lab.conformance.checks import check, must
from lab.teredo.address import Endpoint, TeredoAddress, link_local, parse
from lab.teredo.packet import ECHO_REPLY, bubble, echo_request, origin_indication, router_advertisement
from lab.teredo.trailers import (
    Discovery,
    alternate_address_trailer,
    discovery_trailer,
    nonce_trailer,
    random_port_trailer,
)

_NONCE = b"\x0a\x0b\x0c\x0d"
_FLOOD = 20


def _mapped(bench: Bench) -> Endpoint:
    teredo = parse(bench.client)
    assert teredo is not None
    return teredo.mapped


def _call(end: End, bench: Bench, trailers: bytes = b"") -> None:
    """Send an indirect bubble to the client."""
    end.send(bubble(end.address, bench.client) + trailers, bench.primary)


def _echo(end: End, bench: Bench, source: bytes | None = None) -> None:
    end.send(echo_request(source or end.address, bench.client, b"conformance"), _mapped(bench))


def _is_reply(received: Received) -> bool:
    return received.packet.icmp_type == ECHO_REPLY


@check("client", "R5", "B1", "B4")
def answers(bench: Bench) -> None:
    """Answers an indirect bubble with a direct one, from its Teredo address and mapping."""
    with bench.end() as end:
        _call(end, bench)
        got = end.get("direct bubble", direct_bubble)
        must(got.source == _mapped(bench), f"it comes from {got.source}")
        must(got.packet.source == bench.client, "its IPv6 source is not the client's address")
        must(got.packet.destination == end.address, "its IPv6 destination is not the caller's address")


@check("client", "R8", "R9")
def delivers(bench: Bench) -> None:
    """Takes packets of a Teredo peer whose address carries the mapping that they come from, and answers."""
    with bench.end() as end:
        _echo(end, bench)
        end.get("echo reply", _is_reply)


@check("client", "R8", "A1", "SN9")
def spoofed(bench: Bench) -> None:
    """Drops what comes from another mapping than the Teredo source carries."""
    with bench.end() as end:
        claimed = TeredoAddress(bench.primary.host, 0, Endpoint("203.0.113.77", 4000)).packed
        _echo(end, bench, claimed)
        end.silence("an echo reply", _is_reply)


@check("client", "R2")
def not_to_it(bench: Bench) -> None:
    """Drops what is not for its address."""
    with bench.end() as end:
        other = TeredoAddress(bench.primary.host, 0, Endpoint("203.0.113.5", 4000)).packed
        end.send(echo_request(end.address, other, b"conformance"), _mapped(bench))
        end.silence("an answer", _is_reply)


@check("client", "R1")
def malformed(bench: Bench) -> None:
    """Is silent about malformed datagrams, and goes on."""
    with bench.end() as end:
        whole = echo_request(end.address, bench.client, b"conformance")
        for data in (b"", whole[:39], b"\x45" + whole[1:], whole[:-1], b"\0\1\xff\xff" + whole):
            end.send(data, _mapped(bench))
        end.silence("an answer", _is_reply)
        _echo(end, bench)
        end.get("echo reply", _is_reply)


@check("client", "R14")
def link_local_source(bench: Bench) -> None:
    """Takes nothing with a link-local source."""
    with bench.end() as end:
        _echo(end, bench, bytes.fromhex("fe80000000000000") + end.address[8:])
        end.silence("an answer", _is_reply)


@check("client", "D1", "D2", "R12")
def tests_natives(bench: Bench) -> None:
    """Tests the path to a native host through its own server before it takes that host's packets."""
    with bench.end() as end:
        stranger = bench.web[:15] + b"\x77"  # nobody has this address
        _echo(end, bench, stranger)
        end.silence("an answer without a test", _is_reply)


@check("client", "A3")
def bounded(bench: Bench) -> None:
    """Is no reflector: it answers a flood of indirect bubbles with fewer of its own."""
    with bench.end() as end:
        for _ in range(_FLOOD):
            _call(end, bench)
        count = 0
        while end.receive(direct_bubble, QUIET) is not None:
            count += 1
        must(count < _FLOOD, f"it has answered {count} of {_FLOOD}")


@check("client", "F18")
def takes_trailers(bench: Bench) -> None:
    """Takes a packet that something follows."""
    with bench.end() as end:
        end.send(echo_request(end.address, bench.client, b"conformance") + b"\x80\x02ab", _mapped(bench))
        end.get("echo reply", _is_reply)


@check("client", "T3")
def unknown_trailers(bench: Bench) -> None:
    """Discards a packet with an unknown trailer of the sort that says so, and skips those of other sorts."""
    with bench.end() as end:
        for kind in (0x20, 0x80, 0xC0):
            end.send(echo_request(end.address, bench.client, b"conformance") + bytes((kind, 1, 0)), _mapped(bench))
            end.get(f"echo reply to a packet with a trailer of type {kind:#x}", _is_reply)
        end.send(echo_request(end.address, bench.client, b"conformance") + b"\x41\1\0", _mapped(bench))
        end.silence("an answer to a packet with a trailer of type 0x41", _is_reply)


@check("client", "T4")
def malformed_trailers(bench: Bench) -> None:
    """Stops at a malformed trailer, and keeps the packet."""
    with bench.end() as end:
        for trailers in (b"\x01", b"\x01\x09ab", b"\x01\x04\1\2"):
            end.send(echo_request(end.address, bench.client, b"conformance") + trailers, _mapped(bench))
            end.get("echo reply", _is_reply)


@check("client", "SN3", "SN5")
def echoes_nonce(bench: Bench) -> None:
    """Gives the nonce of an indirect bubble back in its direct one."""
    with bench.end() as end:
        _call(end, bench, nonce_trailer(_NONCE))
        got = end.get("direct bubble", direct_bubble)
        must(got.trailers.nonce == _NONCE, f"it has {got.trailers.nonce.hex() or 'no nonce'}")


@check("client", "SN2", "SN11")
def calls_back(bench: Bench) -> None:
    """Calls back with an indirect bubble that has a nonce of its own."""
    with bench.end() as end:
        _call(end, bench, nonce_trailer(_NONCE))
        got = end.get("indirect bubble", indirect_bubble)
        must(got.trailers.nonce, "it has no nonce")
        must(got.trailers.nonce != _NONCE, "its nonce is ours")


@check("client", "SN8", "SN10")
def believes_nonce(bench: Bench) -> None:
    """Believes a mapping that the address does not carry, if its nonce comes back from there."""
    with bench.end() as named, bench.end() as actual:
        named.send(bubble(named.address, bench.client) + nonce_trailer(_NONCE), bench.primary)
        nonce = named.get("indirect bubble", indirect_bubble).trailers.nonce
        actual.send(bubble(named.address, bench.client) + nonce_trailer(nonce), _mapped(bench))
        actual.send(echo_request(named.address, bench.client, b"conformance"), _mapped(bench))
        actual.get("echo reply where the nonce came from", _is_reply)


@check("client", "SN9", "A1")
def believes_no_other(bench: Bench) -> None:
    """Believes no other mapping without that nonce."""
    with bench.end() as named, bench.end() as actual:
        named.send(bubble(named.address, bench.client) + nonce_trailer(_NONCE), bench.primary)
        named.get("direct bubble", direct_bubble)
        for trailers in (b"", nonce_trailer(b"\1\1\1\1"), nonce_trailer(bytes(4))):
            actual.send(bubble(named.address, bench.client) + trailers, _mapped(bench))
        actual.send(echo_request(named.address, bench.client, b"conformance"), _mapped(bench))
        actual.silence("an answer", _is_reply)


@check("client", "PP9", "PP18", "T11")
def announced_port(bench: Bench) -> None:
    """Sends a direct bubble to a port that was announced in an indirect one, of either type of trailer."""
    for kind in (0x05, 0x02):
        with bench.end() as named, bench.end() as random:
            trailer = bytes((kind,)) + random_port_trailer(random.endpoint.port)[1:]
            _call(named, bench, nonce_trailer(_NONCE) + trailer)
            got = random.get(f"direct bubble at a port announced by a trailer of type {kind:#x}", direct_bubble)
            must(got.trailers.nonce == _NONCE, "it does not have our nonce")


@check("client", "HP5", "A5")
def alternates(bench: Bench) -> None:
    """Sends a direct bubble with the nonce to each alternate address."""
    with bench.end() as named, bench.end() as one, bench.end() as two:
        addresses = alternate_address_trailer((one.endpoint, two.endpoint))
        _call(named, bench, nonce_trailer(_NONCE) + addresses)
        for end in (one, two):
            got = end.get("direct bubble at an alternate address", direct_bubble)
            must(got.trailers.nonce == _NONCE, "it does not have our nonce")


@check("client", "HP4")
def malformed_alternates(bench: Bench) -> None:
    """Drops an indirect bubble whose list of alternate addresses is malformed."""
    with bench.end() as end:
        _call(end, bench, nonce_trailer(_NONCE) + b"\x03\x07\0\0\1\2\3\4\5")
        end.silence("a direct bubble", direct_bubble)


@check("client", "HP2", "HP3")
def lists_its_own(bench: Bench) -> None:
    """Says in its indirect bubble to a stranger where it is in its own network."""
    with bench.end() as end:
        _call(end, bench, nonce_trailer(_NONCE))
        got = end.get("indirect bubble", indirect_bubble)
        must(got.trailers.alternates, "it has no alternate addresses")


@check("client", "LR3")
def advertises(bench: Bench) -> None:
    """Answers a direct bubble that solicits an answer."""
    with bench.end() as end:
        trailer = discovery_trailer(Discovery.SOLICITATION)
        end.send(bubble(end.address, bench.client) + trailer, _mapped(bench))
        got = end.get("direct bubble", direct_bubble)
        must(got.trailers.discovery is Discovery.ADVERTISEMENT, "it is no advertisement")


@check("client", "X9", "A4")
def private_peer(bench: Bench) -> None:
    """Sends nothing to a peer whose address carries a private IPv4 address, and goes on."""
    with bench.end() as end:
        private = TeredoAddress(bench.primary.host, 0, Endpoint("10.1.2.3", 4000)).packed
        end.send(bubble(private, bench.client), bench.primary)
        _call(end, bench)
        end.get("direct bubble", direct_bubble)


@check("client", "R15", "Q9")
def no_advertisement(bench: Bench) -> None:
    """Is not moved by an advertisement that it has not asked for."""
    with bench.end() as end:
        fake = router_advertisement(link_local(end.endpoint, cone=True), bench.client, end.endpoint.host)
        end.send(origin_indication(end.endpoint) + fake, _mapped(bench))
        _echo(end, bench)
        end.get("echo reply", _is_reply)
