"""Floods of invented peers do not stop those in use (RFC 4380 sections 7.3.3 and 7.3.5)."""

from __future__ import annotations

from random import Random

import pytest

from lab.teredo.address import Endpoint, packed
from lab.teredo.packet import bubble, decode, echo_reply
from tests.unit.helpers.teredo import (
    HOST,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    RELAY_ADDRESS,
    RELAY_ENDPOINT,
    befriend,
    indirect_bubble,
    new_relay,
    outcome,
    payload,
    qualified_client,
    teredo,
)


@pytest.mark.requirement("Y15", "A2")
def test_a_flood_of_invented_clients_does_not_push_out_one_in_use() -> None:
    relay = new_relay(max_peers=100)
    relay.packet(payload(HOST, PEER), 0.0)
    relay.datagram(bubble(PEER, packed(RELAY_ADDRESS)), PEER_ENDPOINT, 0.0)
    for number in range(10_000):
        relay.packet(payload(HOST, teredo(Endpoint("192.0.2.1", 1 + number))), 1.0)
        if number % 100 == 0:
            relay.actions()
    outcome(relay)
    assert len(relay.peer_table(1.0)) == 100
    relay.packet(payload(HOST, PEER), 2.0)
    assert [sent.to for sent in outcome(relay).sent] == [PEER_ENDPOINT]
    assert relay.counters["evicted peers"] == 10_000 - 99


@pytest.mark.requirement("C6", "A2", "R5")
@pytest.mark.parametrize(
    ("attack", "peers"),
    [
        ("spoofed bubbles", 100_000),
        ("spoofed packets", 10_000),
        ("spoofed native hosts", 10_000),
        ("indirect bubbles", 10_000),
    ],
)
def test_a_flood_of_invented_peers_does_not_push_out_those_in_use(attack: str, peers: int) -> None:
    client, own = qualified_client()
    befriend(client, own, 1.0)
    client.packet(payload(own, PEER), 1.0)
    client.packet(payload(own, HOST), 1.0)
    (_, request) = outcome(client).sent
    client.datagram(echo_reply(decode(request.data), HOST), RELAY_ENDPOINT, 1.0)
    outcome(client)
    rng = Random(5)
    for number in range(peers):
        endpoint = Endpoint(f"192.0.2.{number % 250 + 1}", 1024 + number // 250)
        match attack:
            case "indirect bubbles":
                client.datagram(indirect_bubble(teredo(endpoint), own, endpoint), PRIMARY, 2.0)
            case "spoofed bubbles":
                client.datagram(bubble(teredo(endpoint), own), endpoint, 2.0)
            case "spoofed packets":
                client.datagram(payload(teredo(endpoint), own), endpoint, 2.0)
            case _:
                client.datagram(payload(packed("2001:db8:1::")[:8] + rng.randbytes(8), own), endpoint, 2.0)
        if number % 1000 == 0:
            client.actions()
    assert len(client.peer_table(2.0)) <= 8192
    outcome(client)
    client.packet(payload(own, PEER), 3.0)
    client.packet(payload(own, HOST), 3.0)
    assert [sent.to for sent in outcome(client).sent] == [PEER_ENDPOINT, RELAY_ENDPOINT]
