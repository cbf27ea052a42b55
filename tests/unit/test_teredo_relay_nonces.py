"""The relay's nonces: how native hosts and clients behind symmetric NATs reach each other."""

from __future__ import annotations

import pytest

from lab.teredo.address import Endpoint, packed
from lab.teredo.packet import bubble, decode
from lab.teredo.relay import Relay
from lab.teredo.trailers import NO_TRAILERS, nonce_trailer, parse_trailers
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    HOST,
    OTHER_SERVER,
    PEER,
    PEER_ENDPOINT,
    RELAY_ADDRESS,
    new_relay,
    outcome,
    payload,
    peer_row,
    teredo,
)

OWN = packed(RELAY_ADDRESS)


def calling(client: bytes = PEER) -> tuple[Relay, bytes]:
    """A relay that has a packet for a client, and the nonce that it has sent through the client's server."""
    relay = new_relay(nonces=True)
    return relay, call(relay, client)


def call(relay: Relay, client: bytes = PEER) -> bytes:
    relay.packet(payload(HOST, client), 1.0)
    sent = outcome(relay).only_sent
    assert sent.to == OTHER_SERVER
    return parse_trailers(decode(sent.data).trailers).nonce


def trusted(relay: Relay, client: bytes = PEER, now: float = 2.0) -> bool:
    row = peer_row(relay, client, now)
    return row is not None and bool(row["trusted"])


def test_every_bubble_has_a_nonce_of_its_own() -> None:
    relay, first = calling()
    nonces = [first]
    for now in (3.0, 5.0, 7.0):
        relay.tick(now)
        nonces.append(parse_trailers(decode(outcome(relay).only_sent.data).trailers).nonce)
    assert len({*nonces, b""}) == 5


def test_the_bubble_is_one_with_nothing_else_behind_it() -> None:
    relay = new_relay(nonces=True)
    relay.packet(payload(HOST, PEER), 1.0)
    data = outcome(relay).only_sent.data
    assert data == bubble(OWN, PEER) + nonce_trailer(parse_trailers(decode(data).trailers).nonce)


def test_a_relay_behind_a_nat_says_the_nonce_in_the_indirect_bubble_alone() -> None:
    relay = new_relay(nonces=True, direct_bubbles=True)
    relay.packet(payload(HOST, PEER), 1.0)
    direct, indirect = (parse_trailers(decode(sent.data).trailers) for sent in outcome(relay).sent)
    assert direct == NO_TRAILERS
    assert indirect.nonce


def test_a_client_that_returns_the_nonce_is_where_its_bubble_comes_from() -> None:
    relay, nonce = calling()
    relay.datagram(bubble(PEER, OWN) + nonce_trailer(nonce), ELSEWHERE, 1.1)
    waiting = outcome(relay).only_sent
    assert (waiting.to, waiting.data) == (ELSEWHERE, payload(HOST, PEER))
    relay.packet(payload(HOST, PEER), 1.2)
    assert outcome(relay).only_sent.to == ELSEWHERE


def test_its_packets_are_forwarded_from_there_and_from_nowhere_else() -> None:
    relay, nonce = calling()
    relay.datagram(bubble(PEER, OWN) + nonce_trailer(nonce), ELSEWHERE, 1.1)
    outcome(relay)
    relay.datagram(payload(PEER, HOST), ELSEWHERE, 1.2)
    assert outcome(relay).delivered == [payload(PEER, HOST)]
    relay.datagram(payload(PEER, HOST), Endpoint(ELSEWHERE.host, 1), 1.3)
    assert outcome(relay).drops == ["source does not match its mapping"]


@pytest.mark.requirement("Y11")
@pytest.mark.parametrize("returned", [b"", b"\0\0\0\0", b"\xff\xff\xff\xff"])
def test_without_the_right_nonce_it_must_be_at_its_mapping(returned: bytes) -> None:
    relay, _ = calling()
    relay.datagram(bubble(PEER, OWN) + nonce_trailer(returned), ELSEWHERE, 1.1)
    assert outcome(relay).drops == ["source does not match its mapping"]
    relay.datagram(bubble(PEER, OWN) + nonce_trailer(returned), PEER_ENDPOINT, 1.2)
    assert trusted(relay)


def test_a_relay_without_nonces_believes_none() -> None:
    relay = new_relay(nonces=False)
    assert call(relay) == b""
    relay.datagram(bubble(PEER, OWN) + nonce_trailer(b"\0\0\0\0"), ELSEWHERE, 1.1)
    relay.datagram(bubble(PEER, OWN), ELSEWHERE, 1.1)
    assert not trusted(relay)


def test_the_nonce_of_an_earlier_bubble_counts_no_more() -> None:
    relay, nonce = calling()
    relay.tick(3.0)
    relay.datagram(bubble(PEER, OWN) + nonce_trailer(nonce), ELSEWHERE, 3.1)
    assert not trusted(relay, now=3.1)


def test_a_nonce_speaks_for_its_own_client_alone() -> None:
    relay, nonce = calling()
    other = teredo(Endpoint("198.51.100.21", 4021), OTHER_SERVER.host)
    call(relay, other)
    relay.datagram(bubble(other, OWN) + nonce_trailer(nonce), ELSEWHERE, 1.1)
    assert not trusted(relay, other)


def test_a_nonce_makes_a_bubble_good_and_no_other_packet() -> None:
    relay, nonce = calling()
    relay.datagram(payload(PEER, HOST) + nonce_trailer(nonce), ELSEWHERE, 1.1)
    assert outcome(relay).quiet
    assert not trusted(relay)


@pytest.mark.requirement("A4", "Y3")
@pytest.mark.parametrize("host", ["10.1.2.3", "127.0.0.1", "192.168.1.1", "224.0.0.253"])
def test_not_even_a_nonce_sends_packets_to_a_private_address(host: str) -> None:
    relay, nonce = calling()
    relay.datagram(bubble(PEER, OWN) + nonce_trailer(nonce), Endpoint(host, 4000), 1.1)
    assert outcome(relay).quiet


@pytest.mark.requirement("Y6")
def test_a_client_whose_trust_has_grown_old_is_called_with_a_new_nonce() -> None:
    relay, nonce = calling()
    relay.datagram(bubble(PEER, OWN) + nonce_trailer(nonce), ELSEWHERE, 1.1)
    outcome(relay)
    relay.packet(payload(HOST, PEER), 40.0)
    (sent,) = outcome(relay).sent
    assert sent.to == OTHER_SERVER
    again = parse_trailers(decode(sent.data).trailers).nonce
    assert again not in (b"", nonce)
    relay.datagram(bubble(PEER, OWN) + nonce_trailer(again), Endpoint(ELSEWHERE.host, 777), 40.1)
    assert outcome(relay).only_sent.to == Endpoint(ELSEWHERE.host, 777)


@pytest.mark.requirement("Y6")
def test_a_client_that_was_given_up_cannot_return_its_nonce() -> None:
    relay, _ = calling()
    for now in (3.0, 5.0, 7.0):
        relay.tick(now)
    last = parse_trailers(decode(outcome(relay).sent[-1].data).trailers).nonce
    relay.tick(9.0)
    outcome(relay)
    relay.datagram(bubble(PEER, OWN) + nonce_trailer(last), ELSEWHERE, 9.1)
    assert outcome(relay).quiet


@pytest.mark.requirement("T3")
@pytest.mark.parametrize(("kind", "kept"), [(0x40, False), (0x7F, False), (0x06, True), (0x80, True), (0xC0, True)])
def test_a_relay_too_discards_packets_for_an_unknown_trailer_that_says_so(kind: int, kept: bool) -> None:
    for source in (ELSEWHERE, PEER_ENDPOINT):
        relay, nonce = calling()
        relay.datagram(bubble(PEER, OWN) + bytes((kind, 0)) + nonce_trailer(nonce), source, 1.1)
        assert trusted(relay) == kept
        assert (outcome(relay).drops == ["unknown trailer"]) != kept


@pytest.mark.requirement("T4")
def test_a_relay_too_reads_trailers_up_to_a_malformed_one() -> None:
    relay, nonce = calling()
    relay.datagram(bubble(PEER, OWN) + b"\x01" + nonce_trailer(nonce), ELSEWHERE, 1.1)
    assert not trusted(relay)
    relay.datagram(bubble(PEER, OWN) + nonce_trailer(nonce) + b"\x01", ELSEWHERE, 1.2)
    assert trusted(relay)
