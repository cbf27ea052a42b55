"""Hairpinning (RFC 6081 section 5.6): peers behind the same NAT find each other there."""

from __future__ import annotations

import pytest

from lab.teredo.address import Endpoint, Forbidden
from lab.teredo.client import Client
from lab.teredo.extensions import ALL, Extension
from lab.teredo.packet import bubble, origin_indication
from lab.teredo.trailers import alternate_address_trailer, nonce_trailer, parse_trailers
from tests.unit.helpers.extensions import (
    LOCAL,
    NONCE,
    call,
    client_behind,
    direct,
    own,
    peer_of,
    tick,
    trailers_of,
    wants,
)
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    OTHER_SERVER,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    new_client,
    outcome,
    payload,
    qualify,
)

HAIRPINNING = frozenset({Extension.HAIRPINNING})
BOTH = HAIRPINNING | {Extension.SYMMETRIC}
UPNP_MAPPED = Endpoint("10.0.0.7", LOCAL.port)
NEARBY = Endpoint("192.168.1.77", 4077)
NEARBY_TOO = Endpoint("10.0.0.8", 4078)


def at_home(upnp: Endpoint | bool = False, extensions: frozenset[Extension] = BOTH) -> Client:
    return client_behind(symmetric=False, upnp=upnp, extensions=extensions)


def alternates(client: Client, now: float = 1.0) -> tuple[Endpoint, ...]:
    """What the client's indirect bubble tells of itself."""
    (indirect,) = (send for send in wants(client, now) if send.to == OTHER_SERVER)
    return trailers_of(indirect).alternates


# Telling where we are (section 5.6.4.1)


@pytest.mark.requirement("HP2", "T7")
def test_behind_two_nats_a_caller_tells_its_own_endpoint_and_what_upnp_opened() -> None:
    client = at_home(upnp=UPNP_MAPPED)
    (indirect,) = (send for send in wants(client, 1.0) if send.to == OTHER_SERVER)
    assert trailers_of(indirect).alternates == (LOCAL, UPNP_MAPPED)
    assert alternate_address_trailer((LOCAL, UPNP_MAPPED)) in indirect.data
    assert len(alternate_address_trailer((LOCAL, UPNP_MAPPED))) == 2 + 14


@pytest.mark.requirement("HP1", "HP2", "HP8")
@pytest.mark.parametrize("upnp", [True, False])
def test_behind_one_nat_it_tells_its_own_endpoint_alone(upnp: bool) -> None:
    assert alternates(at_home(upnp=upnp)) == (LOCAL,)


@pytest.mark.requirement("HP2")
def test_without_the_extension_it_tells_nothing() -> None:
    assert alternates(at_home(extensions=frozenset({Extension.SYMMETRIC}))) == ()


@pytest.mark.requirement("HP3")
@pytest.mark.parametrize("extensions", [HAIRPINNING, BOTH, ALL])
def test_the_bubble_has_a_nonce_with_and_without_symmetric_nat_support(extensions: frozenset[Extension]) -> None:
    client = at_home(extensions=extensions)
    (indirect,) = (send for send in wants(client, 1.0) if send.to == OTHER_SERVER)
    assert trailers_of(indirect).nonce == peer_of(client).nonce_sent != b""


@pytest.mark.requirement("HP2", "T9")
def test_direct_bubbles_tell_nothing() -> None:
    client = at_home(upnp=UPNP_MAPPED)
    sends = wants(client, 1.0) + tick(client, 3.0) + call(client, 3.1, nonce_trailer(NONCE))
    assert {trailers_of(send).alternates for send in sends if send.to != OTHER_SERVER} == {()}


@pytest.mark.requirement("HP2")
def test_a_callee_that_calls_back_tells_where_it_is_too() -> None:
    client = at_home()
    (callback,) = (send for send in call(client, 1.0, nonce_trailer(NONCE)) if send.to == OTHER_SERVER)
    assert trailers_of(callback).alternates == (LOCAL,)


@pytest.mark.requirement("HP2")
def test_a_peer_that_is_heard_already_is_told_nothing_when_it_is_called_once_more() -> None:
    client = client_behind(symmetric=True, upnp=True, extensions=BOTH | {Extension.UPNP})
    wants(client, 1.0)
    direct(client, 1.1, ELSEWHERE, nonce_trailer(peer_of(client).nonce_sent))
    (indirect,) = (send for send in tick(client, 3.0) if send.to == OTHER_SERVER)
    assert trailers_of(indirect).alternates == ()


@pytest.mark.requirement("HP2")
def test_a_client_that_does_not_know_its_own_end_tells_nothing() -> None:
    client = new_client(extensions=BOTH)
    qualify(client)
    client.packet(payload(own(client), PEER), 1.0)
    (indirect,) = (send for send in outcome(client).sent if send.to == OTHER_SERVER)
    assert trailers_of(indirect).alternates == ()


# Knocking there (section 5.6.4.2)


@pytest.mark.requirement("HP5")
def test_every_address_that_a_peer_has_is_tried_with_its_nonce() -> None:
    client = at_home()
    sends = call(client, 1.0, nonce_trailer(NONCE) + alternate_address_trailer((NEARBY, NEARBY_TOO)))
    tried = [send for send in sends if send.to != OTHER_SERVER]
    assert [send.to for send in tried] == [PEER_ENDPOINT, NEARBY, NEARBY_TOO]
    assert {send.data for send in tried} == {bubble(own(client), PEER) + nonce_trailer(NONCE)}


@pytest.mark.requirement("HP5")
def test_without_the_extension_the_mapping_alone_is_tried() -> None:
    client = at_home(extensions=frozenset({Extension.SYMMETRIC}))
    sends = call(client, 1.0, nonce_trailer(NONCE) + alternate_address_trailer((NEARBY,)))
    assert [send.to for send in sends] == [PEER_ENDPOINT, OTHER_SERVER]


@pytest.mark.requirement("HP5")
def test_the_last_list_is_the_one_that_counts() -> None:
    client = at_home()
    call(client, 1.0, nonce_trailer(NONCE) + alternate_address_trailer((NEARBY,)))
    second = call(client, 2.0, nonce_trailer(NONCE) + alternate_address_trailer((NEARBY_TOO,)))
    third = call(client, 3.0, nonce_trailer(NONCE))
    assert [send.to for send in second if send.to != OTHER_SERVER] == [PEER_ENDPOINT, NEARBY_TOO]
    assert [send.to for send in third if send.to != OTHER_SERVER] == [PEER_ENDPOINT]


@pytest.mark.requirement("A5", "A6", "HP5")
def test_no_bubble_has_more_than_four_addresses_tried() -> None:
    client = at_home()
    four = tuple(Endpoint("192.168.1.77", 4000 + number) for number in range(4))
    sends = call(client, 1.0, nonce_trailer(NONCE) + alternate_address_trailer(four))
    assert [send.to for send in sends if send.to != OTHER_SERVER] == [PEER_ENDPOINT, *four]
    fifth = alternate_address_trailer((*four, NEARBY))
    assert call(client, 2.0, nonce_trailer(NONCE) + fifth) == []


@pytest.mark.requirement("A6", "X9")
def test_the_broadcast_address_of_a_network_of_ours_is_not_tried() -> None:
    client = at_home()
    client._forbidden = Forbidden(frozenset({"192.168.1.255"}))
    everybody = Endpoint("192.168.1.255", 4000)
    sends = call(client, 1.0, nonce_trailer(NONCE) + alternate_address_trailer((everybody, NEARBY)))
    assert [send.to for send in sends if send.to != OTHER_SERVER] == [PEER_ENDPOINT, NEARBY]


@pytest.mark.requirement("HP4")
@pytest.mark.parametrize(
    "malformed", ["0302 0000", "0308 0000 7f000001 1000", "0308 0000 c0a80102 0000", "0309 0000 c0a80102 1000 00"]
)
def test_a_bubble_with_a_malformed_list_is_dropped_whole(malformed: str) -> None:
    client = at_home()
    data = bubble(PEER, own(client)) + nonce_trailer(NONCE) + bytes.fromhex(malformed)
    client.datagram(origin_indication(PEER_ENDPOINT) + data, PRIMARY, 1.0)
    done = outcome(client)
    assert (done.sent, done.drops) == ([], ["malformed alternate addresses"])
    assert client.peer_table(1.0) == []


@pytest.mark.requirement("HP7")
def test_a_peer_that_is_trusted_is_tried_where_it_was_found_and_nowhere_else() -> None:
    client = at_home()
    wants(client, 1.0)
    direct(client, 1.1, NEARBY, nonce_trailer(peer_of(client).nonce_sent))
    tick(client, 3.0)
    sends = call(client, 3.1, nonce_trailer(NONCE) + alternate_address_trailer((NEARBY_TOO,)))
    assert [send.to for send in sends] == [NEARBY]


# Believing it (section 5.6.4.3)


@pytest.mark.requirement("HP6", "HP8")
@pytest.mark.parametrize("extensions", [HAIRPINNING, BOTH])
def test_a_peer_is_believed_where_our_nonce_comes_from(extensions: frozenset[Extension]) -> None:
    client = at_home(extensions=extensions)
    wants(client, 1.0)
    direct(client, 1.1, ELSEWHERE)
    assert not peer_of(client).trusted
    direct(client, 1.2, NEARBY, nonce_trailer(peer_of(client).nonce_sent))
    assert (peer_of(client).trusted, peer_of(client).send_to) == (True, NEARBY)


@pytest.mark.requirement("HP6")
def test_without_symmetric_nat_support_nobody_is_called_back() -> None:
    client = at_home(extensions=HAIRPINNING)
    sends = call(client, 1.0, nonce_trailer(NONCE) + alternate_address_trailer((NEARBY,)))
    assert [send.to for send in sends] == [PEER_ENDPOINT, NEARBY]


def test_a_list_that_is_read_is_the_one_that_was_written() -> None:
    entries = (NEARBY, NEARBY_TOO, LOCAL, UPNP_MAPPED)
    assert parse_trailers(alternate_address_trailer(entries)).alternates == entries
