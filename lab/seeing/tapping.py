"""Sees what passes links of a running lab, all of them in one order: the part of a capture that is in the lab."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from lab.backends import linux
from lab.places import Places
from lab.seeing.pcapng import ETHERNET, RAW
from lab.seeing.ring import LATEST, Ring

_ETH_P_ALL: Final = 3
_ARPHRD_ETHER: Final = 1

_ROOM, _LARGEST = 1 << 28, 1 << 22
"""Bytes of the rings of all taps, and at most of one: those of a few links stay in the processors' cache, and what the
kernel has to write to memory beyond would take time from what passes."""

HOLD: Final = 2 * LATEST
"""Nanoseconds after which a packet is told at the latest, also on a busy machine: until then, one of another link may
follow that came before."""

_BEAT: Final = 0.1
"""Seconds between two tellings of how far time has come."""

_PAUSE: Final = 0.02
"""Seconds in which blocks gather: to be woken for each would take time from what sends them."""

Tell = Callable[[dict[str, Any]], None]
Expression = Sequence[Sequence[int]]
"""A filter of classic BPF, which also says how much of each packet is kept; none keeps all of everything."""


class _Tap:
    """A socket on one interface of a node, and the ring into which the kernel writes what passes."""

    def __init__(self, places: Places, node: str, interface: str, expression: Expression, room: int) -> None:
        """`room` is the ring's, in bytes. Raises OSError."""
        self.socket = places.open(node, socket.AF_PACKET, socket.SOCK_RAW)  # of no protocol yet, it hears nothing
        if expression:
            linux.attach_filter(self.socket, expression)
        self.ring = Ring(self.socket, room)
        self.socket.bind((interface, _ETH_P_ALL))
        self.link_type = ETHERNET if self.socket.getsockname()[3] == _ARPHRD_ETHER else RAW

    def waiting(self) -> Iterator[memoryview]:
        """The blocks of packets that have come, oldest first, each until the next is asked for. Raises OSError."""
        error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error not in (0, errno.ENETDOWN):  # said once when the interface goes down; it may come up again
            raise OSError(error, os.strerror(error))
        return self.ring.waiting()


def run(places: Places, request: dict[str, Any], tell: Tell, ending: int) -> object:
    """Tell what passes the `taps` of a request, pairs of node and interface, until something can be read from `ending`.

    A request may have a `filter`, of classic BPF. The first telling has the kind of each link; None if it is not there.
    Then come blocks of packets as the kernel writes them, since to take them apart here would cost the lab time, and,
    now and then, the time before which no more will follow, and how many packets were lost. Returns the open taps: for
    each that is let go, the kernel waits until no processor uses it any more.
    """
    taps: list[_Tap | None] = []
    room = min(_LARGEST, _ROOM // max(1, len(request["taps"])))
    for node, interface in request["taps"]:
        try:
            taps.append(_Tap(places, node, interface, request.get("filter") or (), room))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            taps.append(None)
    tell({"event": "capturing", "links": [None if tap is None else tap.link_type for tap in taps]})
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody listens any more
        _tell_all({number: tap for number, tap in enumerate(taps) if tap is not None}, tell, ending)
    return taps


def _tell_all(taps: dict[int, _Tap], tell: Tell, ending: int) -> None:
    poll = select.epoll()
    poll.register(ending, select.EPOLLIN)
    numbers = {tap.socket.fileno(): number for number, tap in taps.items()}
    for descriptor in numbers:
        poll.register(descriptor, select.EPOLLIN)

    def pass_on(which: Iterable[int]) -> None:
        for number in which:
            for block in taps[number].waiting():
                tell({"event": "packets", "tap": number, "data": block})

    told = 0.0
    ended = False
    while not ended:
        ready = {descriptor for descriptor, _ in poll.poll(_BEAT)}
        now = time.time_ns()
        ended = ending in ready
        time.sleep(_PAUSE)
        pass_on(taps if ended else [numbers[each] for each in ready])
        latest = time.monotonic() + HOLD / 1e9
        while ended and any(tap.ring.unread for tap in taps.values()) and time.monotonic() < latest:
            time.sleep(_PAUSE)
            pass_on(taps)
        if ended or time.monotonic() >= told + _BEAT:
            told = time.monotonic()
            lost = {number: lost for number, tap in taps.items() if (lost := tap.ring.lost())}
            tell({"event": "now", "now": now - HOLD, "lost": lost})
