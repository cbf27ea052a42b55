"""What a client does with datagrams (RFC 4380 section 5.2.3)."""

from __future__ import annotations

import pytest

from lab.teredo.address import Endpoint, link_local, packed
from lab.teredo.client import Client
from lab.teredo.packet import ECHO_REQUEST, bubble, decode, echo_reply, echo_request, icmpv6, origin_indication
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    FORBIDDEN_HOSTS,
    HOST,
    MAPPED,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    RELAY_ENDPOINT,
    SECONDARY,
    befriend,
    indirect_bubble,
    outcome,
    payload,
    peer_row,
    qualified_client,
    teredo,
)


def answer_test(client: Client, at: Endpoint, now: float) -> None:
    """Answer the connectivity test that the client has just begun, as a relay at `at` would."""
    (request,) = outcome(client).sent
    client.datagram(echo_reply(decode(request.data), HOST), at, now)


def trusting_host(now: float = 0.0) -> tuple[Client, bytes]:
    """A client that trusts HOST behind RELAY_ENDPOINT."""
    client, own = qualified_client()
    client.packet(payload(own, HOST), now)
    answer_test(client, RELAY_ENDPOINT, now)
    outcome(client)
    return client, own


@pytest.mark.requirement("R1")
@pytest.mark.parametrize(
    "data",
    [b"", b"\0\1\0", b"\0\0short", bytes(48), b"\x60" + bytes(38), payload(PEER, PEER)[:-1], bytes(65508)],
    ids=["empty", "half a header", "half an origin", "zeros", "39 bytes", "length beyond the end", "oversized"],
)
def test_malformed_datagrams_are_dropped_and_counted(data: bytes) -> None:
    client, _ = qualified_client()
    client.datagram(data, PEER_ENDPOINT, 1.0)
    done = outcome(client)
    assert done.quiet
    assert done.drops in (["malformed"], ["oversized"])
    assert client.counters[f"dropped: {done.drops[0]}"] == 1


@pytest.mark.requirement("R2")
def test_a_packet_to_another_address_is_dropped() -> None:
    client, own = qualified_client()
    befriend(client, own, 1.0)
    other = teredo(MAPPED, flags=1)
    for source in (PEER_ENDPOINT, PRIMARY):
        client.datagram(payload(PEER, other), source, 1.0)
        done = outcome(client)
        assert done.quiet
        assert done.drops == ["not our address"]


@pytest.mark.requirement("R2", "R14")
@pytest.mark.parametrize("destination", ["ff02::1", "ff0e::1", "fe80::1"])
def test_packets_to_groups_and_to_link_local_addresses_are_dropped(destination: str) -> None:
    client, own = qualified_client()
    befriend(client, own, 1.0)
    client.datagram(payload(PEER, packed(destination)), PEER_ENDPOINT, 1.0)
    assert outcome(client).quiet


@pytest.mark.requirement("R14")
@pytest.mark.parametrize("source", ["fe80::1", "ff02::1", "::", "::1"])
def test_packets_from_addresses_that_are_not_global_are_dropped(source: str) -> None:
    client, own = qualified_client()
    client.datagram(payload(packed(source), own), ELSEWHERE, 1.0)
    done = outcome(client)
    assert done.quiet
    assert done.drops == ["source is not global"]


def test_a_packet_from_our_own_address_is_dropped() -> None:
    client, own = qualified_client()
    for source in (MAPPED, PRIMARY):
        client.datagram(indirect_bubble(own, own, ELSEWHERE), source, 1.0)
        assert outcome(client).drops == ["our own address as source"]


@pytest.mark.requirement("R15")
@pytest.mark.parametrize("kind", [133, 134])
def test_router_discovery_of_a_peer_never_reaches_the_host(kind: int) -> None:
    client, own = qualified_client()
    befriend(client, own, 1.0)
    client.datagram(icmpv6(PEER, own, kind, 0, bytes(12)), PEER_ENDPOINT, 1.0)
    done = outcome(client)
    assert done.quiet
    assert len(done.drops) == 1


# From the server


@pytest.mark.requirement("R5", "B4", "B7", "F4")
@pytest.mark.parametrize(
    "source",
    [PEER, HOST, link_local(ELSEWHERE, cone=False)],
    ids=["Teredo client", "relay", "link-local, as Miredo's"],
)
def test_an_indirect_bubble_is_answered_with_a_direct_one_to_its_origin(source: bytes) -> None:
    client, own = qualified_client()
    client.datagram(indirect_bubble(source, own, ELSEWHERE), PRIMARY, 1.0)
    done = outcome(client)
    (answer,) = done.sent
    assert (answer.to, answer.data) == (ELSEWHERE, bubble(own, source))
    assert done.delivered == []
    row = peer_row(client, source, 1.0)
    assert row is not None
    assert (row["trusted"], row["sent_ago"], row["received_ago"]) == (False, 0.0, 31.0 - 1.0)


@pytest.mark.requirement("B5", "B6", "A3")
def test_a_peers_bubbles_are_answered_4_times_in_8_seconds_at_most() -> None:
    client, own = qualified_client()
    answered = []
    for step in range(200):
        now = 1.0 + step / 10
        client.datagram(indirect_bubble(PEER, own, ELSEWHERE), PRIMARY, now)
        answered += [now] * len(outcome(client).sent)
    assert all(later >= earlier + 8.0 for earlier, later in zip(answered, answered[4:], strict=False))
    assert len(answered) == 12
    assert client.counters["dropped: too many bubbles"] == 200 - 12


@pytest.mark.requirement("A4", "X8")
@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_no_bubble_is_sent_to_an_origin_that_is_not_global(host: str) -> None:
    client, own = qualified_client()
    client.datagram(indirect_bubble(PEER, own, Endpoint(host, 4000)), PRIMARY, 1.0)
    done = outcome(client)
    assert done.quiet
    assert done.drops == ["origin is not global"]


def test_a_bubble_of_a_group_is_not_answered() -> None:
    client, own = qualified_client()
    client.datagram(indirect_bubble(packed("ff02::1"), own, ELSEWHERE), PRIMARY, 1.0)
    done = outcome(client)
    assert done.quiet
    assert done.drops == ["source is not unicast"]


@pytest.mark.requirement("R3", "M1")
@pytest.mark.parametrize("server", [PRIMARY, SECONDARY])
def test_a_packet_from_the_server_counts_as_interaction_with_it(server: Endpoint) -> None:
    client, own = qualified_client()
    client.datagram(indirect_bubble(PEER, own, ELSEWHERE), server, 20.0)
    assert client.next_timer is not None
    client.tick(client.next_timer)
    assert client.counters["solicitations"] == 2, "those of the qualification"
    assert client.next_timer >= 20.0 + 22.5


@pytest.mark.requirement("R4", "R12", "D1", "D2", "D3", "D5")
def test_a_packet_with_origin_from_the_server_starts_the_connectivity_test_and_waits_for_it() -> None:
    client, own = qualified_client()
    ipv6 = icmpv6(HOST, own, ECHO_REQUEST, 0, bytes(4))
    client.datagram(origin_indication(RELAY_ENDPOINT) + ipv6, PRIMARY, 1.0)
    done = outcome(client)
    (request,) = done.sent
    packet = decode(request.data)
    assert done.delivered == []
    assert request.to == PRIMARY
    assert (packet.icmp_type, packet.source, packet.destination) == (ECHO_REQUEST, own, HOST)
    assert 8 <= len(packet.ipv6) - 48 <= 80
    client.datagram(echo_reply(packet, HOST), RELAY_ENDPOINT, 1.1)
    assert outcome(client).delivered == [ipv6]


@pytest.mark.requirement("D2", "S7")
def test_every_connectivity_test_has_a_nonce_of_its_own() -> None:
    client, own = qualified_client()
    nonces = set()
    for number in range(100):
        client.packet(payload(own, packed(f"2001:db8::{number + 1:x}")), 1.0)
        (request,) = outcome(client).sent
        nonces.add(request.data[48:])
    assert len(nonces) == 100


def test_a_teredo_packet_with_payload_does_not_come_through_the_server() -> None:
    client, own = qualified_client()
    client.datagram(origin_indication(PEER_ENDPOINT) + payload(PEER, own), PRIMARY, 1.0)
    assert outcome(client).quiet


@pytest.mark.requirement("V23")
def test_a_server_that_is_the_relay_too_is_trusted_and_heard_like_any_relay() -> None:
    client, own = qualified_client()
    client.packet(payload(own, HOST, b"question"), 1.0)
    answer_test(client, PRIMARY, 1.1)
    (sent,) = outcome(client).sent
    assert (sent.to, sent.data) == (PRIMARY, payload(own, HOST, b"question"))
    client.datagram(payload(HOST, own, b"answer"), PRIMARY, 1.2)
    assert outcome(client).delivered == [payload(HOST, own, b"answer")]


# From peers: the cases of section 5.2.3


@pytest.mark.requirement("R6", "X1")
def test_case_1_a_trusted_peer_at_its_mapping_is_heard_and_stays_valid() -> None:
    client, own = trusting_host()
    for now in (10.0, 39.0, 68.0, 120.0):
        client.datagram(payload(HOST, own), RELAY_ENDPOINT, now)
        done = outcome(client)
        assert done.delivered == [payload(HOST, own)]
        assert done.sent == []
    client.packet(payload(own, HOST), 149.9)
    assert outcome(client).sent[0].to == RELAY_ENDPOINT


@pytest.mark.requirement("R7", "X2", "X3", "X10")
def test_case_2_the_nonce_makes_a_native_peer_trusted_and_lets_the_queue_go_in_order() -> None:
    client, own = qualified_client()
    waiting = [payload(own, HOST, bytes([number])) for number in range(5)]
    for ipv6 in waiting:
        client.packet(ipv6, 1.0)
    answer_test(client, RELAY_ENDPOINT, 1.2)
    done = outcome(client)
    assert [sent.data for sent in done.sent] == waiting
    assert {sent.to for sent in done.sent} == {RELAY_ENDPOINT}
    assert done.delivered == [], "the answer to our test is not the host's"
    row = peer_row(client, HOST, 1.2)
    assert row is not None
    assert (row["trusted"], row["mapping"], row["received_ago"]) == (True, str(RELAY_ENDPOINT), 0.0)


@pytest.mark.requirement("R7", "A1")
@pytest.mark.parametrize("data", [b"", b"another nonce!!!", bytes(16)])
def test_case_2_another_nonce_makes_nobody_trusted(data: bytes) -> None:
    client, own = qualified_client()
    client.packet(payload(own, HOST), 1.0)
    outcome(client)
    client.datagram(echo_reply(decode(echo_request(own, HOST, data)), HOST), ELSEWHERE, 1.1)
    done = outcome(client)
    assert done.quiet
    row = peer_row(client, HOST, 1.1)
    assert row is not None
    assert not row["trusted"]


@pytest.mark.requirement("R7", "A1")
def test_case_2_a_damaged_answer_makes_nobody_trusted() -> None:
    client, own = qualified_client()
    client.packet(payload(own, HOST), 1.0)
    (request,) = outcome(client).sent
    reply = bytearray(echo_reply(decode(request.data), HOST))
    reply[42] ^= 1
    client.datagram(bytes(reply), ELSEWHERE, 1.1)
    assert outcome(client).sent == []


@pytest.mark.requirement("A4", "R7")
@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_case_2_the_nonce_does_not_make_an_endpoint_trusted_that_is_not_global(host: str) -> None:
    client, own = qualified_client()
    client.packet(payload(own, HOST), 1.0)
    answer_test(client, Endpoint(host, 4000), 1.1)
    assert outcome(client).quiet


@pytest.mark.requirement("R7")
def test_case_2_the_answer_to_a_later_test_is_not_handed_to_the_host_either() -> None:
    client, own = trusting_host()
    client.packet(payload(own, HOST), 40.0)
    answer_test(client, RELAY_ENDPOINT, 40.1)
    done = outcome(client)
    assert done.delivered == []
    assert [sent.to for sent in done.sent] == [RELAY_ENDPOINT]


@pytest.mark.requirement("A1", "R7")
def test_case_2_a_peer_that_moved_to_another_relay_is_followed_when_the_nonce_proves_it() -> None:
    client, own = trusting_host()
    client.datagram(payload(HOST, own, b"from the new relay"), ELSEWHERE, 5.0)
    answer_test(client, ELSEWHERE, 5.1)
    assert outcome(client).delivered == [payload(HOST, own, b"from the new relay")]
    client.packet(payload(own, HOST), 5.2)
    assert outcome(client).sent[0].to == ELSEWHERE


@pytest.mark.requirement("A1", "R12", "X11")
def test_a_native_host_that_was_given_up_has_to_prove_itself_again() -> None:
    client, own = trusting_host()
    client.packet(payload(own, HOST), 40.0)
    for now in (42.0, 44.0, 46.0, 48.0):
        client.tick(now)
    assert outcome(client).event("peer given up")["why"] == "no answer"
    client.datagram(payload(HOST, own), RELAY_ENDPOINT, 49.0)
    done = outcome(client)
    assert done.delivered == []
    assert done.only_sent.to == PRIMARY


@pytest.mark.requirement("R8", "R9", "B2")
def test_case_3_a_bubble_from_the_embedded_mapping_makes_a_peer_trusted_and_is_dropped() -> None:
    client, own = qualified_client()
    client.datagram(bubble(PEER, own), PEER_ENDPOINT, 50.0)
    done = outcome(client)
    assert done.quiet
    row = peer_row(client, PEER, 50.0)
    assert row is not None
    assert (row["trusted"], row["mapping"], row["bubbles"], row["sent_ago"]) == (True, str(PEER_ENDPOINT), 0, 30.0)


@pytest.mark.requirement("R8", "R9")
def test_case_3_another_packet_is_delivered_too_and_lets_the_queue_go() -> None:
    client, own = qualified_client()
    waiting = [payload(own, PEER, bytes([number])) for number in range(3)]
    for ipv6 in waiting:
        client.packet(ipv6, 1.0)
    outcome(client)
    client.datagram(payload(PEER, own), PEER_ENDPOINT, 1.1)
    done = outcome(client)
    assert done.delivered == [payload(PEER, own)]
    assert [(sent.to, sent.data) for sent in done.sent] == [(PEER_ENDPOINT, ipv6) for ipv6 in waiting]


@pytest.mark.requirement("R9", "T12")
def test_case_3_trailers_are_not_part_of_what_the_host_gets() -> None:
    client, own = qualified_client()
    client.datagram(payload(PEER, own) + b"\x04\x02hi", PEER_ENDPOINT, 1.0)
    assert outcome(client).delivered == [payload(PEER, own)]


@pytest.mark.requirement("R8", "A1")
@pytest.mark.parametrize(
    "source", [ELSEWHERE, Endpoint(PEER_ENDPOINT.host, 1), Endpoint("192.0.2.1", PEER_ENDPOINT.port)], ids=str
)
@pytest.mark.parametrize("known", [False, True])
def test_a_teredo_source_that_does_not_match_is_dropped(source: Endpoint, known: bool) -> None:
    client, own = qualified_client()
    if known:
        befriend(client, own, 1.0)
    for ipv6 in (bubble(PEER, own), payload(PEER, own)):
        client.datagram(ipv6, source, 1.0)
        done = outcome(client)
        assert done.quiet
        assert done.drops == ["source does not match its mapping"]
    if known:
        client.packet(payload(own, PEER), 1.1)
        assert outcome(client).sent[0].to == PEER_ENDPOINT


@pytest.mark.requirement("A4", "R8")
@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_a_peer_at_a_mapping_that_is_not_global_is_not_trusted(host: str) -> None:
    client, own = qualified_client()
    inside = Endpoint(host, 4000)
    client.datagram(payload(teredo(inside), own), inside, 1.0)
    client.datagram(payload(HOST, own), inside, 1.0)
    assert outcome(client).quiet


@pytest.mark.requirement("R12", "A1")
def test_case_6_an_unknown_native_hosts_packets_wait_for_the_test_in_order() -> None:
    client, own = qualified_client()
    arriving = [payload(HOST, own, bytes([number])) for number in range(3)]
    for ipv6 in arriving:
        client.datagram(ipv6, RELAY_ENDPOINT, 1.0)
    client.datagram(payload(HOST, own, b"spoofed"), ELSEWHERE, 1.0)
    answer_test(client, RELAY_ENDPOINT, 1.1)
    done = outcome(client)
    assert done.delivered == arriving
    assert done.drops == ["queued from another endpoint"]


@pytest.mark.requirement("R12", "A3")
def test_case_6_a_bubble_of_a_native_host_is_dropped() -> None:
    client, own = qualified_client()
    client.datagram(bubble(HOST, own), RELAY_ENDPOINT, 1.0)
    assert outcome(client).quiet


@pytest.mark.requirement("A1", "A3")
def test_case_6_spoofed_packets_do_not_divert_a_native_peer_nor_multiply() -> None:
    client, own = trusting_host()
    for step in range(50):
        client.datagram(payload(HOST, own, b"spoofed"), ELSEWHERE, 1.0 + step / 100)
    tests = outcome(client).sent
    assert len(tests) == 1
    assert tests[0].to == PRIMARY
    client.packet(payload(own, HOST), 2.0)
    assert [sent.to for sent in outcome(client).sent] == [RELAY_ENDPOINT]
