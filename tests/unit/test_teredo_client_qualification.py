"""How a client qualifies (RFC 4380 sections 5.2.1 and 5.2.2, RFC 5991 section 3.2)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_RS, IPv6

from lab.teredo import auth, runner
from lab.teredo.address import UNSPECIFIED, Endpoint, cone_bit, is_link_local, text
from lab.teredo.client import SOLICITATION_SOURCE, ClientConfig, State
from lab.teredo.machine import Send
from lab.teredo.packet import (
    ROUTER_ADVERTISEMENT,
    Authentication,
    advertisement,
    decode,
    icmpv6,
    is_router_solicitation,
    origin_indication,
)
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    FORBIDDEN_HOSTS,
    HOST,
    MAPPED,
    OTHER_SERVER,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    SECONDARY,
    SERVER_LINK_LOCAL,
    advertise,
    indirect_bubble,
    mtu_option,
    new_client,
    outcome,
    payload,
    prefix_option,
    qualified_client,
    qualify,
)


def only(sent: list[Send]) -> Send:
    (one,) = sent
    return one


# Solicitations


@pytest.mark.requirement("Q1", "Q2", "F1", "F7", "U3", "S2", "S3")
def test_a_client_starts_with_a_solicitation_to_the_primary_server_with_the_cone_bit_clear() -> None:
    client = new_client()
    client.start(0.0)
    sent = only(outcome(client).sent)
    packet = decode(sent.data)
    assert sent.to == PRIMARY
    assert len(sent.data) == 61
    assert packet.authentication is not None
    assert packet.authentication == Authentication(packet.authentication.nonce)
    assert is_router_solicitation(packet)
    assert is_link_local(packet.source)
    assert not cone_bit(packet.source)
    assert IPv6(packet.ipv6).haslayer(ICMPv6ND_RS)
    assert client.state is State.PRIMARY


@pytest.mark.requirement("Q3", "S7")
def test_three_solicitations_4_seconds_apart_and_then_off_line() -> None:
    client = new_client()
    client.start(100.0)
    sent = outcome(client).sent
    for due in (104.0, 108.0):
        assert client.next_timer == due
        client.tick(due - 0.001)
        assert outcome(client).quiet
        client.tick(due)
        sent += outcome(client).sent
    assert client.state is State.PRIMARY
    client.tick(112.0)
    assert outcome(client).quiet
    assert client.state is State.OFFLINE
    assert client.reason == "no answer from server 203.0.113.1"
    assert [one.to for one in sent] == [PRIMARY] * 3
    assert len({decode(one.data).authentication for one in sent}) == 3, "a nonce of its own for each"


@pytest.mark.requirement("Q11")
def test_no_answer_from_the_secondary_server_is_off_line_too() -> None:
    client = new_client()
    client.start(0.0)
    client.datagram(advertise(only(outcome(client).sent).data), PRIMARY, 0.1)
    assert client.state is State.SECONDARY
    sent = outcome(client).sent
    for _ in range(3):
        assert client.next_timer is not None
        client.tick(client.next_timer)
        sent += outcome(client).sent
    assert [one.to for one in sent] == [SECONDARY] * 3
    assert (client.state, client.reason) == (State.OFFLINE, "no answer from server 203.0.113.2")
    assert client.address is None


@pytest.mark.requirement("M9")
def test_an_off_line_client_tries_again_ever_more_rarely() -> None:
    client = new_client()
    client.start(0.0)
    outcome(client)
    delays = []
    for _ in range(6):
        while client.state is not State.OFFLINE:
            assert client.next_timer is not None
            client.tick(client.next_timer)
        gone, again = client.next_timer, 0.0
        assert gone is not None
        again = gone
        client.tick(again - 0.001)
        assert client.state is State.OFFLINE
        outcome(client)
        client.tick(again)
        assert only(outcome(client).sent).to == PRIMARY
        delays.append(again)
    pauses = [later - earlier - 12.0 for earlier, later in zip([0.0, *delays], delays, strict=False)]
    assert pauses == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]


@pytest.mark.requirement("M9")
def test_after_a_success_the_pauses_are_short_again() -> None:
    client = new_client()
    client.start(0.0)
    for _ in range(3 + 1 + 3):
        assert client.next_timer is not None
        client.tick(client.next_timer)
    assert client.state is State.OFFLINE
    outcome(client)
    qualify(client, 200.0)
    for _ in range(4):
        assert client.next_timer is not None
        client.tick(client.next_timer)
        gone = client.next_timer
    assert client.state is State.OFFLINE
    client.tick(gone or 0.0)
    before = client.snapshot(0.0)["counters"]["solicitations"]
    assert client.state is State.PRIMARY
    assert before == 3 + 3 + 2 + 3 + 1


@pytest.mark.requirement("S7", "X12", "U2")
def test_programs_draw_from_the_system_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    class Made(Exception):  # noqa: N818 - not an error, but the end of the test
        pass

    def made(_config: object, rng: Random, *_: object) -> None:
        raise Made(type(rng))

    for machine in ("Client", "Relay", "Server"):
        monkeypatch.setattr(runner, machine, made)

    async def run() -> None:
        common: dict[str, Any] = {"tun": "none", "notify": lambda *_: None, "stop": asyncio.Event()}
        for start in (
            lambda: runner.run_client(ClientConfig(PRIMARY.host, SECONDARY.host), bind="", port=0, **common),
            lambda: runner.run_relay(None, bind="", port=0, **common),  # type: ignore[arg-type]
            lambda: runner.run_server(None, **common),  # type: ignore[arg-type]
        ):
            with pytest.raises(Made) as caught:
                await start()
            assert caught.value.args == (SystemRandom,)

    asyncio.run(run())


# Advertisements


@pytest.mark.requirement("Q10", "Q11", "Q13", "Q17", "F5", "F7", "U1")
def test_two_answers_with_one_mapping_give_the_address_of_that_mapping() -> None:
    client = new_client()
    client.start(0.0)
    for server in (PRIMARY, SECONDARY):
        solicitation = only(outcome(client).sent)
        assert solicitation.to == server
        assert client.address is None
        client.datagram(advertise(solicitation.data), server, 0.1)
    assert client.address is not None
    assert (client.address.server, client.address.mapped) == (PRIMARY.host, MAPPED)
    assert client.address.flags & ~0x3CFF == 0
    assert client.state is State.QUALIFIED
    assert client.symmetric is False
    assert outcome(client).configured == [client.address.packed]


@pytest.mark.requirement("Q12")
@pytest.mark.parametrize(
    "seen", [Endpoint(MAPPED.host, 50000), Endpoint("192.0.2.10", MAPPED.port)], ids=["port", "address"]
)
def test_another_mapping_for_the_secondary_server_is_a_symmetric_nat(seen: Endpoint) -> None:
    client = new_client()
    client.start(0.0)
    client.datagram(advertise(only(outcome(client).sent).data), PRIMARY, 0.1)
    client.datagram(advertise(only(outcome(client).sent).data, seen), SECONDARY, 0.2)
    assert (client.state, client.symmetric, client.address) == (State.OFFLINE, True, None)
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
    solicitation = only(outcome(client).sent)
    server = PRIMARY
    if phase is State.SECONDARY:
        client.datagram(advertise(solicitation.data), PRIMARY, 0.1)
        solicitation, server = only(outcome(client).sent), SECONDARY
    timer = client.next_timer
    client.datagram(advertise(solicitation.data, **spoiled), server, 0.2)
    done = outcome(client)
    assert done.quiet
    assert done.drops == [f"advertisement: {why}"]
    assert (client.state, client.next_timer) == (phase, timer)
    client.datagram(advertise(solicitation.data), server, 0.3)
    assert client.state is (State.SECONDARY if phase is State.PRIMARY else State.QUALIFIED)


@pytest.mark.requirement("Q5")
@pytest.mark.parametrize("at", [-1, -100])
def test_an_advertisement_with_a_wrong_checksum_is_dropped(at: int) -> None:
    client = new_client()
    client.start(0.0)
    data = bytearray(advertise(only(outcome(client).sent).data, options=prefix_option() + mtu_option(1280)))
    data[-5 if at == -1 else -39] ^= 1
    client.datagram(bytes(data), PRIMARY, 0.1)
    assert outcome(client).drops == ["advertisement: invalid"]


@pytest.mark.requirement("Q5")
def test_an_advertisement_shorter_than_16_bytes_is_dropped() -> None:
    client = new_client()
    client.start(0.0)
    asked = decode(only(outcome(client).sent).data).authentication
    assert asked is not None
    short = icmpv6(SERVER_LINK_LOCAL, SOLICITATION_SOURCE, ROUTER_ADVERTISEMENT, 0, bytes(8))
    assert advertisement(decode(short)) is None
    client.datagram(asked.encode() + origin_indication(MAPPED) + short, PRIMARY, 0.1)
    assert client.state is State.PRIMARY


@pytest.mark.requirement("Q15")
@pytest.mark.parametrize("source", [SECONDARY, OTHER_SERVER, ELSEWHERE, Endpoint(PRIMARY.host, 3545)], ids=str)
def test_an_advertisement_from_anywhere_but_the_server_asked_is_dropped(source: Endpoint) -> None:
    client = new_client()
    client.start(0.0)
    client.datagram(advertise(only(outcome(client).sent).data), source, 0.1)
    assert outcome(client).drops == ["advertisement: not from the server asked"]


@pytest.mark.requirement("F9", "A4")
@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_a_mapping_that_is_not_global_is_never_used(host: str) -> None:
    client = new_client()
    client.start(0.0)
    client.datagram(advertise(only(outcome(client).sent).data, Endpoint(host, 4000)), PRIMARY, 0.1)
    assert client.state is State.PRIMARY


def test_the_reason_for_being_off_line_names_what_was_wrong_with_the_answers() -> None:
    client = new_client()
    client.start(0.0)
    client.datagram(advertise(only(outcome(client).sent).data, hop_limit=1), PRIMARY, 0.1)
    for now in (4.0, 8.0, 12.0):
        client.tick(now)
    assert client.reason == "no valid answer (invalid) from server 203.0.113.1"


@pytest.mark.requirement("S1", "Q9")
def test_the_answer_to_an_earlier_solicitation_is_dropped() -> None:
    client = new_client()
    client.start(0.0)
    first = only(outcome(client).sent)
    client.tick(4.0)
    client.datagram(advertise(first.data), PRIMARY, 4.1)
    assert outcome(client).drops == ["advertisement: wrong nonce"]


@pytest.mark.requirement("R15", "Q9")
def test_an_advertisement_that_nobody_asked_for_changes_nothing_and_reaches_nobody() -> None:
    client = new_client()
    client.start(0.0)
    solicitation = only(outcome(client).sent)
    for _ in range(2):
        client.datagram(advertise(solicitation.data), PRIMARY, 0.1)
    assert client.state is State.SECONDARY
    client, _ = qualified_client()
    client.datagram(advertise(solicitation.data, ELSEWHERE), PRIMARY, 1.0)
    done = outcome(client)
    assert done.quiet
    assert done.drops == ["advertisement: not asked for"]


@pytest.mark.requirement("Q16", "F15")
@pytest.mark.parametrize(
    ("options", "mtu"),
    [(b"", 1280), (mtu_option(1280), 1280), (mtu_option(1400), 1400), (mtu_option(576), 1280), (mtu_option(1 << 20), 1280)],
    ids=["none", "1280", "1400", "too small", "too large"],
)
def test_the_mtu_is_the_advertised_one_or_1280(options: bytes, mtu: int) -> None:
    client = new_client()
    client.start(0.0)
    for server in (PRIMARY, SECONDARY):
        data = advertise(only(outcome(client).sent).data, options=prefix_option() + options)
        client.datagram(data, server, 0.1)
    assert client.state is State.QUALIFIED
    assert client.mtu == client.snapshot(1.0)["mtu"] == mtu


# Before it is qualified


@pytest.mark.requirement("C4")
@pytest.mark.parametrize("state", [State.INITIAL, State.PRIMARY, State.OFFLINE])
def test_an_unqualified_client_sends_nothing_but_solicitations(state: State) -> None:
    client = new_client()
    if state is not State.INITIAL:
        client.start(0.0)
    if state is State.OFFLINE:
        for now in (4.0, 8.0, 12.0):
            client.tick(now)
    outcome(client)
    own = text(PEER)
    client.packet(payload(PEER, HOST), 13.0)
    client.datagram(indirect_bubble(HOST, PEER, ELSEWHERE), PRIMARY, 13.0)
    client.datagram(payload(HOST, PEER), PEER_ENDPOINT, 13.0)
    done = outcome(client)
    assert client.state is state
    assert done.sent == []
    (refusal,) = done.delivered
    assert IPv6(refusal).dst == own
    assert IPv6(refusal).code == 0 if IPv6(refusal).haslayer("code") else refusal[40:42] == b"\1\0"


def test_an_unqualified_client_says_nothing_of_packets_without_a_source() -> None:
    client = new_client()
    client.packet(payload(UNSPECIFIED, HOST), 0.0)
    assert outcome(client).quiet


def test_starting_twice_is_starting_once() -> None:
    client = new_client()
    client.start(0.0)
    client.start(1.0)
    assert len(outcome(client).sent) == 1


# Secure qualification


@pytest.mark.requirement("S4", "S5")
def test_a_client_with_a_secret_seals_its_solicitation() -> None:
    client = new_client(client_id=b"me", secret=b"between us")
    client.start(0.0)
    packet = decode(only(outcome(client).sent).data)
    assert packet.authentication is not None
    assert (packet.authentication.client_id, len(packet.authentication.value)) == (b"me", 20)
    assert auth.verify(b"between us", packet)


def sealed_answer(solicitation: bytes, secret: bytes, client_id: bytes = b"me", confirmation: int = 0) -> bytes:
    plain = decode(advertise(solicitation))
    assert plain.authentication is not None
    header = Authentication(plain.authentication.nonce, client_id, confirmation=confirmation)
    return auth.seal(secret, header, plain.origin_bytes, plain.ipv6).encode() + plain.origin_bytes + plain.ipv6


@pytest.mark.requirement("S3", "S5")
@pytest.mark.parametrize(
    ("secret", "client_id", "confirmation", "why"),
    [
        (b"another", b"me", 0, "wrong authentication value"),
        (b"between us", b"you", 0, "wrong authentication value"),
        (b"between us", b"me", 1, "the server asks for a new key"),
        (b"between us", b"me", 0, None),
    ],
    ids=["other secret", "other identifier", "key retired", "right"],
)
def test_a_client_with_a_secret_wants_the_right_answer(
    secret: bytes, client_id: bytes, confirmation: int, why: str | None
) -> None:
    client = new_client(client_id=b"me", secret=b"between us")
    client.start(0.0)
    answer = sealed_answer(only(outcome(client).sent).data, secret, client_id, confirmation)
    client.datagram(answer, PRIMARY, 0.1)
    assert outcome(client).drops == ([] if why is None else [f"advertisement: {why}"])
    assert client.state is (State.SECONDARY if why is None else State.PRIMARY)


@pytest.mark.requirement("S5")
def test_a_client_with_a_secret_takes_no_answer_without_a_value() -> None:
    client = new_client(secret=b"between us")
    client.start(0.0)
    client.datagram(advertise(only(outcome(client).sent).data), PRIMARY, 0.1)
    assert client.state is State.PRIMARY


# Configuration


@pytest.mark.requirement("C1")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"server": "10.0.0.1"}, "not a global unicast"),
        ({"secondary": "127.0.0.1"}, "not a global unicast"),
        ({"server": "203.0.113.2"}, "must differ"),
        ({"server": "server.example"}, "server.example"),
        ({"refresh_interval": 0}, "positive"),
        ({"refresh_interval": float("nan")}, "positive"),
        ({"client_id": bytes(256), "secret": b"s"}, "255"),
        ({"client_id": b"me"}, "needs a secret"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClientConfig(**{"server": PRIMARY.host, "secondary": SECONDARY.host, **change})


# The service port (the part that needs a socket)


@pytest.mark.requirement("C2", "C3", "F16")
def test_the_service_port_is_the_one_asked_for_or_a_free_one_and_df_is_never_set() -> None:
    first, second = runner.service_socket("127.0.0.1", 0), runner.service_socket("127.0.0.1", 0)
    with first, second:
        ports = first.getsockname()[1], second.getsockname()[1]
        assert ports[0] != ports[1]
        assert first.getsockopt(0, 10) == 0  # IP_MTU_DISCOVER is IP_PMTUDISC_DONT
    with runner.service_socket("127.0.0.1", ports[0]) as chosen:
        assert chosen.getsockname()[1] == ports[0]
    assert Path(runner.__file__).exists()
