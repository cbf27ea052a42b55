"""Data that go by themselves: a way says what the machine would do with them, and changes are told."""

from __future__ import annotations

import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.teredo.address import Endpoint, packed
from lab.teredo.client import Client
from lab.teredo.extensions import ALL
from lab.teredo.machine import Close, Deliver, Open, Send
from lab.teredo.packet import bubble, echo_reply, is_plain, router_solicitation
from lab.teredo.peers import PEER_VALIDITY
from lab.teredo.relay import Relay
from lab.teredo.tunnel import Tunnel, Way
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    HOST,
    OTHER_SERVER,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    RELAY_ENDPOINT,
    befriend,
    indirect_bubble,
    new_relay,
    payload,
    qualified_client,
    qualify,
    teredo,
)

OTHER = teredo(ELSEWHERE, OTHER_SERVER.host)
PEERS = (PEER, OTHER, HOST)
WHERE = (PEER_ENDPOINT, ELSEWHERE, RELAY_ENDPOINT)


def sends(machine: Tunnel, source: bytes, destination: bytes, now: float) -> tuple[Endpoint, int] | None:
    """Where a packet of the host goes, from which port, if it just goes."""
    tried = copy.deepcopy(machine)
    ipv6 = payload(source, destination)
    tried.packet(ipv6, now)
    actions = tried.actions()
    if len(actions) == 1 and isinstance(actions[0], Send) and actions[0].data == ipv6:
        return actions[0].to, actions[0].port
    return None


def delivers(machine: Tunnel, source: bytes, destination: bytes, mapping: Endpoint, now: float) -> bool:
    """Whether a packet from there is delivered, and nothing else happens."""
    tried = copy.deepcopy(machine)
    ipv6 = payload(source, destination)
    tried.datagram(ipv6, mapping, now)
    return tried.actions() == [Deliver(ipv6)]


class Carrier:
    """What a data path knows: the ways that it was told of, as long as they may be used."""

    def __init__(self, machine: Tunnel, own: bytes) -> None:
        self.machine, self.own = machine, own
        self.ways: dict[bytes, Way] = {}
        self.received: dict[bytes, float] = {}
        self.now = 0.0
        machine.changed_ways()
        self.follow()

    def follow(self) -> None:
        self.machine.actions()
        for address in self.machine.changed_ways():
            self.ways.pop(address, None)
            way = self.machine.way(address, self.now)
            if way is not None:
                self.ways[address] = way
                self.received[address] = self.now - PEER_VALIDITY  # nobody tells: it is read from the table
        for row in self.machine.peer_table(self.now):
            if packed(row["address"]) in self.ways:
                self.received[packed(row["address"])] = self.now - row["received_ago"]

    def judge(self) -> None:
        """What is carried now is what the machine would do."""
        for address, way in self.ways.items():
            if self.now - self.received[address] >= PEER_VALIDITY:
                assert self.machine.way(address, self.now) is None
                continue
            assert self.machine.way(address, self.now) == way
            source = self.own if isinstance(self.machine, Client) else HOST
            assert self.machine.inside(source)
            assert sends(self.machine, source, address, self.now) == (way.send_to, way.send_from)
            assert delivers(self.machine, address, source, way.mapping, self.now)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["bubble", "nonce", "indirect", "data", "host", "echo", "tick", "wait", "forget", "carried"]),
        st.sampled_from(PEERS),
        st.sampled_from(WHERE),
        st.floats(0.0, 20.0),
    ),
    max_size=40,
)


def play(machine: Tunnel, own: bytes, events: list[tuple[str, bytes, Endpoint, float]]) -> int:
    """Let things happen, and judge after each; returns how often something was carried."""
    carrier, carried = Carrier(machine, own), 0
    host = own if isinstance(machine, Client) else HOST
    for kind, peer, where, seconds in events:
        now = carrier.now
        match kind:
            case "bubble":
                machine.datagram(bubble(peer, own), where, now)
            case "nonce":
                nonces = [each.nonce_sent for each in machine._peers if each.address == peer and each.nonce_sent]
                trailer = b"\1\4" + nonces[0] if nonces else b""
                machine.datagram(bubble(peer, own) + trailer, where, now)
            case "indirect":
                machine.datagram(indirect_bubble(peer, own, where), PRIMARY, now)
            case "data":
                machine.datagram(payload(peer, host), where, now)
            case "host":
                machine.packet(payload(host, peer), now)
            case "echo":
                nonces = [each.nonce for each in machine._peers if each.address == peer and each.nonce]
                if nonces:
                    machine.datagram(_reply(peer, own, nonces[0]), where, now)
            case "tick":
                machine.tick(now)
            case "wait":
                carrier.now += seconds
                machine.tick(carrier.now)
            case "forget":
                machine.forget_peers(now)
            case "carried" if peer in carrier.ways and now - carrier.received[peer] < PEER_VALIDITY:
                machine.carried(peer, sent=1, sent_at=now, received=1, received_at=now)
                carried += 1
        for action in machine.actions():
            assert not isinstance(action, Close) or all(way.send_from != action.port for way in _fresh(carrier))
            assert not isinstance(action, Open) or action.port
        carrier.follow()
        carrier.judge()
    return carried


def _fresh(carrier: Carrier) -> list[Way]:
    """The ways that are left after the changes that have been told."""
    changed = copy.deepcopy(carrier.machine).changed_ways()
    return [way for address, way in carrier.ways.items() if address not in changed]


def _reply(source: bytes, destination: bytes, data: bytes) -> bytes:
    from lab.teredo.packet import decode, echo_request

    return echo_reply(decode(echo_request(destination, source, data)), source)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=EVENTS, everything=st.booleans())
def test_a_client_does_with_data_what_their_way_says(
    events: list[tuple[str, bytes, Endpoint, float]], everything: bool
) -> None:
    client, own = qualified_client(extensions=ALL if everything else frozenset())
    play(client, own, events)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=EVENTS, nonces=st.booleans())
def test_a_relay_does_with_data_what_their_way_says(
    events: list[tuple[str, bytes, Endpoint, float]], nonces: bool
) -> None:
    relay = new_relay(nonces=nonces)
    play(relay, packed(relay.config.address), events)


def test_a_way_stands_while_the_peer_is_heard() -> None:
    client, own = qualified_client()
    befriend(client, own, 0.0)
    assert client.way(PEER, 29.9) == Way(PEER_ENDPOINT, PEER_ENDPOINT, 0)
    assert client.way(PEER, 30.1) is None
    client.carried(PEER, received=3, received_at=29.0)
    assert client.way(PEER, 58.9) is not None
    assert client.counters["delivered"] == 3
    client.carried(PEER, received=1, received_at=12.0)  # told too late: nothing goes back in time
    assert client.way(PEER, 58.9) is not None


def test_what_is_carried_counts_as_sent_by_the_host() -> None:
    client, own = qualified_client(max_peers=1)
    befriend(client, own, 0.0)
    client.carried(PEER, sent=2, sent_at=7.0)
    (row,) = client.peer_table(7.5)
    assert row["sent_ago"] == 0.5
    assert client.counters["sent"] == 2
    (peer,) = client._peers
    assert peer.in_use


def test_changes_are_told_from_the_first_question_on() -> None:
    client, own = qualified_client()
    befriend(client, own, 0.0)
    assert client.changed_ways() == set()
    befriend(client, own, 1.0, OTHER, ELSEWHERE)
    assert client.changed_ways() == {OTHER}
    assert client.changed_ways() == set()
    client.forget_peers(2.0)
    assert client.changed_ways() == {PEER, OTHER}


def test_an_evicted_peer_is_told() -> None:
    client, own = qualified_client(max_peers=1)
    befriend(client, own, 0.0)
    client.changed_ways()
    befriend(client, own, 1.0, OTHER, ELSEWHERE)
    assert client.changed_ways() == {PEER, OTHER}
    assert client.way(PEER, 1.0) is None


def test_a_client_without_an_address_has_nothing_inside() -> None:
    client, own = qualified_client()
    assert client.inside(own)
    client.stop(1.0)
    assert not client.inside(own)
    qualify(client, 2.0)
    assert not client.inside(PEER)


def test_a_relay_has_those_inside_whom_it_serves() -> None:
    relay: Relay = new_relay()
    assert relay.inside(HOST)
    assert not relay.inside(PEER)


@pytest.mark.parametrize(
    ("ipv6", "plain"),
    [
        (payload(HOST, PEER), True),
        (payload(HOST, PEER, b"", 17), True),
        (payload(HOST, PEER, b"x", 59), True),  # no bubble: it has a payload
        (bubble(HOST, PEER), False),
        (router_solicitation(packed("fe80::1")), False),
        (payload(HOST, PEER, b"\x86\0\0\0", 58), False),
        (payload(HOST, PEER, b"\x80\0\0\0", 58), True),
        (payload(HOST, PEER, b"\x85", 58), True),  # too short to be anything
    ],
)
def test_plain(ipv6: bytes, plain: bool) -> None:
    assert is_plain(ipv6) is plain
