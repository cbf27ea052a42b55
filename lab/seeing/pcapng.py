"""Recordings of packets: pcapng as bytes, written and read, and the older pcap, read.

Our own, since a recording has to be written block by block while it goes on, with names, nanoseconds and comments, and
the library that does so (python-pcapng) does not read pcap. The format: draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

ETHERNET: Final = 1
RAW: Final = 101
LINUX_SLL: Final = 113
LINUX_SLL2: Final = 276

_SECTION, _INTERFACE, _SIMPLE, _PACKET = 0x0A0D0D0A, 1, 3, 6
_BYTE_ORDER: Final = 0x1A2B3C4D
_END, _COMMENT = 0, 1
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL, _IF_TSOFFSET = 2, 3, 9, 14
_EPB_FLAGS: Final = 2
_USER_APPLICATION: Final = 4
_NANOSECONDS: Final = 9
_UNLIMITED: Final = (1 << 64) - 1

_OLD: Final = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
"""What pcap files begin with: their byte order, and how many nanoseconds are in their fractions of a second."""


class RecordingError(ValueError):
    """A file is no recording, or a broken one; the message says in a few words why."""


class Interface(NamedTuple):
    """Where packets were recorded: the kind of link (LINKTYPE), a name, words about it, and a comment."""

    link_type: int
    name: str = ""
    description: str = ""
    comment: str = ""


class Packet(NamedTuple):
    """One packet: the number of its interface, nanoseconds since the epoch, and the frame as far as it was kept.

    `outbound`: whether the node sent it that has the interface; None where nothing says so. `cut`: how many bytes at
    its end were not kept.
    """

    interface: int
    at: int
    frame: bytes
    outbound: bool | None = None
    comment: str = ""
    cut: int = 0

    @property
    def whole(self) -> bytes:
        """The frame in its full length, with zeros for what was not kept."""
        return self.frame + bytes(self.cut)


@dataclass(slots=True)
class Recording:
    """A whole file. `comment` is its first section's."""

    interfaces: list[Interface] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)
    comment: str = ""


def section(comment: str = "") -> bytes:
    """What a file begins with: a section of unknown length."""
    options = _option(_USER_APPLICATION, b"teredo-lab") + _text(_COMMENT, comment)
    return _block(_SECTION, struct.pack("<IHHQ", _BYTE_ORDER, 1, 0, _UNLIMITED), options)


def interface(of: Interface) -> bytes:
    """An interface; they count from zero. Before the packets that it has."""
    options = _text(_COMMENT, of.comment) + _text(_IF_NAME, of.name) + _text(_IF_DESCRIPTION, of.description)
    options += _option(_IF_TSRESOL, bytes((_NANOSECONDS,)))
    return _block(_INTERFACE, struct.pack("<HHI", of.link_type, 0, 0), options)


def packet(of: Packet) -> bytes:
    """A packet."""
    kept = len(of.frame)
    head = struct.pack("<IIIII", of.interface, of.at >> 32, of.at & 0xFFFFFFFF, kept, kept + of.cut)
    options = _text(_COMMENT, of.comment)
    if of.outbound is not None:
        options += _option(_EPB_FLAGS, struct.pack("<I", 2 if of.outbound else 1))
    return _block(_PACKET, head + _padded(of.frame), options)


def begin(comment: str, interfaces: Iterable[Interface]) -> bytes:
    """What a file begins with, up to its first packet."""
    return section(comment) + b"".join(map(interface, interfaces))


def document(comment: str, interfaces: Iterable[Interface], packets: Iterable[Packet]) -> bytes:
    """A whole file."""
    return begin(comment, interfaces) + b"".join(map(packet, packets))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _text(code: int, value: str) -> bytes:
    return _option(code, value.encode()[:0xFFFF]) if value else b""


def _block(kind: int, head: bytes, options: bytes) -> bytes:
    body = head + (options + struct.pack("<HH", _END, 0) if options else b"")
    size = len(body) + 12
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


def read(data: bytes) -> Recording:
    """A file of either format, whole. Raises RecordingError."""
    try:
        if data[:4] in _OLD:
            return _read_pcap(data)
        if data[:4] == struct.pack("<I", _SECTION):
            return _read_pcapng(data)
    except (struct.error, IndexError) as error:
        raise RecordingError(f"the recording is cut short or broken: {error}") from None
    raise RecordingError("neither pcapng nor pcap")


def _read_pcap(data: bytes) -> Recording:
    order, nanoseconds = _OLD[data[:4]]
    recording = Recording([Interface(struct.unpack_from(f"{order}I", data, 20)[0] & 0xFFFF)])
    at = 24
    while at < len(data):
        seconds, fraction, kept, size = struct.unpack_from(f"{order}IIII", data, at)
        frame = data[at + 16 : at + 16 + kept]
        if len(frame) < kept:
            raise RecordingError("the recording is cut short within a packet")
        time = seconds * 10**9 + fraction * nanoseconds
        recording.packets.append(Packet(0, time, frame, cut=max(0, size - kept)))
        at += 16 + kept
    return recording


class _Clock(NamedTuple):
    """What an interface's times are in: units a second, and seconds to add."""

    units: int = 10**6
    offset: int = 0


def _read_pcapng(data: bytes) -> Recording:
    recording = Recording()
    clocks: list[_Clock] = []
    first, order, at = 0, "<", 0
    while at < len(data):
        if data[at : at + 4] == struct.pack("<I", _SECTION):
            order = "<" if struct.unpack_from("<I", data, at + 8)[0] == _BYTE_ORDER else ">"
            first = len(recording.interfaces)
        kind, size = struct.unpack_from(f"{order}II", data, at)
        body = data[at + 8 : at + size - 4]
        if size < 12 or size % 4 or len(body) < size - 12:
            raise RecordingError("the recording is cut short within a block")
        if kind == _SECTION and not at:
            recording.comment = _first_text(_COMMENT, body[16:], order)
        elif kind == _INTERFACE:
            options = body[8:]
            link_type = struct.unpack_from(f"{order}H", body)[0]
            names = (_first_text(code, options, order) for code in (_IF_NAME, _IF_DESCRIPTION, _COMMENT))
            recording.interfaces.append(Interface(link_type, *names))
            clocks.append(_clock(options, order))
        elif kind == _PACKET:
            number, high, low, kept, length = struct.unpack_from(f"{order}IIIII", body)
            clock = clocks[first + number]
            time = clock.offset * 10**9 + (high << 32 | low) * 10**9 // clock.units
            options = body[20 + kept + -kept % 4 :]
            flags = next((value for code, value in _options(options, order) if code == _EPB_FLAGS), bytes(4))
            way = struct.unpack(f"{order}I", flags)[0] & 3
            outbound = {1: False, 2: True}.get(way)
            comment = _first_text(_COMMENT, options, order)
            frame, cut = body[20 : 20 + kept], max(0, length - kept)
            recording.packets.append(Packet(first + number, time, frame, outbound, comment, cut))
        elif kind == _SIMPLE:
            raise RecordingError("its packets have no times")
        at += size
    return recording


def _clock(options: bytes, order: str) -> _Clock:
    clock = _Clock()
    for code, value in _options(options, order):
        if code == _IF_TSRESOL:
            power = value[0] & 0x7F
            clock = clock._replace(units=1 << power if value[0] & 0x80 else 10**power)
        elif code == _IF_TSOFFSET:
            clock = clock._replace(offset=struct.unpack(f"{order}q", value)[0])
    return clock


def _options(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        code, size = struct.unpack_from(f"{order}HH", data, at)
        if code == _END:
            return
        yield code, data[at + 4 : at + 4 + size]
        at += 4 + size + -size % 4


def _first_text(code: int, options: bytes, order: str) -> str:
    return next((value.decode(errors="replace") for kind, value in _options(options, order) if kind == code), "")
