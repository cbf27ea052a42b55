"""Server Load Reduction (RFC 6081 section 5.7): after a silence a direct bubble asks, and the server is left alone."""

from __future__ import annotations

import pytest

from lab.teredo.address import Endpoint
from lab.teredo.client import Client
from lab.teredo.extensions import Extension
from lab.teredo.machine import Send
from lab.teredo.packet import bubble, decode, echo_reply
from lab.teredo.trailers import Discovery, discovery_trailer, nonce_trailer
from tests.unit.helpers.extensions import (
    NONCE,
    PEER_PORT,
    call,
    client_behind,
    direct,
    own,
    peer_of,
    sent,
    tick,
    trailers_of,
    wants,
)
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    HOST,
    OTHER_SERVER,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    RELAY_ENDPOINT,
    SECONDARY,
    outcome,
    payload,
    teredo,
)

WITH_REDUCTION = frozenset({Extension.SYMMETRIC, Extension.LOAD_REDUCTION})
ASKS = discovery_trailer(Discovery.SOLICITATION)
ANSWERS = discovery_trailer(Discovery.ADVERTISEMENT)


def acquainted() -> Client:
    """Trusts the peer, which it has heard at 1.0 for the last time."""
    client = client_behind(symmetric=False, extensions=WITH_REDUCTION)
    direct(client, 1.0, PEER_ENDPOINT)
    return client


def words(sends: list[Send]) -> list[str]:
    """Each packet in one word, but for those to the client's own servers."""
    found = []
    for send in sends:
        if send.to in (PRIMARY, SECONDARY):
            continue
        if not decode(send.data).is_bubble:
            found.append("data")
        elif send.to == OTHER_SERVER:
            found.append("indirect")
        else:
            discovery = trailers_of(send).discovery
            found.append("bubble" if discovery is None else discovery.name.lower())
    return found


# Asking (sections 5.7.2 and 5.7.4.1)


@pytest.mark.requirement("LR1", "X1")
def test_data_within_30_seconds_go_at_once_and_later_ones_ask_first() -> None:
    client = acquainted()
    assert words(wants(client, 30.9)) == ["data"]
    assert words(wants(client, 31.0)) == ["solicitation"]
    assert peer_of(client).solicitations == 1


@pytest.mark.requirement("LR1")
def test_what_the_peer_has_sent_in_the_meantime_counts() -> None:
    client = acquainted()
    for now in (20.0, 40.0, 60.0):
        client.datagram(payload(PEER, own(client)), PEER_ENDPOINT, now)
    client.actions()
    assert words(wants(client, 80.0)) == ["data"]


@pytest.mark.requirement("LR2")
def test_a_silent_peer_is_asked_at_0_2_and_4_seconds_and_then_called_as_a_new_one() -> None:
    client = acquainted()
    assert words(wants(client, 40.0)) == ["solicitation"]
    assert words(tick(client, 41.9)) == []
    assert words(tick(client, 42.0)) == ["solicitation"]
    assert words(tick(client, 43.9)) == []
    assert words(tick(client, 44.0)) == ["solicitation", "bubble", "indirect"]
    assert not peer_of(client).trusted
    assert words(tick(client, 46.0)) == ["bubble", "indirect"]


@pytest.mark.requirement("LR1")
def test_a_stranger_is_called_and_not_asked() -> None:
    client = client_behind(symmetric=False, extensions=WITH_REDUCTION)
    assert words(wants(client, 1.0)) == ["bubble", "indirect"]


@pytest.mark.requirement("LR1")
def test_more_data_do_not_make_more_solicitations() -> None:
    client = acquainted()
    wants(client, 40.0)
    assert [words(wants(client, 40.0 + tenth / 10)) for tenth in range(10)] == [[]] * 10


@pytest.mark.requirement("LR5")
def test_data_wait_for_the_answer_and_go_in_their_order() -> None:
    client = acquainted()
    packets = [payload(own(client), PEER, bytes((number,))) for number in range(3)]
    for ipv6 in packets:
        client.packet(ipv6, 40.0)
    client.actions()
    assert [send.data for send in direct(client, 40.1, PEER_ENDPOINT, ANSWERS)] == packets


@pytest.mark.requirement("LR5", "X10")
def test_data_that_waited_in_vain_are_said_to_be_undeliverable() -> None:
    client = acquainted()
    wants(client, 40.0)
    for now in (42.0, 44.0, 46.0, 48.0, 50.0):
        client.tick(now)
        client.actions()
    client.tick(52.0)
    assert len(outcome(client).delivered) == 1
    assert words(tick(client, 60.0)) == []


@pytest.mark.requirement("LR4")
@pytest.mark.parametrize("answer", [ANSWERS, b""])
def test_any_direct_bubble_of_the_peer_ends_the_asking(answer: bytes) -> None:
    client = acquainted()
    wants(client, 40.0)
    assert words(direct(client, 40.1, PEER_ENDPOINT, answer)) == ["data"]
    assert words(tick(client, 42.0) + tick(client, 44.0)) == []
    assert words(wants(client, 45.0)) == ["data"]


@pytest.mark.requirement("LR4")
def test_an_answer_from_elsewhere_without_our_nonce_is_none() -> None:
    client = acquainted()
    wants(client, 40.0)
    assert direct(client, 40.1, ELSEWHERE, ANSWERS) == []
    assert words(tick(client, 42.0)) == ["solicitation"]


@pytest.mark.requirement("LR2", "LR4")
def test_after_an_answer_the_next_silence_is_asked_about_three_times_again() -> None:
    client = acquainted()
    wants(client, 40.0)
    tick(client, 42.0)
    direct(client, 42.1, PEER_ENDPOINT, ANSWERS)
    assert words(wants(client, 80.0)) == ["solicitation"]
    assert words(tick(client, 82.0)) == ["solicitation"]
    assert words(tick(client, 84.0)) == ["solicitation", "bubble", "indirect"]


@pytest.mark.requirement("LR2", "A2")
def test_a_peer_in_use_is_not_pushed_out_by_strangers_while_it_is_called_anew() -> None:
    client = client_behind(symmetric=False, extensions=WITH_REDUCTION, max_peers=10)
    direct(client, 1.0, PEER_ENDPOINT)
    wants(client, 2.0)
    wants(client, 40.0)
    tick(client, 42.0)
    assert words(tick(client, 44.0)) == ["solicitation", "bubble", "indirect"]
    for number in range(20):
        endpoint = Endpoint("203.0.113.200", 1024 + number)
        client.datagram(bubble(teredo(endpoint), own(client)), endpoint, 44.1)
    assert words(direct(client, 44.2, PEER_ENDPOINT)) == ["data"]


@pytest.mark.requirement("LR1")
def test_a_native_host_is_tested_and_never_asked() -> None:
    client = client_behind(symmetric=False, extensions=WITH_REDUCTION)
    for now in (1.0, 40.0):
        client.packet(payload(own(client), HOST), now)
        (request,) = sent(client.actions())
        assert request.to == PRIMARY
        client.datagram(echo_reply(decode(request.data), HOST), RELAY_ENDPOINT, now)
        (data,) = sent(client.actions())
        assert data.to == RELAY_ENDPOINT


@pytest.mark.requirement("LR1")
def test_a_peer_that_was_heard_just_now_is_called_and_not_asked() -> None:
    client = client_behind(
        symmetric=True, upnp=True, extensions={Extension.UPNP, Extension.SYMMETRIC, Extension.LOAD_REDUCTION}
    )
    wants(client, 1.0)
    direct(client, 1.1, ELSEWHERE, nonce_trailer(peer_of(client).nonce_sent))
    assert words(tick(client, 3.0)) == ["bubble", "indirect"]
    assert peer_of(client).trusted


@pytest.mark.requirement("LR1", "PP19")
def test_a_peer_on_a_random_port_is_asked_from_there() -> None:
    client = client_behind(
        symmetric=True, extensions={Extension.SYMMETRIC, Extension.PORT_PRESERVING, Extension.LOAD_REDUCTION}
    )
    wants(client, 1.0)
    peer = peer_of(client)
    direct(client, 1.1, PEER_PORT, nonce_trailer(peer.nonce_sent), peer.local_port)
    tick(client, 3.0)
    (asking,) = (send for send in wants(client, 40.0) if trailers_of(send).discovery is not None)
    assert (asking.port, asking.to) == (peer.local_port, PEER_PORT)


# Answering (section 5.7.4.2)


@pytest.mark.requirement("LR3")
def test_a_solicitation_is_answered_by_an_advertisement_to_where_the_peer_is() -> None:
    client = acquainted()
    (answer,) = direct(client, 40.0, PEER_ENDPOINT, ASKS)
    assert (answer.to, words([answer])) == (PEER_ENDPOINT, ["advertisement"])


@pytest.mark.requirement("LR3")
def test_an_advertisement_is_not_answered() -> None:
    client = acquainted()
    assert direct(client, 1.1, PEER_ENDPOINT, ANSWERS) == []


@pytest.mark.requirement("LR3")
def test_a_solicitation_is_answered_by_who_does_not_ask_itself_too() -> None:
    client = client_behind(symmetric=False, extensions=frozenset())
    assert words(direct(client, 1.0, PEER_ENDPOINT, ASKS)) == ["advertisement"]


@pytest.mark.requirement("LR3", "PP19")
def test_a_solicitation_on_a_random_port_is_answered_from_there() -> None:
    client = client_behind(symmetric=True, extensions={Extension.SYMMETRIC, Extension.PORT_PRESERVING})
    wants(client, 1.0)
    peer = peer_of(client)
    direct(client, 1.1, PEER_PORT, nonce_trailer(peer.nonce_sent), peer.local_port)
    (answer,) = direct(client, 1.2, PEER_PORT, nonce_trailer(peer.nonce_sent) + ASKS, peer.local_port)
    assert (answer.port, answer.to) == (peer.local_port, PEER_PORT)


@pytest.mark.requirement("LR3", "A3")
def test_no_more_than_four_solicitations_are_answered_in_8_seconds() -> None:
    client = acquainted()
    answers = [direct(client, 2.0 + number / 100, PEER_ENDPOINT, ASKS) for number in range(100)]
    assert sum(map(len, answers)) == 4
    assert words(direct(client, 10.1, PEER_ENDPOINT, ASKS)) == ["advertisement"]


@pytest.mark.requirement("LR1", "LR3")
def test_a_caller_that_may_not_know_us_yet_is_asked_for_an_answer() -> None:
    """Its answer shows that it hears us: until then, data from behind our symmetric NAT would be lost."""
    client = client_behind(
        symmetric=True, upnp=True, extensions={Extension.UPNP, Extension.SYMMETRIC, Extension.LOAD_REDUCTION}
    )
    wants(client, 1.0)
    nonce = nonce_trailer(peer_of(client).nonce_sent)
    assert direct(client, 1.1, ELSEWHERE, nonce) == []
    (asking,) = call(client, 1.2, nonce_trailer(NONCE))
    assert (asking.to, words([asking])) == (PEER_ENDPOINT, ["solicitation"])
    assert words(direct(client, 1.3, ELSEWHERE, nonce + ANSWERS)) == ["data"]


@pytest.mark.requirement("LR4")
def test_a_peer_that_has_answered_once_is_known_to_hear_us_as_long_as_it_is_trusted() -> None:
    """Behind a symmetric NAT others are not, and their data wait for another 2 s."""
    for answer, expected in ((ANSWERS, ["data"]), (b"", [])):
        client = client_behind(symmetric=True, extensions=WITH_REDUCTION)
        wants(client, 1.0)
        nonce = nonce_trailer(peer_of(client).nonce_sent)
        direct(client, 1.1, ELSEWHERE, nonce + answer)
        tick(client, 3.0)
        assert words(wants(client, 40.0)) == ["solicitation"]
        assert words(direct(client, 40.1, ELSEWHERE, nonce)) == expected
