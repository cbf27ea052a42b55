"""The relay (RFC 4380 sections 5.4 and 8.2)."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from lab.teredo.address import CONE, PORT, Endpoint, packed
from lab.teredo.packet import ADDRESS_UNREACHABLE, DESTINATION_UNREACHABLE, bubble, decode
from lab.teredo.relay import Relay, RelayConfig
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    FORBIDDEN_HOSTS,
    HOST,
    OTHER_SERVER,
    PEER,
    PEER_ENDPOINT,
    RELAY_ADDRESS,
    Outcome,
    new_relay,
    outcome,
    payload,
    peer_row,
    teredo,
)

OWN = packed(RELAY_ADDRESS)


def trusting(**config: Any) -> Relay:
    """A relay that trusts PEER since the moment 0."""
    relay = new_relay(**config)
    relay.packet(payload(OWN if config.get("host_specific") else HOST, PEER), 0.0)
    relay.datagram(bubble(PEER, OWN), PEER_ENDPOINT, 0.0)
    outcome(relay)
    return relay


def run_to(relay: Relay, until: float) -> list[tuple[float, Outcome]]:
    done = []
    while relay.next_timer is not None and relay.next_timer <= until:
        now = relay.next_timer
        relay.tick(now)
        done.append((now, outcome(relay)))
    return done


@pytest.mark.requirement("Y6", "Y7", "Y8", "B3", "F4")
def test_a_packet_for_an_unknown_client_waits_while_a_bubble_goes_through_its_server() -> None:
    relay = new_relay()
    relay.packet(payload(HOST, PEER), 1.0)
    (sent,) = outcome(relay).sent
    assert (sent.to, sent.data) == (OTHER_SERVER, bubble(OWN, PEER))


@pytest.mark.requirement("U4")
def test_the_cone_bit_of_a_client_changes_nothing() -> None:
    relay = new_relay()
    cone = teredo(PEER_ENDPOINT, OTHER_SERVER.host, CONE)
    relay.packet(payload(HOST, cone), 1.0)
    assert [(sent.to, sent.data) for sent in outcome(relay).sent] == [(OTHER_SERVER, bubble(OWN, cone))]


@pytest.mark.requirement("Y9", "H5")
def test_a_relay_behind_a_nat_sends_a_direct_bubble_too() -> None:
    relay = new_relay(direct_bubbles=True)
    relay.packet(payload(HOST, PEER), 1.0)
    assert [(sent.to, sent.data) for sent in outcome(relay).sent] == [
        (PEER_ENDPOINT, bubble(OWN, PEER)),
        (OTHER_SERVER, bubble(OWN, PEER)),
    ]


@pytest.mark.requirement("Y8", "Y13")
def test_the_clients_bubble_lets_the_queue_go_in_order() -> None:
    relay = new_relay()
    waiting = [payload(HOST, PEER, bytes([number])) for number in range(5)]
    for ipv6 in waiting:
        relay.packet(ipv6, 1.0)
    outcome(relay)
    relay.datagram(bubble(PEER, OWN), PEER_ENDPOINT, 1.1)
    done = outcome(relay)
    assert [(sent.to, sent.data) for sent in done.sent] == [(PEER_ENDPOINT, ipv6) for ipv6 in waiting]
    assert done.delivered == [], "a bubble is nobody's packet"
    assert done.event("peer trusted")["mapping"] == str(PEER_ENDPOINT)


@pytest.mark.requirement("Y4", "X1")
def test_packets_for_a_trusted_client_go_straight_to_it_for_30_seconds() -> None:
    relay = trusting()
    relay.packet(payload(HOST, PEER), 29.9)
    (sent,) = outcome(relay).sent
    assert (sent.to, sent.data) == (PEER_ENDPOINT, payload(HOST, PEER))
    row = peer_row(relay, PEER, 29.9)
    assert row is not None
    assert row["sent_ago"] == 0.0
    relay.packet(payload(HOST, PEER), 40.0)
    assert [sent.to for sent in outcome(relay).sent] == [OTHER_SERVER]


@pytest.mark.requirement("Y13")
def test_every_packet_of_a_client_prolongs_its_validity() -> None:
    relay = trusting()
    for now in (20.0, 40.0, 60.0):
        relay.datagram(payload(PEER, HOST), PEER_ENDPOINT, now)
        assert outcome(relay).delivered == [payload(PEER, HOST)]
    relay.packet(payload(HOST, PEER), 89.0)
    assert [sent.to for sent in outcome(relay).sent] == [PEER_ENDPOINT]


@pytest.mark.requirement("Y6", "Y8")
def test_bubbles_are_repeated_every_2_seconds_3_times_and_then_the_client_is_removed_and_the_sender_told() -> None:
    relay = new_relay()
    relay.packet(payload(HOST, PEER), 1.0)
    outcome(relay)
    done = run_to(relay, 20.0)
    assert [(now, sent.to) for now, one in done for sent in one.sent] == [(at, OTHER_SERVER) for at in (3.0, 5.0, 7.0)]
    ((now, last),) = [(now, one) for now, one in done if one.delivered]
    (error,) = last.delivered
    packet = decode(error)
    assert now == 9.0
    assert (packet.icmp_type, error[41], packet.source, packet.destination) == (
        DESTINATION_UNREACHABLE,
        ADDRESS_UNREACHABLE,
        OWN,
        HOST,
    )
    assert error[48:] == payload(HOST, PEER)
    assert relay.peer_table(9.0) == []
    assert relay.next_timer is None


@pytest.mark.requirement("Y8", "Y15")
def test_the_queue_for_a_client_is_bounded() -> None:
    relay = new_relay()
    for number in range(50):
        relay.packet(payload(HOST, PEER, bytes([number])), 1.0)
    assert relay.counters["dropped: queue full"] == 18


@pytest.mark.requirement("Y2")
@pytest.mark.parametrize("destination", [HOST, packed("fe80::1"), packed("ff02::1"), packed("2001:1::1")])
def test_packets_for_other_destinations_are_dropped(destination: bytes) -> None:
    relay = new_relay()
    relay.packet(payload(HOST, destination), 1.0)
    assert outcome(relay).quiet


@pytest.mark.requirement("Y3", "A4", "X9")
@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_packets_for_clients_at_forbidden_addresses_or_of_forbidden_servers_are_silently_dropped(host: str) -> None:
    relay = new_relay(direct_bubbles=True)
    relay.packet(payload(HOST, teredo(Endpoint(host, 4000))), 1.0)
    relay.packet(payload(HOST, teredo(PEER_ENDPOINT, host)), 1.0)
    assert outcome(relay).quiet
    assert relay.peer_table(1.0) == []


@pytest.mark.parametrize("ipv6", [b"", b"\x60" * 39, payload(HOST, PEER)[:-1], payload(HOST, PEER) + b"x"])
def test_what_is_no_ipv6_packet_is_dropped(ipv6: bytes) -> None:
    relay = new_relay()
    relay.packet(ipv6, 1.0)
    assert outcome(relay).quiet


@pytest.mark.requirement("Y11")
@pytest.mark.parametrize(
    ("source", "at"),
    [
        (PEER, ELSEWHERE),
        (PEER, Endpoint(PEER_ENDPOINT.host, 1)),
        (PEER, Endpoint("192.0.2.1", PEER_ENDPOINT.port)),
        (HOST, PEER_ENDPOINT),
        (packed("fe80::1"), PEER_ENDPOINT),
    ],
)
def test_packets_whose_source_does_not_match_are_dropped(source: bytes, at: Endpoint) -> None:
    relay = trusting()
    for ipv6 in (payload(source, HOST), bubble(source, OWN)):
        relay.datagram(ipv6, at, 5.0)
        done = outcome(relay)
        assert done.quiet
        assert done.drops == ["source does not match its mapping"]
    row = peer_row(relay, PEER, 5.0)
    assert row is not None
    assert row["received_ago"] == 5.0


@pytest.mark.requirement("Y11", "R1")
@pytest.mark.parametrize("data", [b"", b"\x60" + bytes(20), payload(PEER, HOST)[:-1]])
def test_malformed_datagrams_are_dropped(data: bytes) -> None:
    relay = trusting()
    relay.datagram(data, PEER_ENDPOINT, 5.0)
    assert outcome(relay).drops == ["malformed"]


@pytest.mark.requirement("Y12")
def test_clients_that_nobody_has_sent_to_are_not_served() -> None:
    relay = new_relay()
    relay.datagram(payload(PEER, HOST), PEER_ENDPOINT, 1.0)
    assert outcome(relay).drops == ["unknown client"]
    assert relay.peer_table(1.0) == []


@pytest.mark.requirement("Y14")
@pytest.mark.parametrize(
    "destination", [teredo(ELSEWHERE), packed("fe80::1"), packed("ff02::1"), packed("ff0e::1"), packed("::1")]
)
def test_a_relay_forwards_to_native_global_addresses_only(destination: bytes) -> None:
    relay = trusting()
    relay.datagram(payload(PEER, destination), PEER_ENDPOINT, 5.0)
    done = outcome(relay)
    assert done.quiet
    assert done.drops == ["destination is not served"]


@pytest.mark.requirement("Y14")
def test_a_relay_of_some_prefixes_serves_those_only() -> None:
    relay = trusting(serves=("2001:db8::/48", "2001:db8:7::/48"))
    for destination, served in (("2001:db8::1", True), ("2001:db8:7::1", True), ("2001:db8:8::1", False)):
        relay.datagram(payload(PEER, packed(destination)), PEER_ENDPOINT, 5.0)
        assert bool(outcome(relay).delivered) == served
    relay.packet(payload(packed("2001:db8:8::1"), PEER), 5.0)
    assert outcome(relay).drops == ["source is not served"]


@pytest.mark.requirement("H1", "H3", "Y14")
def test_a_host_specific_relay_serves_its_host_alone_both_ways() -> None:
    relay = trusting(host_specific=True)
    relay.datagram(payload(PEER, OWN), PEER_ENDPOINT, 5.0)
    assert outcome(relay).delivered == [payload(PEER, OWN)]
    relay.datagram(payload(PEER, HOST), PEER_ENDPOINT, 5.0)
    relay.packet(payload(HOST, PEER), 5.0)
    assert outcome(relay).quiet
    assert relay.snapshot(5.0)["type"] == "host-specific relay"


@pytest.mark.requirement("T12")
def test_trailers_are_not_forwarded_to_the_ipv6_internet() -> None:
    relay = trusting()
    relay.datagram(payload(PEER, HOST) + b"\x04\x02hi", PEER_ENDPOINT, 1.0)
    assert outcome(relay).delivered == [payload(PEER, HOST)]


def test_a_stopped_relay_has_forgotten_everything() -> None:
    relay = trusting()
    relay.packet(payload(HOST, teredo(ELSEWHERE)), 1.0)
    relay.stop(2.0)
    assert (relay.peer_table(2.0), relay.next_timer) == ([], None)


@pytest.mark.requirement("Y1")
def test_a_relay_is_ready_at_once_and_has_no_teredo_address() -> None:
    relay = new_relay()
    relay.start(0.0)
    done = outcome(relay)
    assert done.configured == [None]
    assert done.event("state")["state"] == "running"
    assert done.sent == []


@pytest.mark.requirement("Y7")
@pytest.mark.parametrize("address", ["fe80::1", "2001::1", "ff02::1", "::1", "nonsense"])
def test_the_relays_own_address_must_be_native_and_global(address: str) -> None:
    with pytest.raises(ValueError, match=address):
        Relay(RelayConfig(address), Random(1))


def test_a_served_prefix_must_be_one() -> None:
    with pytest.raises(ValueError, match="host bits"):
        RelayConfig(RELAY_ADDRESS, serves=("2001:db8::1/48",))


def test_the_bubble_goes_to_the_teredo_port_of_the_clients_server() -> None:
    relay = new_relay()
    relay.packet(payload(HOST, teredo(PEER_ENDPOINT, "198.51.100.99")), 1.0)
    assert [sent.to for sent in outcome(relay).sent] == [Endpoint("198.51.100.99", PORT)]
