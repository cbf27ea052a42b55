"""Super-packets: what is merged and cut again is what it was, and what is cut is what the kernel would send."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Raw

from lab.datapath import offload
from lab.datapath.offload import NEEDS_CHECKSUM, VIRTIO, Bytes, Virtio, complete, cut, merged, runs

SOURCE, DESTINATION = "2001:db8::80", "2001:0:cb00:7101:2c41:5bd7:39cc:9beb"

flags = st.sampled_from(["A", "PA", "FA", "FPA", "AE", "PAE"])
payloads = st.integers(1, 1300)
options = st.sampled_from([[], [("Timestamp", (1, 2))], [("NOP", None), ("NOP", None), ("Timestamp", (5, 9))]])


def tcp(data: bytes, *, seq: int = 1, flags: str = "A", **fields: Any) -> bytes:
    header = {"hlim": 64, "tc": 3, "fl": 0x12345} | {
        key: fields.pop(key) for key in ("hlim", "tc", "fl") if key in fields
    }
    segment = TCP(sport=4000, dport=80, seq=seq & 0xFFFFFFFF, ack=77, window=500, flags=flags, **fields)
    return bytes(IPv6(src=SOURCE, dst=DESTINATION, **header) / segment / Raw(data))


def udp(data: bytes, **fields: Any) -> bytes:
    return bytes(IPv6(src=SOURCE, dst=DESTINATION) / UDP(sport=4000, dport=443, **fields) / Raw(data))


def tcp_run(data: bytes, size: int, **fields: Any) -> list[bytes]:
    """The segments of a stream, as scapy makes them; flags that only the last may have are the last's."""
    last = fields.pop("flags", "A")
    others = last.replace("P", "").replace("F", "")
    seq = fields.pop("seq", 1)
    starts = range(0, len(data), size)
    return [
        tcp(data[at : at + size], seq=seq + at, flags=last if at == starts[-1] else others, **fields) for at in starts
    ]


def as_rows(packets: list[bytes]) -> tuple[Bytes, int]:
    """Packets of one size, but for the last, as `runs` and `merged` take them."""
    size = len(packets[0])
    rows = np.zeros((len(packets), size), np.uint8)
    for row, packet in zip(rows, packets, strict=True):
        row[: len(packet)] = np.frombuffer(packet, np.uint8)
    return rows, len(packets[-1])


def parts(super_packet: Bytes) -> list[bytes]:
    """What becomes of a super-packet with its virtio header."""
    found = cut(super_packet[VIRTIO:], Virtio.decode(super_packet[:VIRTIO].tobytes()))
    assert found is not None
    data, size = found[0].tobytes(), found[1]
    return [data[at : at + size] for at in range(0, len(data), size)]


@settings(deadline=None)
@given(st.binary(min_size=2, max_size=9000), payloads, flags, options, st.integers(0, 2**32 - 1))
def test_a_tcp_stream_merges_into_one_and_comes_out_as_it_was(
    data: bytes, size: int, flags: str, options: list[Any], seq: int
) -> None:
    packets = tcp_run(data, size, flags=flags, options=options, seq=seq)
    rows, last = as_rows(packets)
    assert runs(rows, last) == [len(packets)]
    if len(packets) > 1:
        assert parts(merged(rows, last)) == packets


@settings(deadline=None)
@given(st.binary(min_size=2, max_size=9000), payloads)
def test_udp_datagrams_merge_into_one_and_come_out_as_they_were(data: bytes, size: int) -> None:
    packets = [udp(data[at : at + size]) for at in range(0, len(data), size)]
    rows, last = as_rows(packets)
    assert runs(rows, last) == [len(packets)]
    assert runs(rows, last, udp=False) == [1] * len(packets)
    if len(packets) > 1:
        assert parts(merged(rows, last)) == packets


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_whatever_comes_is_the_same_afterwards(data: st.DataObject) -> None:
    """A stream in which any bit may be wrong, and any packet be another's: runs may be shorter, but never lie."""
    size = data.draw(st.integers(1, 40))
    count = data.draw(st.integers(2, 12))
    make = data.draw(st.sampled_from(["tcp", "udp"]))
    content = data.draw(st.binary(min_size=(count - 1) * size + 1, max_size=count * size))
    last_flags = data.draw(flags)
    packets = (
        tcp_run(content, size, flags=last_flags)
        if make == "tcp"
        else [udp(content[at : at + size]) for at in range(0, len(content), size)]
    )
    for _ in range(data.draw(st.integers(0, 3))):
        which = data.draw(st.integers(0, len(packets) - 1))
        bit = data.draw(st.integers(0, len(packets[which]) * 8 - 1))
        spoilt = bytearray(packets[which])
        spoilt[bit // 8] ^= 1 << bit % 8
        mended = data.draw(st.booleans())
        packets[which] = bytes(_mended(spoilt) if mended else spoilt)
    rows, last = as_rows(packets)
    found, first = runs(rows, last), 0
    assert sum(found) == len(packets)
    for length in found:
        end = first + length
        if length > 1:
            assert parts(merged(rows[first:end], last if end == len(packets) else rows.shape[1])) == packets[first:end]
        first = end


def _mended(packet: bytearray) -> bytearray:
    """The packet with a right checksum, if it has one at all."""
    at = {6: 56, 17: 46}.get(packet[6])
    if at is not None and at + 2 <= len(packet):
        packet[at : at + 2] = bytes(2)
        pseudo = sum(packet[n] << 8 | packet[n + 1] for n in range(8, 40, 2)) + packet[6] + len(packet) - 40
        packet[at : at + 2] = (pseudo % 0xFFFF).to_bytes(2, "big")
        complete(memoryview(packet), 40, at - 40)
    return packet


@pytest.mark.parametrize(
    "fields",
    [
        {"hlim": 63},
        {"tc": 0},
        {"fl": 1},
        {"window": 501},
        {"ack": 78},
        {"sport": 4001},
        {"urgptr": 1},
        {"reserved": 1},
        {"flags": "SA"},
        {"flags": "RA"},
        {"flags": "UA"},
        {"flags": "CA"},
        {"flags": "AE"},
        {"flags": ""},
        {"seq": 22},
        {"chksum": 1},
    ],
    ids=str,
)
def test_a_segment_that_differs_goes_alone(fields: dict[str, Any]) -> None:
    packets = tcp_run(bytes(range(50)), 10)
    given: dict[str, Any] = {"flags": "A", "ack": 77, "window": 500, "sport": 4000, "seq": 21} | fields
    header: dict[str, Any] = {"hlim": 64, "tc": 3, "fl": 0x12345}
    header |= {key: given.pop(key) for key in ("hlim", "tc", "fl") if key in given}
    segment = TCP(dport=80, **given)
    packets[2] = bytes(IPv6(src=SOURCE, dst=DESTINATION, **header) / segment / Raw(packets[2][60:]))
    assert runs(*as_rows(packets)) == [2, 1, 2]


def test_a_push_ends_a_run() -> None:
    packets = tcp_run(bytes(30), 10, flags="PA") + tcp_run(bytes(30), 10, flags="PA", seq=31)
    assert runs(*as_rows(packets)) == [3, 3]


def test_the_wrong_checksum_of_any_packet_stays_wrong() -> None:
    for packets in (tcp_run(bytes(range(200)), 50), [udp(bytes(50)) for _ in range(4)]):
        for which in range(4):
            spoilt = bytearray(packets[which])
            spoilt[-1] ^= 1
            found = runs(*as_rows([*packets[:which], bytes(spoilt), *packets[which + 1 :]]))
            assert found == {0: [1, 3], 1: [1, 1, 2], 2: [2, 1, 1], 3: [3, 1]}[which]


def test_a_udp_checksum_of_zero_is_none_and_goes_alone() -> None:
    assert runs(*as_rows([udp(b"abcd", chksum=0)] * 3)) == [1, 1, 1]


def test_extension_headers_fragments_and_icmpv6_go_alone() -> None:
    extended = bytes(IPv6(src=SOURCE, dst=DESTINATION) / IPv6ExtHdrDestOpt() / UDP() / Raw(bytes(40)))
    for packet in (extended, bytes(IPv6(nh=44) / Raw(bytes(60))), bytes(IPv6(nh=58) / Raw(bytes(60)))):
        assert runs(*as_rows([packet] * 3)) == [1, 1, 1]


def test_a_super_packet_is_never_longer_than_ipv6_can_say() -> None:
    packets = tcp_run(bytes(64 * 1220), 1220)
    rows, last = as_rows(packets)
    assert runs(rows, last) == [53, 11]
    assert len(merged(rows[:53], rows.shape[1])) <= VIRTIO + 40 + 65535


@settings(deadline=None)
@given(st.binary(min_size=2, max_size=4000), payloads, st.sampled_from(["A", "CPA", "FPA", "CEA"]), options)
def test_what_is_cut_has_scapys_checksums_lengths_and_flags(
    data: bytes, size: int, flags: str, options: list[Any]
) -> None:
    whole = bytearray(tcp(data, flags=flags, options=options, seq=0xFFFFFF00))
    super_packet = _partial(whole, 56)
    virtio = Virtio(NEEDS_CHECKSUM, 4 | (0x80 if "C" in flags else 0), 0, size, 40, 16)
    found = cut(super_packet, virtio)
    assert found is not None
    cut_data, stride = found[0].tobytes(), found[1]
    count = math.ceil(len(data) / size)
    for number in range(count):
        meant = flags
        if number < count - 1:
            meant = meant.replace("P", "").replace("F", "")
        if number:
            meant = meant.replace("C", "")
        at = number * size
        expected = tcp(data[at : at + size], seq=0xFFFFFF00 + at, flags=meant, options=options)
        assert cut_data[number * stride : (number + 1) * stride] == expected


@settings(deadline=None)
@given(st.binary(min_size=2, max_size=4000), payloads)
def test_udp_is_cut_behind_extension_headers_too(data: bytes, size: int) -> None:
    def packet(content: bytes) -> bytes:
        return bytes(IPv6(src=SOURCE, dst=DESTINATION) / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2) / Raw(content))

    found = cut(_partial(bytearray(packet(data)), 54, start=48), Virtio(NEEDS_CHECKSUM, 5, 0, size, 48, 6))
    assert found is not None
    cut_data, stride = found[0].tobytes(), found[1]
    assert [cut_data[at : at + stride] for at in range(0, len(cut_data), stride)] == [
        packet(data[at : at + size]) for at in range(0, len(data), size)
    ]


def _partial(packet: bytearray, at: int, start: int = 40) -> Bytes:
    """A packet as the kernel hands it over: with the sum of its pseudo-header in place of its checksum."""
    protocol = 6 if at - start == 16 else 17
    pseudo = sum(packet[n] << 8 | packet[n + 1] for n in range(8, 40, 2)) + protocol + len(packet) - start
    packet[at : at + 2] = (pseudo % 0xFFFF).to_bytes(2, "big")
    return np.frombuffer(bytes(packet), np.uint8)


@settings(deadline=None)
@given(st.binary(max_size=1300), st.booleans())
def test_a_missing_checksum_is_made(data: bytes, is_tcp: bool) -> None:
    packet = tcp(data) if is_tcp else udp(data)
    partial = bytearray(_partial(bytearray(packet), 56 if is_tcp else 46).tobytes())
    complete(memoryview(partial), 40, 16 if is_tcp else 6)
    assert bytes(partial) == packet or (is_tcp and packet[56:58] == b"\0\0" and partial[56:58] == b"\xff\xff")


@pytest.mark.parametrize(
    "virtio",
    [
        Virtio(0, 4, 0, 100, 40, 16),
        Virtio(NEEDS_CHECKSUM, 1, 0, 100, 40, 16),
        Virtio(NEEDS_CHECKSUM, 4, 0, 0, 40, 16),
        Virtio(NEEDS_CHECKSUM, 4, 0, 100, 1000, 16),
    ],
    ids=str,
)
def test_what_is_no_super_packet_is_not_cut(virtio: Virtio) -> None:
    assert cut(np.frombuffer(tcp(bytes(500)), np.uint8), virtio) is None


def test_it_has_no_threads_of_its_own() -> None:
    """A process with threads can neither move between namespaces nor be forked safely."""
    program = "import os, lab.datapath.offload; print(len(os.listdir('/proc/self/task')))"
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
    assert (
        subprocess.run((sys.executable, "-c", program), capture_output=True, check=True, env=environment).stdout
        == b"1\n"
    )


def test_the_virtio_header_is_the_kernels() -> None:
    assert (
        Virtio(1, 4, 72, 1208, 40, 16).encode()
        == np.array([1, 4], np.uint8).tobytes() + np.array([72, 1208, 40, 16], np.uint16).tobytes()
    )
    assert bytes(10) == offload.PLAIN
