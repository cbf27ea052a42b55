"""Sequential Port-Symmetric NAT (RFC 6081 section 5.5): echo tests, and the port that they foretell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.teredo.address import Endpoint
from lab.teredo.auth import verify
from lab.teredo.bubbles import MAX_RANDOM_PORTS, RANDOM_PORTS, predicted_port
from lab.teredo.client import Client, State
from lab.teredo.extensions import Extension
from lab.teredo.machine import Close, Open, Send
from lab.teredo.packet import decode
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

WITH_TESTS = frozenset({Extension.SYMMETRIC, Extension.PORT_PRESERVING, Extension.SEQUENTIAL})


def counting() -> Client:
    """Behind a symmetric NAT that does not preserve ports."""
    return client_behind(symmetric=True, local=OTHER_LOCAL, extensions=WITH_TESTS)


def answer(client: Client, send: Send, port: int, now: float) -> list[Send]:
    """The server answers one solicitation of an echo test; what the client sends for it."""
    client.datagram(advertise(send.data, Endpoint(MAPPED.host, port)), send.to, now, send.port)
    return sent(client.actions())


def foretold(client: Client, now: float = 1.0) -> list[Send]:
    """Have the client call the peer, with an echo test that foretells port 1201; what it sends at the end of it."""
    first, second = solicitations(wants(client, now))
    assert answer(client, first, 1200, now) == []
    return answer(client, second, 1202, now)


def to_server(sends: list[Send]) -> list[Send]:
    return [send for send in sends if send.to == OTHER_SERVER]


# When there is a test (section 5.5.4.1)


@pytest.mark.requirement("SQ2", "SQ3")
@pytest.mark.parametrize(
    ("symmetric", "local", "extensions"),
    [(False, OTHER_LOCAL, WITH_TESTS), (True, LOCAL, WITH_TESTS), (True, OTHER_LOCAL, WITH_TESTS - {"sequential"})],
)
def test_there_is_an_echo_test_behind_a_symmetric_nat_that_does_not_preserve_ports_and_else_none(
    symmetric: bool, local: Endpoint, extensions: frozenset[Extension]
) -> None:
    client = client_behind(symmetric=symmetric, local=local, extensions=extensions)
    sends = wants(client, 1.0)
    assert solicitations(sends) == []
    assert len(to_server(sends)) == 1


@pytest.mark.requirement("SQ3")
def test_the_indirect_bubble_waits_for_the_end_of_the_test() -> None:
    client = counting()
    assert to_server(wants(client, 1.0)) == []
    assert len(peer_of(client).nonce_sent) == 0
    assert to_server(tick(client, 1.9)) == []


@pytest.mark.requirement("SQ3")
def test_a_port_is_opened_before_anything_is_sent_from_it() -> None:
    client = counting()
    client.packet(payload(own(client), PEER), 1.0)
    actions = [action for action in client.actions() if isinstance(action, Open | Send)]
    (opened,) = (action for action in actions if isinstance(action, Open))
    from_it = [action for action in actions if isinstance(action, Send) and action.port]
    assert {send.port for send in from_it} == {opened.port}
    assert actions.index(opened) < actions.index(from_it[0])


@pytest.mark.requirement("SQ3")
def test_a_peer_that_is_trusted_needs_no_test() -> None:
    client = counting()
    direct(client, 1.0, PEER_ENDPOINT)
    sends = wants(client, 1.1) + call(client, 1.2, nonce_trailer(NONCE))
    assert solicitations(sends) == []


@pytest.mark.requirement("SQ3")
def test_a_port_that_is_foretold_already_needs_no_other_test() -> None:
    client = counting()
    (first,) = foretold(client)
    again = tick(client, 3.0)
    assert solicitations(again) == []
    assert [trailers_of(send).random_port for send in [first, *to_server(again)]] == [1201, 1201]


@pytest.mark.requirement("SQ3", "SN11")
def test_a_callee_tests_too_before_it_calls_back() -> None:
    client = counting()
    sends = call(client, 1.0, nonce_trailer(NONCE))
    assert [send.to for send in solicitations(sends)] == [PRIMARY, SECONDARY]
    assert to_server(sends) == []
    assert len(to_server([*tick(client, 2.0), *tick(client, 4.0)])) == 1


@pytest.mark.requirement("SQ3")
def test_one_test_at_a_time_is_enough_for_a_peer() -> None:
    client = counting()
    wants(client, 1.0)
    assert solicitations(call(client, 1.1, nonce_trailer(NONCE))) == []
    assert len(client._ports) == 1


@pytest.mark.requirement("SQ14", "SN4")
def test_first_of_all_goes_a_plain_bubble_from_the_service_port() -> None:
    client = counting()
    first, *_ = wants(client, 1.0)
    assert (first.to, first.port, trailers_of(first)) == (PEER_ENDPOINT, 0, NO_TRAILERS)


# The test (section 5.5.4.1.1)


@pytest.mark.requirement("SQ4")
def test_both_solicitations_have_nonces_of_their_own() -> None:
    client = counting()
    headers = [decode(send.data).authentication for send in solicitations(wants(client, 1.0))]
    nonces = [header.nonce for header in headers if header is not None]
    assert len(set(nonces)) == 2
    assert {len(nonce) for nonce in nonces} == {8}
    test = peer_of(client).echo_test
    assert test is not None
    assert test.nonces == tuple(nonces)


@pytest.mark.requirement("SQ4", "S4")
def test_a_client_with_a_secret_seals_its_tests() -> None:
    client = client_behind(symmetric=False, local=OTHER_LOCAL, extensions=WITH_TESTS)
    client._solicitation._secret, client._solicitation._client_id = b"secret", b"alice"
    client.nat.symmetric = True
    for send in solicitations(wants(client, 1.0)):
        assert verify(b"secret", decode(send.data))


@pytest.mark.requirement("SQ5", "SQ6")
def test_the_second_test_begins_after_one_second_and_lasts_two() -> None:
    client = counting()
    wants(client, 1.0)
    assert solicitations(tick(client, 1.99)) == []
    assert len(solicitations(tick(client, 2.0))) == 2
    assert to_server(tick(client, 3.99)) == []
    assert len(to_server(tick(client, 4.0))) == 1


@pytest.mark.requirement("SQ6")
def test_there_is_no_third_test() -> None:
    client = counting()
    wants(client, 1.0)
    tick(client, 2.0)
    later = [send for tenth in range(21, 40) for send in tick(client, tenth / 10)]
    assert solicitations(later) == []


@pytest.mark.requirement("SQ7")
def test_the_answers_may_come_in_any_order() -> None:
    client = counting()
    first, second = solicitations(wants(client, 1.0))
    assert answer(client, second, 1202, 1.1) == []
    (announcing,) = answer(client, first, 1200, 1.2)
    assert trailers_of(announcing).random_port == 1201


@pytest.mark.requirement("SQ7")
def test_one_answer_alone_foretells_nothing_and_only_the_first_of_each_server_counts() -> None:
    client = counting()
    first, second = solicitations(wants(client, 1.0))
    for port in (1200, 1900):
        assert answer(client, first, port, 1.1) == []
    (announcing,) = answer(client, second, 1202, 1.2)
    assert trailers_of(announcing).random_port == 1201
    assert answer(client, second, 1300, 1.3) == []
    assert peer_of(client).random_port == 1201


@pytest.mark.requirement("SQ7")
def test_the_first_answer_of_the_secondary_server_counts_too() -> None:
    client = counting()
    first, second = solicitations(wants(client, 1.0))
    for port in (1202, 1900):
        assert answer(client, second, port, 1.1) == []
    (announcing,) = answer(client, first, 1200, 1.2)
    assert trailers_of(announcing).random_port == 1201


@pytest.mark.requirement("SQ7", "SQ13")
def test_the_primary_server_saw_the_earlier_port_even_if_it_is_the_higher_one() -> None:
    client = counting()
    first, second = solicitations(wants(client, 1.0))
    answer(client, first, 65534, 1.1)
    (announcing,) = answer(client, second, 1024, 1.2)
    assert trailers_of(announcing).random_port == 65535


@pytest.mark.requirement("SQ7")
def test_answers_to_the_first_test_are_none_to_the_second() -> None:
    client = counting()
    first, second = solicitations(wants(client, 1.0))
    tick(client, 2.0)
    assert answer(client, first, 1200, 2.1) + answer(client, second, 1202, 2.1) == []
    assert [event for event in outcome(client).events if event.name == "state"] == []


@pytest.mark.requirement("SQ6", "SQ7")
def test_answers_after_both_tests_have_failed_come_too_late() -> None:
    client = counting()
    wants(client, 1.0)
    first, second = solicitations(tick(client, 2.0))
    tick(client, 4.0)
    assert answer(client, first, 1200, 4.1) + answer(client, second, 1202, 4.1) == []


@pytest.mark.requirement("SQ7", "Q10")
def test_an_echo_test_does_not_change_the_address() -> None:
    client = counting()
    before = own(client)
    foretold(client)
    assert own(client) == before
    assert client.state is State.QUALIFIED


# The port that it foretells (section 5.5.4.4)


@pytest.mark.requirement("SQ8")
@given(st.integers(1024, 65535), st.integers(0, 400))
def test_between_two_ports_of_one_count_is_the_middle_one(lower: int, steps: int) -> None:
    def after(count: int) -> int:
        return 1024 + (lower - 1024 + count) % (65536 - 1024)

    assert predicted_port(lower, after(steps)) == after(steps // 2)


@pytest.mark.requirement("SQ8")
@given(st.integers(1, 65535), st.integers(1, 65535))
def test_a_count_that_goes_up_has_the_average_of_the_text(one: int, other: int) -> None:
    lower, upper = sorted((one, other))
    assert predicted_port(lower, upper) == (lower + upper) // 2


@pytest.mark.requirement("SQ8", "SQ13")
@given(st.integers(1, 65535), st.integers(1, 65535))
def test_whatever_the_servers_see_a_port_is_foretold(lower: int, upper: int) -> None:
    assert 1 <= predicted_port(lower, upper) <= 65535


@pytest.mark.requirement("SQ9", "SN2")
def test_the_indirect_bubble_has_both_its_nonce_and_the_foretold_port() -> None:
    client = counting()
    (announcing,) = foretold(client)
    assert (announcing.to, announcing.port) == (OTHER_SERVER, 0)
    assert trailers_of(announcing).random_port == 1201
    assert trailers_of(announcing).nonce == peer_of(client).nonce_sent != b""


@pytest.mark.requirement("SQ12")
def test_data_go_from_the_local_port_and_not_from_the_foretold_one() -> None:
    client = counting()
    foretold(client)
    peer = peer_of(client)
    direct(client, 1.1, PEER_ENDPOINT, nonce_trailer(peer.nonce_sent), peer.local_port)
    (data, *_) = [send for send in tick(client, 3.0) if not decode(send.data).is_bubble]
    assert data.port == peer.local_port != 1201
    assert peer.local_port in RANDOM_PORTS


@pytest.mark.requirement("PP8", "SQ9", "SQ12")
def test_a_bubble_to_an_announced_port_goes_from_the_local_port_and_says_the_foretold_one() -> None:
    client = counting()
    foretold(client)
    sends = call(client, 1.2, nonce_trailer(NONCE) + random_port_trailer(PEER_PORT.port))
    (bubble_to_it,) = (send for send in sends if send.to == PEER_PORT)
    assert bubble_to_it.port == peer_of(client).local_port
    assert trailers_of(bubble_to_it).random_port == 1201


# Direct bubbles (section 5.5.4.3)


def test_the_first_bubble_on_the_random_port_is_answered_from_it() -> None:
    """Packet 11 of section 6.4: our NAT has given the peer's bubble a way in, and now the peer's gets one."""
    client = counting()
    foretold(client)
    peer = peer_of(client)
    for now, answers in ((1.1, [(peer.local_port, PEER_ENDPOINT)]), (1.2, [])):
        sends = direct(client, now, PEER_ENDPOINT, nonce_trailer(peer.nonce_sent), peer.local_port)
        assert [(send.port, send.to) for send in sends if decode(send.data).is_bubble] == answers


def test_a_callee_answers_it_too() -> None:
    client = counting()
    call(client, 1.0, nonce_trailer(NONCE))
    peer = peer_of(client)
    (answered,) = direct(client, 1.1, PEER_ENDPOINT, b"", peer.local_port)
    assert (answered.port, answered.to) == (peer.local_port, PEER_ENDPOINT)


@pytest.mark.requirement("SQ10")
def test_a_bubble_on_the_primary_port_ends_the_test_and_closes_its_port() -> None:
    client = counting()
    first, second = solicitations(wants(client, 1.0))
    direct(client, 1.1, PEER_ENDPOINT)
    assert answer(client, first, 1200, 1.2) + answer(client, second, 1202, 1.2) == []
    assert peer_of(client).random_port == 0
    assert solicitations(tick(client, 2.0) + tick(client, 4.0)) == []


@pytest.mark.requirement("SQ10", "PP16")
def test_another_mapping_on_the_random_port_leads_to_a_new_test() -> None:
    client = counting()
    foretold(client)
    peer = peer_of(client)
    nonce, port = nonce_trailer(peer.nonce_sent), peer.local_port
    direct(client, 1.1, PEER_PORT, nonce, port)
    sends = direct(client, 5.0, Endpoint(PEER_PORT.host, 4444), nonce, port)
    assert len(solicitations(sends)) == 2
    assert peer.local_port not in (0, port)


@pytest.mark.requirement("SQ11")
def test_the_refresh_of_peers_forgets_a_test_that_is_over() -> None:
    client = counting()
    wants(client, 1.0)
    tick(client, 2.0)
    tick(client, 4.0)
    peer = peer_of(client)
    assert peer.echo_test is not None
    client._refresh_peers(5.0)
    assert peer.echo_test is None


@pytest.mark.requirement("SQ11")
def test_the_refresh_of_peers_leaves_a_test_alone_that_is_under_way() -> None:
    client = counting()
    first, second = solicitations(wants(client, 1.0))
    client._refresh_peers(1.1)
    assert answer(client, first, 1200, 1.2) + answer(client, second, 1202, 1.2) != []


# What may go wrong


def test_a_peer_that_is_given_up_leaves_neither_test_nor_port() -> None:
    client = counting()
    wants(client, 1.0)
    client.actions()
    for now in (2.0, 3.0, 4.0, 5.0, 7.0, 9.0, 10.0):
        client.tick(now)
    assert client._ports == {}
    assert sum(isinstance(action, Close) for action in client.actions()) == 1
    assert tick(client, 20.0) == []


def test_a_port_that_is_refused_ends_the_test_and_the_indirect_bubble_goes_without_it() -> None:
    client = counting()
    wants(client, 1.0)
    client.port_refused(peer_of(client).local_port, 1.0)
    (plain,) = to_server(sent(client.actions()))
    assert trailers_of(plain).random_port == 0
    assert solicitations(tick(client, 2.0)) == []


def test_a_peer_beyond_the_last_random_port_is_called_without_a_test() -> None:
    client = counting()
    for number in range(MAX_RANDOM_PORTS):
        client.packet(payload(own(client), teredo(Endpoint("198.51.100.21", 4000 + number))), 1.0)
    client.actions()
    sends = wants(client, 1.1)
    assert solicitations(sends) == []
    assert [trailers_of(send).random_port for send in to_server(sends)] == [0]


def test_a_solicitation_on_a_random_port_is_dropped() -> None:
    client = counting()
    first, *_ = solicitations(wants(client, 1.0))
    client.datagram(first.data, ELSEWHERE, 1.1, first.port)
    done = outcome(client)
    assert (done.sent, done.drops) == ([], ["solicitation"])


@pytest.mark.requirement("SQ7")
def test_servers_do_not_speak_for_each_other() -> None:
    client = counting()
    first, second = solicitations(wants(client, 1.0))
    for send, other in ((first, SECONDARY), (second, PRIMARY)):
        client.datagram(advertise(send.data, AGAIN), other, 1.1, send.port)
    test = peer_of(client).echo_test
    assert test is not None
    assert (test.lower, test.upper) == (0, 0)
