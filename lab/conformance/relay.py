"""What a Teredo relay can be seen to do (RFC 4380 section 5.4)."""

from __future__ import annotations

import socket
import struct

from lab.conformance.bench import PATIENCE, Bench, End, Received, UnmetError, direct_bubble, indirect_bubble
from lab.conformance.checks import check, must
from lab.teredo.address import Endpoint, TeredoAddress, is_teredo, text
from lab.teredo.packet import ECHO_REPLY, ECHO_REQUEST, bubble, echo_reply, echo_request
from lab.teredo.trailers import nonce_trailer


def _ping(bench: Bench, to: bytes) -> None:
    """Have the native host send an echo request to a Teredo address."""
    with bench.native() as raw:
        raw.sendto(struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, 77, 1) + b"conformance", (text(to), 0))


def _called(bench: Bench, end: End) -> Received:
    """The relay's bubble, after the native host has sent something."""
    _ping(bench, end.address)
    return end.get("bubble of the relay", indirect_bubble)


def _origin(got: Received) -> Endpoint:
    """Where the relay's bubble was sent from, as the server has said. Raises UnmetError."""
    if got.packet.origin is None:
        raise UnmetError("the bubble came without an origin indication")
    return got.packet.origin


def _admitted(bench: Bench, end: End) -> tuple[Endpoint, Received]:
    """Where the relay is, and the host's packet that it sends once its bubble has been answered."""
    got = _called(bench, end)
    relay = _origin(got)
    end.send(bubble(end.address, got.packet.source), relay)
    return relay, end.get("packet of the host", _is_request)


def _reaches_host(raw: socket.socket, source: bytes, icmp_type: int) -> bool:
    """Whether an ICMPv6 message of this type and address comes to the native host, as long as its socket waits."""
    try:
        while True:
            data, address = raw.recvfrom(2048)
            if data[0] == icmp_type and address[0] == text(source):
                return True
    except TimeoutError:
        return False


def _is_request(received: Received) -> bool:
    return received.packet.icmp_type == ECHO_REQUEST


@check("relay", "Y6", "Y7")
def calls(bench: Bench) -> None:
    """Calls an unknown client through its server, from an address of its own, at its IPv4 address."""
    with bench.end() as end:
        got = _called(bench, end)
        origin = got.packet.origin
        must(origin is not None and origin.host == bench.relay_host, f"it comes from {origin}")
        must(not is_teredo(got.packet.source), "its IPv6 source is a Teredo address")


@check("relay", "Y8", "Y13")
def flushes(bench: Bench) -> None:
    """Holds the host's packet until the client has answered, and then sends it."""
    with bench.end() as end:
        _admitted(bench, end)


@check("relay", "Y14", "Y4")
def carries(bench: Bench) -> None:
    """Carries the client's answer to the host, and the host's next packet at once."""
    with bench.end() as end:
        relay, request = _admitted(bench, end)
        with bench.native() as raw:
            end.send(echo_reply(request.packet, end.address), relay)
            must(_reaches_host(raw, end.address, ECHO_REPLY), "the answer does not reach the host")
        _ping(bench, end.address)
        end.get("second packet of the host", _is_request)


@check("relay", "Y11", "A1")
def spoofed(bench: Bench) -> None:
    """Takes no answer from another mapping than the client's address carries, of one who has not seen its bubble."""
    with bench.end() as end, bench.end() as thief:
        thief.send(bubble(end.address, bench.web), _origin(_called(bench, end)))
        thief.silence("the host's packet", _is_request)
        end.silence("the host's packet", _is_request)


@check("relay", "Y12", "Y11")
def unknown(bench: Bench) -> None:
    """Carries nothing of a client to whom nobody has sent anything, or at least not from a wrong mapping."""
    with bench.end() as end, bench.end() as other:
        relay = _origin(_called(bench, other))
        claimed = TeredoAddress(bench.primary.host, 0, Endpoint("203.0.113.77", 4000)).packed
        with bench.native() as raw:
            raw.settimeout(PATIENCE / 3)
            end.send(echo_request(claimed, bench.web, b"conformance"), relay)
            must(not _reaches_host(raw, claimed, ECHO_REQUEST), "the packet has reached the host")


@check("relay", "Y3", "A4")
def private_client(bench: Bench) -> None:
    """Sends nothing for a client whose address carries a private IPv4 address, and goes on."""
    with bench.end() as end:
        _ping(bench, TeredoAddress(bench.primary.host, 0, Endpoint("10.1.2.3", 4000)).packed)
        _called(bench, end)


@check("relay", "Y6")
def repeats(bench: Bench) -> None:
    """Calls again after two seconds."""
    with bench.end() as end:
        _called(bench, end)
        end.get("second bubble", indirect_bubble, within=3.0)


@check("relay", "SN2", "SN8")
def symmetric(bench: Bench) -> None:
    """Lets a client in that answers from another mapping than its address carries, if it gives a nonce back."""
    with bench.end() as named, bench.end() as actual:
        got = _called(bench, named)
        must(got.trailers.nonce, "its bubble has no nonce")
        actual.send(bubble(named.address, got.packet.source) + nonce_trailer(got.trailers.nonce), _origin(got))
        actual.get("packet of the host", _is_request)


@check("relay", "Y1")
def direct(bench: Bench) -> None:
    """Sends the host's packets from the one port that its bubbles come from."""
    with bench.end() as end:
        relay, request = _admitted(bench, end)
        must(request.source == relay, f"they come from {request.source}")
        must(not direct_bubble(request), "it is a bubble")
