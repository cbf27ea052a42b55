"""`teredo-lab decode`: addresses, datagrams and recordings, field by field."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lab.cli import app
from lab.seeing import pcapng
from lab.seeing.fields import Field, address, datagram
from lab.story import parts
from lab.teredo.address import Endpoint, link_local, packed
from lab.teredo.packet import (
    ECHO_REQUEST,
    Authentication,
    bubble,
    echo_request,
    icmpv6,
    ipv6_header,
    origin_indication,
    router_advertisement,
)
from lab.teredo.trailers import (
    Discovery,
    alternate_address_trailer,
    discovery_trailer,
    nonce_trailer,
    random_port_trailer,
)

ALICE = "2001:0:c000:202:1c2a:63bf:39cc:9bfa"
PEER = packed("2001:0:c000:202:0:3fff:3444:55aa")
MAPPED = Endpoint("198.51.100.5", 40000)
SERVER = Endpoint("192.0.2.2", 3544)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["decode", *arguments])


def flat(fields: tuple[Field, ...]) -> dict[str, Field]:
    """All fields by name; of those that share one, the last."""
    found: dict[str, Field] = {}
    for field in fields:
        found[field.name] = field
        found |= flat(field.fields)
    return found


def test_an_address_is_taken_apart() -> None:
    found = flat(address(packed(ALICE)))
    values = {name: field.value for name, field in found.items()}
    assert values == {
        "prefix": "2001::/32",
        "server": "192.0.2.2",
        "flags": "0x1c2a",
        "cone bit": "0",
        "reserved bit": "0",
        "random bits": "0x7, 0x2a",
        "U and G bits": "00",
        "obfuscated port": "0x63bf",
        "obfuscated address": "0x39cc9bfa",
        "mapped endpoint": str(MAPPED),
    }
    assert all(field.rfc for field in found.values())


@pytest.mark.parametrize(
    ("text", "field", "meaning"),
    [
        ("2001:0:c000:202:8000:63bf:39cc:9bfa", "cone bit", "client says its NAT is a cone; peers take it for clear"),
        ("2001:0:c000:202:0:63bf:39cc:9bfa", "random bits", "zero, as RFC 4380 had it; RFC 5991 wants random ones"),
        ("2001:0:c000:202:0:63bf:f5ff:fffe", "mapped endpoint", "no global unicast address: nobody may send there"),
    ],
)
def test_what_is_odd_about_an_address_is_said(text: str, field: str, meaning: str) -> None:
    assert meaning in flat(address(packed(text)))[field].meaning


def test_a_link_local_address_of_teredo_is_taken_apart_and_another_is_not() -> None:
    assert flat(address(link_local(MAPPED, cone=True)))["mapped endpoint"].value == str(MAPPED)
    for other in ("fe80::1", "2001:db8::1"):
        with pytest.raises(ValueError, match="is no Teredo address: those begin with 2001:0:"):
            address(packed(other))


def test_an_advertisement_with_all_that_can_be_before_and_behind_it() -> None:
    message = router_advertisement(link_local(Endpoint("192.0.2.2", 3544), cone=True), packed("fe80::1"), "192.0.2.2")
    data = Authentication(b"\1" * 8, b"id", b"\2" * 20, 1).encode() + origin_indication(MAPPED) + message
    data += nonce_trailer(b"\1\2\3\4") + random_port_trailer(50000) + alternate_address_trailer((MAPPED,))
    data += discovery_trailer(Discovery.ADVERTISEMENT) + b"\x44\1\0" + b"\x99"
    top = datagram(data)
    assert [field.name for field in top] == [
        "authentication",
        "origin indication",
        "IPv6",
        "Nonce trailer",
        "Random Port trailer",
        "Alternate Address trailer",
        "Neighbor Discovery Option trailer",
        "unknown (0x44) trailer",
        "rest",
    ]
    found = flat(top)
    assert found["authentication"].value == "with a secret"
    assert found["client identifier"].value == b"id".hex()
    assert found["nonce"].value == "01" * 8
    assert found["confirmation byte"].meaning == "the client is to get a new key"
    assert found["origin indication"].value == str(MAPPED)
    assert found["prefix information"].value == "2001:0:c000:202::/64"
    assert found["MTU"].value == "1280"
    assert found["checksum"].meaning == "right"
    assert "port 50000" in found["Random Port trailer"].meaning
    assert str(MAPPED) in found["Alternate Address trailer"].meaning
    assert found["unknown (0x44) trailer"].meaning == "who does not know it shall discard the packet"


def test_a_wrong_checksum_is_seen() -> None:
    message = bytearray(icmpv6(PEER, packed(ALICE), ECHO_REQUEST, 0, bytes(4)))
    message[-1] ^= 1
    assert flat(datagram(bytes(message)))["checksum"].meaning.startswith("wrong")


def test_super_packets_are_counted() -> None:
    one = ipv6_header(PEER, PEER, 17, 1000) + bytes(1000)
    assert parts(one) == 1
    assert parts(one * 7 + ipv6_header(PEER, PEER, 17, 10) + bytes(10)) == 8
    tcp = bytes(12) + b"\x80" + bytes(19)
    assert parts(ipv6_header(PEER, PEER, 6, 32 + 1208) + tcp + bytes(1208)) == 1
    assert parts(ipv6_header(PEER, PEER, 6, 32 + 1208 * 3 + 1) + tcp + bytes(1208 * 3 + 1)) == 4
    assert parts(one + bytes(6 * len(one))) == 7  # where not all was kept
    assert parts(bubble(PEER, PEER) + nonce_trailer(b"\1\2\3\4")) == 1


def frame(data: bytes, source: Endpoint = MAPPED, to: Endpoint = SERVER) -> bytes:
    """A datagram on Ethernet."""
    udp = source.port.to_bytes(2, "big") + to.port.to_bytes(2, "big") + (len(data) + 8).to_bytes(2, "big") + bytes(2)
    hosts = b"".join(bytes(map(int, each.host.split("."))) for each in (source, to))
    head = b"\x45\0" + (28 + len(data)).to_bytes(2, "big") + b"\0\1\0\0\x40\x11\0\0" + hosts
    return bytes(12) + b"\x08\0" + head + udp + data


def recorded(path: Path, *frames: bytes) -> Path:
    start = pcapng.section("of a test") + pcapng.interface(pcapng.Interface(pcapng.ETHERNET, "alice", "her link"))
    packets = (pcapng.Packet(0, 10**18 + at * 1_234_567, each, True, "said") for at, each in enumerate(frames))
    path.write_bytes(start + b"".join(map(pcapng.packet, packets)))
    return path


def told(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_a_recording_is_listed_and_one_of_its_packets_explained(tmp_path: Path) -> None:
    native = bytes(12) + b"\x86\xdd" + echo_request(PEER, packed("2001:db8::1"), b"x")
    path = recorded(tmp_path / "a.pcapng", frame(bubble(packed(ALICE), PEER)), native, bytes(12) + b"\x08\x06")
    answer = told(str(path))
    assert [(each["ms"], each["interface"], each["what"]) for each in answer["packets"]] == [
        (0.0, "alice", "indirect bubble"),
        (1.234567, "alice", "echo request (plain IPv6)"),
        (2.469134, "alice", "ARP"),
    ]
    (one,) = told(str(path), "--packet", "1")["packets"]
    assert one["from"] == str(MAPPED)
    assert one["comment"] == "said"
    assert one["fields"][0]["value"] == "no payload"
    assert "mapped endpoint" in run(str(path), "-p", "1").stdout
    assert len(run(str(path)).stdout.splitlines()) == 3


def test_what_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.pcapng", b"12345", b"678")
    found = pcapng.read(path.read_bytes())
    assert found.comment == "of a test"
    assert found.interfaces == [pcapng.Interface(pcapng.ETHERNET, "alice", "her link")]
    assert found.packets[1] == pcapng.Packet(0, 10**18 + 1_234_567, b"678", True, "said")


def test_a_packet_that_was_cut_is_still_as_long_as_it_was(tmp_path: Path) -> None:
    one = ipv6_header(packed(ALICE), PEER, 17, 1000) + bytes(1000)
    whole = frame(one * 7)
    packet = pcapng.Packet(0, 10**18, whole[:256], True, cut=len(whole) - 256)
    data = pcapng.document("", [pcapng.Interface(pcapng.ETHERNET)], [packet])
    assert pcapng.read(data).packets == [packet]
    path = tmp_path / "cut.pcapng"
    path.write_bytes(data)
    assert told(str(path))["packets"][0]["what"] == "7 data packets in one"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "fraction"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_the_older_format_is_read_in_any_byte_order(order: str, magic: int, fraction: int) -> None:
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, pcapng.RAW)
    data = head + struct.pack(f"{order}IIII", 7, 5, 3, 9) + b"abc"
    assert pcapng.read(data) == pcapng.Recording(
        [pcapng.Interface(pcapng.RAW)], [pcapng.Packet(0, 7 * 10**9 + 5 * fraction, b"abc", cut=6)]
    )
    with pytest.raises(pcapng.RecordingError, match="cut short"):
        pcapng.read(data[:-1])


def test_pcapng_of_others_is_read_in_their_byte_order_and_units() -> None:
    def block(kind: int, body: bytes) -> bytes:
        return struct.pack(">II", kind, len(body) + 12) + body + struct.pack(">I", len(body) + 12)

    data = block(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1))
    data += block(1, struct.pack(">HHI", pcapng.ETHERNET, 0, 0) + struct.pack(">HHB3x", 9, 1, 0x8A))  # 2**-10 s
    data += block(0xBAD, b"    ")  # of a kind that nobody knows
    data += block(6, struct.pack(">IIIII", 0, 0, 1536, 4, 4) + b"abcd")
    assert pcapng.read(data).packets == [pcapng.Packet(0, 1_500_000_000, b"abcd")]


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("zz", "zz is no IPv6 address, no file, and no bytes in hexadecimal"),
        ("2001:db8::1", "2001:db8::1 is no Teredo address: those begin with 2001:0: (2001::/32)"),
        ("0001", "0001: no Teredo packet: authentication header cut short"),
        ("60" * 60, f"{'60' * 20}…: no Teredo packet: IPv6 payload length beyond the datagram"),
    ],
)
def test_what_cannot_be_decoded_is_bad_input(what: str, error: str) -> None:
    result = run(what)
    assert result.exit_code == 2
    assert error in result.stderr


def test_a_file_that_is_no_recording_or_has_no_such_packet_is_bad_input(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello")
    assert "neither pcapng nor pcap" in run(str(text)).stderr
    path = recorded(tmp_path / "a.pcapng", frame(bubble(PEER, PEER)))
    assert "has no packet 2: it has 1" in run(str(path), "-p", "2").stderr
    path.write_bytes(path.read_bytes()[:-7])
    assert "cut short" in run(str(path)).stderr
    assert "--packet is of a file, and there is no file nowhere" in run("nowhere", "-p", "1").stderr
    assert all(run(*each).exit_code == 2 for each in ((str(text),), (str(path),), ("nowhere", "-p", "1")))


def test_bytes_may_be_written_as_tools_print_them() -> None:
    data = bubble(packed(ALICE), PEER).hex()
    for text in (data, f"0x{data}", data.upper(), " ".join(data[at : at + 4] for at in range(0, len(data), 4))):
        assert told(text)["fields"][0]["name"] == "IPv6"
