"""How a client judges router advertisements (RFC 4380 section 5.2.1)."""

from __future__ import annotations

from typing import Any

import pytest

from lab.teredo.address import Endpoint
from lab.teredo.client import State
from lab.teredo.packet import (
    ROUTER_ADVERTISEMENT,
    advertisement,
    decode,
    icmpv6,
    origin_indication,
)
from lab.teredo.solicitation import SOLICITATION_SOURCE
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    FORBIDDEN_HOSTS,
    HOST,
    MAPPED,
    OTHER_SERVER,
    PRIMARY,
    SECONDARY,
    SERVER_LINK_LOCAL,
    advertise,
    mtu_option,
    new_client,
    outcome,
    prefix_option,
    qualified_client,
    state_of,
)


@pytest.mark.requirement("Q10", "Q11", "Q13", "Q17", "F5", "F7", "U1")
def test_two_answers_with_one_mapping_give_the_address_of_that_mapping() -> None:
    client = new_client()
    client.start(0.0)
    for server in (PRIMARY, SECONDARY):
        solicitation = outcome(client).only_sent
        assert solicitation.to == server
        assert client.address is None
        client.datagram(advertise(solicitation.data), server, 0.1)
    assert client.address is not None
    assert (client.address.server, client.address.mapped) == (PRIMARY.host, MAPPED)
    assert client.address.flags & ~0x3CFF == 0
    assert state_of(client) is State.QUALIFIED
    assert client.nat.symmetric is False
    assert outcome(client).configured == [client.address.packed]


@pytest.mark.requirement("Q12")
@pytest.mark.parametrize(
    "seen", [Endpoint(MAPPED.host, 50000), Endpoint("192.0.2.10", MAPPED.port)], ids=["port", "address"]
)
def test_another_mapping_for_the_secondary_server_is_a_symmetric_nat(seen: Endpoint) -> None:
    client = new_client()
    client.start(0.0)
    client.datagram(advertise(outcome(client).only_sent.data), PRIMARY, 0.1)
    client.datagram(advertise(outcome(client).only_sent.data, seen), SECONDARY, 0.2)
    assert (state_of(client), client.nat.symmetric, client.address) == (State.OFFLINE, True, None)
    assert client.reason == f"symmetric NAT: mapped to {MAPPED} for the primary server and to {seen} for the secondary"
    assert outcome(client).configured == []
    assert client.snapshot(0.2)["nat"] == "symmetric"
    assert client.snapshot(0.2)["external_mapping"] is None


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "hop limit": ({"hop_limit": 254}, "invalid"),
    "code": ({"code": 1}, "invalid"),
    "IPv6 source": ({"source": HOST}, "invalid"),
    "nonce": ({"nonce": b"87654321"}, "wrong nonce"),
    "no authentication": ({"authenticated": False}, "wrong nonce"),
    "no origin": ({"origin": None}, "no origin indication"),
    "confirmation byte": ({"confirmation": 1}, "the server asks for a new key"),
    "IPv6 destination": ({"destination": SERVER_LINK_LOCAL}, "not to our link-local address"),
    "no prefix": ({"options": b""}, "invalid"),
    "two prefixes": ({"options": prefix_option() * 2}, "invalid"),
    "a second prefix, cut short": ({"options": prefix_option() + b"\3\1" + bytes(6)}, "invalid"),
    "prefix length": ({"options": prefix_option(length=48)}, "invalid"),
    "other server's prefix": ({"options": prefix_option(OTHER_SERVER.host)}, "prefix is not the server's"),
    "secondary server's prefix": ({"options": prefix_option(SECONDARY.host)}, "prefix is not the server's"),
    "not the Teredo prefix": ({"options": prefix_option(prefix=b"\x3f\xfe\x83\x1f")}, "prefix is not the server's"),
    "empty option": ({"options": prefix_option() + bytes(8)}, "invalid"),
    "option beyond the end": ({"options": prefix_option() + b"\5\2" + bytes(6)}, "invalid"),
    "private origin": ({"origin": Endpoint("10.0.0.1", 4000)}, "mapped address is not global"),
    "origin port 0": ({"origin": Endpoint("192.0.2.9", 0)}, "mapped address is not global"),
}


@pytest.mark.requirement("Q4", "Q5", "Q6", "Q7", "Q8", "Q9", "S1", "S3", "F9")
@pytest.mark.parametrize("phase", [State.PRIMARY, State.SECONDARY])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_advertisement_with_a_fault_is_dropped_and_waiting_goes_on(fault: str, phase: State) -> None:
    spoiled, why = FAULTS[fault]
    client = new_client()
    client.start(0.0)
    solicitation = outcome(client).only_sent
    server = PRIMARY
    if phase is State.SECONDARY:
        client.datagram(advertise(solicitation.data), PRIMARY, 0.1)
        solicitation, server = outcome(client).only_sent, SECONDARY
    timer = client.next_timer
    client.datagram(advertise(solicitation.data, **spoiled), server, 0.2)
    done = outcome(client)
    assert done.quiet
    assert done.drops == [f"advertisement: {why}"]
    assert (state_of(client), client.next_timer) == (phase, timer)
    client.datagram(advertise(solicitation.data), server, 0.3)
    assert state_of(client) is (State.SECONDARY if phase is State.PRIMARY else State.QUALIFIED)


@pytest.mark.requirement("Q5")
@pytest.mark.parametrize("at", [-1, -100])
def test_an_advertisement_with_a_wrong_checksum_is_dropped(at: int) -> None:
    client = new_client()
    client.start(0.0)
    data = bytearray(advertise(outcome(client).only_sent.data, options=prefix_option() + mtu_option(1280)))
    data[-5 if at == -1 else -39] ^= 1
    client.datagram(bytes(data), PRIMARY, 0.1)
    assert outcome(client).drops == ["advertisement: invalid"]


@pytest.mark.requirement("Q5")
def test_an_advertisement_shorter_than_16_bytes_is_dropped() -> None:
    client = new_client()
    client.start(0.0)
    asked = decode(outcome(client).only_sent.data).authentication
    assert asked is not None
    short = icmpv6(SERVER_LINK_LOCAL, SOLICITATION_SOURCE, ROUTER_ADVERTISEMENT, 0, bytes(8))
    assert advertisement(decode(short)) is None
    client.datagram(asked.encode() + origin_indication(MAPPED) + short, PRIMARY, 0.1)
    assert state_of(client) is State.PRIMARY


@pytest.mark.requirement("Q15")
@pytest.mark.parametrize("source", [SECONDARY, OTHER_SERVER, ELSEWHERE, Endpoint(PRIMARY.host, 3545)], ids=str)
def test_an_advertisement_from_anywhere_but_the_server_asked_is_dropped(source: Endpoint) -> None:
    client = new_client()
    client.start(0.0)
    client.datagram(advertise(outcome(client).only_sent.data), source, 0.1)
    assert outcome(client).drops == ["advertisement: not from the server asked"]


@pytest.mark.requirement("F9", "A4")
@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_a_mapping_that_is_not_global_is_never_used(host: str) -> None:
    client = new_client()
    client.start(0.0)
    client.datagram(advertise(outcome(client).only_sent.data, Endpoint(host, 4000)), PRIMARY, 0.1)
    assert state_of(client) is State.PRIMARY


def test_the_reason_for_being_off_line_names_what_was_wrong_with_the_answers() -> None:
    client = new_client()
    client.start(0.0)
    client.datagram(advertise(outcome(client).only_sent.data, hop_limit=1), PRIMARY, 0.1)
    for now in (4.0, 8.0, 12.0):
        client.tick(now)
    assert client.reason == "no valid answer (invalid) from server 203.0.113.1"


@pytest.mark.requirement("S1", "Q9")
def test_the_answer_to_an_earlier_solicitation_is_dropped() -> None:
    client = new_client()
    client.start(0.0)
    first = outcome(client).only_sent
    client.tick(4.0)
    client.datagram(advertise(first.data), PRIMARY, 4.1)
    assert outcome(client).drops == ["advertisement: wrong nonce"]


@pytest.mark.requirement("R15", "Q9")
def test_an_advertisement_that_nobody_asked_for_changes_nothing_and_reaches_nobody() -> None:
    client = new_client()
    client.start(0.0)
    solicitation = outcome(client).only_sent
    for _ in range(2):
        client.datagram(advertise(solicitation.data), PRIMARY, 0.1)
    assert state_of(client) is State.SECONDARY
    client, _ = qualified_client()
    client.datagram(advertise(solicitation.data, ELSEWHERE), PRIMARY, 1.0)
    done = outcome(client)
    assert done.quiet
    assert done.drops == ["advertisement: not asked for"]


@pytest.mark.requirement("Q16", "F15")
@pytest.mark.parametrize(
    ("options", "mtu"),
    [(b"", 1280), (mtu_option(1400), 1400), (mtu_option(576), 1280), (mtu_option(1 << 20), 1280)],
    ids=["none", "1400", "too small", "too large"],
)
def test_the_mtu_is_the_advertised_one_or_1280(options: bytes, mtu: int) -> None:
    client = new_client()
    client.start(0.0)
    for server in (PRIMARY, SECONDARY):
        data = advertise(outcome(client).only_sent.data, options=prefix_option() + options)
        client.datagram(data, server, 0.1)
    assert state_of(client) is State.QUALIFIED
    assert client.mtu == client.snapshot(1.0)["mtu"] == mtu
