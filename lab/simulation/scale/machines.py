"""The same clients as state machines, as far as there is time: thousands of them, not millions."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Final

import numpy as np

from lab.nat.kinds import Filtering, Mapping, NatBehaviour, PortChoice
from lab.simulation.lab import Simulation
from lab.simulation.nodes import ClientNode
from lab.simulation.scale.conditions import LATENCY, NEVER, Conditions, Progress, Seen, no_progress
from lab.teredo.client import REFRESH_RANDOM, State

NAT: Final = NatBehaviour(Mapping.EIM, Filtering.APDF, PortChoice.RANDOM)
"""As a carrier's NAT, it gives other ports once it has lost all mappings."""


class _Spread(Random):
    """Chance as the machines use it, but for the range from which they choose refresh intervals."""

    spread = REFRESH_RANDOM

    def uniform(self, a: float, b: float) -> float:
        return super().uniform(*(self.spread if (a, b) == REFRESH_RANDOM else (a, b)))


class Machines:
    """So many clients, each behind a NAT, and their server. `run` has them do what they do under these conditions."""

    def __init__(self, conditions: Conditions, count: int, seed: int) -> None:
        self._on = conditions
        self._lab = lab = Simulation(seed, latency=LATENCY, loss=conditions.loss, tracing=True)
        lab.rng = rng = _Spread(seed)
        rng.spread = conditions.spread
        self._server = lab.server()
        self._nats = [lab.nat(NAT) for _ in range(count)]
        self._clients = [lab.client(nat, refresh_interval=conditions.interval, start=False) for nat in self._nats]
        for client in self._clients:
            lab.clock.at(rng.random() * conditions.starting, client.start)
        for when, call in (
            (conditions.nat_restart, self._restart),
            (conditions.down, self._disconnect),
            (conditions.up, self._reconnect),
        ):
            if when < NEVER:
                lab.clock.at(when, call)
        self._old: dict[ClientNode, bytes | None] = {}
        self._answered: dict[str, float] = {}

    def _restart(self) -> None:
        self._old = {client: client.host.address for client in self._clients}
        for nat in self._nats:
            nat.reset()

    def _disconnect(self) -> None:
        self._lab.internet.loss = 1.0

    def _reconnect(self) -> None:
        self._lab.internet.loss = self._on.loss

    def run(self, progress: Progress = no_progress) -> Seen:
        """Let the time pass. Tells `progress` how much of it has."""
        bins = int(self._on.seconds)
        solicitations, advertisements, good = (np.zeros(bins, np.int64) for _ in range(3))
        seen = Seen(solicitations, advertisements, good, np.empty(0))
        for second in range(bins):
            self._lab.run_for(1.0)
            self._look(seen)
            seen.good[second] = sum(map(self._is_good, self._clients))
            progress((second + 1) / bins)
        return replace(seen, recovery=np.array(list(self._answered.values())))

    def _look(self, seen: Seen) -> None:
        """Count what was on the wire since the last time."""
        assert self._lab.trace is not None
        servers = {self._server.endpoint, self._server.secondary}
        for outer in self._lab.trace:
            if outer.to in servers:
                if int(outer.at + LATENCY) < seen.solicitations.size:
                    seen.solicitations[int(outer.at + LATENCY)] += 1
                continue
            seen.advertisements[int(outer.at)] += 1
            if outer.at - LATENCY >= self._on.event and not outer.lost:
                self._answered.setdefault(outer.to.host, outer.at + LATENCY - self._on.event)
        self._lab.trace.clear()

    def _is_good(self, client: ClientNode) -> bool:
        if client.machine.state is not State.QUALIFIED:
            return False
        return not self._old or client.host.address != self._old[client]
