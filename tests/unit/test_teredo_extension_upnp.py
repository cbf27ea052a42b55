"""UPnP-Enabled Symmetric NAT (RFC 6081 section 5.3): the port that the NAT opens, and packets that go there."""

from __future__ import annotations

import pytest

from lab.teredo.address import Endpoint
from lab.teredo.client import UPNP_TIMEOUT, Client, State
from lab.teredo.extensions import ALL, Extension, lacking
from lab.teredo.machine import Action, Configure, MapPort, UnmapPort
from lab.teredo.packet import decode
from lab.teredo.trailers import Trailers, nonce_trailer
from tests.unit.helpers.extensions import (
    LOCAL,
    NONCE,
    call,
    client_behind,
    direct,
    nonce_in,
    own,
    peer_of,
    sent,
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
    new_client,
    outcome,
    payload,
)

WITH_UPNP = frozenset({Extension.SYMMETRIC, Extension.UPNP})


def upnp_client(*, upnp: Endpoint | bool = True, symmetric: bool = True) -> Client:
    return client_behind(symmetric=symmetric, upnp=upnp, extensions=WITH_UPNP)


def mapping_of_ports(actions: list[Action]) -> list[Action]:
    return [action for action in actions if isinstance(action, MapPort | UnmapPort)]


@pytest.mark.requirement("UP1", "PP1", "SQ1")
@pytest.mark.parametrize(
    ("extensions", "fault"),
    [
        ({Extension.UPNP}, "upnp needs symmetric"),
        ({Extension.PORT_PRESERVING}, "port-preserving needs symmetric"),
        ({Extension.SEQUENTIAL, Extension.PORT_PRESERVING}, "needs symmetric"),
        ({Extension.SEQUENTIAL, Extension.SYMMETRIC}, "sequential needs port-preserving"),
    ],
)
def test_no_client_has_an_extension_without_those_that_it_builds_on(extensions: set[Extension], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        new_client(extensions=frozenset(extensions))


@pytest.mark.parametrize("extension", [Extension.SYMMETRIC, Extension.HAIRPINNING, Extension.LOAD_REDUCTION])
def test_the_other_extensions_stand_alone(extension: Extension) -> None:
    assert lacking({extension}) is None


# Opening the port (section 5.3.3)


@pytest.mark.requirement("UP3", "HP1")
@pytest.mark.parametrize("extension", list(Extension))
def test_only_two_extensions_have_the_port_opened(extension: Extension) -> None:
    client = new_client(extensions=frozenset({extension, Extension.SYMMETRIC, Extension.PORT_PRESERVING}))
    client.nat.local = LOCAL
    client.start(0.0)
    asked = any(isinstance(action, MapPort) for action in client.actions())
    assert asked == (extension in (Extension.UPNP, Extension.HAIRPINNING))


@pytest.mark.requirement("UP4", "UP6")
def test_a_nat_that_opens_nothing_does_not_stand_in_the_way() -> None:
    client = new_client(extensions=ALL)
    client.nat.local = LOCAL
    client.start(0.0)
    client.actions()
    client.port_mapped(None, 0.5)
    (solicitation,) = sent(client.actions())
    assert solicitation.to == PRIMARY
    assert (client.nat.upnp, client.nat.upnp_mapped) == (False, None)


@pytest.mark.requirement("UP4")
def test_the_servers_are_not_asked_before_upnp_has_answered_or_had_its_time() -> None:
    client = new_client(extensions=ALL)
    client.nat.local = LOCAL
    client.start(0.0)
    assert sent(client.actions()) == []
    assert tick(client, UPNP_TIMEOUT - 0.1) == []
    assert [send.to for send in tick(client, UPNP_TIMEOUT)] == [PRIMARY]


@pytest.mark.requirement("UP12")
@pytest.mark.parametrize("opened", [True, False])
def test_what_has_been_opened_is_closed_at_the_end_and_nothing_else(opened: bool) -> None:
    client = upnp_client(upnp=opened)
    client.stop(5.0)
    assert mapping_of_ports(client.actions()) == [UnmapPort()] * opened
    assert not client.nat.upnp


@pytest.mark.requirement("UP12")
def test_native_ipv6_has_the_port_closed() -> None:
    client = upnp_client()
    client.native_ipv6(True, 5.0)
    assert mapping_of_ports(client.actions()) == [UnmapPort()]


@pytest.mark.requirement("UP3")
def test_a_client_that_begins_anew_has_its_port_opened_anew() -> None:
    client = upnp_client()
    client.stop(5.0)
    client.actions()
    client.start(6.0)
    assert mapping_of_ports(client.actions()) == [MapPort()]


@pytest.mark.requirement("UP8")
@pytest.mark.parametrize(
    ("opened", "kept"),
    [
        (MAPPED, None),
        (Endpoint(MAPPED.host, 4000), Endpoint(MAPPED.host, 4000)),
        (Endpoint("192.168.7.7", MAPPED.port), Endpoint("192.168.7.7", MAPPED.port)),
    ],
)
def test_what_was_opened_is_kept_in_mind_only_if_the_server_sees_another_mapping(
    opened: Endpoint, kept: Endpoint | None
) -> None:
    client = upnp_client(upnp=opened, symmetric=False)
    assert (client.nat.upnp, client.nat.upnp_mapped) == (True, kept)


def test_an_off_line_client_asks_again_when_it_tries_again() -> None:
    client = new_client(extensions=WITH_UPNP)
    client.nat.local = LOCAL
    client.start(0.0)
    client.port_mapped(None, 0.0)
    for now in (4.0, 8.0, 12.0):
        tick(client, now)
    assert client.state is State.OFFLINE
    client.tick(42.0)
    assert mapping_of_ports(client.actions()) == [MapPort()]


# Symmetric peers (section 5.3.4)


@pytest.mark.requirement("UP9", "UP14")
def test_a_bubble_that_is_dropped_still_tells_that_its_sender_is_behind_a_symmetric_nat() -> None:
    client = upnp_client()
    assert direct(client, 1.0, ELSEWHERE) == []
    assert (peer_of(client).symmetric, peer_of(client).trusted) == (True, False)


@pytest.mark.requirement("UP9")
def test_a_bubble_from_its_own_mapping_tells_nothing_of_the_kind() -> None:
    client = upnp_client()
    direct(client, 1.0, PEER_ENDPOINT)
    assert not peer_of(client).symmetric


@pytest.mark.requirement("UP9")
def test_without_the_extension_nobody_is_remembered_for_a_bubble_that_is_dropped() -> None:
    client = client_behind(symmetric=True, extensions=ALL - {Extension.UPNP})
    direct(client, 1.0, ELSEWHERE)
    assert client.peer_table(1.0) == []


@pytest.mark.requirement("UP10", "UP11")
def test_direct_bubbles_and_data_go_to_the_mapping_in_a_symmetric_peers_address() -> None:
    client = upnp_client()
    direct(client, 0.9, ELSEWHERE)
    nonce = nonce_in(wants(client, 1.0))
    direct(client, 1.1, ELSEWHERE, nonce_trailer(nonce))
    call(client, 1.2, nonce_trailer(NONCE))
    client.datagram(payload(PEER, own(client)), ELSEWHERE, 1.3)
    assert outcome(client).delivered
    (data,) = wants(client, 1.4)
    assert data.to == PEER_ENDPOINT
    (answer,) = call(client, 1.5, nonce_trailer(NONCE))
    assert (answer.to, trailers_of(answer)) == (PEER_ENDPOINT, Trailers(NONCE))
    assert peer_of(client).mapping == ELSEWHERE


@pytest.mark.requirement("UP10", "UP11")
@pytest.mark.parametrize(
    ("symmetric", "upnp"), [(False, MAPPED), (True, False), (True, Endpoint("192.168.7.7", LOCAL.port))]
)
def test_unless_all_is_as_it_must_be_packets_go_to_the_mapping_that_was_seen(
    symmetric: bool, upnp: Endpoint | bool
) -> None:
    client = upnp_client(symmetric=symmetric, upnp=upnp)
    nonce = nonce_in(wants(client, 1.0))
    direct(client, 1.1, ELSEWHERE, nonce_trailer(nonce))
    assert peer_of(client).symmetric
    assert peer_of(client).send_to == ELSEWHERE


@pytest.mark.requirement("UP11", "HP1")
def test_a_port_that_was_opened_for_hairpinning_alone_changes_no_routes() -> None:
    client = client_behind(symmetric=True, upnp=True, extensions={Extension.SYMMETRIC, Extension.HAIRPINNING})
    wants(client, 1.0)
    direct(client, 1.1, ELSEWHERE, nonce_trailer(peer_of(client).nonce_sent))
    (data,) = tick(client, 3.0)
    assert (data.to, decode(data.data).is_bubble) == (ELSEWHERE, False)


@pytest.mark.requirement("UP11")
def test_a_peer_that_is_not_behind_a_symmetric_nat_gets_its_data_where_it_was_seen() -> None:
    client = upnp_client()
    direct(client, 1.0, PEER_ENDPOINT)
    assert (peer_of(client).symmetric, peer_of(client).send_to) == (False, PEER_ENDPOINT)


@pytest.mark.requirement("UP14")
def test_who_hears_a_peer_but_cannot_know_that_it_is_heard_waits_as_long_as_the_peer_calls() -> None:
    """A peer that goes on calling has not heard us: data would be lost, and nobody told."""
    client = upnp_client()
    nonce = nonce_in(wants(client, 1.0))
    direct(client, 1.1, ELSEWHERE, nonce_trailer(nonce))
    sends = tick(client, 3.0) + call(client, 3.5, nonce_trailer(NONCE)) + tick(client, 5.0) + tick(client, 5.5)
    assert len(sends) == 5
    assert all(decode(send.data).is_bubble for send in sends)


@pytest.mark.requirement("UP14")
def test_who_hears_a_peer_that_calls_no_more_is_heard() -> None:
    client = upnp_client()
    nonce = nonce_in(wants(client, 1.0))
    call(client, 1.1, nonce_trailer(NONCE))
    direct(client, 1.2, ELSEWHERE, nonce_trailer(nonce))
    assert all(decode(send.data).is_bubble for send in tick(client, 3.1))
    nonce = peer_of(client).nonce_sent
    direct(client, 3.2, ELSEWHERE, nonce_trailer(nonce))
    data = [send for send in tick(client, 5.1) if not decode(send.data).is_bubble]
    assert [send.to for send in data] == [PEER_ENDPOINT]


def test_the_address_is_kept_when_the_port_was_opened() -> None:
    client = upnp_client()
    assert not any(isinstance(action, Configure) for action in client.actions())
    assert [send.to for send in wants(client, 1.0)] == [PEER_ENDPOINT, OTHER_SERVER]
