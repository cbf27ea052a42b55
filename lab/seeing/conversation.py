"""One conversation of two nodes as a story: who takes part, each packet in the RFCs' words, and how it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from lab.nat.kinds import PortChoice
from lab.seeing.cast import Actor, Cast, Tap
from lab.seeing.follow import Drop, Follower, Journey, Rewrite
from lab.seeing.frames import Datagram
from lab.seeing.meaning import meaning
from lab.seeing.notes import sighting
from lab.seeing.pcapng import Interface, Packet
from lab.story import describe, describe_ipv6
from lab.teredo.address import packed
from lab.teredo.packet import ECHO_REPLY, ECHO_REQUEST, HEADER, MalformedError, decode
from lab.teredo.packet import Packet as Teredo
from lab.topology.rules import INTERNET

_TEST: Final = " (connectivity test)"
_REASONS: Final = 3
"""Reasons for drops that the end of a story repeats: those that came up most."""


class Lifeline(NamedTuple):
    """Who takes part, and what it is: ``NAT (cone)``."""

    name: str
    words: str


@dataclass(frozen=True, slots=True)
class Step:
    """A packet on its way along `path`. `at` is in milliseconds since the first one.

    `again`: how many more like this one came later, and took the same way.
    """

    at: float
    path: tuple[str, ...]
    name: str
    details: str
    source: str
    to: str
    rewrites: tuple[Rewrite, ...]
    drop: Drop | None
    why: str
    rfc: str
    again: int = 0


@dataclass(frozen=True, slots=True)
class Story:
    """What happened when `caller` wanted to reach `callee`. `reached` is None where nothing tells."""

    caller: str
    callee: str
    lifelines: tuple[Lifeline, ...]
    steps: tuple[Step, ...]
    reached: bool | None
    outcome: str

    @property
    def title(self) -> str:
        """``alice → carol``"""
        return f"{self.caller} → {self.callee}"


def tell(
    cast: Cast,
    taps: Sequence[Tap],
    interfaces: Sequence[Interface],
    packets: Iterable[Packet],
    ends: tuple[str, str],
    reason: str | None = None,
) -> Story:
    """The story in a recording. `reason`: why the caller's system says that it failed, if it has said so."""
    follower = Follower(cast, frozenset(tap.name for tap in taps))
    journeys: dict[Journey, None] = {}
    for packet in packets:
        seen = sighting(taps[packet.interface], interfaces[packet.interface].link_type, packet)
        if seen is not None:
            journeys[follower.add(seen)] = None
    teller = _Teller(cast, follower, ends, journeys)
    told = [journey for journey in journeys if teller.concerns(journey)]
    steps = _folded([teller.step(journey, told[0].first.at) for journey in told])
    reached, outcome = teller.outcome(told, reason)
    return Story(*ends, teller.lifelines(steps), tuple(steps), reached, outcome)


def _folded(steps: Iterable[Step]) -> list[Step]:
    """Steps that carry data come once for each way; what makes Teredo work comes each time."""
    found: list[Step] = []
    places: dict[object, int] = {}
    for step in steps:
        key = (step.name, step.path, step.drop)
        is_data = step.name.startswith(("data", "echo", "not Teredo")) or step.name[:1].isdigit()
        if not is_data or step.name.endswith(_TEST) or key not in places:
            places[key] = len(found)
            found.append(step)
        else:
            first = found[places[key]]
            found[places[key]] = replace(first, again=first.again + 1)
    return found


class _Teller:
    """Knows who is who in a conversation."""

    def __init__(self, cast: Cast, follower: Follower, ends: tuple[str, str], journeys: Iterable[Journey]) -> None:
        self._actors = cast.actors
        self._follower = follower
        self._ends = ends
        self._chains = tuple(cast.chain(end) for end in ends)
        self._addresses = [self._own(cast.actors[end]) for end in ends]
        self._tests = {echo for each in journeys if _is_test(each) and (echo := _echo(each)) is not None}

    @staticmethod
    def _own(actor: Actor) -> set[bytes]:
        return {packed(address) for address in (*actor.ipv6, *([actor.teredo] if actor.teredo else []))}

    def concerns(self, journey: Journey) -> bool:
        """Whether a packet is of this conversation: one end sent it or got it, or it is about one, and no third one."""
        path = self._follower.path(journey)
        if {path[0], path[-1]} & {*self._ends} and not self._is_of_others(journey):
            return True
        inner = _inner(journey)
        if inner is not None and {inner.source, inner.destination} & set().union(*self._addresses):
            return not self._is_of_others(journey)
        nats = {*self._chains[0], *self._chains[1]}
        known = {name for name in path if self._actors[name].role not in ("server", "relay")}
        return bool(known) and known <= nats and inner is None

    def _is_of_others(self, journey: Journey) -> bool:
        """Whether it is of a conversation of one end with somebody else."""
        inner = _inner(journey)
        if inner is None:
            return False
        others = set().union(
            *(self._own(actor) for name, actor in self._actors.items() if actor.role in ("client", "host")
              and name not in self._ends)
        )  # fmt: skip
        return bool({inner.source, inner.destination} & others)

    def step(self, journey: Journey, began: int) -> Step:
        content, last, drop = journey.first.content, journey.last.content, self._follower.drop(journey)
        path = self._follower.path(journey)
        if journey.last.outbound and self._actors[journey.last.node].upstream == INTERNET:
            path = (*path, INTERNET)  # where it went to is no link that was watched
        if isinstance(content, Datagram):
            name, _, details = describe(content.data, content.to).partition(", ")
            source, to = str(content.source), str(last.to) if isinstance(last, Datagram) else ""
        else:
            name, details = describe_ipv6(content), ""
            source, to = "", ""
        if _echo(journey) in self._tests and not name.endswith(_TEST):
            name += _TEST
        roles = (self._actors[path[0]].role, self._actors[path[-1]].role if path[-1] in self._actors else "host")
        means = meaning(content, *roles, sequential=self._sequential(path[0]))
        return Step(
            at=round((journey.first.at - began) / 1e6, 3),
            path=path,
            name=name,
            details=details,
            source=source,
            to=to,
            rewrites=self._follower.rewrites(journey),
            drop=drop,
            why=means.why,
            rfc=means.rfc,
        )

    def _sequential(self, name: str) -> bool:
        for end, chain in zip(self._ends, self._chains, strict=True):
            if end == name:
                nats = [nat for each in chain if (nat := self._actors[each].nat) is not None]
                return any(nat.symmetric and nat.ports is PortChoice.SEQUENTIAL for nat in nats)
        return False

    def lifelines(self, steps: Iterable[Step]) -> tuple[Lifeline, ...]:
        """The caller, its NATs, those who help and have something to do, the callee's NATs, the callee."""
        busy = {name for step in steps for name in step.path}
        helpers = [name for role in ("server", "relay") for name, each in self._actors.items() if each.role == role]
        others = [name for name in self._actors if name in busy]
        (caller, callee), (near, far) = self._ends, self._chains
        names = dict.fromkeys((caller, *near, *(name for name in helpers if name in busy)))
        right = [name for name in (*reversed(far), callee) if name not in names]
        names |= dict.fromkeys(name for name in others if name not in right)
        words = {name: self._actors[name].words for name in names}
        words |= {INTERNET: "everybody else"} if INTERNET in busy else {}
        words |= {name: self._actors[name].words for name in right}
        return tuple(Lifeline(*each) for each in words.items())

    def outcome(self, journeys: Sequence[Journey], reason: str | None) -> tuple[bool | None, str]:
        """Whether the caller got an answer, and how it came about, in a sentence."""
        caller, callee = self._ends
        for end in self._ends:
            actor = self._actors[end]
            if actor.role == "client" and actor.teredo is None:
                return False, f"{end} has no Teredo address, so nothing can be sent: it is {actor.state}"
        answer = next((journey for journey in journeys if self._answers(journey)), None)
        if answer is not None:
            helpers = {name for name in self._follower.path(answer) if self._actors[name].role == "relay"}
            by = f", by {' and '.join(sorted(helpers))}" if helpers else ""
            after = (answer.last.at - journeys[0].first.at) / 1e6
            return True, f"{caller} reaches {callee}: the first answer comes {after:.1f} ms after the first packet{by}"
        if not journeys and reason is None:
            return None, f"there are no packets of {caller} and {callee}"
        return False, self._failure(journeys, reason)

    def _answers(self, journey: Journey) -> bool:
        inner = _inner(journey)
        caller, callee = self._addresses
        return (
            inner is not None
            and inner.icmp_type == ECHO_REPLY
            and inner.source in callee
            and inner.destination in caller
            and journey.last.node == self._ends[0]
            and not journey.last.outbound
            and _echo(journey) not in self._tests
        )

    def _failure(self, journeys: Sequence[Journey], reason: str | None) -> str:
        caller, callee = self._ends
        calls = [journey for journey in journeys if self._follower.path(journey)[0] == caller]
        drops = [drop for journey in journeys if (drop := self._follower.drop(journey)) is not None]
        said = f" ({reason})" if reason else ""
        text = f"{caller} gives {callee} up{said}: no answer to {len(calls)} packets, in attempts of 2 s, four in all"
        text += " (RFC 4380 section 5.2.4)"
        counted = Counter(drop for drop in drops if drop.node != INTERNET).most_common(_REASONS)
        ways = [f"{drop.node} drops {count}: {drop.reason}" for drop, count in counted]
        return "; ".join([text, *ways])


def _is_test(journey: Journey) -> bool:
    """Whether a packet is the echo request of a connectivity test, which goes through a server."""
    content = journey.first.content
    return isinstance(content, Datagram) and describe(content.data, content.to).endswith(_TEST)


def _echo(journey: Journey) -> bytes | None:
    """What an echo request and its reply have in common: identifier, sequence number and data."""
    inner = _inner(journey)
    return inner.ipv6[HEADER + 4 :] if inner is not None and inner.icmp_type in (ECHO_REQUEST, ECHO_REPLY) else None


def _inner(journey: Journey) -> Teredo | None:
    """The IPv6 packet of a journey, without what is around it."""
    content = journey.first.content
    if isinstance(content, bytes):
        return Teredo(content)
    try:
        return decode(content.data)
    except MalformedError:
        return None
