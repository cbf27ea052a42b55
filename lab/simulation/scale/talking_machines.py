"""The same conversations with the state machines themselves, as far as there is time."""

from __future__ import annotations

from collections.abc import Collection

from lab.nat.kinds import KINDS
from lab.simulation.hosts import Ping
from lab.simulation.lab import Simulation
from lab.simulation.nodes import ClientNode
from lab.simulation.scale.conditions import LATENCY, Progress, no_progress
from lab.simulation.scale.conversations import Overheard, Talk
from lab.simulation.scale.costs import is_refresh
from lab.teredo.client import REFRESH_RANDOM
from lab.teredo.extensions import Extension
from lab.teredo.interval import REFRESH_INTERVAL

_GLANCE = 0.25
"""Seconds after which one looks whether an echo request was answered."""

_STARTING = REFRESH_INTERVAL * sum(REFRESH_RANDOM) / 2
"""Seconds within which clients start, and then within which pairs meet: so refreshes are spread evenly, and nobody is a
stranger any more when it counts."""

_SETTLING = 180.0
"""Seconds that are not counted, until there have been long pauses too."""

_STEPS = 20
"""How often progress is told."""


class TalkingMachines:
    """Pairs of clients, all of them behind NATs of this kind. `run` has them talk."""

    def __init__(self, talk: Talk, kind: str, extensions: Collection[Extension], seed: int) -> None:
        self._talk = talk
        self._lab = lab = Simulation(seed, latency=LATENCY, tracing=True)
        self._server = lab.server()
        self._requests: list[Ping] = []
        for _ in range(talk.pairs):
            one, two = (lab.client(lab.nat(KINDS[kind]), extensions=extensions, start=False) for _ in range(2))
            for client in (one, two):
                lab.clock.at(_STARTING * lab.rng.random(), client.start)
            lab.clock.at(1.0 + _STARTING * (1 + lab.rng.random()), self._resume, one, two)

    def _pause(self) -> float:
        return self._lab.rng.expovariate(1 / self._talk.pause)

    def _resume(self, one: ClientNode, two: ClientNode) -> None:
        source, destination = (one, two) if self._lab.rng.random() < 0.5 else (two, one)
        assert destination.host.address is not None
        ping = source.host.ping(destination.host.address)
        if self._lab.now >= _SETTLING:
            self._requests.append(ping)
        self._lab.clock.at(self._lab.now + _GLANCE, self._look, one, two, ping)

    def _look(self, one: ClientNode, two: ClientNode, ping: Ping) -> None:
        """Begin the next pause if the last request was answered."""
        now = self._lab.now
        if ping.answered is None:
            self._lab.clock.at(now + _GLANCE, self._look, one, two, ping)
        else:
            self._lab.clock.at(max(now, ping.answered + self._pause()), self._resume, one, two)

    def run(self, progress: Progress = no_progress) -> Overheard:
        """Let the time pass. Tells `progress` how much of it has."""
        self._lab.run_for(_SETTLING)
        assert self._lab.trace is not None
        self._lab.trace.clear()
        for step in range(_STEPS):
            progress(step / _STEPS)
            self._lab.run_for(self._talk.seconds / _STEPS)
        progress(1.0)
        received = [outer for outer in self._lab.trace if outer.to in (self._server.endpoint, self._server.secondary)]
        refreshes = sum(map(is_refresh, received))
        waits = [ping.seconds for ping in self._requests if ping.seconds is not None]
        return Overheard(refreshes, len(received) - refreshes, len(self._requests), sum(waits) / max(1, len(waits)))
