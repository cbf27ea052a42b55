"""Port-Preserving Symmetric NAT (RFC 6081 section 5.4): random ports that peers announce to each other."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from lab.teredo.address import Endpoint
from lab.teredo.bubbles import MAX_RANDOM_PORTS, RANDOM_PORTS, REMEMBERED_PORTS
from lab.teredo.client import Client
from lab.teredo.extensions import ALL, Extension
from lab.teredo.machine import Action, Close, Open, Send
from lab.teredo.packet import bubble, decode
from lab.teredo.peers import Peer
from lab.teredo.trailers import NO_TRAILERS, nonce_trailer, random_port_trailer
from tests.unit.helpers.extensions import (
    AGAIN,
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
    solicitations,
    tick,
    trailers_of,
    wants,
)
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    MAPPED,
    OTHER_SERVER,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    SECONDARY,
    advertise,
    outcome,
    payload,
    teredo,
)

WITH_PORTS = frozenset({Extension.SYMMETRIC, Extension.PORT_PRESERVING})
ANNOUNCES = nonce_trailer(NONCE) + random_port_trailer(PEER_PORT.port)


def preserving() -> Client:
    return client_behind(symmetric=True, extensions=WITH_PORTS)


def route(sends: list[Send]) -> list[tuple[int, Endpoint]]:
    """From which port to whom; 0 is the service port."""
    return [(send.port, send.to) for send in sends]


def opened_and_closed(actions: list[Action]) -> list[Action]:
    return [action for action in actions if isinstance(action, Open | Close)]


def on_random_port(client: Client, now: float = 1.0) -> Peer:
    """Have the client call the peer, which answers on the random port."""
    wants(client, now)
    peer = peer_of(client)
    call(client, now, ANNOUNCES)
    direct(client, now, PEER_PORT, nonce_trailer(peer.nonce_sent), peer.local_port)
    assert peer.direct_on_random
    return peer


def keep_qualified(client: Client, now: float) -> list[Send]:
    """Let time pass, with a server that answers; what else the client sends."""
    sends = tick(client, now)
    for send in solicitations(sends):
        client.datagram(advertise(send.data, MAPPED), PRIMARY, now)
        client.actions()
    return [send for send in sends if send.to not in (PRIMARY, SECONDARY)]


# Whose ports are preserved (section 5.4.3)


@pytest.mark.requirement("PP3")
def test_it_is_the_primary_server_that_tells_whether_ports_are_preserved() -> None:
    client = client_behind(symmetric=True, local=Endpoint(LOCAL.host, AGAIN.port), extensions=WITH_PORTS)
    assert not client.nat.port_preserving


@pytest.mark.requirement("PP6")
@pytest.mark.parametrize(
    ("symmetric", "local", "extensions"),
    [
        (False, LOCAL, WITH_PORTS),
        (True, OTHER_LOCAL, WITH_PORTS),
        (True, LOCAL, ALL - {Extension.PORT_PRESERVING, Extension.SEQUENTIAL, Extension.UPNP, Extension.HAIRPINNING}),
    ],
)
def test_no_random_port_is_opened_unless_it_helps(
    symmetric: bool, local: Endpoint, extensions: frozenset[Extension]
) -> None:
    client = client_behind(symmetric=symmetric, local=local, extensions=extensions)
    wants(client, 1.0)
    call(client, 1.0, ANNOUNCES)
    assert client._ports == {}


# Calling (sections 5.4.4.2 and 5.4.4.3)


@pytest.mark.requirement("PP6", "PP7", "PP8")
def test_a_caller_opens_a_port_and_announces_it_in_its_indirect_bubble_alone() -> None:
    client = preserving()
    client.packet(payload(own(client), PEER), 1.0)
    opened, *rest = (action for action in client.actions() if isinstance(action, Open | Send))
    assert isinstance(opened, Open)
    direct_bubble, indirect_bubble = sent(list(rest))
    assert route([direct_bubble, indirect_bubble]) == [(0, PEER_ENDPOINT), (0, OTHER_SERVER)]
    assert trailers_of(direct_bubble) == NO_TRAILERS
    assert trailers_of(indirect_bubble).random_port == opened.port


@pytest.mark.requirement("PP6", "PP7")
def test_a_caller_keeps_its_port_while_it_repeats_itself() -> None:
    client = preserving()
    announced = {trailers_of(send).random_port for send in wants(client, 1.0) if send.to == OTHER_SERVER}
    for now in (3.0, 5.0, 7.0):
        announced |= {trailers_of(send).random_port for send in tick(client, now) if send.to == OTHER_SERVER}
    assert announced == {peer_of(client).local_port}


@pytest.mark.requirement("PP6")
def test_each_peer_has_a_port_of_its_own() -> None:
    client = preserving()
    for number in range(20):
        client.packet(payload(own(client), teredo(Endpoint("198.51.100.21", 4000 + number))), 1.0)
    ports = [peer.local_port for peer in client._peers]
    assert len(set(ports)) == 20
    assert all(client._ports[port].local_port == port for port in ports)


@pytest.mark.requirement("PP6")
def test_the_service_port_and_ports_in_use_are_never_drawn() -> None:
    class Stubborn(Random):
        """Draws the same few ports over and over before it draws another one."""

        drawn = 0

        def choice(self, seq: Any) -> Any:
            self.drawn += 1
            return seq[(0, 0, 1, 1, 0, 2)[self.drawn % 6]]

    local = Endpoint(LOCAL.host, RANDOM_PORTS[0])
    client = client_behind(symmetric=True, local=local, mapped=Endpoint(MAPPED.host, local.port), extensions=WITH_PORTS)
    client._rng = Stubborn()
    for number in range(2):
        client.packet(payload(own(client), teredo(Endpoint("198.51.100.21", 4000 + number))), 1.0)
    assert sorted(client._ports) == [RANDOM_PORTS[1], RANDOM_PORTS[2]]


@pytest.mark.requirement("PP8", "PP9")
def test_a_callee_knocks_at_the_mapping_and_from_a_random_port_at_the_announced_one() -> None:
    client = preserving()
    sends = call(client, 1.0, ANNOUNCES)
    port = peer_of(client).local_port
    assert route(sends) == [(0, PEER_ENDPOINT), (port, PEER_PORT), (0, OTHER_SERVER)]
    assert trailers_of(sends[1]).random_port == trailers_of(sends[2]).random_port == port
    assert trailers_of(sends[0]).nonce == trailers_of(sends[1]).nonce == NONCE


@pytest.mark.requirement("PP17")
def test_a_callee_knocks_from_its_random_port_at_the_mapping_if_no_port_was_announced() -> None:
    client = preserving()
    sends = call(client, 1.0, nonce_trailer(NONCE))
    port = peer_of(client).local_port
    assert route(sends) == [(0, PEER_ENDPOINT), (port, PEER_ENDPOINT), (0, OTHER_SERVER)]


@pytest.mark.requirement("PP18")
def test_who_has_no_random_port_knocks_from_its_service_port_at_the_announced_one() -> None:
    client = client_behind(symmetric=False, extensions=WITH_PORTS)
    sends = call(client, 1.0, ANNOUNCES)
    assert route(sends) == [(0, PEER_ENDPOINT), (0, PEER_PORT), (0, OTHER_SERVER)]


@pytest.mark.requirement("PP9", "PP18")
def test_without_the_extension_announced_ports_are_nothing() -> None:
    client = client_behind(symmetric=False, extensions=frozenset({Extension.SYMMETRIC}))
    assert route(call(client, 1.0, ANNOUNCES)) == [(0, PEER_ENDPOINT), (0, OTHER_SERVER)]


@pytest.mark.requirement("PP8")
def test_an_announced_port_is_at_the_host_that_the_address_says() -> None:
    client = client_behind(symmetric=False, extensions=WITH_PORTS)
    data = bubble(PEER, own(client)) + ANNOUNCES
    client.datagram(b"\0\0" + bytes(6) + data, PRIMARY, 1.0)  # whatever the origin indication says
    assert {send.to.host for send in sent(client.actions())} == {PEER_ENDPOINT.host, OTHER_SERVER.host}


# What a peer announces later (section 5.4.4.4)


@pytest.mark.requirement("PP10")
def test_the_same_port_announced_again_changes_nothing() -> None:
    client = preserving()
    call(client, 1.0, ANNOUNCES)
    port = peer_of(client).local_port
    call(client, 100.0, ANNOUNCES)
    assert (peer_of(client).local_port, peer_of(client).peer_random_port) == (port, PEER_PORT.port)


@pytest.mark.requirement("PP10")
def test_an_indirect_bubble_that_announces_no_port_takes_none_back() -> None:
    client = preserving()
    call(client, 1.0, ANNOUNCES)
    call(client, 100.0, nonce_trailer(NONCE))
    assert peer_of(client).peer_random_port == PEER_PORT.port


@pytest.mark.requirement("PP11")
def test_another_port_after_a_pause_costs_only_who_preserves_ports_its_own() -> None:
    for local, kept in ((LOCAL, False), (OTHER_LOCAL, True)):
        client = client_behind(symmetric=True, local=local, extensions=WITH_PORTS | {Extension.SEQUENTIAL})
        call(client, 1.0, ANNOUNCES)
        port = peer_of(client).local_port
        call(client, 100.0, nonce_trailer(NONCE) + random_port_trailer(50001))
        assert peer_of(client).peer_random_port == 50001
        assert (peer_of(client).local_port == port) is kept


# Direct bubbles (section 5.4.4.5)


@pytest.mark.requirement("PP12")
def test_after_a_bubble_on_the_primary_port_everything_goes_from_there() -> None:
    client = preserving()
    wants(client, 1.0)
    sends = direct(client, 1.1, PEER_ENDPOINT) + tick(client, 3.0) + wants(client, 3.1)
    assert {send.port for send in sends} == {0}
    assert peer_of(client).direct_on_primary


@pytest.mark.requirement("PP13")
def test_the_same_mapping_on_the_primary_port_is_accepted_at_any_time() -> None:
    client = preserving()
    direct(client, 1.0, PEER_ENDPOINT)
    direct(client, 100.0, PEER_ENDPOINT)
    assert peer_of(client).usable(100.0)


@pytest.mark.requirement("PP13", "SN10")
def test_another_mapping_without_a_pause_is_the_peers_new_one() -> None:
    client = preserving()
    wants(client, 1.0)
    nonce = nonce_trailer(peer_of(client).nonce_sent)
    direct(client, 1.1, PEER_ENDPOINT, nonce)
    direct(client, 5.0, ELSEWHERE, nonce)
    assert (peer_of(client).trusted, peer_of(client).mapping) == (True, ELSEWHERE)


@pytest.mark.requirement("SN10")
@pytest.mark.parametrize(
    ("local", "extensions"), [(LOCAL, frozenset({Extension.SYMMETRIC})), (OTHER_LOCAL, WITH_PORTS)]
)
def test_for_whom_ports_do_not_matter_another_mapping_is_the_peers_new_one_at_any_time(
    local: Endpoint, extensions: frozenset[Extension]
) -> None:
    client = client_behind(symmetric=False, local=local, extensions=extensions)
    wants(client, 1.0)
    nonce = nonce_trailer(peer_of(client).nonce_sent)
    direct(client, 1.1, PEER_ENDPOINT, nonce)
    direct(client, 40.0, ELSEWHERE, nonce)
    assert (peer_of(client).trusted, peer_of(client).mapping) == (True, ELSEWHERE)


@pytest.mark.requirement("PP14")
def test_a_peer_that_is_heard_on_the_primary_port_at_last_is_told_so() -> None:
    client = preserving()
    peer = on_random_port(client)
    port = peer.local_port
    client.datagram(bubble(PEER, own(client)) + nonce_trailer(peer.nonce_sent), PEER_ENDPOINT, 1.5)
    actions = client.actions()
    assert Close(port) in actions
    assert route(sent(actions))[:1] == [(0, PEER_ENDPOINT)]


@pytest.mark.requirement("PP14")
def test_a_pause_does_not_change_that() -> None:
    client = preserving()
    peer = on_random_port(client)
    direct(client, 40.0, PEER_ENDPOINT, nonce_trailer(peer.nonce_sent))
    assert (peer.trusted, peer.mapping, peer.direct_on_primary) == (True, PEER_ENDPOINT, True)


@pytest.mark.requirement("PP15")
def test_a_bubble_on_the_random_port_without_our_nonce_must_come_from_the_mapping() -> None:
    client = preserving()
    wants(client, 1.0)
    peer = peer_of(client)
    direct(client, 1.1, PEER_PORT, b"", peer.local_port)
    assert not peer.trusted
    direct(client, 1.2, PEER_ENDPOINT, b"", peer.local_port)
    assert (peer.trusted, peer.direct_on_random) == (True, True)


@pytest.mark.requirement("PP16")
def test_the_same_mapping_on_the_random_port_is_accepted() -> None:
    client = preserving()
    peer = on_random_port(client)
    port = peer.local_port
    assert direct(client, 5.0, PEER_PORT, nonce_trailer(peer.nonce_sent), port) == []
    assert (peer.trusted, peer.local_port, peer.last_received) == (True, port, 5.0)


@pytest.mark.requirement("PP16")
def test_another_mapping_on_the_random_port_closes_it_and_calls_anew() -> None:
    client = preserving()
    peer = on_random_port(client)
    port = peer.local_port
    data = bubble(PEER, own(client)) + nonce_trailer(peer.nonce_sent)
    client.datagram(data, Endpoint(PEER_PORT.host, 44444), 5.0, port)
    actions = client.actions()
    assert opened_and_closed(actions)[0] == Close(port)
    assert [send.to for send in sent(actions)] == [OTHER_SERVER]
    assert not peer.trusted


@pytest.mark.requirement("PP16")
def test_nobody_else_is_believed_on_a_peers_random_port() -> None:
    client = preserving()
    peer = on_random_port(client)
    stranger = teredo(ELSEWHERE, OTHER_SERVER.host)
    client.datagram(bubble(stranger, own(client)), ELSEWHERE, 2.0, peer.local_port)
    assert outcome(client).drops == ["not this peer's port"]
    assert not peer_of(client, stranger).trusted
    assert peer.local_port in client._ports


@pytest.mark.requirement("PP19")
def test_data_go_from_the_random_port_to_where_the_peer_was_seen() -> None:
    client = preserving()
    peer = on_random_port(client)
    assert route(wants(client, 2.0)) == [(peer.local_port, PEER_PORT)]


@pytest.mark.requirement("PP19", "R6")
def test_data_that_come_in_on_the_random_port_are_delivered() -> None:
    client = preserving()
    peer = on_random_port(client)
    client.datagram(payload(PEER, own(client)), PEER_PORT, 2.0, peer.local_port)
    assert outcome(client).delivered == [payload(PEER, own(client))]


def test_a_server_has_nothing_to_say_on_a_random_port_but_advertisements() -> None:
    client = preserving()
    peer = on_random_port(client)
    client.datagram(payload(PEER, own(client)), PRIMARY, 2.0, peer.local_port)
    assert outcome(client).drops == ["from the server on a random port"]


# Keeping mappings alive (section 5.4.2.1)


@pytest.mark.requirement("PP2", "PP4")
def test_a_random_port_is_refreshed_every_30_seconds_from_itself() -> None:
    client = preserving()
    peer = on_random_port(client)
    refreshes = [(now, *route([send])) for now in range(2, 125) for send in keep_qualified(client, float(now))]
    assert refreshes == [(now, (peer.local_port, PEER_PORT)) for now in (31, 61, 91, 121)]


@pytest.mark.requirement("PP4")
def test_a_peer_on_the_primary_port_is_not_refreshed() -> None:
    client = preserving()
    direct(client, 1.0, PEER_ENDPOINT)
    assert [send for now in range(2, 125) for send in keep_qualified(client, float(now))] == []


@pytest.mark.requirement("PP4")
def test_a_peer_whose_data_came_in_on_the_primary_port_is_not_refreshed_either() -> None:
    client = preserving()
    wants(client, 1.0)
    client.datagram(payload(PEER, own(client)), PEER_ENDPOINT, 1.1)
    client.actions()
    keep_qualified(client, 3.0)
    assert [send for now in range(4, 125) for send in keep_qualified(client, float(now))] == []


@pytest.mark.requirement("PP4", "PP5")
def test_while_data_are_sent_nothing_is_refreshed() -> None:
    client = preserving()
    on_random_port(client)
    sends: list[Send] = []
    for now in range(2, 125):
        client.datagram(payload(PEER, own(client)), PEER_PORT, now, peer_of(client).local_port)
        client.actions()
        sends += keep_qualified(client, float(now)) + wants(client, float(now))
    assert not any(decode(send.data).is_bubble for send in sends)


# The end of a random port


@pytest.mark.requirement("PP6")
def test_a_port_is_closed_when_its_peer_is_given_up() -> None:
    client = preserving()
    wants(client, 1.0)
    port = peer_of(client).local_port
    for now in (3.0, 5.0, 7.0):
        tick(client, now)
    client.tick(9.0)
    assert opened_and_closed(client.actions()) == [Close(port)]


def test_a_port_is_closed_when_its_peer_has_to_make_room() -> None:
    client = client_behind(symmetric=True, extensions=WITH_PORTS, max_peers=1)
    wants(client, 1.0)
    port = peer_of(client).local_port
    client.packet(payload(own(client), teredo(ELSEWHERE)), 1.1)
    closed, opened = opened_and_closed(client.actions())
    assert closed == Close(port)
    assert isinstance(opened, Open)
    assert set(client._ports) == {opened.port}


def test_ports_are_remembered_for_long_and_not_for_ever() -> None:
    client = client_behind(symmetric=True, extensions=WITH_PORTS, max_peers=1)
    drawn: list[int] = []
    for number in range(REMEMBERED_PORTS + 1000):
        client.packet(payload(own(client), teredo(Endpoint("198.51.100.21", 1024 + number))), 1.0)
        drawn += [action.port for action in client.actions() if isinstance(action, Open)]
    assert len(client._drawn) == REMEMBERED_PORTS
    assert len(set(drawn[-REMEMBERED_PORTS:])) == len(set(drawn[:REMEMBERED_PORTS])) == REMEMBERED_PORTS


def test_ports_are_closed_when_the_client_stops() -> None:
    client = preserving()
    peer = on_random_port(client)
    port = peer.local_port
    client.stop(2.0)
    assert opened_and_closed(client.actions()) == [Close(port)]


def test_a_port_that_is_refused_is_replaced_at_the_next_attempt() -> None:
    client = preserving()
    client.packet(payload(own(client), PEER), 1.0)
    (opened,) = opened_and_closed(client.actions())
    assert isinstance(opened, Open)
    client.port_refused(opened.port, 1.0)
    client.actions()
    (again,) = (send for send in tick(client, 3.0) if send.to == OTHER_SERVER)
    assert trailers_of(again).random_port == peer_of(client).local_port not in (0, opened.port)


def test_a_peer_beyond_the_last_random_port_is_called_without_one() -> None:
    client = preserving()
    for number in range(MAX_RANDOM_PORTS):
        client.packet(payload(own(client), teredo(Endpoint("198.51.100.21", 4000 + number))), 1.0)
    client.actions()
    assert route(sends := wants(client, 1.1)) == [(0, PEER_ENDPOINT), (0, OTHER_SERVER)]
    assert trailers_of(sends[1]).random_port == 0
    assert client.counters["random ports exhausted"] == 1
