"""Symmetric NAT Support (RFC 6081 section 5.2): nonces, callbacks, and a NAT that is not what it was."""

from __future__ import annotations

import pytest

from lab.teredo.address import Endpoint, packed
from lab.teredo.client import Client, State
from lab.teredo.extensions import ALL, Extension
from lab.teredo.packet import bubble, decode, origin_indication
from lab.teredo.trailers import NO_TRAILERS, nonce_trailer, random_port_trailer
from tests.unit.helpers.extensions import (
    AGAIN,
    LOCAL,
    NONCE,
    OTHER_LOCAL,
    call,
    client_behind,
    direct,
    nonce_in,
    own,
    peer_of,
    sent,
    tick,
    trailers_of,
    wants,
)
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    MAPPED,
    OTHER_SERVER,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    RELAY_ENDPOINT,
    SECONDARY,
    advertise,
    outcome,
    payload,
    state_of,
    teredo,
)

SYMMETRIC = frozenset({Extension.SYMMETRIC})
RELAY = packed("2001:db8::5")


# Nonces


@pytest.mark.requirement("SN2")
def test_every_indirect_bubble_has_a_nonce_of_its_own_that_is_remembered() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    nonces = [nonce_in(wants(client, 1.0))]
    for now in (3.0, 5.0, 7.0):
        nonces.append(nonce_in(tick(client, now)))
        assert peer_of(client).nonce_sent == nonces[-1]
    assert len({*nonces, b""}) == 5
    assert {len(nonce) for nonce in nonces} == {4}


@pytest.mark.requirement("SN2")
def test_each_peer_has_a_nonce_of_its_own() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    nonce = nonce_in(wants(client, 1.0))
    other = teredo(Endpoint("198.51.100.21", 4021), OTHER_SERVER.host)
    client.packet(payload(own(client), other), 1.0)
    assert nonce_in(sent(client.actions())) != nonce
    client.datagram(bubble(other, own(client)) + nonce_trailer(nonce), ELSEWHERE, 1.1)
    assert not peer_of(client, other).trusted


@pytest.mark.requirement("SN4")
def test_a_direct_bubble_before_any_indirect_one_was_received_says_nothing() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    (first,) = (send for send in wants(client, 1.0) if send.to == PEER_ENDPOINT)
    assert first.data == bubble(own(client), PEER)


@pytest.mark.requirement("SN3", "SN5")
def test_direct_bubbles_return_the_nonce_of_the_last_indirect_one() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    for now, nonce in ((1.0, NONCE), (2.0, b"\x55\x66\x77\x88")):
        (answer,) = (send for send in call(client, now, nonce_trailer(nonce)) if send.to == PEER_ENDPOINT)
        assert answer.data == bubble(own(client), PEER) + nonce_trailer(nonce)
    (own_attempt,) = (send for send in wants(client, 5.0) if send.to == PEER_ENDPOINT)
    assert trailers_of(own_attempt).nonce == b"\x55\x66\x77\x88"


@pytest.mark.requirement("SN3")
def test_a_relay_gets_its_nonce_back_where_the_server_saw_it() -> None:
    client = client_behind(symmetric=True, extensions=SYMMETRIC)
    for now, nonce in ((1.0, NONCE), (2.0, b"")):
        data = origin_indication(RELAY_ENDPOINT) + bubble(RELAY, own(client)) + nonce_trailer(nonce)
        client.datagram(data, PRIMARY, now)
        (answer,) = sent(client.actions())
        assert (answer.to, answer.data) == (RELAY_ENDPOINT, bubble(own(client), RELAY) + nonce_trailer(nonce))


@pytest.mark.requirement("SN1")
def test_without_the_extension_nonces_are_neither_sent_nor_returned_nor_believed() -> None:
    client = client_behind(symmetric=False, extensions=frozenset())
    assert all(trailers_of(send) == NO_TRAILERS for send in wants(client, 1.0))
    assert [send.data for send in call(client, 1.1, nonce_trailer(NONCE))] == [bubble(own(client), PEER)]
    direct(client, 1.2, ELSEWHERE, nonce_trailer(NONCE))
    assert not peer_of(client).trusted


@pytest.mark.requirement("SN8", "SN9")
def test_the_nonce_of_an_earlier_indirect_bubble_counts_no_more() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    first = nonce_in(wants(client, 1.0))
    second = nonce_in(tick(client, 3.0))
    direct(client, 3.1, ELSEWHERE, nonce_trailer(first))
    assert not peer_of(client).trusted
    direct(client, 3.2, ELSEWHERE, nonce_trailer(second))
    assert peer_of(client).trusted


@pytest.mark.requirement("SN8")
def test_a_nonce_speaks_for_its_own_peer_alone() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    nonce = nonce_in(wants(client, 1.0))
    impostor = teredo(Endpoint("198.51.100.21", 4021), OTHER_SERVER.host)
    client.datagram(bubble(impostor, own(client)) + nonce_trailer(nonce), ELSEWHERE, 1.1)
    assert "source does not match its mapping" in outcome(client).drops


@pytest.mark.requirement("SN8", "A4", "X9")
@pytest.mark.parametrize("host", ["127.0.0.1", "224.0.0.253", "255.255.255.255", "0.1.2.3"])
def test_not_even_our_nonce_makes_a_mapping_of_what_is_no_unicast_address(host: str) -> None:
    client = client_behind(symmetric=False)
    nonce = nonce_in(wants(client, 1.0))
    assert direct(client, 1.1, Endpoint(host, 4000), nonce_trailer(nonce)) == []
    assert not peer_of(client).trusted


@pytest.mark.requirement("A4", "X9")
def test_a_private_mapping_is_believed_no_more_when_it_is_the_one_in_the_address() -> None:
    client = client_behind(symmetric=False)
    private = Endpoint("10.1.2.3", 4000)
    client.datagram(bubble(teredo(private, OTHER_SERVER.host), own(client)), private, 1.0)
    assert outcome(client).drops == ["source does not match its mapping"]
    assert not any(peer.trusted for peer in client._peers)


@pytest.mark.requirement("SN8", "SN9")
def test_a_nonce_makes_a_bubble_good_and_no_other_packet() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    nonce = nonce_in(wants(client, 1.0))
    client.datagram(payload(PEER, own(client)) + nonce_trailer(nonce), ELSEWHERE, 1.1)
    done = outcome(client)
    assert (done.delivered, done.sent) == ([], [])
    assert not peer_of(client).trusted


@pytest.mark.requirement("SN10", "X2")
def test_packets_go_to_the_mapping_that_was_seen_and_not_to_the_one_in_the_address() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    nonce = nonce_in(wants(client, 1.0))
    (waiting,) = direct(client, 1.1, Endpoint(PEER_ENDPOINT.host, 777), nonce_trailer(nonce))
    (following,) = wants(client, 1.2)
    assert waiting.to == following.to == Endpoint(PEER_ENDPOINT.host, 777)


# Calling back


@pytest.mark.requirement("SN11")
def test_an_indirect_bubble_of_a_stranger_is_answered_directly_and_through_its_server() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    answer, callback = call(client, 1.0, nonce_trailer(NONCE))
    assert (answer.to, callback.to) == (PEER_ENDPOINT, OTHER_SERVER)
    assert trailers_of(callback).nonce == peer_of(client).nonce_sent
    assert trailers_of(callback).nonce not in (b"", NONCE)


@pytest.mark.requirement("SN11")
def test_a_peer_that_is_trusted_is_not_called_back() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    direct(client, 1.0, PEER_ENDPOINT)
    assert [send.to for send in call(client, 2.0, nonce_trailer(NONCE))] == [PEER_ENDPOINT]
    assert peer_of(client).last_sent == 2.0


@pytest.mark.requirement("SN11", "X1")
def test_a_peer_that_was_trusted_long_ago_is_a_stranger_when_it_calls() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    nonce = nonce_in(wants(client, 1.0))
    direct(client, 1.1, ELSEWHERE, nonce_trailer(nonce))
    tick(client, 3.0)
    answer, callback = call(client, 40.0, nonce_trailer(NONCE))
    assert (answer.to, callback.to) == (PEER_ENDPOINT, OTHER_SERVER)
    assert peer_of(client).mapping is None


@pytest.mark.requirement("SN12")
def test_a_caller_repeats_itself_after_2_seconds_and_the_answer_goes_where_it_was_seen_last() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    call(client, 1.0, nonce_trailer(NONCE))
    mine = peer_of(client).nonce_sent
    direct(client, 1.1, ELSEWHERE, nonce_trailer(mine))
    (answer,) = call(client, 3.0, nonce_trailer(b"\x55\x66\x77\x88"))
    assert (answer.to, trailers_of(answer).nonce) == (ELSEWHERE, b"\x55\x66\x77\x88")


@pytest.mark.requirement("A4", "X8", "X9")
def test_a_caller_whose_mapping_is_not_global_gets_nothing() -> None:
    client = client_behind(symmetric=False)
    caller = teredo(Endpoint("10.1.2.3", 4000), OTHER_SERVER.host)
    client.datagram(origin_indication(PEER_ENDPOINT) + bubble(caller, own(client)), PRIMARY, 1.0)
    done = outcome(client)
    assert (done.sent, done.drops) == ([], ["peer's mapping is not global"])


@pytest.mark.requirement("B2", "SN11")
def test_who_has_just_answered_waits_before_it_calls_itself() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    call(client, 1.0, nonce_trailer(NONCE))
    assert wants(client, 1.5) == []
    assert [send.to for send in tick(client, 3.0)] == [PEER_ENDPOINT, OTHER_SERVER]


# When data may go


def test_data_may_go_at_once_to_a_peer_that_sees_us_where_our_address_says() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    nonce = nonce_in(wants(client, 1.0))
    (data,) = direct(client, 1.1, PEER_ENDPOINT, nonce_trailer(nonce))
    assert not decode(data.data).is_bubble


def test_data_behind_a_symmetric_nat_go_without_a_nonce_after_another_wait() -> None:
    client = client_behind(symmetric=True, extensions=SYMMETRIC)
    nonce = nonce_in(wants(client, 1.0))
    assert direct(client, 1.1, PEER_ENDPOINT, nonce_trailer(nonce)) == []
    (data,) = tick(client, 3.0)
    assert not decode(data.data).is_bubble


@pytest.mark.requirement("R6")
def test_a_packet_from_another_proven_mapping_moves_the_peer_there() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    nonce = nonce_trailer(nonce_in(wants(client, 1.0)))
    second = Endpoint(ELSEWHERE.host, 777)
    direct(client, 1.1, second, nonce)
    direct(client, 1.2, ELSEWHERE, nonce)
    client.datagram(payload(PEER, own(client)), second, 1.3)
    assert outcome(client).delivered
    assert [send.to for send in wants(client, 1.4)] == [second]


@pytest.mark.requirement("R6")
def test_no_more_than_the_last_four_mappings_of_a_peer_are_proven() -> None:
    client = client_behind(symmetric=False, extensions=SYMMETRIC)
    nonce = nonce_trailer(nonce_in(wants(client, 1.0)))
    mappings = [Endpoint(ELSEWHERE.host, 700 + number) for number in range(20)]
    for mapping in mappings:
        direct(client, 1.1, mapping, nonce)
    assert peer_of(client).proven == tuple(mappings[-4:])


# A NAT that changes


def _change(client: Client, *, secondary: Endpoint) -> None:
    """At 20 s the primary server sees the client elsewhere, and then the secondary one at `secondary`."""
    client.refresh(20.0)
    for server, mapped in ((PRIMARY, ELSEWHERE), (SECONDARY, secondary)):
        (solicitation,) = sent(client.actions())
        assert solicitation.to == server
        client.datagram(advertise(solicitation.data, mapped), server, 20.0)
    client.actions()


@pytest.mark.requirement("SN1", "UP7")
@pytest.mark.parametrize("again", [Endpoint(MAPPED.host, 41234), Endpoint("192.0.2.10", MAPPED.port)])
def test_another_port_or_another_address_at_the_secondary_server_means_a_symmetric_nat(again: Endpoint) -> None:
    client = client_behind(symmetric=True, again=again)
    assert client.nat.symmetric
    assert client.address is not None
    assert client.address.mapped == MAPPED


def test_the_secondary_server_is_asked_again_only_when_the_mapping_has_changed() -> None:
    client = client_behind(symmetric=True)
    client.refresh(20.0)
    (solicitation,) = sent(client.actions())
    client.datagram(advertise(solicitation.data, MAPPED), PRIMARY, 20.1)
    assert sent(client.actions()) == []
    assert client.nat.symmetric


@pytest.mark.requirement("Q12")
def test_a_nat_that_is_symmetric_no_more_is_noticed_too() -> None:
    client = client_behind(symmetric=True)
    _change(client, secondary=ELSEWHERE)
    assert client.nat.symmetric is False
    assert client.state is State.QUALIFIED


@pytest.mark.requirement("PP3")
def test_whether_ports_are_preserved_is_seen_anew_with_each_answer_of_the_primary_server() -> None:
    client = client_behind(symmetric=True, local=LOCAL)
    assert client.nat.port_preserving
    _change(client, secondary=AGAIN)
    assert not client.nat.port_preserving


def test_a_new_mapping_forgets_peers_and_closes_their_ports() -> None:
    client = client_behind(symmetric=True, local=OTHER_LOCAL)
    wants(client, 19.0)
    assert client._ports
    _change(client, secondary=AGAIN)
    assert client._ports == {}
    assert client.peer_table(21.0) == []


def test_a_secondary_server_that_is_silent_after_a_change_takes_the_client_off_line() -> None:
    client = client_behind(symmetric=False)
    client.refresh(20.0)
    (solicitation,) = sent(client.actions())
    client.datagram(advertise(solicitation.data, ELSEWHERE), PRIMARY, 20.0)
    assert [send.to for send in sent(client.actions())] == [SECONDARY]
    for now in (24.0, 28.0):
        assert [send.to for send in tick(client, now)] == [SECONDARY]
    tick(client, 32.0)
    assert state_of(client) is State.OFFLINE


def test_without_the_extension_a_new_mapping_asks_nobody_else() -> None:
    client = client_behind(symmetric=False, extensions=ALL & {Extension.LOAD_REDUCTION})
    client.refresh(20.0)
    (solicitation,) = sent(client.actions())
    client.datagram(advertise(solicitation.data, ELSEWHERE), PRIMARY, 20.0)
    assert sent(client.actions()) == []


# Trailers that a packet may have


@pytest.mark.requirement("T3")
@pytest.mark.parametrize("kind", [0x40, 0x7F])
def test_a_packet_with_a_trailer_that_says_so_is_discarded_whole(kind: int) -> None:
    client = client_behind(symmetric=False)
    unknown = bytes((kind, 1, 0))
    assert call(client, 1.0, nonce_trailer(NONCE) + unknown) == []
    direct(client, 1.1, PEER_ENDPOINT, unknown)
    client.datagram(payload(PEER, own(client)) + unknown, PEER_ENDPOINT, 1.2)
    done = outcome(client)
    assert done.drops == ["unknown trailer"]
    assert done.delivered == []
    assert client.peer_table(1.2) == []


@pytest.mark.requirement("T3")
@pytest.mark.parametrize("kind", [0x00, 0x3F, 0x80, 0xC0])
def test_a_trailer_of_another_unknown_type_changes_nothing(kind: int) -> None:
    client = client_behind(symmetric=False)
    nonce = nonce_in(wants(client, 1.0))
    direct(client, 1.1, ELSEWHERE, bytes((kind, 3)) + b"abc" + nonce_trailer(nonce))
    assert peer_of(client).trusted


@pytest.mark.requirement("T4")
def test_what_comes_before_a_malformed_trailer_counts_and_what_follows_does_not() -> None:
    client = client_behind(symmetric=False)
    answer, *_ = call(client, 1.0, nonce_trailer(NONCE) + b"\x05\x09" + random_port_trailer(50000))
    assert trailers_of(answer).nonce == NONCE
    assert peer_of(client).peer_random_port == 0


@pytest.mark.requirement("T4", "T12")
def test_a_packet_with_malformed_trailers_is_delivered_without_them() -> None:
    client = client_behind(symmetric=False)
    direct(client, 1.0, PEER_ENDPOINT)
    client.datagram(payload(PEER, own(client)) + b"\x01", PEER_ENDPOINT, 1.1)
    assert outcome(client).delivered == [payload(PEER, own(client))]
