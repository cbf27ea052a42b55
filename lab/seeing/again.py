"""Has pairs of a running lab talk from cold paths, and takes down what their links see: for stories, and for captures.

A check that passes pays nothing for this. What fails only now and then may work the second time: the results say so.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lab.seeing import pcapng
from lab.seeing.cast import Cast
from lab.seeing.conversation import Story, tell
from lab.seeing.live import Capture, cast_of
from lab.seeing.notes import Notes
from lab.state import Lab

MOST: Final = 16
"""Pairs that are tried again at most: of a lab in which nothing works, these tell enough."""

_PROBES: Final = ("icmp6", "udp", "tcp")

Pair = tuple[str, str]


@dataclass(frozen=True)
class Conversations:
    """What pairs have had: the capture of all their links, its packets with comments, and what came out.

    `rounds` are the pairs that talked at one time, and when they began, in nanoseconds since the epoch.
    """

    cast: Cast
    capture: Capture
    packets: list[pcapng.Packet]
    results: list[dict[str, Any]]
    rounds: tuple[tuple[int, tuple[Pair, ...]], ...]

    def stories(self) -> Iterator[Story]:
        """Of each pair."""
        ends = [began for began, _ in self.rounds[1:]]
        for (began, pairs), end in zip(self.rounds, (*ends, None), strict=True):
            packets = [each for each in self.packets if began <= each.at and (end is None or each.at < end)]
            for pair in pairs:
                yield tell(self.cast, self.capture.taps, self.capture.interfaces, packets, pair, self._reason(pair))

    def _reason(self, pair: Pair) -> str | None:
        """Why an echo request had no answer, if it had none."""
        return next(
            (
                result["reason"]
                for result in self.results
                if (result["source"], result["destination"], result["probe"]) == (*pair, "icmp6")
                and result["observed"] != "reachable"
            ),
            None,
        )

    def keep(self, lab: Lab) -> Path:
        """Keep the recording beside the lab's logs; returns its file. Raises OSError."""
        lab.directory.mkdir(parents=True, exist_ok=True)  # a lab in containers has its logs elsewhere
        file = lab.directory / f"failed-check-{time.strftime('%H%M%S')}.pcapng"
        file.write_bytes(pcapng.document(f"lab {lab.name}", self.capture.interfaces, self.packets))
        return file


def converse(lab: Lab, rounds: Iterable[Sequence[Pair]], probes: Collection[str] = ("icmp6",)) -> Conversations:
    """Have pairs talk from cold paths, round by round, those of a round at one time. Raises StateError."""
    cast = cast_of(lab)
    called = [tuple(each) for each in rounds if each]
    links = dict.fromkeys(link for each in called for pair in each for link in cast.links_between(*pair))
    capture = Capture(lab, cast.taps(links), cast.interface)
    results: list[dict[str, Any]] = []
    talked: list[tuple[int, tuple[Pair, ...]]] = []
    try:
        for each in called:
            talked.append((time.time_ns(), each))
            for answer in lab.ask("check", pairs=each, probes=list(probes)):
                results += answer.get("results", ())
    finally:
        packets = capture.rest()
    notes = Notes(cast, capture.taps, capture.interfaces)
    notes.take(packets)
    return Conversations(cast, capture, [*notes.ready()], results, tuple(talked))


def again(lab: Lab, failed: Sequence[dict[str, Any]]) -> Conversations:
    """Try again what these results are of, in a check's way: ICMPv6 first, which opens the path. Raises StateError."""
    pairs = [*dict.fromkeys((each["source"], each["destination"]) for each in failed)][:MOST]
    back = [pair for pair in pairs if pair[::-1] in pairs and pair > pair[::-1]]
    there = [pair for pair in pairs if pair not in back]
    wanted = {"icmp6", *(each["probe"] for each in failed)}
    probes = [probe for probe in _PROBES if probe in wanted]
    return converse(lab, (there, back), probes)  # apart, since packets do not say who of the two has begun


def examples(results: Iterable[dict[str, Any]]) -> list[Pair]:
    """A pair for each kind of path by which one reaches another, as expected."""
    found: dict[str | None, Pair] = {}
    for each in results:
        if each["ok"] and each["observed"] == "reachable" and each["probe"] == "icmp6":
            found.setdefault(each["path"], (each["source"], each["destination"]))
    return [*found.values()][:MOST]
