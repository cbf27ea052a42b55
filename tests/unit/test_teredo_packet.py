"""Wire formats (RFC 4380 section 5.1.1), with scapy as an independent judge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    IPv6,
)

from lab.teredo import packet
from lab.teredo.address import Endpoint, packed, text
from lab.teredo.packet import Authentication, MalformedError, decode
from lab.teredo.solicitation import SOLICITATION_SOURCE
from tests.unit.helpers.teredo import HOST, PEER, SERVER_LINK_LOCAL, mtu_option, payload, prefix_option

VECTOR = bytes.fromhex("0000feaefefdfcfb")
BUBBLE = packet.bubble(PEER, HOST)

addresses = st.binary(min_size=16, max_size=16)
authentications = st.builds(
    Authentication,
    nonce=st.binary(min_size=8, max_size=8),
    client_id=st.binary(max_size=255),
    value=st.binary(max_size=255),
    confirmation=st.integers(0, 255),
)
origins = st.builds(Endpoint, st.ip_addresses(v=4).map(str), st.integers(0, 65535))


@pytest.mark.requirement("F12")
def test_the_origin_indication_of_the_rfc() -> None:
    assert packet.origin_indication(Endpoint("1.2.3.4", 337)) == VECTOR
    assert decode(VECTOR + BUBBLE).origin == Endpoint("1.2.3.4", 337)


@pytest.mark.requirement("F13", "S2")
def test_an_authentication_header_without_secrets_has_13_bytes() -> None:
    assert Authentication(b"12345678").encode() == bytes.fromhex("00010000") + b"12345678" + b"\0"


@pytest.mark.requirement("F13")
def test_identifier_and_value_stand_before_the_nonce() -> None:
    header = Authentication(b"12345678", b"me", b"value", 7).encode()
    assert header == bytes.fromhex("00010205") + b"me" + b"value" + b"12345678" + b"\x07"


@pytest.mark.requirement("F4")
def test_a_bubble_is_40_bytes_with_no_next_header() -> None:
    assert len(BUBBLE) == 40
    assert BUBBLE[:8] == bytes.fromhex("6000000000003bff")
    assert decode(BUBBLE).is_bubble
    assert IPv6(BUBBLE).src == text(PEER)


@pytest.mark.requirement("F4")
def test_a_packet_with_payload_is_no_bubble_whatever_its_next_header() -> None:
    assert not decode(payload(PEER, HOST, b"12345678", next_header=59)).is_bubble


@pytest.mark.requirement("F11")
def test_a_packet_alone_is_itself() -> None:
    assert decode(BUBBLE) == packet.Packet(BUBBLE)


@pytest.mark.requirement("F13", "F14")
@given(st.none() | authentications, st.none() | origins, addresses, addresses, st.binary(max_size=100))
def test_decoding_gives_back_what_was_encoded(
    authentication: Authentication | None, origin: Endpoint | None, source: bytes, destination: bytes, data: bytes
) -> None:
    origin_bytes = b"" if origin is None else packet.origin_indication(origin)
    ipv6 = payload(source, destination, data)
    header = b"" if authentication is None else authentication.encode()
    decoded = decode(header + origin_bytes + ipv6)
    assert decoded == packet.Packet(ipv6, authentication, origin, origin_bytes)
    assert (decoded.source, decoded.destination) == (source, destination)


@pytest.mark.requirement("F14")
def test_an_origin_before_the_authentication_is_malformed() -> None:
    with pytest.raises(MalformedError):
        decode(VECTOR + Authentication(b"12345678").encode() + BUBBLE)


@pytest.mark.requirement("F18", "V24", "T12")
@given(st.binary(max_size=40))
def test_what_follows_the_ipv6_packet_is_kept_apart(trailers: bytes) -> None:
    for head in (b"", VECTOR):
        decoded = decode(head + BUBBLE + trailers)
        assert (decoded.ipv6, decoded.trailers, decoded.is_bubble) == (BUBBLE, trailers, True)


@pytest.mark.requirement("R1", "V3")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0\0",
        b"\0\1",
        b"\0\1\0",
        b"\0\2" + BUBBLE,
        VECTOR,
        VECTOR[:7],
        VECTOR + VECTOR + BUBBLE,
        VECTOR + BUBBLE[:39],
        BUBBLE[:39],
        b"\x45" + BUBBLE[1:],
        payload(PEER, HOST)[:-1],
        Authentication(b"12345678").encode(),
        Authentication(b"12345678", b"i" * 255, b"v" * 255).encode()[:-1],
        b"\0\1\xff\xff" + BUBBLE,
    ],
)
def test_malformed_datagrams_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(data)


@pytest.mark.requirement("R1", "V3")
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: VECTOR + BUBBLE[:8] + tail))
def test_decoding_raises_nothing_but_malformed_error(data: bytes) -> None:
    try:
        decoded = decode(data)
    except MalformedError:
        return
    assert data.endswith(decoded.ipv6 + decoded.trailers)


@pytest.mark.requirement("F17")
def test_the_largest_udp_payload_is_accepted() -> None:
    ipv6 = payload(PEER, HOST, bytes(packet.MAX_DATAGRAM - 40))
    assert len(ipv6) == 65507
    assert decode(ipv6).ipv6 == ipv6


@pytest.mark.requirement("Q1")
def test_a_solicitation_is_what_scapy_would_send() -> None:
    ours = packet.router_solicitation(SOLICITATION_SOURCE)
    theirs = IPv6(src=text(SOLICITATION_SOURCE), dst="ff02::2", hlim=255) / ICMPv6ND_RS()
    assert ours == bytes(theirs)
    assert len(ours) == 48
    assert packet.is_router_solicitation(decode(ours))


@pytest.mark.requirement("F15", "V16", "V17", "V26")
def test_an_advertisement_is_what_scapy_would_send() -> None:
    ours = packet.router_advertisement(SERVER_LINK_LOCAL, SOLICITATION_SOURCE, "203.0.113.1")
    theirs = (
        IPv6(src=text(SERVER_LINK_LOCAL), dst=text(SOLICITATION_SOURCE), hlim=255)
        / ICMPv6ND_RA(chlim=0, routerlifetime=0, prf=0)
        / ICMPv6NDOptPrefixInfo(
            L=0, A=1, validlifetime=0xFFFFFFFF, preferredlifetime=0xFFFFFFFF, prefix="2001:0:cb00:7101::", prefixlen=64
        )
        / ICMPv6NDOptMTU(mtu=1280)
    )
    assert ours == bytes(theirs)
    assert packet.advertisement(decode(ours)) == packet.Advertisement(bytes.fromhex("20010000cb007101"), 1280)


@pytest.mark.requirement("D1")
def test_an_echo_request_and_its_answer_are_what_scapy_would_send() -> None:
    ours = packet.echo_request(PEER, HOST, b"nonce of 16 byte")
    assert ours == bytes(IPv6(src=text(PEER), dst=text(HOST), hlim=64) / ICMPv6EchoRequest(data=b"nonce of 16 byte"))
    answer = decode(packet.echo_reply(decode(ours), HOST))
    assert (answer.source, answer.destination) == (HOST, PEER)
    assert packet.echo_reply_data(answer) == b"nonce of 16 byte"


@given(addresses, addresses, st.binary(max_size=80))
def test_checksums_are_those_of_scapy(source: bytes, destination: bytes, data: bytes) -> None:
    ours = packet.icmpv6(source, destination, 128, 0, bytes(4) + data)
    assert ours == bytes(IPv6(src=text(source), dst=text(destination), hlim=255) / ICMPv6EchoRequest(data=data))
    assert packet.icmpv6_is_sound(decode(ours))


@given(st.binary(max_size=60), st.integers(0, 7), st.data())
def test_a_flipped_bit_is_noticed_in_an_icmpv6_message(data: bytes, bit: int, draw: st.DataObject) -> None:
    message = bytearray(packet.icmpv6(PEER, HOST, 128, 0, bytes(4) + data))
    message[draw.draw(st.integers(8, len(message) - 1))] ^= 1 << bit
    assert not packet.icmpv6_is_sound(packet.Packet(bytes(message)))


@pytest.mark.requirement("X10")
def test_an_unreachable_error_quotes_the_packet_within_the_minimum_mtu() -> None:
    error = packet.unreachable(HOST, payload(PEER, HOST, bytes(1400)), packet.ADDRESS_UNREACHABLE)
    assert error is not None
    assert len(error) == 1280
    shown = IPv6(error)
    assert (shown.src, shown.dst) == (text(HOST), text(PEER))
    assert shown[ICMPv6DestUnreach].code == 3
    assert packet.icmpv6_is_sound(decode(error))


@pytest.mark.parametrize(
    "offending",
    [
        payload(bytes(16), HOST),
        payload(packed("ff02::1"), HOST),
        payload(HOST, packed("ff02::1")),
        packet.icmpv6(PEER, HOST, packet.DESTINATION_UNREACHABLE, 0, bytes(4)),
        payload(PEER, HOST, b"", next_header=58),
    ],
    ids=["unspecified source", "group as source", "group", "an error", "an empty ICMPv6 message"],
)
def test_no_error_is_sent_about(offending: bytes) -> None:
    assert packet.unreachable(HOST, offending, 0) is None


def solicitation(source: bytes = SOLICITATION_SOURCE, destination: str = "ff02::2", **change: int) -> bytes:
    hop_limit, code = change.get("hop_limit", 255), change.get("code", 0)
    return packet.icmpv6(source, packed(destination), 133, code, bytes(4) + prefix_option(), hop_limit=hop_limit)


@pytest.mark.requirement("V6")
def test_a_solicitation_may_carry_options() -> None:
    assert packet.is_router_solicitation(decode(solicitation()))


@pytest.mark.requirement("V6")
@pytest.mark.parametrize(
    "wrong",
    [
        solicitation(source=HOST),
        solicitation(destination="ff02::1"),
        solicitation(hop_limit=254),
        solicitation(code=1),
        packet.icmpv6(SOLICITATION_SOURCE, packed("ff02::2"), 133, 0, b""),
        packet.icmpv6(SOLICITATION_SOURCE, packed("ff02::2"), 133, 0, bytes(4) + b"\1\0" + bytes(6)),
        packet.icmpv6(SOLICITATION_SOURCE, packed("ff02::2"), 133, 0, bytes(4) + b"\1\2" + bytes(6)),
        packet.icmpv6(SOLICITATION_SOURCE, packed("ff02::2"), 133, 0, bytes(4) + b"\1"),
        solicitation()[:-1] + b"\1",
    ],
    ids=["source", "group", "hop limit", "code", "length", "empty option", "long option", "half option", "checksum"],
)
def test_a_solicitation_is_ignored_for_its(wrong: bytes) -> None:
    assert not packet.is_router_solicitation(decode(wrong))


@pytest.mark.requirement("Q16")
@pytest.mark.parametrize(("options", "mtu"), [(b"", None), (mtu_option(1400), 1400)])
def test_the_mtu_option_is_read_if_there_is_one(options: bytes, mtu: int | None) -> None:
    ipv6 = packet.icmpv6(SERVER_LINK_LOCAL, SOLICITATION_SOURCE, 134, 0, bytes(12) + prefix_option() + options)
    facts = packet.advertisement(decode(ipv6))
    assert facts is not None
    assert facts.mtu == mtu
