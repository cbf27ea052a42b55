"""How a client qualifies (RFC 4380 sections 5.2.1 and 5.2.2, RFC 5991 section 3.2)."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_RS, IPv6

from lab.teredo.address import UNSPECIFIED, cone_bit, is_link_local, text
from lab.teredo.client import ClientConfig, State
from lab.teredo.packet import (
    Authentication,
    decode,
    is_router_solicitation,
)
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    HOST,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    SECONDARY,
    advertise,
    indirect_bubble,
    new_client,
    outcome,
    payload,
    qualify,
    state_of,
)

# Solicitations


@pytest.mark.requirement("Q1", "Q2", "F1", "F7", "U3", "S2", "S3")
def test_a_client_starts_with_a_solicitation_to_the_primary_server_with_the_cone_bit_clear() -> None:
    client = new_client()
    client.start(0.0)
    sent = outcome(client).only_sent
    packet = decode(sent.data)
    assert sent.to == PRIMARY
    assert len(sent.data) == 61
    assert packet.authentication is not None
    assert packet.authentication == Authentication(packet.authentication.nonce)
    assert is_router_solicitation(packet)
    assert is_link_local(packet.source)
    assert not cone_bit(packet.source)
    assert ICMPv6ND_RS in IPv6(packet.ipv6)
    assert state_of(client) is State.PRIMARY


@pytest.mark.requirement("Q3", "S7")
def test_three_solicitations_4_seconds_apart_and_then_off_line() -> None:
    client = new_client()
    client.start(100.0)
    sent = outcome(client).sent
    for due in (104.0, 108.0):
        assert client.next_timer == due
        client.tick(due - 0.001)
        assert outcome(client).quiet
        client.tick(due)
        sent += outcome(client).sent
    assert state_of(client) is State.PRIMARY
    client.tick(112.0)
    assert outcome(client).quiet
    assert state_of(client) is State.OFFLINE
    assert client.reason == "no answer from server 203.0.113.1"
    assert [one.to for one in sent] == [PRIMARY] * 3
    assert len({decode(one.data).authentication for one in sent}) == 3, "a nonce of its own for each"


@pytest.mark.requirement("Q11")
def test_no_answer_from_the_secondary_server_is_off_line_too() -> None:
    client = new_client()
    client.start(0.0)
    client.datagram(advertise(outcome(client).only_sent.data), PRIMARY, 0.1)
    assert state_of(client) is State.SECONDARY
    sent = outcome(client).sent
    for _ in range(3):
        assert client.next_timer is not None
        client.tick(client.next_timer)
        sent += outcome(client).sent
    assert [one.to for one in sent] == [SECONDARY] * 3
    assert (state_of(client), client.reason) == (State.OFFLINE, "no answer from server 203.0.113.2")
    assert client.address is None


@pytest.mark.requirement("M9")
def test_an_off_line_client_tries_again_ever_more_rarely() -> None:
    client = new_client()
    client.start(0.0)
    outcome(client)
    delays = []
    for _ in range(6):
        while state_of(client) is not State.OFFLINE:
            assert client.next_timer is not None
            client.tick(client.next_timer)
        gone, again = client.next_timer, 0.0
        assert gone is not None
        again = gone
        client.tick(again - 0.001)
        assert state_of(client) is State.OFFLINE
        outcome(client)
        client.tick(again)
        assert outcome(client).only_sent.to == PRIMARY
        delays.append(again)
    pauses = [later - earlier - 12.0 for earlier, later in zip([0.0, *delays], delays, strict=False)]
    assert pauses == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]


@pytest.mark.requirement("M9")
def test_after_a_success_the_pauses_are_short_again() -> None:
    client = new_client()
    client.start(0.0)
    for _ in range(3 + 1 + 3):
        assert client.next_timer is not None
        client.tick(client.next_timer)
    assert state_of(client) is State.OFFLINE
    outcome(client)
    qualify(client, 200.0)
    for _ in range(4):
        assert client.next_timer is not None
        client.tick(client.next_timer)
        gone = client.next_timer
    assert state_of(client) is State.OFFLINE
    client.tick(gone or 0.0)
    before = client.snapshot(0.0)["counters"]["solicitations"]
    assert state_of(client) is State.PRIMARY
    assert before == 3 + 3 + 2 + 3 + 1


# Before it is qualified


@pytest.mark.requirement("C4")
@pytest.mark.parametrize("state", [State.INITIAL, State.PRIMARY, State.OFFLINE])
def test_an_unqualified_client_sends_nothing_but_solicitations(state: State) -> None:
    client = new_client()
    if state is not State.INITIAL:
        client.start(0.0)
    if state is State.OFFLINE:
        for now in (4.0, 8.0, 12.0):
            client.tick(now)
    outcome(client)
    client.packet(payload(PEER, HOST), 13.0)
    client.datagram(indirect_bubble(HOST, PEER, ELSEWHERE), PRIMARY, 13.0)
    client.datagram(payload(HOST, PEER), PEER_ENDPOINT, 13.0)
    done = outcome(client)
    assert client.state is state
    assert done.sent == []
    (refusal,) = done.delivered
    assert IPv6(refusal).dst == text(PEER)
    assert refusal[40:42] == b"\1\0", "destination unreachable, no route"


def test_an_unqualified_client_says_nothing_of_packets_without_a_source() -> None:
    client = new_client()
    client.packet(payload(UNSPECIFIED, HOST), 0.0)
    assert outcome(client).quiet


def test_starting_twice_is_starting_once() -> None:
    client = new_client()
    client.start(0.0)
    client.start(1.0)
    assert len(outcome(client).sent) == 1


# Configuration


@pytest.mark.requirement("C1")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"server": "10.0.0.1"}, "not a global unicast"),
        ({"secondary": "127.0.0.1"}, "not a global unicast"),
        ({"server": "203.0.113.2"}, "must differ"),
        ({"server": "server.example"}, "server.example"),
        ({"refresh_interval": 0}, "positive"),
        ({"refresh_interval": float("nan")}, "positive"),
        ({"client_id": bytes(256), "secret": b"s"}, "255"),
        ({"client_id": b"me"}, "needs a secret"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClientConfig(**{"server": PRIMARY.host, "secondary": SECONDARY.host, **change})
