"""Comments on the packets of a recording: what they are, what NATs made of them, and which NAT dropped them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from lab.seeing import frames
from lab.seeing.cast import TUNNEL, Cast, Tap
from lab.seeing.follow import Follower, Journey, Sighting
from lab.seeing.pcapng import Interface, Packet
from lab.story import describe, is_notable


def sighting(tap: Tap, link_type: int, packet: Packet) -> Sighting | None:
    """A packet as it can be followed; None for what is no link, or nothing that can be."""
    found = frames.content(link_type, packet.whole)
    if tap.interface == TUNNEL or isinstance(found, frames.Other):
        return None
    return Sighting(packet.at, tap.node, bool(packet.outbound), found)


class Notes:
    """Takes packets in their order, and gives them back with comments when all is known that there is to know."""

    def __init__(self, cast: Cast, taps: Sequence[Tap], interfaces: Sequence[Interface]) -> None:
        self._taps = taps
        self._interfaces = interfaces
        self._follower = Follower(cast, frozenset(tap.name for tap in taps))
        self._held: deque[tuple[Packet, Sighting | None, Journey | None]] = deque()

    def take(self, packets: Iterable[Packet]) -> None:
        """Take packets in. Those that were cut get no comments: there are many, and to follow one takes long."""
        for packet in packets:
            if packet.cut:
                self._held.append((packet, None, None))
                continue
            seen = sighting(self._taps[packet.interface], self._interfaces[packet.interface].link_type, packet)
            self._held.append((packet, seen, None if seen is None else self._follower.add(seen)))

    def ready(self, now: int | None = None) -> Iterator[Packet]:
        """The packets of which no more will be seen at this time, nanoseconds since the epoch; without one, all."""
        while self._held and (now is None or self._held[0][0].at < now - self._follower.patience):
            packet, seen, journey = self._held.popleft()
            yield packet if seen is None or journey is None else packet._replace(comment=self._comment(seen, journey))

    def _comment(self, seen: Sighting, journey: Journey) -> str:
        if not isinstance(seen.content, frames.Datagram):
            return ""
        said = [describe(seen.content.data, seen.content.to)] if is_notable(seen.content.data) else []
        place = journey.sightings.index(seen)
        if place:
            here = Journey(journey.sightings[place - 1 : place + 1])
            said += [f"{nat}: {before} → {after}" for nat, before, after in self._follower.rewrites(here)]
        if seen is journey.last and (drop := self._follower.drop(journey)) is not None:
            said.append(f"dropped by {drop.node}: {drop.reason}")
        return "; ".join(said)
