"""Secure qualification, at both ends (RFC 4380 section 5.2.2)."""

from __future__ import annotations

import pytest

from lab.teredo import auth
from lab.teredo.client import State
from lab.teredo.packet import (
    Authentication,
    decode,
    router_solicitation,
)
from lab.teredo.solicitation import SOLICITATION_SOURCE
from tests.unit.helpers.teredo import (
    MAPPED,
    PRIMARY,
    advertise,
    new_client,
    new_server,
    outcome,
    silent,
    state_of,
)

NONCE = b"\1\2\3\4\5\6\7\x08"
SECRET = b"between us"
SOLICITATION = Authentication(NONCE).encode() + router_solicitation(SOLICITATION_SOURCE)


def sealed(client_id: bytes, secret: bytes) -> bytes:
    ipv6 = router_solicitation(SOLICITATION_SOURCE)
    return auth.seal(secret, Authentication(NONCE, client_id), b"", ipv6).encode() + ipv6


# The client


@pytest.mark.requirement("S4", "S5")
def test_a_client_with_a_secret_seals_its_solicitation() -> None:
    client = new_client(client_id=b"me", secret=b"between us")
    client.start(0.0)
    packet = decode(outcome(client).only_sent.data)
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
    answer = sealed_answer(outcome(client).only_sent.data, secret, client_id, confirmation)
    client.datagram(answer, PRIMARY, 0.1)
    assert outcome(client).drops == ([] if why is None else [f"advertisement: {why}"])
    assert state_of(client) is (State.SECONDARY if why is None else State.PRIMARY)


@pytest.mark.requirement("S5")
def test_a_client_with_a_secret_takes_no_answer_without_a_value() -> None:
    client = new_client(secret=b"between us")
    client.start(0.0)
    client.datagram(advertise(outcome(client).only_sent.data), PRIMARY, 0.1)
    assert state_of(client) is State.PRIMARY


# The server


@pytest.mark.requirement("V21", "V6", "S4")
def test_the_right_secret_gets_a_sealed_answer() -> None:
    server = new_server(secrets={b"me": SECRET})
    server.datagram(sealed(b"me", SECRET), MAPPED, 1.0)
    packet = decode(outcome(server).sent[0].data)
    assert packet.authentication is not None
    assert (packet.authentication.client_id, packet.authentication.nonce) == (b"me", NONCE)
    assert packet.authentication.confirmation == 0
    assert auth.verify(SECRET, packet)


@pytest.mark.requirement("V21", "S3")
def test_a_retired_key_gets_a_sealed_answer_with_a_confirmation_byte() -> None:
    server = new_server(secrets={b"me": SECRET}, retired=frozenset({b"me"}))
    server.datagram(sealed(b"me", SECRET), MAPPED, 1.0)
    packet = decode(outcome(server).sent[0].data)
    assert packet.authentication is not None
    assert packet.authentication.confirmation != 0
    assert auth.verify(SECRET, packet)


@pytest.mark.requirement("V6")
@pytest.mark.parametrize(
    "data",
    [sealed(b"me", b"wrong"), sealed(b"you", SECRET), SOLICITATION, router_solicitation(SOLICITATION_SOURCE)],
    ids=["wrong secret", "unknown identifier", "no value", "no header"],
)
def test_without_the_right_secret_there_is_no_answer(data: bytes) -> None:
    server = new_server(secrets={b"me": SECRET})
    assert silent(server, data, MAPPED)
    assert server.snapshot(1.0)["secure"]
