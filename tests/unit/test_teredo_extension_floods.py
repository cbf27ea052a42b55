"""Strangers in masses, before a client with all extensions: memory and answers have bounds, and friends stay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.teredo.address import Endpoint
from lab.teredo.bubbles import MAX_RANDOM_PORTS
from lab.teredo.client import Client
from lab.teredo.machine import Send
from lab.teredo.packet import bubble, decode, origin_indication
from lab.teredo.trailers import (
    Discovery,
    alternate_address_trailer,
    discovery_trailer,
    nonce_trailer,
    random_port_trailer,
)
from tests.unit.helpers.extensions import (
    LOCAL,
    NONCE,
    OTHER_LOCAL,
    PEER_PORT,
    call,
    client_behind,
    direct,
    own,
    peer_of,
    sent,
    tick,
    wants,
)
from tests.unit.helpers.teredo import ELSEWHERE, OTHER_SERVER, PEER, PEER_ENDPOINT, PRIMARY, teredo

EVERYTHING = (
    nonce_trailer(NONCE)
    + random_port_trailer(PEER_PORT.port)
    + alternate_address_trailer(tuple(Endpoint("192.168.1.77", 4000 + number) for number in range(4)))
    + discovery_trailer(Discovery.SOLICITATION)
)

MOST_ANSWERS = 1 + 1 + 4 + 3
"""To one indirect bubble: at its mapping, at its announced port, at its alternates, and an echo test or a callback."""

BEHIND = pytest.mark.parametrize(("symmetric", "local"), [(True, LOCAL), (True, OTHER_LOCAL), (False, LOCAL)])


def strangers(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield teredo(Endpoint("203.0.113.200", 1024 + number), OTHER_SERVER.host)


def limited(symmetric: bool, local: Endpoint) -> Client:
    return client_behind(symmetric=symmetric, local=local, max_peers=500)


@BEHIND
def test_calls_of_strangers_cost_bounded_memory_and_few_answers_each(symmetric: bool, local: Endpoint) -> None:
    client = limited(symmetric, local)
    for caller in strangers(2000):
        assert len(call(client, 1.0, EVERYTHING, caller)) <= MOST_ANSWERS
    assert len(client._peers) == 500
    assert len(client._ports) <= MAX_RANDOM_PORTS
    assert len(client._timers._deadlines) <= 500 + 2 * MAX_RANDOM_PORTS


@BEHIND
def test_what_strangers_have_begun_comes_to_an_end(symmetric: bool, local: Endpoint) -> None:
    client = limited(symmetric, local)
    for caller in strangers(600):
        call(client, 1.0, EVERYTHING, caller)
    for tenth in range(10, 60):
        tick(client, tenth / 10)
    assert [send for tenth in range(60, 160) for send in tick(client, tenth / 10)] == []


@BEHIND
def test_one_stranger_gets_four_answers_in_8_seconds_however_often_it_calls(symmetric: bool, local: Endpoint) -> None:
    client = limited(symmetric, local)
    answered = [bool(call(client, 1.0 + number / 1000, EVERYTHING)) for number in range(1000)]
    assert sum(answered) == 4
    assert client.counters["dropped: too many bubbles"] == 996


@BEHIND
def test_direct_bubbles_of_strangers_are_not_answered_unless_they_ask_and_cost_bounded_memory(
    symmetric: bool, local: Endpoint
) -> None:
    client = limited(symmetric, local)
    for number, stranger in enumerate(strangers(2000)):
        for source, answers in ((Endpoint("203.0.113.200", 1024 + number), 1), (ELSEWHERE, 0)):
            client.datagram(bubble(stranger, own(client)) + EVERYTHING, source, 1.0)
            assert len(sent(client.actions())) == answers
    assert len(client._peers) == 500
    assert client._ports == {}


@BEHIND
def test_a_friend_is_still_one_after_the_flood(symmetric: bool, local: Endpoint) -> None:
    client = limited(symmetric, local)
    call(client, 0.5, nonce_trailer(NONCE))
    direct(client, 0.6, PEER_ENDPOINT, nonce_trailer(peer_of(client).nonce_sent))
    assert not decode(wants(client, 0.7)[-1].data).is_bubble
    for caller in strangers(2000):
        call(client, 1.0, EVERYTHING, caller)
    (data,) = wants(client, 2.0)
    assert (data.to, decode(data.data).is_bubble) == (PEER_ENDPOINT, False)


@BEHIND
def test_answers_go_only_where_the_bubble_says_and_to_servers(symmetric: bool, local: Endpoint) -> None:
    client = limited(symmetric, local)
    hosts: set[str] = set()
    for caller in strangers(50):
        data = origin_indication(PEER_ENDPOINT) + bubble(caller, own(client)) + EVERYTHING
        client.datagram(data, PRIMARY, 1.0)
        hosts |= {action.to.host for action in client.actions() if isinstance(action, Send)}
    assert hosts <= {"203.0.113.200", "192.168.1.77", OTHER_SERVER.host, PRIMARY.host, "203.0.113.2"}
    assert PEER not in {peer.address for peer in client._peers}
