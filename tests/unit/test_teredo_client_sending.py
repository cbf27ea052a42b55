"""How a client reaches peers (RFC 4380 sections 5.2.4, 5.2.6 and 5.2.9)."""

from __future__ import annotations

import pytest

from lab.teredo.address import CONE, PORT, Endpoint, packed
from lab.teredo.client import Client
from lab.teredo.packet import ADDRESS_UNREACHABLE, DESTINATION_UNREACHABLE, bubble, decode, echo_reply
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    FORBIDDEN_HOSTS,
    HOST,
    OTHER_SERVER,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    RELAY_ENDPOINT,
    Outcome,
    befriend,
    indirect_bubble,
    outcome,
    payload,
    peer_row,
    qualified_client,
    teredo,
)


def run_to(client: Client, until: float) -> list[tuple[float, Outcome]]:
    """Let time pass; what came of every deadline, with its time."""
    done = []
    while client.next_timer is not None and client.next_timer <= until:
        now = client.next_timer
        client.tick(now)
        done.append((now, outcome(client)))
    return done


def sendings(done: list[tuple[float, Outcome]]) -> list[tuple[float, Endpoint]]:
    return [(now, sent.to) for now, one in done for sent in one.sent]


def refusals(done: list[tuple[float, Outcome]]) -> list[tuple[float, bytes]]:
    """The packets that the host was told are undeliverable, and when."""
    quoted = []
    for now, one in done:
        for ipv6 in one.delivered:
            packet = decode(ipv6)
            assert (packet.icmp_type, ipv6[41]) == (DESTINATION_UNREACHABLE, ADDRESS_UNREACHABLE)
            quoted.append((now, ipv6[48:]))
    return quoted


@pytest.mark.requirement("X6", "B1", "B3", "B4", "B7")
def test_an_unknown_teredo_peer_gets_a_direct_and_an_indirect_bubble_and_the_packet_waits() -> None:
    client, own = qualified_client()
    client.packet(payload(own, PEER), 1.0)
    done = outcome(client)
    assert [(sent.to, sent.data) for sent in done.sent] == [
        (PEER_ENDPOINT, bubble(own, PEER)),
        (OTHER_SERVER, bubble(own, PEER)),
    ]
    row = peer_row(client, PEER, 1.0)
    assert row is not None
    assert (row["bubbles"], row["sent_ago"], row["queued"], row["trusted"]) == (1, 0.0, 1, False)


@pytest.mark.requirement("U4")
def test_the_cone_bit_of_a_peer_changes_nothing() -> None:
    client, own = qualified_client()
    cone = teredo(PEER_ENDPOINT, OTHER_SERVER.host, CONE)
    client.packet(payload(own, cone), 1.0)
    assert [sent.data for sent in outcome(client).sent] == [bubble(own, cone)] * 2


@pytest.mark.requirement("X2")
def test_packets_for_a_trusted_peer_go_straight_to_its_mapping() -> None:
    client, own = qualified_client()
    befriend(client, own, 1.0)
    client.packet(payload(own, PEER), 2.0)
    (sent,) = outcome(client).sent
    assert (sent.to, sent.data) == (PEER_ENDPOINT, payload(own, PEER))
    row = peer_row(client, PEER, 2.0)
    assert row is not None
    assert row["sent_ago"] == 0.0


@pytest.mark.requirement("X1")
def test_a_peer_that_was_not_heard_for_30_seconds_is_sent_bubbles_again() -> None:
    client, own = qualified_client()
    befriend(client, own, 1.0)
    client.packet(payload(own, PEER), 30.9)
    assert outcome(client).sent[0].data == payload(own, PEER)
    client.packet(payload(own, PEER), 40.0)
    assert [sent.data for sent in outcome(client).sent] == [bubble(own, PEER)] * 2


@pytest.mark.requirement("X7", "X10", "X11")
def test_bubbles_are_repeated_every_2_seconds_3_times_and_then_the_host_is_told() -> None:
    client, own = qualified_client()
    client.packet(payload(own, PEER, b"one"), 1.0)
    client.packet(payload(own, PEER, b"two"), 1.5)
    assert len(outcome(client).sent) == 2
    done = run_to(client, 20.0)
    assert sendings(done) == [(at, to) for at in (3.0, 5.0, 7.0) for to in (PEER_ENDPOINT, OTHER_SERVER)]
    assert refusals(done) == [(9.0, payload(own, PEER, b"one")), (9.0, payload(own, PEER, b"two"))]
    assert client.counters["peers given up"] == 1


@pytest.mark.requirement("B6", "X11")
def test_4_unanswered_bubbles_in_300_seconds_are_the_limit_and_then_the_peer_may_be_tried_again() -> None:
    client, own = qualified_client(refresh_interval=10_000)
    client.packet(payload(own, PEER), 1.0)
    run_to(client, 9.0)
    outcome(client)
    for now in range(10, 299):
        client.packet(payload(own, PEER), float(now))
        done = outcome(client)
        assert done.sent == []
        assert refusals([(float(now), done)]) == [(now, payload(own, PEER))]
    client.packet(payload(own, PEER), 301.0)
    assert [sent.to for sent in outcome(client).sent] == [PEER_ENDPOINT, OTHER_SERVER]


@pytest.mark.requirement("B6")
def test_a_direct_answer_sets_the_count_of_bubbles_back() -> None:
    client, own = qualified_client(refresh_interval=10_000)
    for start in (1.0, 41.0, 81.0, 121.0, 161.0):
        client.packet(payload(own, PEER), start)
        run_to(client, start + 4.0)
        client.datagram(bubble(PEER, own), PEER_ENDPOINT, start + 5.0)
    assert client.counters["bubbles sent"] == 15


@pytest.mark.requirement("B5")
def test_no_bubble_follows_a_transmission_within_2_seconds() -> None:
    client, own = qualified_client(refresh_interval=10_000)
    befriend(client, own, 0.0)
    client.packet(payload(own, PEER), 29.5)
    outcome(client)
    client.packet(payload(own, PEER), 30.5)
    assert outcome(client).sent == []
    assert sendings(run_to(client, 32.0)) == [(31.5, PEER_ENDPOINT), (31.5, OTHER_SERVER)]


@pytest.mark.requirement("B5")
def test_no_bubble_follows_the_answer_to_one_within_2_seconds() -> None:
    client, own = qualified_client()
    client.datagram(indirect_bubble(PEER, own, PEER_ENDPOINT), PRIMARY, 1.0)
    outcome(client)
    client.packet(payload(own, PEER), 1.5)
    assert outcome(client).sent == []
    assert sendings(run_to(client, 3.0)) == [(3.0, PEER_ENDPOINT), (3.0, OTHER_SERVER)]


@pytest.mark.requirement("B5")
def test_a_packet_at_the_very_moment_of_an_answer_waits_for_its_bubble_and_is_not_refused() -> None:
    client, own = qualified_client()
    client.datagram(indirect_bubble(PEER, own, PEER_ENDPOINT), PRIMARY, 1.0)
    outcome(client)
    client.packet(payload(own, PEER), 1.0)
    assert outcome(client).quiet
    assert sendings(run_to(client, 3.0)) == [(3.0, PEER_ENDPOINT), (3.0, OTHER_SERVER)]


@pytest.mark.requirement("X3", "D1", "D3", "D4")
def test_the_connectivity_test_is_repeated_every_2_seconds_3_times_and_then_the_host_is_told() -> None:
    client, own = qualified_client()
    client.packet(payload(own, HOST), 1.0)
    (first,) = outcome(client).sent
    done = run_to(client, 20.0)
    assert sendings(done) == [(3.0, PRIMARY), (5.0, PRIMARY), (7.0, PRIMARY)]
    assert {sent.data for _, one in done for sent in one.sent} == {first.data}, "one nonce for one test"
    assert refusals(done) == [(9.0, payload(own, HOST))]


@pytest.mark.requirement("X11", "D2")
def test_a_native_host_that_was_given_up_is_tried_again_at_once_with_another_nonce() -> None:
    client, own = qualified_client()
    client.packet(payload(own, HOST), 1.0)
    (first,) = outcome(client).sent
    run_to(client, 9.0)
    client.packet(payload(own, HOST), 9.1)
    (again,) = outcome(client).sent
    assert again.to == PRIMARY
    assert again.data[48:] != first.data[48:]
    client.datagram(echo_reply(decode(first.data), HOST), RELAY_ENDPOINT, 9.2)
    assert outcome(client).sent == [], "the old nonce proves nothing any more"


@pytest.mark.requirement("X10")
def test_the_queue_holds_32_packets_and_drops_what_comes_after() -> None:
    client, own = qualified_client()
    packets = [payload(own, PEER, bytes([number])) for number in range(40)]
    for ipv6 in packets:
        client.packet(ipv6, 1.0)
    assert client.counters["dropped: queue full"] == 8
    outcome(client)
    client.datagram(bubble(PEER, own), PEER_ENDPOINT, 1.1)
    assert [sent.data for sent in outcome(client).sent] == packets[:32]


@pytest.mark.requirement("X8", "A4")
@pytest.mark.parametrize("host", [*FORBIDDEN_HOSTS, ""])
def test_packets_for_forbidden_mappings_are_silently_dropped(host: str) -> None:
    client, own = qualified_client()
    mapped = Endpoint(host, 4000) if host else Endpoint("192.0.2.1", 0)
    client.packet(payload(own, teredo(mapped)), 1.0)
    assert outcome(client).quiet
    assert client.peer_table(1.0) == []


@pytest.mark.requirement("X8", "A4")
@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_packets_for_clients_of_forbidden_servers_are_silently_dropped(host: str) -> None:
    client, own = qualified_client()
    client.packet(payload(own, teredo(PEER_ENDPOINT, host)), 1.0)
    done = outcome(client)
    assert done.quiet
    assert done.drops == ["forbidden IPv4 destination"]


@pytest.mark.requirement("R14")
@pytest.mark.parametrize("destination", ["ff02::1", "ff02::16", "fe80::1", "::1", "::"])
def test_packets_for_groups_and_for_the_link_go_nowhere(destination: str) -> None:
    client, own = qualified_client()
    client.packet(payload(own, packed(destination)), 1.0)
    assert outcome(client).quiet


def test_packets_that_are_not_the_hosts_own_go_nowhere() -> None:
    client, own = qualified_client()
    for ipv6 in (payload(HOST, PEER), payload(own, HOST)[:-1], payload(own, HOST) + b"x", b"", b"\x45" + bytes(39)):
        client.packet(ipv6, 1.0)
        assert outcome(client).quiet


def test_the_host_may_send_a_packet_without_payload() -> None:
    client, own = qualified_client()
    befriend(client, own, 1.0)
    client.packet(payload(own, PEER, b""), 1.0)
    assert outcome(client).only_sent.data == payload(own, PEER, b"")


@pytest.mark.requirement("C5")
def test_the_peer_table_tells_what_is_kept_of_each_peer() -> None:
    client, own = qualified_client()
    befriend(client, own, 5.0)
    client.packet(payload(own, HOST), 6.0)
    row = peer_row(client, PEER, 8.0)
    assert row == {
        "address": row and row["address"],
        "mapping": str(PEER_ENDPOINT),
        "trusted": True,
        "received_ago": 3.0,
        "sent_ago": 33.0,
        "bubbles": 0,
        "queued": 0,
    }
    assert len(client.snapshot(8.0)["peers"]) == 2


@pytest.mark.requirement("C6")
def test_a_peer_that_has_to_make_room_is_refused_and_its_timer_goes_with_it() -> None:
    client, own = qualified_client(max_peers=1, refresh_interval=10_000)
    client.packet(payload(own, PEER), 1.0)
    outcome(client)
    client.packet(payload(own, HOST), 1.5)
    done = outcome(client)
    assert refusals([(1.5, done)]) == [(1.5, payload(own, PEER))]
    assert sendings(run_to(client, 4.0)) == [(3.5, PRIMARY)]


def test_forgetting_peers_refuses_what_waits_for_them() -> None:
    client, own = qualified_client(refresh_interval=10_000)
    client.packet(payload(own, PEER), 1.0)
    outcome(client)
    client.forget_peers(1.5)
    assert refusals([(1.5, outcome(client))]) == [(1.5, payload(own, PEER))]
    assert client.peer_table(1.5) == []
    assert sendings(run_to(client, 30.0)) == []


def test_some_peers_may_be_kept_when_all_others_are_forgotten() -> None:
    client, own = qualified_client()
    befriend(client, own, 1.0)
    client.packet(payload(own, HOST), 1.0)
    client.forget_peers(1.5, keep={PEER})
    assert peer_row(client, HOST, 1.5) is None
    assert peer_row(client, PEER, 1.5) is not None


@pytest.mark.requirement("X6", "B3")
def test_the_indirect_bubble_goes_to_the_peers_server_at_the_teredo_port() -> None:
    client, own = qualified_client()
    for server in ("203.0.113.66", "203.0.113.67"):
        client.packet(payload(own, teredo(ELSEWHERE, server)), 1.0)
        assert outcome(client).sent[1].to == Endpoint(server, PORT)
