"""A capture of a running lab as whoever wants to have it sees it, in either backend."""

from __future__ import annotations

import base64
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from lab.planner import plan
from lab.seeing import pcapng
from lab.seeing.cast import Cast, Tap, cast
from lab.state import Lab, RefusedError, StateError
from lab.topology.model import Topology

_END: Final = None


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
    worked on. Raises StateError.
    """

    def __init__(
        self,
        lab: Lab,
        taps: Sequence[Tap],
        named: Callable[[Tap, int], pcapng.Interface],
        expression: Sequence[Sequence[int]] = (),
    ) -> None:
        self._lab = lab
        self._which = os.urandom(8).hex()
        self._news: queue.SimpleQueue[Passed | BaseException | None] = queue.SimpleQueue()
        places = [(tap.node, tap.interface) for tap in taps]
        answers = lab.ask("capture", which=self._which, taps=places, filter=list(expression))
        began = next(answers)
        there = [(tap, kind) for tap, kind in zip(taps, began["links"], strict=True) if kind is not None]
        numbers = {taps.index(tap): number for number, (tap, _) in enumerate(there)}
        self.taps = tuple(tap for tap, _ in there)
        self.interfaces = tuple(named(tap, kind) for tap, kind in there)
        threading.Thread(target=self._take_in, args=(answers, numbers), daemon=True).start()

    def _take_in(self, answers: Iterator[dict[str, Any]], numbers: dict[int, int]) -> None:
        try:
            for answer in answers:
                packets = [
                    pcapng.Packet(numbers[tap], at, base64.b64decode(frame), outbound)
                    for at, tap, outbound, frame in answer["packets"]
                ]
                lost = {numbers[int(tap)]: count for tap, count in answer["lost"].items()}
                self._news.put(Passed(answer["now"], packets, lost))
            self._news.put(_END)
        except BaseException as error:  # whoever waits is to have it
            self._news.put(error)

    def end(self) -> None:
        """Ask for the end: what has passed until now still comes."""
        with contextlib.suppress(RefusedError, StateError):  # it has ended by itself, perhaps with its lab
            self._lab.ask_once("end-capture", which=self._which)

    def passed(self, timeout: float | None = None) -> Iterator[Passed]:
        """What passes, as it comes, until the end or for so many seconds without news. Raises StateError."""
        while True:
            try:
                news = self._news.get(timeout=timeout)
            except queue.Empty:
                return
            if news is _END:
                return
            if isinstance(news, BaseException):
                raise news
            yield news

    def rest(self) -> list[pcapng.Packet]:
        """End it, and return all packets that nobody has taken yet. Raises StateError."""
        self.end()
        return [packet for passed in self.passed() for packet in passed.packets]
