"""The server (RFC 4380 section 5.3, RFC 5991 section 3.2)."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptMTU, ICMPv6NDOptPrefixInfo, IPv6

from lab.teredo.address import UNSPECIFIED, Endpoint, cone_bit, link_local, packed, text
from lab.teredo.packet import (
    ECHO_REPLY,
    ECHO_REQUEST,
    Authentication,
    bubble,
    decode,
    echo_request,
    icmpv6,
    origin_indication,
    router_solicitation,
)
from lab.teredo.relay import RelayConfig
from lab.teredo.server import Server, ServerConfig
from lab.teredo.solicitation import SOLICITATION_SOURCE
from lab.teredo.trailers import nonce_trailer
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    FORBIDDEN_HOSTS,
    HOST,
    MAPPED,
    OTHER_SERVER,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    RELAY_ADDRESS,
    RELAY_ENDPOINT,
    SECONDARY,
    SERVER_LINK_LOCAL,
    new_server,
    outcome,
    payload,
    silent,
    teredo,
)

CLIENT = teredo(MAPPED)
"""A client of the server under test."""

CONE_SOURCE = link_local(Endpoint("0.0.0.0", 0), cone=True)
NONCE = b"\1\2\3\4\5\6\7\x08"
SOLICITATION = Authentication(NONCE).encode() + router_solicitation(SOLICITATION_SOURCE)


# Solicitations (section 5.3.2)


@pytest.mark.requirement("V6", "V16", "V17", "V19", "V21", "V26", "F10", "F14", "F15", "U5")
def test_a_solicitation_is_answered_with_the_mapping_and_the_servers_prefix() -> None:
    server = new_server()
    server.datagram(SOLICITATION, MAPPED, 1.0)
    (sent,) = outcome(server).sent
    packet = decode(sent.data)
    assert (sent.to, packet.origin) == (MAPPED, MAPPED)
    assert packet.authentication == Authentication(NONCE)
    assert packet.source == SERVER_LINK_LOCAL
    assert cone_bit(packet.source)
    assert packet.destination == SOLICITATION_SOURCE
    shown = IPv6(packet.ipv6)
    assert shown.hlim == 255
    assert shown[ICMPv6ND_RA].code == 0
    assert (shown[ICMPv6NDOptPrefixInfo].prefix, shown[ICMPv6NDOptPrefixInfo].prefixlen) == ("2001:0:cb00:7101::", 64)
    assert shown[ICMPv6NDOptMTU].mtu == 1280
    assert len(sent.data) == 117


@pytest.mark.requirement("V18", "U5", "V1")
@pytest.mark.parametrize("on_secondary", [False, True])
@pytest.mark.parametrize("cone", [False, True])
def test_the_cone_bit_asks_for_an_answer_from_the_other_address(on_secondary: bool, cone: bool) -> None:
    server = new_server()
    server.datagram(router_solicitation(link_local(ELSEWHERE, cone=cone)), MAPPED, 1.0, on_secondary=on_secondary)
    (sent,) = outcome(server).sent
    assert sent.secondary == (on_secondary != cone)
    assert text(PRIMARY_PREFIX) in str(IPv6(decode(sent.data).ipv6)[ICMPv6NDOptPrefixInfo].prefix)


PRIMARY_PREFIX = bytes.fromhex("20010000cb007101") + bytes(8)


@pytest.mark.requirement("V22")
def test_an_answer_has_no_authentication_header_if_the_solicitation_had_none() -> None:
    server = new_server()
    for data in (SOLICITATION, router_solicitation(SOLICITATION_SOURCE)):
        server.datagram(data, MAPPED, 1.0)
    first, second = (decode(sent.data) for sent in outcome(server).sent)
    assert first.authentication is not None
    assert second.authentication is None
    assert NONCE not in second.ipv6


@pytest.mark.requirement("V22", "V2")
def test_nothing_of_one_client_is_told_to_another() -> None:
    server, fresh = new_server(), new_server()
    for number in range(50):
        server.datagram(Authentication(bytes([number]) * 8).encode() + SOLICITATION[13:], ELSEWHERE, 1.0)
        server.datagram(bubble(CLIENT, PEER), MAPPED, 1.0)
    outcome(server)
    for one in (server, fresh):
        one.datagram(SOLICITATION, MAPPED, 2.0)
    assert outcome(server).sent == outcome(fresh).sent


@pytest.mark.requirement("V2")
def test_a_server_keeps_nothing_but_counters() -> None:
    server = new_server()
    for number in range(1000):
        source = Endpoint("192.0.2.1", 1 + number)
        server.datagram(SOLICITATION, source, 1.0)
        server.datagram(bubble(teredo(source), PEER), source, 1.0)
    assert server.next_timer is None
    assert server.snapshot(1.0)["counters"] == {"advertisements": 1000, "forwarded to clients": 1000}


@pytest.mark.requirement("V5", "V20", "A4")
@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_nothing_from_a_source_that_is_not_global_is_answered_or_forwarded(host: str) -> None:
    server, source = new_server(), Endpoint(host, 4000)
    assert silent(server, SOLICITATION, source)
    assert silent(server, bubble(teredo(source), PEER), source)
    assert silent(server, bubble(HOST, CLIENT), source)
    assert server.counters["dropped: source is not global"] == 6


@pytest.mark.requirement("V3", "R1")
@pytest.mark.parametrize(
    "data", [b"", b"\0\1\0\0", SOLICITATION[:-1], b"\x45" + bytes(50), SOLICITATION[:20], bytes(65508)]
)
def test_malformed_datagrams_are_dropped(data: bytes) -> None:
    assert silent(new_server(), data, MAPPED)


@pytest.mark.requirement("V6", "V9")
@pytest.mark.parametrize("at", [-1, 7, 41], ids=["checksum", "hop limit", "code"])
def test_an_invalid_solicitation_is_dropped(at: int) -> None:
    data = bytearray(router_solicitation(SOLICITATION_SOURCE))
    data[at] ^= 1
    assert silent(new_server(), bytes(data), MAPPED)


@pytest.mark.requirement("V6", "V9")
@pytest.mark.parametrize("source", [CLIENT, HOST, UNSPECIFIED], ids=["Teredo", "native", "unspecified"])
def test_a_solicitation_from_an_address_that_is_not_link_local_is_dropped(source: bytes) -> None:
    assert silent(new_server(), router_solicitation(source), MAPPED)


# What is accepted, and what is forwarded (section 5.3.1)


@pytest.mark.requirement("V7", "V14", "V15")
def test_a_bubble_between_clients_of_this_server_is_forwarded_with_its_origin() -> None:
    server, other = new_server(), teredo(ELSEWHERE)
    for on_secondary in (False, True):
        server.datagram(bubble(CLIENT, other), MAPPED, 1.0, on_secondary=on_secondary)
        (sent,) = outcome(server).sent
        assert sent.data == origin_indication(MAPPED) + bubble(CLIENT, other)
        assert (sent.to, sent.secondary) == (ELSEWHERE, False)


@pytest.mark.requirement("V15")
def test_a_bubble_for_another_servers_client_is_forwarded_without_origin() -> None:
    server = new_server()
    server.datagram(bubble(CLIENT, PEER), MAPPED, 1.0)
    (sent,) = outcome(server).sent
    assert (sent.to, sent.data) == (PEER_ENDPOINT, bubble(CLIENT, PEER))


@pytest.mark.requirement("V8", "V15")
@pytest.mark.parametrize("source", [HOST, packed("fe80::1")], ids=["relay", "Miredo's link-local"])
def test_a_relays_bubble_reaches_a_client_of_this_server_with_its_origin(source: bytes) -> None:
    server = new_server()
    server.datagram(bubble(source, CLIENT), RELAY_ENDPOINT, 1.0)
    (sent,) = outcome(server).sent
    assert (sent.to, sent.data) == (MAPPED, origin_indication(RELAY_ENDPOINT) + bubble(source, CLIENT))


@pytest.mark.requirement("V9", "V8", "V7")
@pytest.mark.parametrize(
    ("ipv6", "source"),
    [
        (bubble(CLIENT, PEER), ELSEWHERE),
        (bubble(CLIENT, PEER), Endpoint(MAPPED.host, 1)),
        (bubble(CLIENT, HOST), ELSEWHERE),
        (bubble(HOST, PEER), RELAY_ENDPOINT),
        (bubble(HOST, packed("2001:db8::99")), RELAY_ENDPOINT),
        (icmpv6(packed("fe80::1"), packed("ff02::1"), 133, 0, bytes(4)), MAPPED),
    ],
    ids=["spoofed", "other port", "spoofed, to a host", "other server's client", "between hosts", "wrong group"],
)
def test_everything_else_is_dropped(ipv6: bytes, source: Endpoint) -> None:
    assert silent(new_server(), ipv6, source)


@pytest.mark.requirement("V4")
@pytest.mark.parametrize(
    "ipv6",
    [
        payload(CLIENT, PEER),
        payload(CLIENT, HOST),
        payload(HOST, CLIENT),
        payload(CLIENT, PEER, b"1234", next_header=59),
        payload(CLIENT, PEER, b"123", next_header=58),
    ],
    ids=["to a client", "to a host", "from a host", "no next header, with payload", "not quite ICMPv6"],
)
def test_only_bubbles_and_icmpv6_are_forwarded(ipv6: bytes) -> None:
    assert silent(new_server(), ipv6, MAPPED)


@pytest.mark.requirement("V12", "D1")
def test_a_clients_echo_request_to_a_native_host_goes_to_the_ipv6_internet() -> None:
    server = new_server()
    request = echo_request(CLIENT, HOST, b"16 bytes of data")
    server.datagram(request, MAPPED, 1.0)
    done = outcome(server)
    assert done.delivered == [request]
    assert done.sent == []


@pytest.mark.requirement("V11")
@pytest.mark.parametrize("destination", ["ff02::1", "ff0e::1", "fe80::2", "::1", "::"])
def test_nothing_is_forwarded_to_destinations_that_are_not_global(destination: str) -> None:
    server = new_server()
    assert silent(server, echo_request(CLIENT, packed(destination), b""), MAPPED)
    assert silent(server, bubble(CLIENT, packed(destination)), MAPPED)


@pytest.mark.requirement("V13", "A4")
@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_nothing_is_forwarded_to_clients_at_forbidden_addresses(host: str) -> None:
    server = new_server()
    assert silent(server, bubble(CLIENT, teredo(Endpoint(host, 4000))), MAPPED)
    assert silent(server, bubble(HOST, teredo(Endpoint(host, 4000))), RELAY_ENDPOINT)


@pytest.mark.requirement("V25")
@pytest.mark.parametrize("own", [PRIMARY, SECONDARY, Endpoint(PRIMARY.host, 9999)], ids=str)
def test_nothing_is_forwarded_to_the_servers_own_addresses(own: Endpoint) -> None:
    server = new_server()
    assert silent(server, bubble(CLIENT, teredo(own)), MAPPED)
    assert silent(server, bubble(HOST, teredo(own)), RELAY_ENDPOINT)
    assert silent(server, bubble(teredo(own), teredo(own)), own)


@pytest.mark.requirement("V25")
def test_two_servers_do_not_play_ping_pong() -> None:
    servers = {PRIMARY: new_server(), OTHER_SERVER: Server(ServerConfig(OTHER_SERVER.host, "203.0.113.67"), None)}  # type: ignore[arg-type]
    for mapped in servers:
        for of in servers:
            for source in (HOST, teredo(RELAY_ENDPOINT), teredo(mapped, of.host)):
                flying = [(PRIMARY, RELAY_ENDPOINT, bubble(source, teredo(mapped, of.host)))]
                for _ in range(4):
                    flying = [
                        (sent.to, at, sent.data)
                        for at, origin, data in flying
                        for sent in _forwarded(servers[at], data, origin)
                        if sent.to in servers
                    ]
                assert flying == []


def _forwarded(server: Server, data: bytes, source: Endpoint) -> list[Any]:
    server.datagram(data, source, 1.0)
    return outcome(server).sent


@pytest.mark.requirement("V24", "F18")
def test_trailers_pass_through_unchanged() -> None:
    server = new_server()
    trailers = b"\x01\x04abcd\x44\x00rest"
    server.datagram(bubble(HOST, CLIENT) + trailers, RELAY_ENDPOINT, 1.0)
    (sent,) = outcome(server).sent
    assert sent.data == origin_indication(RELAY_ENDPOINT) + bubble(HOST, CLIENT) + trailers


@pytest.mark.requirement("V15")
def test_a_forged_origin_is_replaced_with_the_true_one() -> None:
    server = new_server()
    server.datagram(origin_indication(ELSEWHERE) + bubble(HOST, CLIENT), RELAY_ENDPOINT, 1.0)
    (sent,) = outcome(server).sent
    assert sent.data == origin_indication(RELAY_ENDPOINT) + bubble(HOST, CLIENT)


@pytest.mark.requirement("V10")
def test_an_echo_request_to_the_servers_link_local_address_is_answered() -> None:
    server = new_server()
    server.datagram(echo_request(CLIENT, SERVER_LINK_LOCAL, b"are you there?"), MAPPED, 1.0)
    (sent,) = outcome(server).sent
    packet = decode(sent.data)
    assert (sent.to, packet.icmp_type, packet.source, packet.destination) == (
        MAPPED,
        ECHO_REPLY,
        SERVER_LINK_LOCAL,
        CLIENT,
    )
    assert packet.ipv6.endswith(b"are you there?")


@pytest.mark.requirement("V10", "V9")
def test_other_packets_and_damaged_requests_to_the_server_itself_are_dropped() -> None:
    damaged = bytearray(echo_request(CLIENT, SERVER_LINK_LOCAL, b"are you there?"))
    damaged[-1] ^= 1
    for ipv6 in (bytes(damaged), bubble(CLIENT, SERVER_LINK_LOCAL), icmpv6(CLIENT, SERVER_LINK_LOCAL, 1, 0, bytes(60))):
        assert silent(new_server(), ipv6, MAPPED)


# A server that is a relay too (section 5.4.3)


def server_and_relay() -> Server:
    return new_server(relay=RelayConfig(RELAY_ADDRESS, nonces=False))


@pytest.mark.requirement("V23", "Y6")
def test_a_server_that_is_a_relay_too_reaches_clients_from_the_ipv6_side() -> None:
    server = server_and_relay()
    server.packet(payload(HOST, PEER), 1.0)
    (sent,) = outcome(server).sent
    assert (sent.to, sent.data) == (OTHER_SERVER, bubble(packed(RELAY_ADDRESS), PEER))
    assert server.next_timer == 3.0
    server.tick(3.0)
    assert len(outcome(server).sent) == 1
    server.datagram(bubble(PEER, packed(RELAY_ADDRESS)), PEER_ENDPOINT, 3.1)
    assert [sent.data for sent in outcome(server).sent] == [payload(HOST, PEER)]
    server.datagram(payload(PEER, HOST), PEER_ENDPOINT, 3.2)
    assert outcome(server).delivered == [payload(PEER, HOST)]
    server.datagram(payload(PEER, HOST), ELSEWHERE, 3.2)
    assert outcome(server).quiet


@pytest.mark.requirement("V23")
def test_a_client_that_the_relay_knows_is_still_served_by_the_server() -> None:
    server = server_and_relay()
    server.packet(payload(HOST, CLIENT), 1.0)
    server.datagram(bubble(CLIENT, packed(RELAY_ADDRESS)), MAPPED, 1.0)
    outcome(server)
    server.datagram(bubble(CLIENT, PEER), MAPPED, 1.1)
    assert [sent.to for sent in outcome(server).sent] == [PEER_ENDPOINT]
    server.datagram(SOLICITATION, MAPPED, 1.2)
    assert [sent.to for sent in outcome(server).sent] == [MAPPED]
    server.datagram(echo_request(CLIENT, SERVER_LINK_LOCAL, b"are you there?"), MAPPED, 1.3)
    assert [decode(sent.data).icmp_type for sent in outcome(server).sent] == [ECHO_REPLY]


@pytest.mark.requirement("V23", "V4")
def test_a_client_that_the_relay_does_not_know_gets_the_servers_rules() -> None:
    server = server_and_relay()
    server.datagram(payload(CLIENT, HOST), MAPPED, 1.0)
    assert outcome(server).quiet
    server.datagram(icmpv6(CLIENT, HOST, ECHO_REQUEST, 0, bytes(4)), MAPPED, 1.0)
    assert len(outcome(server).delivered) == 1


def test_a_server_that_is_no_relay_has_no_use_for_packets() -> None:
    server = new_server()
    server.packet(payload(HOST, CLIENT), 1.0)
    server.tick(2.0)
    server.stop(3.0)
    assert outcome(server).quiet


def test_a_server_starts_and_its_relay_stops() -> None:
    server = server_and_relay()
    server.start(0.0)
    assert outcome(server).event("state")["state"] == "running"
    server.packet(payload(HOST, PEER), 1.0)
    server.stop(2.0)
    assert len(outcome(server).delivered) == 1, "the sender of a waiting packet is told"
    assert server.snapshot(2.0)["relay"]["peers"] == []
    assert server.snapshot(2.0)["type"] == "server and relay"


@pytest.mark.requirement("C1", "V1")
@pytest.mark.parametrize(
    ("primary", "secondary"), [("10.0.0.1", "203.0.113.2"), ("203.0.113.1", "127.0.0.1"), ("203.0.113.1",) * 2]
)
def test_a_server_needs_two_global_addresses(primary: str, secondary: str) -> None:
    with pytest.raises(ValueError, match=r"global unicast|must differ"):
        ServerConfig(primary, secondary)


@pytest.mark.requirement("V7", "V9", "SN1")
def test_a_client_of_another_server_behind_a_symmetric_nat_may_call_ours() -> None:
    """For every server but its own it is elsewhere than its address says (RFC 6081 section 6.1)."""
    caller, nonce = teredo(PEER_ENDPOINT, OTHER_SERVER.host), nonce_trailer(b"\1\2\3\4")
    server = new_server()
    server.datagram(bubble(caller, CLIENT) + nonce, ELSEWHERE, 1.0)
    (sent,) = outcome(server).sent
    assert (sent.to, sent.data) == (MAPPED, origin_indication(ELSEWHERE) + bubble(caller, CLIENT) + nonce)
    for data in (
        bubble(caller, CLIENT),  # not without a nonce
        bubble(caller, CLIENT) + nonce_trailer(bytes(4)),
        bubble(caller, teredo(MAPPED, OTHER_SERVER.host)) + nonce,  # nor to clients of others
        payload(caller, CLIENT, next_header=58) + nonce,  # nor anything but a bubble
    ):
        assert silent(new_server(), data, ELSEWHERE)
    assert silent(new_server(nonces=False), bubble(caller, CLIENT) + nonce, ELSEWHERE)
