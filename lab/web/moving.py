"""Packets on their way, for whoever watches: each with the nodes that it passes, one line for many of the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from lab.seeing.cast import Cast, Tap
from lab.seeing.follow import Follower, Journey
from lab.seeing.frames import Datagram
from lab.seeing.notes import sighting
from lab.seeing.pcapng import Interface, Packet
from lab.story import describe, describe_ipv6
from lab.topology.rules import INTERNET

MOST: Final = 16
"""Ways that are told at once: more dots than that nobody can follow."""

_AT_ONCE: Final = 500
"""Packets that are followed at once; a link that is busy with more is not slowed down by being watched."""

_LARGEST: Final = 400
FILTER: Final = ((0x80, 0, 0, 0), (0x25, 0, 1, _LARGEST), (6, 0, 0, 0), (6, 0, 0, _LARGEST))
"""Classic BPF that passes packets of up to so many bytes: what makes Teredo work is small, and bulk data is large."""


class Moving:
    """Takes packets in their order, and tells of each when it is known which way it took."""

    def __init__(self, cast: Cast, taps: Sequence[Tap], interfaces: Sequence[Interface]) -> None:
        self._cast = cast
        self._taps = taps
        self._interfaces = interfaces
        self._follower = Follower(cast, frozenset(tap.name for tap in taps))
        self._held: deque[Journey] = deque()

    def take(self, packets: Sequence[Packet]) -> int:
        """Take packets in; returns how many were too many."""
        for packet in packets[:_AT_ONCE]:
            seen = sighting(self._taps[packet.interface], self._interfaces[packet.interface].link_type, packet)
            if seen is not None:
                journey = self._follower.add(seen)
                if journey.first is seen:
                    self._held.append(journey)
        return max(0, len(packets) - _AT_ONCE)

    def ready(self, now: int) -> list[dict[str, Any]]:
        """What is known at this time, nanoseconds since the epoch: ``{"path", "what", "drop", "count"}``."""
        found: dict[tuple[object, ...], dict[str, Any]] = {}
        while self._held and self._held[0].first.at < now - self._follower.patience:
            told = self._told(self._held.popleft())
            key = (*told["path"], told["what"], told["drop"])
            found.setdefault(key, told)["count"] += 1
        return list(found.values())[:MOST]

    def _told(self, journey: Journey) -> dict[str, Any]:
        content, drop, path = journey.first.content, self._follower.drop(journey), self._follower.path(journey)
        is_teredo = isinstance(content, Datagram)
        what = describe(content.data, content.to) if isinstance(content, Datagram) else describe_ipv6(content)
        if drop is not None and drop.node == INTERNET:
            path = (*path, INTERNET)
        return {
            "path": list(self._with_internet(path)),
            "what": what.partition(",")[0],
            "teredo": is_teredo,
            "drop": f"dropped by {drop.node}: {drop.reason}" if drop is not None else "",
            "count": 0,
        }

    def _with_internet(self, path: Iterable[str]) -> Iterable[str]:
        """The way as it is drawn: what goes from one link of the Internet to another passes it."""
        before = None
        for name in path:
            if before is not None and name != INTERNET and self._parts(before, name):
                yield INTERNET
            yield name
            before = name

    def _parts(self, one: str, other: str) -> bool:
        ups = [self._cast.actors[name].upstream for name in (one, other)]
        return one != ups[1] and other != ups[0] and INTERNET in ups
