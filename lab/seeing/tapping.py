"""Sees what passes links of a running lab, all of them in one order: the part of a capture that is in the lab."""

from __future__ import annotations

import base64
import contextlib
import errno
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from lab.backends import linux
from lab.places import Places
from lab.seeing.pcapng import ETHERNET, RAW

_ETH_P_ALL: Final = 3
_ARPHRD_ETHER: Final = 1
_PACKET_OUTGOING: Final = 4
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_RCVBUFFORCE: Final = 33
_BUFFER: Final = 1 << 24
_LONGEST: Final = 1 << 17

HOLD: Final = 50_000_000
"""Nanoseconds that packets are held back, since the kernel may pass on one of another link later that came before."""

_BEAT: Final = 0.2
"""Seconds at most between two tellings, so that who listens knows how far time has come."""

_AT_ONCE: Final = 1 << 20
"""Bytes of packets that are told at once."""

Tell = Callable[[dict[str, Any]], None]


class _Seen(NamedTuple):
    """A packet: nanoseconds since the epoch, which of the taps, whether the node sent it, and the frame."""

    at: int
    tap: int
    outbound: bool
    frame: bytes


class _Tap:
    """A socket on one interface of a node."""

    def __init__(self, places: Places, node: str, interface: str, expression: Sequence[Sequence[int]]) -> None:
        """`expression`: a filter of classic BPF; none takes everything. Raises OSError."""
        self.socket = places.open(node, socket.AF_PACKET, socket.SOCK_RAW)  # of no protocol yet, it hears nothing
        self.socket.setsockopt(socket.SOL_SOCKET, linux.SO_TIMESTAMPNS, 1)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        if expression:
            linux.attach_filter(self.socket, expression)
        self.socket.bind((interface, _ETH_P_ALL))
        self.link_type = ETHERNET if self.socket.getsockname()[3] == _ARPHRD_ETHER else RAW
        self._buffer = memoryview(bytearray(_LONGEST))

    def waiting(self, number: int) -> Iterator[_Seen]:
        """What has come, oldest first."""
        while True:
            try:
                size, ancillary, _, address = self.socket.recvmsg_into([self._buffer], 64)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENETDOWN:  # said once when it goes down; it may come up again
                    raise
                continue
            seconds, nanoseconds = struct.unpack("@ll", ancillary[0][2])
            frame = bytes(self._buffer[:size])
            yield _Seen(seconds * 10**9 + nanoseconds, number, address[2] == _PACKET_OUTGOING, frame)

    def lost(self) -> int:
        """How many packets found no room since the last call."""
        statistics = self.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        return int(struct.unpack("@II", statistics)[1])


def run(places: Places, request: dict[str, Any], tell: Tell, ending: int) -> None:
    """Tell what passes the `taps` of a request, pairs of node and interface, until something can be read from `ending`.

    A request may have a `filter`, of classic BPF. The first telling has the kind of each link; None if it is not there.
    """
    taps: list[_Tap | None] = []
    for node, interface in request["taps"]:
        try:
            taps.append(_Tap(places, node, interface, request.get("filter") or ()))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            taps.append(None)
    tell({"event": "capturing", "links": [None if tap is None else tap.link_type for tap in taps]})
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more
        _tell_all({number: tap for number, tap in enumerate(taps) if tap is not None}, tell, ending)


def _tell_all(taps: dict[int, _Tap], tell: Tell, ending: int) -> None:
    poll = select.epoll()
    poll.register(ending, select.EPOLLIN)
    numbers = {tap.socket.fileno(): number for number, tap in taps.items()}
    for descriptor in numbers:
        poll.register(descriptor, select.EPOLLIN)
    held: list[_Seen] = []
    told = time.time_ns()
    ended = False
    while not ended:
        ready = dict(poll.poll(_BEAT if not held else HOLD / 1e9))
        ended = ending in ready
        now = time.time_ns()
        # What was there before `now` on any link is in `held` after this, but for what the kernel has still in hand.
        for number in taps if ended else (numbers[each] for each in ready if each != ending):
            held += taps[number].waiting(number)
        held.sort()
        due = len(held) if ended else next((at for at, seen in enumerate(held) if seen.at > now - HOLD), len(held))
        if due or ended or now - told > _BEAT * 1e9:
            _tell_some(held[:due], {number: lost for number, tap in taps.items() if (lost := tap.lost())}, now, tell)
            del held[:due]
            told = now


def _tell_some(seen: Sequence[_Seen], lost: dict[int, int], now: int, tell: Tell) -> None:
    packets: list[list[Any]] = []
    size = 0
    for each in seen:
        packets.append([each.at, each.tap, each.outbound, base64.b64encode(each.frame).decode()])
        size += len(each.frame)
        if size > _AT_ONCE:
            tell({"event": "packets", "now": each.at, "packets": packets, "lost": {}})
            packets, size = [], 0
    tell({"event": "packets", "now": now - HOLD, "packets": packets, "lost": lost})
