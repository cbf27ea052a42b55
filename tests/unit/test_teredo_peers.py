"""The list of recent peers and its limits (RFC 4380 sections 5.2, 5.2.4 and 5.2.6)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.teredo.address import Endpoint
from lab.teredo.peers import PEER_VALIDITY, QUEUE_BYTES, QUEUE_PACKETS, Peer, PeerList, Window
from tests.unit.helpers.teredo import ELSEWHERE, PEER_ENDPOINT


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.mark.requirement("B2")
def test_a_new_entry_looks_30_seconds_old_and_has_sent_no_bubble() -> None:
    peer, evicted = PeerList(4).obtain(name(1), now=1000.0)
    assert evicted is None
    assert (peer.last_received, peer.last_sent, len(peer.bubbles)) == (970.0, 970.0, 0)
    assert (peer.mapping, peer.trusted, peer.nonce) == (None, False, None)


@pytest.mark.requirement("X1")
def test_a_trusted_peer_is_usable_for_30_seconds_after_it_was_heard() -> None:
    peers = PeerList(4)
    peer, _ = peers.obtain(name(1), 0.0)
    assert not peer.usable(0.0)
    peers.trust(peer, PEER_ENDPOINT, 0.0)
    assert peer.usable(29.999)
    assert not peer.usable(PEER_VALIDITY)


@pytest.mark.requirement("C6", "Y15")
def test_the_list_never_exceeds_its_limit_and_lets_the_longest_unused_go() -> None:
    peers = PeerList(3)
    for number in range(3):
        peers.obtain(name(number), 0.0)
    peers.get(name(0))
    _, evicted = peers.obtain(name(9), 0.0)
    assert evicted is not None
    assert evicted.address == name(1)
    assert len(peers) == 3
    assert {peer.address for peer in peers} == {name(0), name(2), name(9)}


@pytest.mark.requirement("A2", "C6")
def test_strangers_make_room_before_peers_in_use() -> None:
    peers = PeerList(3)
    for number in range(2):
        peer, _ = peers.obtain(name(number), 0.0)
        peers.trust(peer, PEER_ENDPOINT, 0.0)
        peers.use(peer)
    for number in range(100, 200):
        peers.obtain(name(number), 1.0)
    assert peers.get(name(0)) is not None
    assert peers.get(name(1)) is not None
    assert len(peers) == 3


@pytest.mark.requirement("C6")
def test_a_list_full_of_peers_in_use_still_takes_a_new_one() -> None:
    peers = PeerList(2)
    for number in range(2):
        peers.use(peers.obtain(name(number), 0.0)[0])
    newcomer, evicted = peers.obtain(name(5), 1.0)
    assert evicted is not None
    assert evicted.address == name(0)
    assert peers.get(name(5)) is newcomer


def test_peers_in_use_that_have_fallen_silent_make_room_before_strangers() -> None:
    """Or strangers would have only each other's places once the rest is taken, and none of them got through."""
    peers = PeerList(3)
    for number in range(2):
        peer, _ = peers.obtain(name(number), 0.0)
        peers.use(peer)
        peer.last_sent = peer.last_received = 10.0 + number
    peers.obtain(name(2), 20.0)
    _, evicted = peers.obtain(name(3), 39.9)  # all are still talking: the stranger goes
    assert evicted is not None
    assert evicted.address == name(2)
    _, evicted = peers.obtain(name(4), 40.0)
    assert evicted is not None
    assert evicted.address == name(0)
    assert {peer.address for peer in peers} == {name(1), name(3), name(4)}


def test_trust_and_its_withdrawal() -> None:
    peers = PeerList(2)
    peer, _ = peers.obtain(name(1), 0.0)
    peer.nonce, peer.attempts = b"n" * 16, 3
    peer.bubbles.take(0.0)
    peers.trust(peer, PEER_ENDPOINT, 5.0)
    assert (peer.trusted, peer.mapping, peer.last_received) == (True, PEER_ENDPOINT, 5.0)
    assert peer.nonce is None
    assert len(peer.bubbles) == 0
    peers.distrust(peer)
    assert (peer.trusted, peer.mapping) == (False, None)
    peers.trust(peer, ELSEWHERE, 6.0)
    peers.remove(peer)
    assert len(peers) == 0
    assert peers.get(name(1)) is None


@pytest.mark.requirement("C6")
def test_a_peer_that_lost_its_trust_makes_room_like_a_stranger() -> None:
    peers = PeerList(2)
    for number in range(2):
        peer, _ = peers.obtain(name(number), 0.0)
        peers.use(peer)
        peer.last_sent = 0.0
    failed = peers.get(name(1))
    assert failed is not None
    peers.distrust(failed)
    assert peers.obtain(name(2), 1.0)[1] is failed
    again, _ = peers.obtain(name(2), 2.0)
    peers.use(again)
    assert [peer.address for peer in peers] == [name(0), name(2)]


def test_a_list_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        PeerList(0)


@pytest.mark.requirement("X10", "Y8")
def test_a_queue_keeps_32_packets_in_their_order_and_refuses_more() -> None:
    peer = Peer.new(name(1), 0.0)
    packets = [bytes([number]) for number in range(QUEUE_PACKETS)]
    assert all(peer.hold_outbound(ipv6) for ipv6 in packets)
    assert not peer.hold_outbound(b"one more")
    assert peer.release() == (packets, [])
    assert peer.hold_outbound(b"room again")


@pytest.mark.requirement("X10", "Y8")
def test_a_queue_is_bounded_in_bytes_too() -> None:
    peer = Peer.new(name(1), 0.0)
    assert peer.hold_outbound(bytes(QUEUE_BYTES - 10))
    assert not peer.hold_outbound(bytes(11))
    assert peer.hold_outbound(bytes(10))


@pytest.mark.requirement("A2")
def test_packets_that_arrive_do_not_take_the_room_of_packets_that_leave() -> None:
    peer = Peer.new(name(1), 0.0)
    held = 0
    while peer.hold_inbound(ELSEWHERE, bytes(1000)):
        held += 1
    assert held == QUEUE_PACKETS
    assert peer.hold_outbound(b"leaves")


def test_a_window_allows_so_many_events_in_its_span() -> None:
    window = Window(2, 10.0)
    assert window.take(0.0)
    assert window.take(3.0)
    assert not window.take(9.9)
    assert window.opens_at(5.0) == 10.0
    assert window.take(10.0)
    assert window.opens_at(10.5) == 13.0
    window.clear()
    assert len(window) == 0
    assert window.opens_at(11.0) == 11.0


@given(st.lists(st.floats(0, 20), max_size=60), st.integers(1, 5), st.floats(0.5, 50))
def test_no_span_of_a_window_holds_more_than_its_limit(steps: list[float], limit: int, span: float) -> None:
    window, now = Window(limit, span), 0.0
    taken: list[float] = []
    for step in steps:
        now += step
        if window.take(now):
            taken.append(now)
    assert all(later >= earlier + span for earlier, later in zip(taken, taken[limit:], strict=False))


@given(st.lists(st.tuples(st.sampled_from(["obtain", "trust", "use", "distrust", "remove"]), st.integers(0, 9))))
def test_whatever_is_done_the_list_is_bounded_and_each_peer_is_in_it_once(steps: list[tuple[str, int]]) -> None:
    peers = PeerList(4)
    for step, number in steps:
        peer = peers.get(name(number))
        if step == "obtain":
            peers.obtain(name(number), 0.0)
        elif peer is not None:
            match step:
                case "trust":
                    peers.trust(peer, Endpoint("192.0.2.1", 1), 0.0)
                case "use":
                    peers.use(peer)
                case "distrust":
                    peers.distrust(peer)
                case _:
                    peers.remove(peer)
        listed = [entry.address for entry in peers]
        assert len(listed) == len(set(listed)) == len(peers) <= 4
