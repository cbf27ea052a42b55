"""How Teredo clients of one link find each other (RFC 4380 section 5.2.8)."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network
from itertools import pairwise
from typing import Any

import pytest

from lab.teredo.address import ALL_NODES, DISCOVERY_ADDRESS, PORT, Endpoint, link_local
from lab.teredo.client import Client
from lab.teredo.extensions import ALL
from lab.teredo.machine import Action, Event, JoinGroup, LeaveGroup, Send, SendToGroup
from lab.teredo.packet import bubble, decode
from lab.teredo.trailers import Discovery, discovery_trailer
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    HOST,
    MAPPED,
    OTHER_SERVER,
    PRIMARY,
    SECONDARY,
    advertise,
    befriend,
    indirect_bubble,
    new_client,
    outcome,
    payload,
    peer_row,
    qualified_client,
    teredo,
)

SUBNET = IPv4Network("192.168.1.0/24")
LOCAL = Endpoint("192.168.1.7", 50007)
NEIGHBOUR_LOCAL = Endpoint("192.168.1.9", 50009)
NEIGHBOUR_MAPPED = Endpoint(MAPPED.host, 43009)
NEIGHBOUR = teredo(NEIGHBOUR_MAPPED, OTHER_SERVER.host)
"""A client behind the same NAT."""


def hello(address: bytes = NEIGHBOUR) -> bytes:
    """A discovery bubble."""
    return bubble(address, ALL_NODES, hop_limit=1)


def discovering(**config: Any) -> tuple[Client, bytes]:
    """A qualified client that knows its subnet, and its address."""
    client, own = qualified_client(local_discovery=True, **config)
    client.nat.local, client.subnet = LOCAL, SUBNET
    return client, own


def meet(client: Client, now: float) -> None:
    """Have the client hear its neighbour's discovery bubble."""
    client.discovered(hello(), NEIGHBOUR_LOCAL, now)
    outcome(client)


def announcements(client: Client) -> list[bytes]:
    """The discovery bubbles that a client wants to be sent; takes out all it wants."""
    return [action.data for action in client.actions() if isinstance(action, SendToGroup)]


def started(**config: Any) -> list[Action]:
    """What a client asks for until it is qualified."""
    client = new_client(**config)
    client.start(0.0)
    asked: list[Action] = []
    for server in (PRIMARY, SECONDARY):
        asked += client.actions()
        assert isinstance(asked[-1], Send)
        client.datagram(advertise(asked[-1].data), server, 0.0)
    return asked + client.actions()


@pytest.mark.requirement("F3")
def test_the_discovery_group() -> None:
    assert (DISCOVERY_ADDRESS, PORT) == ("224.0.0.253", 3544)


@pytest.mark.requirement("L12")
def test_local_discovery_can_be_left_out_and_is_unless_it_is_asked_for() -> None:
    assert not any(isinstance(action, JoinGroup | SendToGroup) for action in started())
    client, _ = qualified_client()
    client.subnet = SUBNET
    client.tick(1000.0)
    assert announcements(client) == []
    client, _ = qualified_client()
    client.subnet = SUBNET
    client.discovered(hello(), NEIGHBOUR_LOCAL, 1.0)
    assert outcome(client).quiet
    assert peer_row(client, NEIGHBOUR, 1.0) is None


@pytest.mark.requirement("L1")
def test_a_qualified_client_joins_the_group_once_and_leaves_it_with_its_address() -> None:
    actions = started(local_discovery=True)
    assert actions.count(JoinGroup()) == 1
    client, _ = discovering()
    client.refresh(1.0)
    (solicitation,) = outcome(client).sent
    client.datagram(advertise(solicitation.data, ELSEWHERE), PRIMARY, 1.0)
    changed = client.actions()
    assert JoinGroup() not in changed
    assert LeaveGroup() not in changed
    client.stop(2.0)
    assert client.actions().count(LeaveGroup()) == 1
    assert client.next_timer is None
    client.stop(3.0)
    assert LeaveGroup() not in client.actions()


@pytest.mark.requirement("L2")
def test_discovery_bubbles_are_sent_at_random_200_to_300_seconds() -> None:
    client, _ = discovering()
    times: list[float] = []
    while len(times) < 1001:
        assert client.next_timer is not None
        now = client.next_timer
        client.tick(now)
        for action in client.actions():
            if isinstance(action, SendToGroup):
                times.append(now)
            elif isinstance(action, Send):
                client.datagram(advertise(action.data), PRIMARY, now)
    intervals = [later - earlier for earlier, later in pairwise(times)]
    assert 200.0 <= min(intervals) < 201.0
    assert 299.0 < max(intervals) <= 300.0
    for quarter in range(4):
        low = 200.0 + 25.0 * quarter
        assert 200 < sum(low <= interval < low + 25.0 for interval in intervals) < 300


@pytest.mark.requirement("L2")
def test_a_new_address_is_announced_at_once() -> None:
    (announced,) = [action for action in started(local_discovery=True) if isinstance(action, SendToGroup)]
    assert decode(announced.data).is_bubble
    client, own = discovering()
    client.refresh(1.0)
    (solicitation,) = outcome(client).sent
    client.datagram(advertise(solicitation.data, ELSEWHERE), PRIMARY, 1.0)
    (again,) = announcements(client)
    assert decode(again).source != own
    assert client.address is not None
    assert decode(again).source == client.address.packed


@pytest.mark.requirement("L4", "F4")
def test_the_inner_packet_of_a_discovery_bubble() -> None:
    (announced,) = [action for action in started(local_discovery=True) if isinstance(action, SendToGroup)]
    _, own = discovering()
    assert announced.data == bytes.fromhex("60000000 0000 3b 01") + own + bytes.fromhex("ff02" + "00" * 13 + "01")


@pytest.mark.requirement("L5", "R10")
def test_a_discovery_bubble_that_came_to_a_unicast_address_is_dropped() -> None:
    client, _ = discovering()
    client.datagram(hello(), NEIGHBOUR_LOCAL, 1.0)
    assert outcome(client).quiet
    assert peer_row(client, NEIGHBOUR, 1.0) is None


@pytest.mark.requirement("L6", "R10")
@pytest.mark.parametrize(
    "source",
    [
        HOST,
        link_local(NEIGHBOUR_MAPPED, cone=False),
        teredo(NEIGHBOUR_MAPPED, flags=0x0200),
        teredo(NEIGHBOUR_MAPPED, flags=0x0100),
        teredo(Endpoint(MAPPED.host, 0)),
        teredo(Endpoint("192.168.1.9", 43009)),
        teredo(NEIGHBOUR_MAPPED, server="10.0.0.1"),
        bytes(16),
    ],
    ids=["native", "link-local", "U bit", "G bit", "no port", "private mapping", "private server", "unspecified"],
)
def test_a_discovery_bubble_whose_source_is_no_well_formed_teredo_address_is_dropped(source: bytes) -> None:
    client, _ = discovering()
    client.discovered(hello(source), NEIGHBOUR_LOCAL, 1.0)
    done = outcome(client)
    assert done.quiet
    assert done.drops == ["discovery bubble: not a well-formed Teredo address"]
    assert client.peer_table(1.0) == []


@pytest.mark.requirement("L7")
@pytest.mark.parametrize(
    "source", [Endpoint("192.168.2.9", 50009), NEIGHBOUR_MAPPED, Endpoint(NEIGHBOUR_LOCAL.host, 0)], ids=str
)
def test_a_discovery_bubble_from_outside_the_subnet_is_dropped(source: Endpoint) -> None:
    client, _ = discovering()
    client.discovered(hello(), source, 1.0)
    done = outcome(client)
    assert done.quiet
    assert done.drops == ["discovery bubble: not from the local subnet"]
    assert client.peer_table(1.0) == []


@pytest.mark.requirement("L7")
def test_a_client_that_does_not_know_its_subnet_accepts_no_discovery_bubble() -> None:
    client, _ = discovering()
    client.subnet = None
    client.discovered(hello(), NEIGHBOUR_LOCAL, 1.0)
    assert outcome(client).quiet


@pytest.mark.requirement("L8")
def test_a_discovery_bubble_with_another_mapped_ipv4_address_than_ours_is_dropped() -> None:
    client, _ = discovering()
    client.discovered(hello(teredo(ELSEWHERE)), NEIGHBOUR_LOCAL, 1.0)
    assert outcome(client).drops == ["discovery bubble: from behind another NAT"]


@pytest.mark.requirement("R10")
@pytest.mark.parametrize(
    "data",
    [payload(NEIGHBOUR, ALL_NODES), bubble(NEIGHBOUR, teredo(MAPPED)), hello()[:39], b""],
    ids=["no bubble", "not to all nodes", "cut short", "nothing"],
)
def test_nothing_else_that_comes_to_the_group_is_heeded(data: bytes) -> None:
    client, _ = discovering()
    client.discovered(data, NEIGHBOUR_LOCAL, 1.0)
    assert outcome(client).quiet
    assert client.peer_table(1.0) == []


def test_a_clients_own_discovery_bubble_that_comes_back_is_nothing() -> None:
    client, own = discovering()
    client.discovered(hello(own), LOCAL, 1.0)
    done = outcome(client)
    assert done.quiet
    assert done.drops == []
    assert client.peer_table(1.0) == []


@pytest.mark.requirement("L9", "R10")
def test_a_discovery_bubble_makes_an_entry_that_is_not_trusted() -> None:
    client, _ = discovering()
    client.discovered(hello(), NEIGHBOUR_LOCAL, 100.0)
    row = peer_row(client, NEIGHBOUR, 100.0)
    assert row is not None
    assert (row["trusted"], row["mapping"], row["bubbles"], row["received_ago"]) == (False, None, 0, 0.0)
    client.discovered(hello(), NEIGHBOUR_LOCAL, 110.0)
    row = peer_row(client, NEIGHBOUR, 110.0)
    assert row is not None
    assert row["received_ago"] == 10.0, "a discovery bubble is no reception once there is an entry"


@pytest.mark.requirement("L9")
def test_a_discovery_bubble_does_not_touch_the_mapping_of_a_trusted_peer() -> None:
    client, own = discovering()
    befriend(client, own, 1.0, NEIGHBOUR, NEIGHBOUR_MAPPED)
    client.discovered(hello(), Endpoint("192.168.1.66", 6666), 2.0)
    outcome(client)
    row = peer_row(client, NEIGHBOUR, 2.0)
    assert row is not None
    assert (row["trusted"], row["mapping"], row["received_ago"]) == (True, str(NEIGHBOUR_MAPPED), 1.0)
    client.packet(payload(own, NEIGHBOUR), 2.5)
    assert outcome(client).only_sent.to == NEIGHBOUR_MAPPED


@pytest.mark.requirement("L9", "R11")
def test_another_discovery_bubble_moves_the_local_address_and_port() -> None:
    client, own = discovering()
    moved = Endpoint("192.168.1.10", 50010)
    meet(client, 1.0)
    client.discovered(hello(), moved, 2.0)
    outcome(client)
    client.datagram(bubble(NEIGHBOUR, own), NEIGHBOUR_LOCAL, 3.0)
    assert outcome(client).drops == ["source does not match its mapping"]
    befriend(client, own, 4.0, NEIGHBOUR, moved)
    row = peer_row(client, NEIGHBOUR, 4.0)
    assert row is not None
    assert (row["trusted"], row["mapping"]) == (True, str(moved))


@pytest.mark.requirement("L10", "R10")
def test_a_discovery_bubble_is_answered_by_a_unicast_bubble() -> None:
    client, own = discovering()
    client.discovered(hello(), NEIGHBOUR_LOCAL, 1.0)
    answer = outcome(client).only_sent
    assert answer == Send(bubble(own, NEIGHBOUR), NEIGHBOUR_LOCAL)


@pytest.mark.requirement("L10")
def test_a_client_is_no_amplifier_of_discovery_bubbles() -> None:
    client, _ = discovering()
    for step in range(80):
        client.discovered(hello(), NEIGHBOUR_LOCAL, 1.0 + step / 10)
    assert len(outcome(client).sent) == 4


def test_the_nonce_that_a_peer_sent_through_the_server_is_not_told_on_the_link() -> None:
    client, own = discovering(extensions=ALL)
    nonce = bytes.fromhex("01041234567a")
    client.datagram(indirect_bubble(NEIGHBOUR, own, NEIGHBOUR_MAPPED) + nonce, PRIMARY, 1.0)
    assert any(nonce in sent.data for sent in outcome(client).sent)
    client.discovered(hello(), NEIGHBOUR_LOCAL, 2.0)
    assert outcome(client).only_sent.data == bubble(own, NEIGHBOUR)


@pytest.mark.requirement("R11", "L11", "X2")
@pytest.mark.parametrize("extensions", [frozenset(), ALL], ids=["RFC 4380", "RFC 6081"])
@pytest.mark.parametrize("make", [bubble, payload])
def test_a_local_peer_is_trusted_when_it_sends_to_us_from_its_local_address(
    make: Callable[[bytes, bytes], bytes], extensions: frozenset[object]
) -> None:
    client, own = discovering(extensions=extensions)
    meet(client, 1.0)
    inner = make(NEIGHBOUR, own)
    client.datagram(inner, NEIGHBOUR_LOCAL, 2.0)
    assert outcome(client).delivered == ([inner] if make is payload else [])
    client.packet(payload(own, NEIGHBOUR), 3.0)
    assert outcome(client).sent == [Send(payload(own, NEIGHBOUR), NEIGHBOUR_LOCAL)]


@pytest.mark.requirement("R11")
@pytest.mark.parametrize("make", [bubble, payload])
def test_whoever_has_sent_no_discovery_bubble_is_no_local_peer(make: Callable[[bytes, bytes], bytes]) -> None:
    client, own = discovering()
    client.datagram(make(NEIGHBOUR, own), NEIGHBOUR_LOCAL, 2.0)
    done = outcome(client)
    assert done.quiet
    assert done.drops == ["source does not match its mapping"]


@pytest.mark.requirement("X4", "L11")
def test_a_packet_for_a_local_peer_waits_for_the_answer_to_a_local_bubble() -> None:
    client, own = discovering()
    meet(client, 1.0)
    ipv6 = payload(own, NEIGHBOUR)
    client.packet(ipv6, 10.0)
    actions = client.actions()
    assert [action for action in actions if isinstance(action, Send)] == [Send(bubble(own, NEIGHBOUR), NEIGHBOUR_LOCAL)]
    assert [action.data for action in actions if isinstance(action, SendToGroup)] == [hello(own)]
    client.datagram(bubble(NEIGHBOUR, own), NEIGHBOUR_LOCAL, 10.1)
    assert outcome(client).sent == [Send(ipv6, NEIGHBOUR_LOCAL)]


@pytest.mark.requirement("X4", "X6")
def test_a_local_peer_that_does_not_answer_is_called_through_its_server_as_well() -> None:
    client, own = discovering()
    meet(client, 1.0)
    client.packet(payload(own, NEIGHBOUR), 10.0)
    outcome(client)
    client.tick(12.0)
    to = [sent.to for sent in outcome(client).sent]
    assert to == [NEIGHBOUR_LOCAL, NEIGHBOUR_MAPPED, Endpoint(OTHER_SERVER.host, PORT)]


@pytest.mark.requirement("X1", "X4")
@pytest.mark.parametrize(("later", "local"), [(599.0, True), (600.0, False)])
def test_a_peer_is_local_for_600_seconds_after_its_last_discovery_bubble(later: float, local: bool) -> None:
    client, own = discovering(refresh_interval=10_000)
    meet(client, 1.0)
    client.packet(payload(own, NEIGHBOUR), 1.0 + later)
    to = {sent.to for sent in outcome(client).sent}
    assert (NEIGHBOUR_LOCAL in to) == local
    assert (NEIGHBOUR_MAPPED in to) != local
    client.datagram(bubble(NEIGHBOUR, own), NEIGHBOUR_LOCAL, 1.0 + later)
    assert (outcome(client).drops == []) == local


@pytest.mark.requirement("X1")
def test_a_local_peer_that_has_been_silent_for_30_seconds_is_called_anew() -> None:
    client, own = discovering()
    meet(client, 1.0)
    befriend(client, own, 2.0, NEIGHBOUR, NEIGHBOUR_LOCAL)
    client.packet(payload(own, NEIGHBOUR), 31.9)
    assert outcome(client).only_sent.data == payload(own, NEIGHBOUR)
    client.packet(payload(own, NEIGHBOUR), 34.0)
    assert outcome(client).only_sent == Send(bubble(own, NEIGHBOUR), NEIGHBOUR_LOCAL)


def test_a_local_peer_that_solicits_is_answered_where_it_is() -> None:
    client, own = discovering(extensions=ALL)
    meet(client, 1.0)
    client.datagram(bubble(NEIGHBOUR, own) + discovery_trailer(Discovery.SOLICITATION), NEIGHBOUR_LOCAL, 2.0)
    answer = outcome(client).only_sent
    assert answer == Send(bubble(own, NEIGHBOUR) + discovery_trailer(Discovery.ADVERTISEMENT), NEIGHBOUR_LOCAL)


def test_a_local_peer_is_reported_once() -> None:
    client, _ = discovering()
    for now in (1.0, 200.0):
        client.discovered(hello(), NEIGHBOUR_LOCAL, now)
    told = [action.facts for action in client.actions() if isinstance(action, Event) and action.name == "local peer"]
    assert [facts["local"] for facts in told] == [str(NEIGHBOUR_LOCAL)]
