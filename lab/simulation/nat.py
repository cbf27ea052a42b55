"""A NAT in virtual time: any mapping, filtering and port choice of RFC 4787 for any number of inside hosts.

It may be behind another NAT. Inside hosts reach each other without it, by their private addresses.

A mapping lives for `timeout` seconds after the last packet that left through it, or also the last one that came in if
the behaviour says so. The permission for a remote host to send through it ages likewise, remote host by remote host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from lab.nat.kinds import Collision, Filtering, Mapping, NatBehaviour, Pooling, PortChoice
from lab.simulation.network import Access, Clock, Receive
from lab.teredo.address import Endpoint

TIMEOUT: Final = 60.0
FIRST_PORT: Final = 1024
PORTS: Final = 65536 - FIRST_PORT
_ROOM = 64
"""Entries that a table may hold before it is searched for stale ones; later, twice as many as were left then."""


@dataclass(slots=True)
class _Mapping:
    key: Hashable
    inside: Endpoint
    outside: Endpoint
    used: float = 0.0
    permitted: dict[Hashable, float] = field(default_factory=dict)
    """When a packet last left for a remote endpoint, as far as the filtering tells them apart."""
    room: int = _ROOM


class NatModel:
    """One NAT. It is plugged into the Internet, or into another NAT, and inside hosts are plugged into it.

    Raises ValueError for a behaviour that is not modelled, or another number of external addresses than it has.
    """

    def __init__(
        self,
        outside: Access,
        clock: Clock,
        external: Sequence[str],
        behaviour: NatBehaviour,
        rng: Random,
        *,
        timeout: float = TIMEOUT,
    ) -> None:
        if behaviour.collision is Collision.OVERLOAD:
            raise ValueError("overloading is not modelled")
        if len(external) != behaviour.addresses:
            raise ValueError(f"{len(external)} external addresses for a NAT with {behaviour.addresses}")
        self.external = tuple(external)
        self.behaviour = behaviour
        self.timeout = timeout
        self.dropped: Counter[str] = Counter()
        self._outside = outside
        self._clock = clock
        self._rng = rng
        self._receivers: dict[str, Receive] = {}
        self._mappings: dict[Hashable, _Mapping] = {}
        self._by_outside: dict[Endpoint, _Mapping] = {}
        self._opened: dict[Endpoint, Endpoint] = {}
        self._answers: dict[tuple[Endpoint, Endpoint], tuple[Endpoint, float]] = {}
        self._room = _ROOM
        self._turn = 0
        self._next_port = FIRST_PORT + rng.randrange(PORTS)
        for address in external:
            outside.attach(address, self._receive)

    def __len__(self) -> int:
        """How many mappings there are."""
        now = self._clock.now
        return sum(not self._is_stale(mapping.used, now) for mapping in self._mappings.values())

    def attach(self, host: str, receive: Receive) -> None:
        self._receivers[host] = receive

    def reset(self) -> None:
        """Lose every mapping, as a NAT does that restarts; new ones get other ports."""
        self._mappings.clear()
        self._by_outside.clear()
        self._opened.clear()
        self._answers.clear()
        self._next_port = FIRST_PORT + self._rng.randrange(PORTS)

    def open(self, inside: Endpoint) -> Endpoint | None:
        """Have UPnP open the external port that is the inside one, for anybody; the endpoint outside, or None."""
        outside = Endpoint(self.external[0], inside.port)
        if not self.behaviour.upnp or self._opened.get(outside, inside) != inside:
            return None
        self._opened[outside] = inside
        return outside

    def close(self, inside: Endpoint) -> None:
        """Have UPnP close what it has opened."""
        self._opened.pop(Endpoint(self.external[0], inside.port), None)

    def send(self, source: Endpoint, to: Endpoint, data: bytes) -> None:
        """Outward: from an inside endpoint to a remote one."""
        if to.host in self._receivers:
            self._clock.at(self._clock.now, self._receivers[to.host], data, source, to)
            return
        if not self.behaviour.udp:
            self.dropped["UDP"] += 1
            return
        now = self._clock.now
        outside, used = self._answers.get((source, to), (source, float("-inf")))
        if not self._is_stale(used, now):
            self._answers[source, to] = outside, now
            self._outside.send(outside, to, data)
            return
        mapping = self._mapping(source, to, now)
        mapping.used = now
        if self.behaviour.filtering is not Filtering.EIF:
            if len(mapping.permitted) >= mapping.room:
                fresh = {key: used for key, used in mapping.permitted.items() if not self._is_stale(used, now)}
                mapping.permitted, mapping.room = fresh, max(_ROOM, 2 * len(fresh))
            mapping.permitted[self._permission(to)] = now
        if to.host not in self.external:
            self._outside.send(mapping.outside, to, data)
        elif self.behaviour.hairpin:
            self._clock.at(now, self._receive, data, mapping.outside, to)
        else:
            self.dropped["hairpin"] += 1

    def multicast(self, source: Endpoint, to: Endpoint, data: bytes) -> None:
        """From an inside endpoint to a group: to all inside hosts, the sender too, and never outward."""
        for receive in self._receivers.values():
            self._clock.at(self._clock.now, receive, data, source, to)

    def _receive(self, data: bytes, source: Endpoint, to: Endpoint) -> None:
        """Inward: from a remote endpoint to an external port."""
        now = self._clock.now
        opened = self._opened.get(to)
        if opened is not None:
            flow = opened, source
            if flow not in self._mappings:  # what answers it leaves through the same port
                self._answers[flow] = to, now
            self._receivers[opened.host](data, source, opened)
            return
        mapping = self._by_outside.get(to)
        if mapping is None or self._is_stale(mapping.used, now):
            self.dropped["no mapping"] += 1
        elif self.behaviour.filtering is not Filtering.EIF and self._is_stale(
            mapping.permitted.get(self._permission(source), float("-inf")), now
        ):
            self.dropped["filtered"] += 1
        else:
            if self.behaviour.inbound_refresh:
                mapping.used = now
                if self.behaviour.filtering is not Filtering.EIF:
                    mapping.permitted[self._permission(source)] = now
            self._receivers[mapping.inside.host](data, source, mapping.inside)

    def _is_stale(self, used: float, now: float) -> bool:
        return now - used > self.timeout

    def _permission(self, remote: Endpoint) -> Hashable:
        return remote.host if self.behaviour.filtering is Filtering.ADF else remote

    def _mapping(self, inside: Endpoint, to: Endpoint, now: float) -> _Mapping:
        """The mapping for a flow, made if there is none."""
        key: Hashable
        match self.behaviour.mapping:
            case Mapping.EIM:
                key = inside
            case Mapping.ADM:
                key = (inside, to.host)
            case Mapping.APDM:
                key = (inside, to)
        mapping = self._mappings.get(key)
        if mapping is not None and not self._is_stale(mapping.used, now):
            return mapping
        if mapping is not None:
            self._forget(mapping)
        elif len(self._mappings) >= self._room:
            for stale in [old for old in self._mappings.values() if self._is_stale(old.used, now)]:
                self._forget(stale)
            self._room = max(_ROOM, 2 * len(self._mappings))
        outside = self._free(self._address(inside.host), inside, now)
        mapping = self._mappings[key] = self._by_outside[outside] = _Mapping(key, inside, outside)
        return mapping

    def _forget(self, mapping: _Mapping) -> None:
        del self._mappings[mapping.key], self._by_outside[mapping.outside]

    def _address(self, host: str) -> str:
        """The external address of a new mapping: the inside host's own, or the next one."""
        if self.behaviour.pooling is Pooling.PAIRED:
            return self.external[list(self._receivers).index(host) % len(self.external)]
        self._turn += 1
        return self.external[(self._turn - 1) % len(self.external)]

    def _free(self, address: str, inside: Endpoint, now: float) -> Endpoint:
        """An external endpoint that no living mapping has. Raises RuntimeError when there is none."""
        wanted = inside.port
        match self.behaviour.ports:
            case PortChoice.PRESERVING:
                first = wanted
            case PortChoice.RANDOM:
                first = FIRST_PORT + self._rng.randrange(PORTS)
            case PortChoice.SEQUENTIAL:
                first = self._next_port
        pace = self.behaviour.delta if self.behaviour.ports is PortChoice.SEQUENTIAL else 1
        for step in range(PORTS):
            port = FIRST_PORT + (first - FIRST_PORT + step * pace) % PORTS
            outside = Endpoint(address, port)
            holder = self._by_outside.get(outside)
            if holder is not None and self._is_stale(holder.used, now):
                self._forget(holder)
                holder = None
            if holder is None and self._opened.get(outside, inside) == inside:
                self._next_port = port + self.behaviour.delta
                return outside
        raise RuntimeError(f"NAT {address} has no free port")
