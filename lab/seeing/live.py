"""A capture of a running lab as whoever wants to have it sees it, in either backend."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

from lab.planner import plan
from lab.seeing import pcapng
from lab.seeing.cast import Cast, Tap, cast
from lab.seeing.ring import packets
from lab.state import Lab, RefusedError, StateError
from lab.topology.model import Topology

_END: Final = None
_BY_TIME: Final = attrgetter("at")
_AHEAD: Final = 4096
"""Blocks of packets that wait for whoever works on them; beyond these the kernel counts packets as lost."""

_PATIENCE: Final = _AHEAD * 3 // 4
"""How many of these may wait for the end of a burst."""

_LOOK: Final = 0.1
_FAST: Final = 1 << 20
"""Bytes in the time of a look: where more come, who is patient waits."""


_FRAME: Final = 1514
_HEADERS: Final = 160
_ALL: Final = 1 << 18
"""Bytes: of the longest frame that a link takes in one, of the headers of data, and more than any packet has."""

_BPF_LENGTH, _BPF_IF_GREATER, _BPF_TAKE = 0x80, 0x25, 0x06


def keeping(snaplen: int | None) -> Sequence[Sequence[int]]:
    """Classic BPF that takes so many bytes of each packet, 0 for all.

    None: whole packets, but of those that kernels cut on their way (segmentation offload) the headers.
    """
    if snaplen is None:
        return (
            (_BPF_LENGTH, 0, 0, 0),
            (_BPF_IF_GREATER, 0, 1, _FRAME),
            (_BPF_TAKE, 0, 0, _HEADERS),
            (_BPF_TAKE, 0, 0, _ALL),
        )
    return ((_BPF_TAKE, 0, 0, snaplen or _ALL),)


def cast_of(lab: Lab) -> Cast:
    """The cast of a running lab as it is now. Raises StateError."""
    topology = Topology.model_validate(lab.ask_once("plan")["topology"])
    return cast(plan(topology), lab.ask_once("status"), lab.ask_once("links")["links"])


class Passed(NamedTuple):
    """Packets that have passed, in one order over all links; none of before `now` will follow.

    `lost` counts by tap what was too much.
    """

    now: int
    packets: list[pcapng.Packet]
    lost: dict[int, int]


class Capture:
    """Of some taps, from the moment in which it is made. `interfaces` are those of its packets.

    `named` says how a recording shall have a tap whose link is of that kind; `expression` is a filter of classic BPF. A
    tap whose interface is not there is left out. A thread takes the packets in, so that none gets lost while others are
    worked on. Who is `patient` gets those of a burst when it is over, or when most of the room for them is full: what
    is done with packets then takes no time from what sends them. Raises StateError.
    """

    def __init__(
        self,
        lab: Lab,
        taps: Sequence[Tap],
        named: Callable[[Tap, int], pcapng.Interface],
        expression: Sequence[Sequence[int]] = (),
        *,
        patient: bool = False,
    ) -> None:
        self._lab = lab
        self._patient = patient
        self._taken = self._worked = 0
        self._held: list[pcapng.Packet] = []
        self._which = os.urandom(8).hex()
        self._news: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue(_AHEAD)
        places = [(tap.node, tap.interface) for tap in taps]
        answers = lab.ask("capture", which=self._which, taps=places, filter=list(expression))
        began = next(answers)
        there = [(tap, kind) for tap, kind in zip(taps, began["links"], strict=True) if kind is not None]
        self._numbers = {taps.index(tap): number for number, (tap, _) in enumerate(there)}
        self.taps = tuple(tap for tap, _ in there)
        self.interfaces = tuple(named(tap, kind) for tap, kind in there)
        threading.Thread(target=self._take_in, args=(answers,), daemon=True).start()

    def _take_in(self, answers: Iterator[dict[str, Any]]) -> None:
        try:
            for answer in answers:
                self._news.put(answer)
                self._taken += len(answer.get("data", ()))
            self._patient = False
            self._news.put(_END)
        except BaseException as error:  # whoever waits is to have it
            self._news.put(error)

    @property
    def waiting(self) -> int:
        """Bytes of packets that have been taken in, and not been worked on."""
        return self._taken - self._worked

    def end(self) -> None:
        """Ask for the end: what has passed until now still comes."""
        with contextlib.suppress(RefusedError, StateError):  # it has ended by itself, perhaps with its lab
            self._lab.ask_once("end-capture", which=self._which)

    def passed(self, timeout: float | None = None) -> Iterator[Passed]:
        """What passes, as it comes, until the end or for so many seconds without news. Raises StateError."""
        while True:
            self._let_pass()
            try:
                news = self._news.get(timeout=timeout)
            except queue.Empty:
                return
            if news is _END:
                if last := self._until(None):
                    yield Passed(last[-1].at, last, {})
                return
            if isinstance(news, BaseException):
                raise news
            if news["event"] == "packets":
                self._worked += len(news["data"])
                self._held += packets(news["data"], self._numbers[news["tap"]])
            else:
                lost = {self._numbers[int(tap)]: count for tap, count in news["lost"].items()}
                yield Passed(news["now"], self._until(news["now"]), lost)

    def _let_pass(self) -> None:
        while self._patient and self._news.qsize() < _PATIENCE:
            before = self._taken
            time.sleep(_LOOK)
            if self._taken - before < _FAST:
                return

    def _until(self, now: int | None) -> list[pcapng.Packet]:
        """Of the packets that are held back, those of before this time, or all; in their order."""
        self._held.sort(key=_BY_TIME)
        due = len(self._held) if now is None else bisect_left(self._held, now, key=_BY_TIME)
        found = self._held[:due]
        del self._held[:due]
        return found

    def rest(self) -> list[pcapng.Packet]:
        """End it, and return all packets that nobody has taken yet. Raises StateError."""
        self.end()
        return [packet for passed in self.passed() for packet in passed.packets]
