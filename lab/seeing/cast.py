"""Who takes part in a lab, as far as its packets tell of them: what each node is, and what it is linked to.

A link is named by the node below, as in `teredo-lab link`: `alice` is the one between alice and the next node upstream.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from lab.link import uplinks
from lab.nat.kinds import NatBehaviour
from lab.plan import Plan
from lab.seeing.pcapng import Interface
from lab.topology.rules import INTERNET

TUNNEL: Final = "teredo"
"""The interface at which packets enter and leave the tunnel."""


@dataclass(frozen=True)
class Actor:
    """A node. `upstream` is the next one on the way to the Internet, `below` are those whose links lead here; `trouble`
    is what its link does to packets, in words, and `delay` how long it keeps them, in milliseconds."""

    name: str
    role: str
    interface: str
    upstream: str
    below: tuple[str, ...] = ()
    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()
    teredo: str | None = None
    state: str = ""
    nat: NatBehaviour | None = None
    external: tuple[str, ...] = ()
    kind: str = ""
    trouble: str = ""
    delay: float = 0.0

    @property
    def words(self) -> str:
        """``NAT (port_restricted)``"""
        return f"NAT ({self.kind})" if self.nat is not None else self.role


_ACTOR: Final = TypeAdapter(Actor)


@dataclass(frozen=True)
class Tap:
    """Where packets are seen: an interface of a node. `name` is the link's, or that of a tunnel's end."""

    name: str
    node: str
    interface: str


@dataclass(frozen=True)
class Cast:
    """All nodes of a lab but the one that is the Internet, by name."""

    actors: dict[str, Actor]

    def chain(self, name: str) -> tuple[str, ...]:
        """The NATs between a node and the Internet, the inner one first."""
        found: list[str] = []
        while (name := self.actors[name].upstream) in self.actors:
            found.append(name)
        return tuple(found)

    @property
    def _public(self) -> tuple[str, ...]:
        return tuple(actor.name for actor in self.actors.values() if actor.upstream == INTERNET)

    def links_of(self, names: Collection[str]) -> tuple[str, ...]:
        """The links that these nodes mean: each one's own, and for the Internet all that lead there."""
        found = [link for name in names for link in (self._public if name == INTERNET else (name,))]
        return tuple(dict.fromkeys(found))

    def links_between(self, one: str, other: str) -> tuple[str, ...]:
        """All links that a conversation of two may use: up to the Internet, those of their LANs, servers, relays."""
        nats = dict.fromkeys((*self.chain(one), *self.chain(other)))
        helpers = (actor.name for actor in self.actors.values() if actor.role in ("server", "relay"))
        lans = (name for nat in nats for name in self.actors[nat].below)
        return tuple(dict.fromkeys((one, other, *nats, *lans, *helpers)))

    def taps(self, links: Iterable[str], *, tunnels: bool = False) -> tuple[Tap, ...]:
        """Where these links are seen: at their lower ends, and there, if asked for, what enters the tunnel."""
        found: list[Tap] = []
        for link in links:
            actor = self.actors[link]
            found.append(Tap(link, link, actor.interface))
            if tunnels and actor.role != "nat":
                found.append(Tap(f"{link}/{TUNNEL}", link, TUNNEL))
        return tuple(found)

    def interface(self, tap: Tap, link_type: int) -> Interface:
        """A tap as a recording has it."""
        actor = self.actors[tap.node]
        if tap.interface == TUNNEL:
            return Interface(link_type, tap.name, f"what enters and leaves the tunnel at {tap.node}, {actor.words}")
        told = _ACTOR.dump_json(actor, exclude_defaults=True).decode()
        return Interface(link_type, tap.name, f"link of {tap.node}, {actor.words}, to {actor.upstream}", told)


def heard(interfaces: Iterable[Interface]) -> tuple[Cast, tuple[Tap, ...]]:
    """The cast of a recording's links, as `Cast.interface` has told it, and its taps, one for each interface."""
    actors: dict[str, Actor] = {}
    taps: list[Tap] = []
    for each in interfaces:
        try:
            actor = _ACTOR.validate_json(each.comment or "null")
        except ValidationError:
            taps.append(Tap(each.name, each.name, TUNNEL))  # a tunnel's end, or of no lab
            continue
        actors[actor.name] = actor
        taps.append(Tap(actor.name, actor.name, actor.interface))
    return Cast(actors), tuple(taps)


def cast(plan: Plan, status: Mapping[str, Any], links: Mapping[str, Mapping[str, Any]]) -> Cast:
    """The cast of a running lab: its plan, and the answers of `status` and `links`."""
    facts = {node["name"]: node for node in status["nodes"]}
    actors: dict[str, Actor] = {}
    ends = uplinks(plan.networks)
    nats = {node.name: node.nat for node in plan.nodes if node.nat is not None}
    for name, ((_, interface), (upstream, _)) in ends.items():
        node, quality, nat = facts[name], links.get(name, {}), nats.get(name)
        actors[name] = Actor(
            name=name,
            role=node["role"],
            interface=interface,
            upstream=upstream,
            below=tuple(other for other, (_, (there, _)) in ends.items() if there == name) if nat is not None else (),
            ipv4=tuple(node["ipv4"]),
            ipv6=tuple(node["ipv6"]),
            teredo=node["teredo_address"],
            state=node["state"] + (f": {node['reason']}" if node["reason"] else ""),
            nat=nat.setup.behaviour if nat is not None else None,
            external=tuple(map(str, nat.setup.external)) if nat is not None else (),
            kind=nat.kind if nat is not None else "",
            trouble=_trouble(quality),
            delay=quality.get("delay", 0.0) + quality.get("jitter", 0.0),
        )
    return Cast(actors)


def _trouble(quality: Mapping[str, Any]) -> str:
    if quality.get("down"):
        return "is down"
    return f"loses {quality['loss']:g} % of all packets" if quality.get("loss") else ""
