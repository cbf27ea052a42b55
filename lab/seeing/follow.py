"""Follows each packet of a recording from link to link: which way it took, what NATs made of it, and where it ended.

The same packet on several links is known by its payload and by IPv4's identification, which NATs leave alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from lab.nat.kinds import Filtering
from lab.seeing.cast import Actor, Cast
from lab.seeing.frames import Datagram
from lab.story import parts
from lab.teredo.address import DISCOVERY_ADDRESS, Endpoint, is_global_unicast, packed, parse
from lab.topology.rules import INTERNET

PATIENCE: Final = 250_000_000
"""Nanoseconds without another sighting after which a packet counts as gone, where links do not delay."""

_LARGEST: Final = 1500
"""Bytes of what is not cut into several on its way."""


class Sighting(NamedTuple):
    """A packet on a link: when, of which node the link is, whether that node sent it, and what it was there."""

    at: int
    node: str
    outbound: bool
    content: Datagram | bytes


class Rewrite(NamedTuple):
    """What a NAT made of a packet: of its source, if it went out, of its destination if it came in."""

    nat: str
    before: Endpoint
    after: Endpoint


@dataclass(slots=True, eq=False)
class Journey:
    """One packet, wherever it was seen. `why` is the reason for which it may end where it was seen last."""

    sightings: list[Sighting] = field(default_factory=list)
    why: str = ""

    @property
    def first(self) -> Sighting:
        return self.sightings[0]

    @property
    def last(self) -> Sighting:
        return self.sightings[-1]


class Drop(NamedTuple):
    """Where a packet ended that should have gone on, and why as far as that can be known."""

    node: str
    reason: str


@dataclass(slots=True)
class _Opening:
    """What a NAT was seen to do for one of its external endpoints: whose it is, and whom that has sent to."""

    remotes: dict[Endpoint, None] = field(default_factory=dict)


class Follower:
    """Takes the packets of a recording in their order; `watched` are the links that it is of."""

    def __init__(self, cast: Cast, watched: frozenset[str]) -> None:
        self._cast = cast
        self._watched = watched
        self._open: dict[object, Journey] = {}
        self._openings: dict[str, dict[Endpoint, _Opening]] = {}
        self.patience = PATIENCE + int(sum(actor.delay for actor in cast.actors.values()) * 2e6)
        self._own = {
            teredo.mapped: name
            for name, actor in cast.actors.items()
            if actor.teredo is not None and (teredo := parse(packed(actor.teredo))) is not None
        }

    def add(self, sighting: Sighting) -> Journey:
        """Note a sighting; returns the journey that it is of, which it may begin."""
        content = sighting.content
        key: object = (content.identification, content.data) if isinstance(content, Datagram) else _unaged(content)
        journey = self._open.get(key)
        if journey is None or not self._goes_on(journey, sighting):
            journey = self._open[key] = Journey()
        elif isinstance(content, Datagram):
            self._learn(journey.last, sighting)
        journey.sightings.append(sighting)
        journey.why = self._why(sighting)
        return journey

    def _goes_on(self, journey: Journey, here: Sighting) -> bool:
        last = journey.last
        if here.at - last.at > self.patience:
            return False
        if any((each.node, each.outbound) == (here.node, here.outbound) for each in journey.sightings):
            return False
        before, now = last.content, here.content
        if isinstance(before, Datagram) and isinstance(now, Datagram) and before.source != now.source:
            # A NAT that hairpins rewrites both ends at once. A server that passes a packet on does so, too.
            return before.to == now.to or self._ends_in_nat(last)
        return True

    def _at(self, sighting: Sighting) -> str:
        """The node where a packet is after it was seen."""
        return self._cast.actors[sighting.node].upstream if sighting.outbound else sighting.node

    def _ends_in_nat(self, sighting: Sighting) -> bool:
        actor = self._cast.actors.get(self._at(sighting))
        return actor is not None and actor.nat is not None

    def _learn(self, before: Sighting, now: Sighting) -> None:
        """What a NAT has just shown of its mappings."""
        if not (now.outbound and self._ends_in_nat(before) and now.node == self._at(before)):
            return
        assert isinstance(now.content, Datagram)
        opening = self._openings.setdefault(now.node, {}).setdefault(now.content.source, _Opening())
        opening.remotes[now.content.to] = None

    def path(self, journey: Journey) -> tuple[str, ...]:
        """The nodes that a packet passed, from the one that sent it on; the Internet itself is left out."""
        stops: list[str] = []
        for each in journey.sightings:
            own, upstream = each.node, self._cast.actors[each.node].upstream
            stops += (own, upstream) if each.outbound else (upstream, own)
        known = [name for name in stops if name in self._cast.actors]
        path = [name for at, name in enumerate(known) if not at or known[at - 1] != name]
        first, last = journey.first, journey.last
        if first is not last and first.content == last.content and len(path) == 3:
            del path[1]  # two hosts of one LAN: the NAT is only the bridge between them
        return tuple(path)

    def rewrites(self, journey: Journey) -> tuple[Rewrite, ...]:
        """What NATs made of a packet on its way."""
        found: list[Rewrite] = []
        for before, now in zip(journey.sightings, journey.sightings[1:], strict=False):
            if isinstance(before.content, Datagram) and isinstance(now.content, Datagram):
                for old, new in ((before.content.source, now.content.source), (before.content.to, now.content.to)):
                    if old != new:
                        found.append(Rewrite(self._at(before), old, new))
        return tuple(found)

    def drop(self, journey: Journey) -> Drop | None:
        """Where a packet that is not seen any more was dropped, if it was; asked as soon as its patience is over."""
        last = journey.last
        nat = self._cast.actors.get(self._at(last))
        content = last.content
        if self._at(last) == INTERNET and isinstance(content, Datagram) and not is_global_unicast(content.to.host):
            return Drop(INTERNET, f"no route: {content.to.host} is a private address")
        if nat is None or nat.nat is None or not isinstance(content, Datagram) or not self._judges(nat):
            return None
        if parts(content.data) > 1 or len(content.data) > _LARGEST:
            return None
        if last.outbound and (content.to.host == DISCOVERY_ADDRESS or content.to.host in {*nat.ipv4} - {*nat.external}):
            return None
        return Drop(nat.name, self._or_lost(nat, journey.why))

    def _why(self, here: Sighting) -> str:
        """Why a packet would be dropped where it is now; empty where nothing speaks for that."""
        nat = self._cast.actors.get(self._at(here))
        if nat is None or nat.nat is None or not isinstance(here.content, Datagram):
            return ""
        if here.outbound:
            return self._why_not_out(nat, here.content.to)
        return self._why_not_in(nat, here.content.source, here.content.to)

    def _judges(self, nat: Actor) -> bool:
        """Whether all links of a NAT are watched, so that what is not seen has not been there."""
        return self._watched.issuperset((nat.name, *nat.below))

    def _why_not_out(self, nat: Actor, to: Endpoint) -> str:
        assert nat.nat is not None
        if not nat.nat.udp:
            return "it lets no UDP through"
        if to.host in nat.external:
            return "no hairpinning: it does not turn packets round that are for its own external address"
        return ""

    def _why_not_in(self, nat: Actor, source: Endpoint, to: Endpoint) -> str:
        assert nat.nat is not None
        opening = self._openings.get(nat.name, {}).get(to)
        if not nat.nat.udp:
            return "it lets no UDP through"
        if opening is None and to not in self._own:
            if nat.upstream == INTERNET:
                return f"no mapping: nobody inside has port {to.port}"
            # Which ports a NAT behind another one has given away earlier, no address tells.
            either = f"no mapping, or filtering {nat.nat.filtering}"
            return f"{either}: nobody inside has sent to {source.host} from port {to.port} before"
        remotes = opening.remotes if opening is not None else {}
        if nat.nat.symmetric and remotes and source not in remotes:
            return f"its mapping {to} is for {_some(remotes)} alone ({nat.nat.mapping}, {nat.nat.filtering})"
        hosts = {remote.host for remote in remotes}
        filtering = f"filtering {nat.nat.filtering}"
        if nat.nat.filtering is not Filtering.EIF and source.host not in hosts:
            return f"{filtering}: nobody inside has sent to {source.host} from that port before"
        if nat.nat.filtering is Filtering.APDF and source not in remotes:
            return f"{filtering}: what was sent to {source.host} was for another port than {source.port}"
        return ""

    def _or_lost(self, nat: Actor, reason: str) -> str:
        links = (nat.name, *nat.below)
        troubles = [
            f"the link of {name} {trouble}"
            for name in links
            if name in self._cast.actors and (trouble := self._cast.actors[name].trouble)
        ]
        if troubles:
            return " or ".join([f"lost: {', '.join(troubles)}", *([reason] if reason else [])])
        return reason or "for no reason that packets show"


def _unaged(ipv6: bytes) -> bytes:
    """A packet without its hop limit."""
    return ipv6[:7] + ipv6[8:]


def _some(remotes: dict[Endpoint, None]) -> str:
    first, *others = remotes
    return f"{first} and {len(others)} others" if len(others) > 1 else " and ".join(map(str, (first, *others)))
