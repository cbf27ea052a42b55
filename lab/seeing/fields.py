"""Teredo addresses and datagrams, field by field, each with what it means and where an RFC says so."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lab.teredo.address import (
    CONE,
    LINK_LOCAL_PREFIX,
    RANDOM_FLAGS,
    UNIVERSAL_GROUP,
    Endpoint,
    host_text,
    is_global_unicast,
    is_link_local,
    is_teredo,
    is_unicast,
    reveal,
    text,
)
from lab.teredo.packet import (
    DESTINATION_UNREACHABLE,
    ECHO_REPLY,
    ECHO_REQUEST,
    HEADER,
    ICMPV6,
    NO_NEXT_HEADER,
    ROUTER_ADVERTISEMENT,
    ROUTER_SOLICITATION,
    Packet,
    checksum,
    decode,
)

_TCP, _UDP = 6, 17
_NEXT_HEADERS: Final = {
    _TCP: "TCP",
    _UDP: "UDP",
    44: "fragment",
    ICMPV6: "ICMPv6",
    NO_NEXT_HEADER: "none: the packet is this header alone",
}
_ICMP_NAMES: Final = {
    DESTINATION_UNREACHABLE: "destination unreachable",
    2: "packet too big",
    3: "time exceeded",
    ECHO_REQUEST: "echo request",
    ECHO_REPLY: "echo reply",
    ROUTER_SOLICITATION: "router solicitation",
    ROUTER_ADVERTISEMENT: "router advertisement",
    135: "neighbor solicitation",
    136: "neighbor advertisement",
}
_UNREACHABLE: Final = {0: "no route", 1: "prohibited", 3: "address unreachable", 4: "port unreachable"}
_MESSAGE_HEAD: Final = {ROUTER_SOLICITATION: 8, ROUTER_ADVERTISEMENT: 16}
_PREFIX_INFORMATION, _MTU = 3, 5
_RESERVED_FLAG: Final = 0x4000
_TRAILERS: Final = {
    0x01: ("Nonce", "4.2"),
    0x02: ("Random Port", "9"),
    0x03: ("Alternate Address", "4.3"),
    0x04: ("Neighbor Discovery Option", "4.4"),
    0x05: ("Random Port", "4.5"),
}
_IF_UNKNOWN: Final = ("skip it", "discard the packet", "skip it", "skip it")


@dataclass(frozen=True, slots=True)
class Field:
    """One field, and what is in it. `rfc` is where it stands: ``RFC 4380 section 4``."""

    name: str
    value: str
    meaning: str = ""
    rfc: str = ""
    fields: tuple[Field, ...] = ()


def address(packed: bytes) -> tuple[Field, ...]:
    """The fields of a Teredo address, or of a link-local one that carries an endpoint. Raises ValueError."""
    if is_teredo(packed):
        server = Field("server", host_text(packed[4:8]), "IPv4 address of the client's server", "RFC 4380 section 4")
        head: tuple[Field, ...] = (
            Field("prefix", "2001::/32", "the Teredo service prefix", "RFC 4380 section 2.6"),
            server,
        )
    elif (
        packed[:8] == LINK_LOCAL_PREFIX
        and packed[8:10] in (b"\0\0", b"\x80\0")
        and is_unicast(reveal(packed[10:]).host)
    ):
        head = (Field("prefix", "fe80::/64", "link-local: of this interface alone", "RFC 4380 section 4"),)
    else:
        raise ValueError(f"{text(packed)} is no Teredo address: those begin with 2001:0: (2001::/32)")
    return (*head, _flags(int.from_bytes(packed[8:10], "big"), link_local=is_link_local(packed)), *_mapped(packed[10:]))


def _flags(flags: int, *, link_local: bool) -> Field:
    random = flags & RANDOM_FLAGS
    if random:
        randomness = "unpredictable, so that nobody can guess the address"
    elif link_local:
        randomness = "zero, as in every link-local address of Teredo"
    else:
        randomness = "zero, as RFC 4380 had it; RFC 5991 wants random ones"
    cone = "client says its NAT is a cone" if flags & CONE else "no claim of a cone NAT"
    return Field(
        "flags",
        f"0x{flags:04x}",
        rfc="RFC 5991 section 3.1",
        fields=(
            Field("cone bit", str(flags >> 15), f"{cone}; peers take it for clear", "RFC 5991 section 3.2"),
            Field("reserved bit", str(int(bool(flags & _RESERVED_FLAG))), "zero", "RFC 5991 section 3.1"),
            Field(
                "random bits", f"0x{random >> 10 & 0xF:x}, 0x{random & 0xFF:02x}", randomness, "RFC 5991 section 3.1"
            ),
            Field("U and G bits", f"{(flags & UNIVERSAL_GROUP) >> 8:02b}", "zero", "RFC 4380 section 4"),
        ),
    )


def _mapped(obfuscated: bytes) -> tuple[Field, ...]:
    mapped = reveal(obfuscated)
    where = "RFC 4380 section 4"
    usable = "" if is_global_unicast(mapped.host) else "; no global unicast address: nobody may send there"
    return (
        Field("obfuscated port", f"0x{obfuscated[:2].hex()}", f"every bit reversed: {mapped.port}", where),
        Field("obfuscated address", f"0x{obfuscated[2:].hex()}", f"every bit reversed: {mapped.host}", where),
        Field("mapped endpoint", str(mapped), f"what the client's NAT shows of it to the server{usable}", where),
    )


def _address_field(name: str, packed: bytes) -> Field:
    try:
        return Field(name, text(packed), fields=address(packed))
    except ValueError:
        return Field(name, text(packed))


def datagram(data: bytes) -> tuple[Field, ...]:
    """The fields of a UDP payload: encapsulation headers, IPv6 packet, trailers. Raises MalformedError."""
    packet = decode(data)
    found: list[Field] = []
    if packet.authentication is not None:
        found.append(_authentication(packet))
    if packet.origin is not None:
        seen = "where the server has this packet, or the client's solicitation, from"
        found.append(
            Field(
                "origin indication",
                str(packet.origin),
                seen,
                "RFC 4380 section 5.1.1",
                _obfuscated(packet.origin_bytes),
            )
        )
    found.append(ipv6(packet.ipv6))
    return (*found, *_trailers(packet.trailers))


def _obfuscated(origin: bytes) -> tuple[Field, ...]:
    return (
        Field("obfuscated port", f"0x{origin[2:4].hex()}", f"every bit reversed: {reveal(origin[2:]).port}"),
        Field("obfuscated address", f"0x{origin[4:8].hex()}", f"every bit reversed: {reveal(origin[2:]).host}"),
    )


def _authentication(packet: Packet) -> Field:
    proof = packet.authentication
    assert proof is not None
    confirmation = "the key is still good" if not proof.confirmation else "the client is to get a new key"
    return Field(
        "authentication",
        "with a secret" if proof.value else "without a secret",
        "binds an advertisement to its solicitation" + (", and proves who sent it" if proof.value else ""),
        "RFC 4380 section 5.1.1",
        (
            Field("client identifier", proof.client_id.hex() or "empty", f"{len(proof.client_id)} bytes"),
            Field("authentication value", proof.value.hex() or "empty", f"{len(proof.value)} bytes"),
            Field("nonce", proof.nonce.hex(), "of the solicitation; its answer has the same", "RFC 4380 section 5.2.2"),
            Field("confirmation byte", str(proof.confirmation), confirmation, "RFC 4380 section 5.2.2"),
        ),
    )


def ipv6(packet: bytes) -> Field:
    """A whole IPv6 packet."""
    first, length, next_header, hop_limit = struct.unpack_from("!IHBB", packet)
    is_bubble = next_header == NO_NEXT_HEADER and len(packet) == HEADER
    return Field(
        "IPv6",
        f"{length} bytes of payload" if length else "no payload",
        "a bubble: it says nothing, and opens NATs by going through" if is_bubble else "",
        "RFC 4380 section 2.8" if is_bubble else "RFC 8200 section 3",
        (
            Field("traffic class, flow label", f"0x{first >> 20 & 0xFF:02x}, 0x{first & 0xFFFFF:05x}"),
            Field("next header", str(next_header), _NEXT_HEADERS.get(next_header, "")),
            Field("hop limit", str(hop_limit)),
            _address_field("source", packet[8:24]),
            _address_field("destination", packet[24:40]),
            *_payload(packet, next_header),
        ),
    )


def _payload(packet: bytes, next_header: int) -> Iterator[Field]:
    body = packet[HEADER:]
    if next_header == ICMPV6 and len(body) >= 4:
        yield _icmpv6(packet, body)
    elif next_header == _UDP and len(body) >= 8:
        source, to, length, _ = struct.unpack_from("!HHHH", body)
        yield Field("UDP", f"port {source} → {to}", f"{length - 8} bytes")
    elif next_header == _TCP and len(body) >= 20:
        source, to, sequence, acknowledged, start = struct.unpack_from("!HHIIB", body)
        flags = " ".join(name for bit, name in enumerate(("FIN", "SYN", "RST", "PSH", "ACK")) if body[13] >> bit & 1)
        size = max(0, len(body) - (start >> 4) * 4)
        yield Field("TCP", f"port {source} → {to}", f"{flags}, sequence {sequence}, {acknowledged=}, {size} bytes")
    elif body:
        yield Field("payload", f"{len(body)} bytes")


def _icmpv6(packet: bytes, body: bytes) -> Field:
    kind, code = body[:2]
    sound = checksum(packet[8:24], packet[24:40], body) == 0
    fields = [
        Field("type", str(kind), _ICMP_NAMES.get(kind, "")),
        Field("code", str(code), _UNREACHABLE.get(code, "") if kind == DESTINATION_UNREACHABLE else ""),
        Field("checksum", f"0x{body[2:4].hex()}", "right" if sound else "wrong: the packet is to be dropped"),
    ]
    if kind in (ECHO_REQUEST, ECHO_REPLY) and len(body) >= 8:
        identifier, sequence = struct.unpack_from("!HH", body, 4)
        fields.append(Field("identifier, sequence", f"0x{identifier:04x}, {sequence}"))
        fields.append(Field("data", body[8:40].hex() or "empty", f"{len(body) - 8} bytes"))
    elif kind == DESTINATION_UNREACHABLE and len(body) >= 8 + HEADER:
        fields.append(Field("about a packet for", text(body[32:48])))
    elif kind in _MESSAGE_HEAD:
        fields += _options(body[_MESSAGE_HEAD[kind] :])
    return Field("ICMPv6", _ICMP_NAMES.get(kind, f"type {kind}"), rfc="RFC 4443", fields=tuple(fields))


def _options(data: bytes) -> Iterator[Field]:
    """Of neighbour discovery."""
    while len(data) >= 8 and data[1]:
        kind, size = data[0], data[1] * 8
        if kind == _PREFIX_INFORMATION and len(data) >= 32:
            meaning = "of the server: the client's address begins with it"
            yield Field("prefix information", f"{text(data[16:32])}/{data[2]}", meaning, "RFC 4380 section 5.2.1")
        elif kind == _MTU and len(data) >= 8:
            yield Field("MTU", str(int.from_bytes(data[4:8], "big")), rfc="RFC 4380 section 5.1.2")
        else:
            yield Field(f"option {kind}", data[2:size].hex())
        data = data[size:]


def _trailers(data: bytes) -> Iterator[Field]:
    """All trailers, also those that mean nothing to us, up to what is malformed (RFC 6081 section 5.1.2)."""
    while len(data) >= 2 and len(data) >= 2 + data[1]:
        kind, value = data[0], data[2 : 2 + data[1]]
        name, section = _TRAILERS.get(kind, (f"unknown (0x{kind:02x})", "4.1"))
        meaning = _trailer(kind, value) if kind in _TRAILERS else f"who does not know it shall {_IF_UNKNOWN[kind >> 6]}"
        yield Field(f"{name} trailer", value.hex(), meaning, f"RFC 6081 section {section}")
        data = data[2 + len(value) :]
    if data:
        yield Field("rest", data[:32].hex(), "no trailer: ignored", "RFC 6081 section 5.1.2")


def _trailer(kind: int, value: bytes) -> str:
    match kind, len(value):
        case 0x01, 4:
            return "a bubble in answer has the same" if any(value) else "zero: none"
        case ((0x02 | 0x05), 2):
            return f"port {int.from_bytes(value, 'big')}: the sender listens there as well"
        case 0x03, size if size >= 8 and (size - 2) % 6 == 0:
            ends = (
                Endpoint(host_text(value[at : at + 4]), int.from_bytes(value[at + 4 : at + 6], "big"))
                for at in range(2, size, 6)
            )
            return f"the sender may also be reached at {', '.join(map(str, ends))}"
        case 0x04, 4 if value[0] in (0, 1):
            return ("solicits an answer", "answers a solicitation")[value[0]]
    return "malformed: ignored"
