"""The extensions of RFC 6081 in the client's state machine, where the examples of section 6 do not go."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from lab.teredo.address import PORT, Endpoint, parse
from lab.teredo.bubbles import MAX_RANDOM_PORTS, RANDOM_PORTS, predicted_port
from lab.teredo.client import Client, ClientConfig, State
from lab.teredo.extensions import ALL, Extension, lacking
from lab.teredo.machine import Close, MapPort, Open, Send, UnmapPort
from lab.teredo.packet import bubble, decode
from lab.teredo.trailers import (
    Discovery,
    alternate_address_trailer,
    discovery_trailer,
    nonce_trailer,
    parse_trailers,
    random_port_trailer,
)
from tests.unit.helpers.extensions import (
    AGAIN,
    LOCAL,
    NONCE,
    OTHER_LOCAL,
    PEER_PORT,
    call,
    client_behind,
    direct,
    nonce_in,
    own,
    peer_of,
    sent,
    solicitations,
    tick,
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


def test_extensions_that_build_on_others_need_them() -> None:
    assert lacking(ALL) is None
    assert lacking({Extension.SEQUENTIAL}) == (Extension.SEQUENTIAL, Extension.PORT_PRESERVING)
    assert lacking({Extension.UPNP}) == (Extension.UPNP, Extension.SYMMETRIC)
    assert lacking({Extension.HAIRPINNING, Extension.LOAD_REDUCTION}) is None
    with pytest.raises(ValueError, match="the extension upnp needs symmetric"):
        ClientConfig(PRIMARY.host, SECONDARY.host, extensions=frozenset({Extension.UPNP}))


# Symmetric NAT Support (section 5.2)


@pytest.mark.requirement("SN7", "SN8", "SN9", "SN10")
def test_a_direct_bubble_is_believed_from_its_mapping_or_with_our_nonce_and_else_dropped() -> None:
    client = client_behind(symmetric=False)
    nonce = nonce_in(wants(client, 1.0))
    for wrong in (b"", nonce_trailer(b"\0\0\0\0"), nonce_trailer(bytes(byte ^ 1 for byte in nonce))):
        direct(client, 1.1, ELSEWHERE, wrong)
        assert not peer_of(client).trusted
    direct(client, 1.2, ELSEWHERE, nonce_trailer(nonce))
    assert (peer_of(client).trusted, peer_of(client).mapping) == (True, ELSEWHERE)
    other = client_behind(symmetric=False)
    direct(other, 1.0, PEER_ENDPOINT)
    assert (peer_of(other).trusted, peer_of(other).mapping) == (True, PEER_ENDPOINT)


@pytest.mark.requirement("SN9")
def test_before_a_nonce_was_sent_none_is_believed() -> None:
    client = client_behind(symmetric=False)
    for trailers in (b"", nonce_trailer(b"\0\0\0\0"), nonce_trailer(NONCE)):
        assert direct(client, 1.0, ELSEWHERE, trailers) == []
    assert not any(peer.trusted for peer in client._peers)


@pytest.mark.requirement("SN6")
def test_an_indirect_bubble_without_a_nonce_takes_the_last_one_back() -> None:
    client = client_behind(symmetric=False)
    call(client, 1.0, nonce_trailer(NONCE))
    assert peer_of(client).nonce_received == NONCE
    (answer, *_) = call(client, 2.0)
    assert parse_trailers(decode(answer.data).trailers).nonce == b""


@pytest.mark.requirement("SN11")
def test_who_calls_itself_does_not_call_back_and_callbacks_are_bounded() -> None:
    client = client_behind(symmetric=False)
    called = [
        sum(send.to == OTHER_SERVER for send in call(client, now, nonce_trailer(NONCE))) for now in range(10, 40, 3)
    ]
    assert called == [1, 1, 1, 1, *[0] * 6]
    other = client_behind(symmetric=False)
    wants(other, 1.0)
    assert not [send for send in call(other, 1.1, nonce_trailer(NONCE)) if send.to == OTHER_SERVER]


@pytest.mark.requirement("Q12", "UP7", "SN1")
def test_a_nat_that_becomes_symmetric_is_noticed_when_the_mapping_changes() -> None:
    client = client_behind(symmetric=False)
    client.refresh(20.0)
    (solicitation,) = sent(client.actions())
    client.datagram(advertise(solicitation.data, ELSEWHERE), PRIMARY, 20.1)
    (again,) = sent(client.actions())
    assert again.to == SECONDARY
    assert client.nat.symmetric is False
    client.datagram(advertise(again.data, AGAIN), SECONDARY, 20.2)
    assert client.nat.symmetric is True
    assert client.address is not None
    assert client.address.mapped == ELSEWHERE
    assert client.state is State.QUALIFIED


def test_data_wait_until_the_peer_has_its_nonce_back() -> None:
    client = client_behind(symmetric=True, extensions={Extension.SYMMETRIC})
    nonce = nonce_in(wants(client, 1.0))
    assert direct(client, 1.1, PEER_ENDPOINT, nonce_trailer(nonce)) == []
    answer, data = call(client, 1.2, nonce_trailer(NONCE))
    assert parse_trailers(decode(answer.data).trailers).nonce == NONCE
    assert data.to == PEER_ENDPOINT
    assert not decode(data.data).is_bubble


def test_a_peer_may_send_from_every_mapping_that_has_returned_a_nonce() -> None:
    client = client_behind(symmetric=False)
    nonce = nonce_trailer(nonce_in(wants(client, 1.0)))
    second = Endpoint(ELSEWHERE.host, 777)
    for source in (ELSEWHERE, second):
        direct(client, 1.1, source, nonce)
    client.datagram(payload(PEER, own(client)), ELSEWHERE, 1.2)
    assert outcome(client).delivered
    assert peer_of(client).mapping == ELSEWHERE
    client.datagram(payload(PEER, own(client)), Endpoint(ELSEWHERE.host, 778), 1.3)
    assert not outcome(client).delivered


# UPnP (section 5.3)


@pytest.mark.requirement("UP3", "UP5", "UP8", "UP12", "HP1")
def test_the_port_is_opened_before_qualification_and_closed_at_the_end() -> None:
    client = Client(ClientConfig(PRIMARY.host, SECONDARY.host), Random(7))
    client.nat.local = LOCAL
    client.start(0.0)
    assert [action for action in client.actions() if isinstance(action, MapPort | Send)] == [MapPort()]
    client.port_mapped(Endpoint("10.0.0.9", LOCAL.port), 0.5)
    assert sent(client.actions())
    assert client.nat.upnp_mapped == Endpoint("10.0.0.9", LOCAL.port)
    client.stop(1.0)
    assert UnmapPort() in client.actions()


@pytest.mark.requirement("UP4", "UP6")
def test_without_an_answer_the_client_goes_on_and_a_late_one_is_taken_back() -> None:
    client = Client(ClientConfig(PRIMARY.host, SECONDARY.host), Random(7))
    client.nat.local = LOCAL
    client.start(0.0)
    client.actions()
    assert len(tick(client, 30.0)) == 1
    client.port_mapped(Endpoint(MAPPED.host, LOCAL.port), 31.0)
    assert client.actions() == [UnmapPort()]
    assert not client.nat.upnp


def test_with_an_address_of_its_own_a_client_asks_nobody() -> None:
    client = Client(ClientConfig(PRIMARY.host, SECONDARY.host), Random(7))
    client.nat.local = MAPPED
    client.start(0.0)
    assert not [action for action in client.actions() if isinstance(action, MapPort)]


@pytest.mark.requirement("UP8", "UP10", "UP11")
def test_with_upnp_and_a_symmetric_peer_everything_goes_to_the_embedded_mapping() -> None:
    client = client_behind(symmetric=True, upnp=True, extensions={Extension.SYMMETRIC, Extension.UPNP})
    assert client.nat.upnp
    assert client.nat.upnp_mapped is None
    nonce = nonce_in(wants(client, 1.0))
    direct(client, 1.1, ELSEWHERE, nonce_trailer(nonce))
    assert peer_of(client).symmetric
    assert peer_of(client).send_to == PEER_ENDPOINT
    assert [send.to for send in call(client, 1.2, nonce_trailer(NONCE))] == [PEER_ENDPOINT]


# Port preservation (section 5.4)


def preserving() -> Client:
    return client_behind(symmetric=True, extensions=ALL - {Extension.HAIRPINNING, Extension.UPNP})


def announced(client: Client, now: float = 1.0) -> int:
    """Have the client call the peer; the random port that it announces."""
    wants(client, now)
    return peer_of(client).random_port


@pytest.mark.requirement("PP2", "PP3")
def test_flags_say_what_the_servers_have_seen() -> None:
    fresh = Client(ClientConfig(PRIMARY.host, SECONDARY.host), Random(7))
    assert (fresh.nat.symmetric, fresh.nat.port_preserving) == (None, False)
    assert (preserving().nat.symmetric, preserving().nat.port_preserving) == (True, True)
    other = client_behind(symmetric=True, local=OTHER_LOCAL)
    assert (other.nat.symmetric, other.nat.port_preserving) == (True, False)


@pytest.mark.requirement("PP6", "PP12", "SQ12")
def test_a_direct_bubble_on_the_primary_port_closes_the_random_one() -> None:
    client = preserving()
    wants(client, 1.0)
    peer = peer_of(client)
    port = peer.local_port
    assert port in RANDOM_PORTS
    assert port == peer.random_port
    client.datagram(bubble(PEER, own(client)), PEER_ENDPOINT, 1.1)
    assert Close(port) in client.actions()
    assert (peer.trusted, peer.direct_on_primary, peer.local_port, peer.random_port) == (True, True, 0, 0)


@pytest.mark.requirement("PP15", "PP16", "PP19")
def test_a_direct_bubble_on_the_random_port_is_where_everything_goes_from() -> None:
    client = preserving()
    port = announced(client)
    call(client, 1.05, nonce_trailer(NONCE) + random_port_trailer(PEER_PORT.port))
    nonce = nonce_trailer(peer_of(client).nonce_sent)
    echoed_nonce, data = direct(client, 1.1, PEER_PORT, nonce, port)
    assert parse_trailers(decode(echoed_nonce.data).trailers).nonce == NONCE  # first, or the data would mean nothing
    assert (data.port, data.to) == (echoed_nonce.port, echoed_nonce.to) == (port, PEER_PORT)
    peer = peer_of(client)
    assert (peer.direct_on_random, peer.direct_on_primary) == (True, False)
    answers = call(client, 2.0, nonce_trailer(NONCE))
    assert [(answer.port, answer.to) for answer in answers] == [(port, PEER_PORT)]
    moved = direct(client, 3.0, Endpoint(PEER_PORT.host, 44444), nonce, port)  # its NAT has given it another port
    assert not peer.trusted
    assert peer.local_port != port
    assert [send.to for send in moved if send.to == OTHER_SERVER]


@pytest.mark.requirement("PP16")
def test_a_random_port_is_for_its_peer_alone() -> None:
    client = preserving()
    port = announced(client)
    stranger = Endpoint("198.51.100.99", 4999)
    client.datagram(bubble(teredo(stranger, OTHER_SERVER.host), own(client)), stranger, 1.1, port)
    assert "not this peer's port" in outcome(client).drops


@pytest.mark.requirement("PP14")
def test_a_direct_bubble_on_the_primary_port_takes_over_from_the_random_one() -> None:
    client = preserving()
    port = announced(client)
    nonce = nonce_trailer(peer_of(client).nonce_sent)
    direct(client, 1.1, PEER_PORT, nonce, port)
    direct(client, 1.2, PEER_ENDPOINT, nonce)
    peer = peer_of(client)
    assert (peer.direct_on_primary, peer.direct_on_random, peer.mapping) == (True, False, PEER_ENDPOINT)
    assert (peer.local_port, peer.send_from) == (0, 0)


@pytest.mark.requirement("PP13")
def test_another_mapping_after_a_pause_is_reached_anew() -> None:
    client = preserving()
    wants(client, 1.0)
    direct(client, 1.1, PEER_ENDPOINT, nonce_trailer(peer_of(client).nonce_sent))
    again = direct(client, 40.0, ELSEWHERE, nonce_trailer(peer_of(client).nonce_sent))
    assert not peer_of(client).trusted
    assert not peer_of(client).direct_on_primary
    assert [send for send in again if send.to == OTHER_SERVER]


@pytest.mark.requirement("PP9", "PP10", "PP11")
def test_another_announced_port_is_heeded_after_a_pause_only() -> None:
    client = preserving()
    call(client, 1.0, nonce_trailer(NONCE) + random_port_trailer(50001))
    port = peer_of(client).local_port
    peer_of(client).last_data = 1.0
    call(client, 5.0, nonce_trailer(NONCE) + random_port_trailer(50002))
    assert peer_of(client).peer_random_port == 50001
    call(client, 40.0, nonce_trailer(NONCE) + random_port_trailer(50002))
    assert peer_of(client).peer_random_port == 50002
    assert peer_of(client).local_port != port


@pytest.mark.requirement("PP4", "PP5", "SQ11")
def test_idle_mappings_of_random_ports_are_kept_alive_twenty_times() -> None:
    client = preserving()
    port = announced(client)
    call(client, 1.05, nonce_trailer(NONCE))
    direct(client, 1.1, PEER_PORT, nonce_trailer(peer_of(client).nonce_sent), port)
    refreshed = 0
    for now in range(2, 900):
        for send in tick(client, float(now)):
            refreshed += send.port == port
            if solicitations([send]):
                client.datagram(advertise(send.data, MAPPED), PRIMARY, float(now))
                client.actions()
    assert refreshed == 20
    peer = peer_of(client)
    peer.last_received = 900.0
    assert [send.port for send in wants(client, 901.0)] == [port]
    tick(client, 930.0)
    assert peer.refreshes == 0
    assert [send for send in tick(client, 960.0) if send.port == port]


def test_ports_that_cannot_be_had_are_done_without() -> None:
    client = preserving()
    client.packet(payload(own(client), PEER), 1.0)
    (opened,) = (action for action in client.actions() if isinstance(action, Open))
    client.port_refused(opened.port, 1.0)
    assert peer_of(client).local_port == 0
    assert client.counters["random ports refused"] == 1
    client.port_refused(opened.port, 1.0)  # it is gone already
    assert client.counters["random ports refused"] == 1


def test_a_random_port_is_not_drawn_again_for_long() -> None:
    client = preserving()
    drawn: list[int] = []
    for number in range(3000):
        address = teredo(Endpoint("203.0.113.200", 2000 + number), OTHER_SERVER.host)
        client.packet(payload(own(client), address), 1.0)
        drawn += [action.port for action in client.actions() if isinstance(action, Open)]
        client.forget_peers(1.0)
    assert len(drawn) == 3000
    assert all(len(set(drawn[first : first + 2000])) == 2000 for first in (0, 500, 1000))


def test_random_ports_are_bounded_and_counted() -> None:
    client = preserving()
    for number in range(MAX_RANDOM_PORTS + 5):
        address = teredo(Endpoint("203.0.113.200", 2000 + number), OTHER_SERVER.host)
        client.packet(payload(own(client), address), 1.0)
    assert len(client._ports) == MAX_RANDOM_PORTS
    assert client.counters["random ports exhausted"] >= 5
    client.forget_peers(2.0)
    assert len([action for action in client.actions() if isinstance(action, Close)]) == MAX_RANDOM_PORTS
    assert client._ports == {}


# Echo tests (section 5.5)


def counting() -> Client:
    return client_behind(symmetric=True, local=OTHER_LOCAL, extensions=ALL - {Extension.HAIRPINNING, Extension.UPNP})


@pytest.mark.requirement("SQ8", "SQ13")
@pytest.mark.parametrize(
    ("lower", "upper", "port"),
    [
        (1200, 1202, 1201),
        (1200, 1203, 1201),
        (1200, 1204, 1202),
        (65534, 1024, 65535),
        (65535, 1025, 1024),
        (65533, 1028, 1024),
        (50000, 2000, 26000),  # no sequence at all: as the text has it
    ],
)
def test_the_port_between_two_others(lower: int, upper: int, port: int) -> None:
    assert predicted_port(lower, upper) == port


@pytest.mark.requirement("SQ3", "SQ4", "SQ5", "SQ6")
def test_an_echo_test_is_tried_twice_and_then_done_without() -> None:
    client = counting()
    first = wants(client, 1.0)
    port = peer_of(client).local_port
    assert [(send.to, send.port) for send in first] == [
        (PEER_ENDPOINT, 0),
        (PRIMARY, port),
        (PEER_ENDPOINT, port),
        (SECONDARY, port),
    ]
    second = tick(client, 2.0)
    assert [send.to for send in second] == [PRIMARY, PEER_ENDPOINT, SECONDARY]
    nonces = {decode(send.data).authentication.nonce for send in solicitations(first + second)}  # type: ignore[union-attr]
    assert len(nonces) == 4
    assert not [send for send in tick(client, 3.9) if send.to == OTHER_SERVER]
    (plain,) = (send for send in tick(client, 4.0) if send.to == OTHER_SERVER)
    assert parse_trailers(decode(plain.data).trailers).random_port == 0


def echoed(client: Client, sends: list[Send], now: float, ports: tuple[int, int] = (1200, 1202)) -> list[Send]:
    """Both servers answer; what the client sends then."""
    found: list[Send] = []
    for send, server, port in zip(solicitations(sends), (PRIMARY, SECONDARY), ports, strict=True):
        answer = advertise(send.data, Endpoint(MAPPED.host, port))
        client.datagram(answer, server, now, send.port)
        found += sent(client.actions())
    return found


@pytest.mark.requirement("SQ7", "SQ8", "SQ9", "SQ12")
def test_the_predicted_port_is_announced_and_the_local_one_is_kept() -> None:
    client = counting()
    (announcing,) = echoed(client, wants(client, 1.0), 1.1)
    assert announcing.to == OTHER_SERVER
    assert parse_trailers(decode(announcing.data).trailers).random_port == 1201
    peer = peer_of(client)
    assert (peer.random_port, peer.local_port in RANDOM_PORTS) == (1201, True)
    assert not [send for send in tick(client, 2.0) if solicitations([send])]  # there is no more to find out


@pytest.mark.requirement("SQ7")
def test_advertisements_that_answer_nothing_tell_nothing() -> None:
    client = counting()
    sends = wants(client, 1.0)
    port = peer_of(client).local_port
    (first, second) = solicitations(sends)
    for data, source, local in (
        (advertise(first.data, MAPPED, nonce=b"\0" * 8), PRIMARY, port),
        (advertise(first.data, MAPPED), SECONDARY, port),
        (advertise(first.data, MAPPED), ELSEWHERE, port),
        (advertise(second.data, MAPPED), PRIMARY, port),
        (advertise(first.data, None), PRIMARY, port),
        (advertise(first.data, MAPPED), PRIMARY, port - 1),
    ):
        client.datagram(data, source, 1.1, local)
    test = peer_of(client).echo_test
    assert test is not None
    assert (test.lower, test.upper) == (0, 0)


@pytest.mark.requirement("SQ10")
def test_a_direct_bubble_on_the_primary_port_ends_the_echo_test() -> None:
    client = counting()
    wants(client, 1.0)
    direct(client, 1.1, PEER_ENDPOINT)
    assert peer_of(client).echo_test is None
    assert peer_of(client).local_port == 0
    assert not solicitations(tick(client, 3.5))


@pytest.mark.requirement("SQ4")
def test_a_callee_tests_towards_the_port_that_was_announced() -> None:
    client = counting()
    sends = call(client, 1.0, nonce_trailer(NONCE) + random_port_trailer(PEER_PORT.port))
    port = peer_of(client).local_port
    assert (PEER_PORT, port) in [(send.to, send.port) for send in sends]


# Hairpinning (section 5.6)


@pytest.mark.requirement("HP4", "T9")
def test_malformed_alternate_addresses_drop_an_indirect_bubble_and_no_direct_one() -> None:
    client = client_behind(symmetric=False)
    malformed = b"\x03\x07\0\0\1\2\3\4\5"
    assert call(client, 1.0, nonce_trailer(NONCE) + malformed) == []
    direct(client, 1.1, PEER_ENDPOINT, malformed)
    assert peer_of(client).trusted
    assert peer_of(client).alternates == ()
    without = client_behind(symmetric=False, extensions={Extension.SYMMETRIC})
    assert call(without, 1.0, nonce_trailer(NONCE) + malformed)


@pytest.mark.requirement("HP5", "HP8", "A5", "A6")
def test_alternate_addresses_are_tried_but_for_those_that_are_nobodys() -> None:
    client = client_behind(symmetric=False)
    local = Endpoint("192.168.1.77", 4000)
    sends = call(client, 1.0, nonce_trailer(NONCE) + alternate_address_trailer((local, PEER_ENDPOINT, LOCAL)))
    tried = [send.to for send in sends if send.to != OTHER_SERVER]
    assert tried == [PEER_ENDPOINT, local]  # neither the embedded mapping twice, nor ourselves
    assert all(parse_trailers(decode(send.data).trailers).nonce == NONCE for send in sends if send.to == local)


@pytest.mark.requirement("HP6", "HP8", "X9")
def test_a_peer_nearby_is_believed_at_its_private_address_with_our_nonce_only() -> None:
    client = client_behind(symmetric=False)
    nonce = nonce_in(wants(client, 1.0))
    nearby = Endpoint("192.168.1.77", 4000)
    direct(client, 1.1, nearby)
    assert not peer_of(client).trusted
    direct(client, 1.2, nearby, nonce_trailer(nonce))
    assert peer_of(client).mapping == nearby
    (answer, data) = call(client, 1.3, nonce_trailer(NONCE))
    assert (answer.to, data.to) == (nearby, nearby)


@pytest.mark.requirement("HP2")
def test_only_strangers_are_told_where_we_are_at_home() -> None:
    client = client_behind(symmetric=False)
    (indirect,) = (send for send in wants(client, 1.0) if send.to == OTHER_SERVER)
    assert parse_trailers(decode(indirect.data).trailers).alternates == (LOCAL,)


# Server Load Reduction (section 5.7)


@pytest.mark.requirement("LR3")
def test_only_whom_we_trust_is_answered_when_it_asks_and_not_without_end() -> None:
    client = client_behind(symmetric=False)
    asks = discovery_trailer(Discovery.SOLICITATION)
    assert direct(client, 1.0, ELSEWHERE, asks) == []
    (answer,) = direct(client, 1.1, PEER_ENDPOINT, asks)
    assert parse_trailers(decode(answer.data).trailers).discovery is Discovery.ADVERTISEMENT
    assert sum(len(direct(client, 1.2, PEER_ENDPOINT, asks)) for _ in range(50)) < 10


@pytest.mark.requirement("LR1", "LR2", "LR4")
def test_without_load_reduction_a_silent_peer_is_called_through_its_server_at_once() -> None:
    client = client_behind(symmetric=False, extensions=ALL - {Extension.LOAD_REDUCTION})
    direct(client, 1.0, PEER_ENDPOINT)
    assert [send.to for send in wants(client, 40.0)] == [PEER_ENDPOINT, OTHER_SERVER]
    with_it = client_behind(symmetric=False)
    direct(with_it, 1.0, PEER_ENDPOINT)
    assert [send.to for send in wants(with_it, 40.0)] == [PEER_ENDPOINT]
    assert [send.to for send in tick(with_it, 42.0) if send.to != PRIMARY] == [PEER_ENDPOINT]
    (data,) = direct(with_it, 43.0, PEER_ENDPOINT, discovery_trailer(Discovery.ADVERTISEMENT))
    assert not decode(data.data).is_bubble
    assert [send.to for send in tick(with_it, 45.0) if send.to != PRIMARY] == []


# Floods


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("local", [LOCAL, OTHER_LOCAL])
def test_a_flood_of_strangers_finds_bounds(symmetric: bool, local: Endpoint) -> None:
    client = client_behind(symmetric=symmetric, local=local)
    trailers = (
        nonce_trailer(NONCE) + random_port_trailer(50000) + alternate_address_trailer((Endpoint("10.9.9.9", 9),) * 4)
    )
    answers: list[Send] = []
    for number in range(20_000):
        caller = teredo(Endpoint("203.0.113.200", 1024 + number), OTHER_SERVER.host)
        answers += call(client, 1.0 + number / 10_000, trailers, caller)
    assert len(client._peers) <= client.config.max_peers
    assert len(client._ports) <= MAX_RANDOM_PORTS
    one = [answers_to for _ in range(100) for answers_to in call(client, 4.0, trailers)]
    assert len(one) <= 4 * 12


def test_endpoints_of_addresses_are_what_they_say() -> None:
    facts: Any = parse(PEER)
    assert facts.mapped == PEER_ENDPOINT
    assert Endpoint(facts.server, PORT) == OTHER_SERVER


def test_ports_for_callers_that_never_get_through_are_closed_again() -> None:
    client = preserving()
    for number in range(300):
        caller = teredo(Endpoint("203.0.113.200", 1024 + number), OTHER_SERVER.host)
        call(client, 1.0, nonce_trailer(NONCE) + random_port_trailer(50000), caller)
    assert len(client._ports) == MAX_RANDOM_PORTS
    tick(client, 35.0)
    tick(client, 70.0)
    assert len(client._ports) == 0
