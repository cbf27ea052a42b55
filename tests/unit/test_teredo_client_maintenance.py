"""How a client keeps its mapping, and when it must not be one (RFC 4380 sections 5.2.5 and 5.5)."""

from __future__ import annotations

import pytest

from lab.teredo.address import Endpoint, cone_bit
from lab.teredo.client import Client, State
from lab.teredo.packet import bubble, decode
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    HOST,
    MAPPED,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    advertise,
    befriend,
    new_client,
    outcome,
    payload,
    qualified_client,
    qualify,
    state_of,
)


def next_solicitation(client: Client) -> tuple[float, bytes]:
    """Let time pass until the client solicits; when, and what it sent."""
    while True:
        assert client.next_timer is not None
        now = client.next_timer
        client.tick(now)
        sent = outcome(client).sent
        if sent:
            (solicitation,) = sent
            assert solicitation.to == PRIMARY
            return now, solicitation.data


@pytest.mark.requirement("M1", "M2", "M3", "S7")
def test_2000_refreshes_are_spread_evenly_over_75_to_100_percent_of_30_seconds() -> None:
    client, own = qualified_client()
    last, intervals, nonces = 0.0, [], set()
    for _ in range(2000):
        now, solicitation = next_solicitation(client)
        intervals.append(now - last)
        nonces.add(solicitation[4:12])
        client.datagram(advertise(solicitation), PRIMARY, now)
        last = now
    assert 22.5 <= min(intervals) < 22.6
    assert 29.9 < max(intervals) <= 30.0
    assert len({round(interval, 9) for interval in intervals}) == 2000
    assert len(nonces) == 2000
    for quarter in range(4):
        low = 22.5 + 1.875 * quarter
        assert 400 < sum(low <= interval < low + 1.875 for interval in intervals) < 600
    assert client.address is not None
    assert client.address.packed == own, "the same mapping keeps its address"


@pytest.mark.requirement("M4", "M2")
def test_the_refresh_interval_is_configurable() -> None:
    client, _ = qualified_client(refresh_interval=100.0)
    now, _ = next_solicitation(client)
    assert 75.0 <= now <= 100.0


@pytest.mark.requirement("M1", "R3")
def test_a_client_that_hears_from_its_server_in_time_does_not_solicit() -> None:
    client, own = qualified_client()
    outcome(client)
    now = 0.0
    for _ in range(20):
        now += 20.0
        client.tick(now)
        client.datagram(bytes.fromhex("0000feaefefdfcfb") + bubble(PEER, own), PRIMARY, now)
        outcome(client)
    assert client.counters["solicitations"] == 2
    again, _ = next_solicitation(client)
    assert now + 22.5 <= again <= now + 30.0


@pytest.mark.requirement("M1")
def test_peers_are_not_the_server_and_do_not_put_the_refresh_off() -> None:
    client, own = qualified_client()
    for step in range(200):
        client.datagram(payload(PEER, own), PEER_ENDPOINT, step / 10)
    outcome(client)
    now, _ = next_solicitation(client)
    assert now <= 30.0


@pytest.mark.requirement("M5", "U3")
def test_a_refresh_keeps_the_cone_bit_clear() -> None:
    client, _ = qualified_client()
    _, solicitation = next_solicitation(client)
    assert not cone_bit(decode(solicitation).source)


@pytest.mark.requirement("U6", "M7")
def test_a_verified_mapping_leaves_address_and_peers_alone() -> None:
    client, own = qualified_client()
    now, solicitation = next_solicitation(client)
    befriend(client, own, now)
    client.datagram(advertise(solicitation), PRIMARY, now)
    done = outcome(client)
    assert done.configured == []
    assert done.event("mapping verified")["mapped"] == str(MAPPED)
    client.packet(payload(own, PEER), now)
    assert outcome(client).sent[0].to == PEER_ENDPOINT


@pytest.mark.requirement("M7", "U6")
@pytest.mark.parametrize("mapped", [Endpoint(MAPPED.host, 50000), ELSEWHERE], ids=["port", "address"])
def test_a_changed_mapping_gives_another_address_and_makes_the_client_forget_its_peers(mapped: Endpoint) -> None:
    client, own = qualified_client()
    now, solicitation = next_solicitation(client)
    befriend(client, own, now)
    client.datagram(advertise(solicitation, mapped), PRIMARY, now)
    done = outcome(client)
    assert state_of(client) is State.QUALIFIED
    assert client.address is not None
    assert client.address.mapped == mapped
    assert done.configured == [client.address.packed]
    assert done.event("mapping changed")["mapped"] == str(mapped)
    assert client.peer_table(now) == []
    client.datagram(payload(PEER, own), PEER_ENDPOINT, now)
    assert outcome(client).drops == ["not our address"], "the old address is not ours any more"


@pytest.mark.requirement("M6", "Q9")
def test_a_bad_answer_to_a_refresh_is_dropped_and_the_client_stays_qualified() -> None:
    client, own = qualified_client()
    now, solicitation = next_solicitation(client)
    client.datagram(advertise(solicitation, ELSEWHERE, hop_limit=64), PRIMARY, now)
    client.datagram(advertise(solicitation, ELSEWHERE, nonce=bytes(8)), PRIMARY, now)
    assert state_of(client) is State.QUALIFIED
    assert client.address is not None
    assert client.address.packed == own
    assert outcome(client).configured == []
    assert client.next_timer == now + 4.0


@pytest.mark.requirement("M9", "Q3")
def test_a_lost_server_is_asked_3_times_and_then_the_address_is_given_up() -> None:
    client, own = qualified_client()
    befriend(client, own, 0.0)
    first, _ = next_solicitation(client)
    assert next_solicitation(client)[0] == first + 4.0
    assert next_solicitation(client)[0] == first + 8.0
    assert state_of(client) is State.QUALIFIED
    client.tick(first + 12.0)
    done = outcome(client)
    assert (state_of(client), client.reason) == (State.OFFLINE, "no answer from server 203.0.113.1")
    assert done.configured == [None]
    assert client.peer_table(first + 12.0) == []
    assert client.snapshot(first + 12.0)["external_mapping"] is None
    qualify(client, first + 50.0, ELSEWHERE)
    assert client.address is not None
    assert client.address.mapped == ELSEWHERE


@pytest.mark.requirement("M8")
def test_a_refresh_may_be_asked_for_at_any_time() -> None:
    client, _ = qualified_client()
    client.refresh(3.0)
    client.refresh(3.0)
    (solicitation,) = outcome(client).sent
    client.datagram(advertise(solicitation.data), PRIMARY, 3.1)
    now, _ = next_solicitation(client)
    assert now >= 3.1 + 22.5


def test_a_client_that_is_not_qualified_has_nothing_to_refresh() -> None:
    client = new_client()
    client.refresh(0.0)
    assert outcome(client).quiet


@pytest.mark.requirement("C7", "Z1")
def test_native_ipv6_puts_a_client_to_rest_and_its_loss_wakes_it() -> None:
    client, own = qualified_client()
    client.packet(payload(own, HOST), 1.0)
    outcome(client)
    client.native_ipv6(True, 2.0)
    assert outcome(client).configured == [None]
    assert state_of(client) is State.DORMANT
    assert client.next_timer is None
    client.start(3.0)
    client.refresh(3.0)
    client.tick(1000.0)
    client.datagram(payload(PEER, own), PEER_ENDPOINT, 1000.0)
    assert outcome(client).quiet
    assert state_of(client) is State.DORMANT
    client.native_ipv6(False, 1001.0)
    (solicitation,) = outcome(client).sent
    assert solicitation.to == PRIMARY
    assert state_of(client) is State.PRIMARY


@pytest.mark.requirement("C7")
@pytest.mark.parametrize("moment", ["primary", "secondary", "refresh"])
def test_an_answer_that_comes_too_late_does_not_wake_a_client_at_rest(moment: str) -> None:
    client = new_client()
    client.start(0.0)
    (solicitation,) = outcome(client).sent
    if moment == "secondary":
        client.datagram(advertise(solicitation.data), PRIMARY, 0.1)
        (solicitation,) = outcome(client).sent
    elif moment == "refresh":
        client, _ = qualified_client()
        client.refresh(0.2)
        (solicitation,) = outcome(client).sent
    client.native_ipv6(True, 0.3)
    outcome(client)
    client.datagram(advertise(solicitation.data), solicitation.to, 0.4)
    assert outcome(client).quiet
    assert (state_of(client), client.address, client.next_timer) == (State.DORMANT, None, None)


@pytest.mark.parametrize("moment", ["primary", "refresh"])
def test_an_answer_that_comes_too_late_does_not_wake_a_stopped_client(moment: str) -> None:
    client = new_client()
    client.start(0.0)
    (solicitation,) = outcome(client).sent
    if moment == "refresh":
        client, _ = qualified_client()
        client.refresh(0.2)
        (solicitation,) = outcome(client).sent
    client.stop(0.3)
    outcome(client)
    client.datagram(advertise(solicitation.data), PRIMARY, 0.4)
    assert outcome(client).quiet
    assert (state_of(client), client.address) == (State.INITIAL, None)


def test_a_stopped_client_has_no_address_no_peers_and_no_timer_and_can_start_anew() -> None:
    client, own = qualified_client()
    befriend(client, own, 1.0)
    client.stop(2.0)
    assert outcome(client).configured == [None]
    assert state_of(client) is State.INITIAL
    assert (client.address, client.next_timer, client.peer_table(2.0)) == (None, None, [])
    qualify(client, 3.0)


@pytest.mark.requirement("M9")
def test_a_client_that_was_stopped_is_as_eager_as_a_new_one() -> None:
    client = new_client()
    client.start(0.0)
    for _ in range(40):
        assert client.next_timer is not None
        client.tick(client.next_timer)
    client.stop(5000.0)
    client.start(5000.0)
    for now in (5004.0, 5008.0, 5012.0):
        client.tick(now)
    assert state_of(client) is State.OFFLINE
    assert client.next_timer == 5012.0 + 30.0


def test_a_snapshot_tells_the_state() -> None:
    client, _ = qualified_client()
    facts = client.snapshot(1.0)
    assert facts["state"] == "qualified"
    assert facts["external_mapping"] == str(MAPPED)
    assert facts["address"] == str(client.address)
    assert facts["nat"] == "cone or restricted"
    assert facts["error"] is None
    assert 21.5 <= facts["next_refresh"] <= 29.0
    assert new_client().snapshot(1.0)["next_refresh"] is None
