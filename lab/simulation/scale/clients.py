"""Idle clients by the million: they qualify, refresh, and find out that their mapping or their server is gone.

What a client does depends on no other one, so all of them take a step at a time, each at its own moment: a
solicitation, and what becomes of it. That is the client of `lab.teredo.client`, without what it does for peers.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from lab.simulation.scale.conditions import LATENCY, Conditions, Counts, Flags, Floats, Progress, Seen, no_progress
from lab.teredo.client import RESTART_DELAY, RESTART_DELAY_MAX
from lab.teredo.solicitation import SOLICITATION_TIMEOUT, SOLICITATIONS

_PRIMARY: Final = 0
"""Qualification: asks the primary server."""

_SECONDARY: Final = 1
"""Qualification, or a mapping that has changed: asks the secondary server."""

_REFRESH: Final = 2
"""Qualified: asks the primary server."""


class Clients:
    """So many clients. `run` has them all do what they do under these conditions."""

    def __init__(self, conditions: Conditions, count: int, rng: np.random.Generator) -> None:
        self._on = conditions
        self._rng = rng
        self._at: Floats = rng.uniform(0.0, conditions.starting, count)
        """When each sends its next solicitation."""
        self._phase = np.full(count, _PRIMARY, np.int8)
        self._tries = np.zeros(count, np.int8)
        self._delay = np.full(count, RESTART_DELAY)
        self._mapped = np.zeros(count, np.bool_)
        """Whether the mapping that the client knows of was made after the restart of its NAT."""
        self._good = np.zeros(count, np.bool_)
        self._recovery = np.full(count, np.nan)
        self._bins = int(conditions.seconds)
        self._solicitations, self._advertisements, self._change = (np.zeros(self._bins, np.int64) for _ in range(3))

    def run(self, progress: Progress = no_progress) -> Seen:
        """Let the time pass. Tells `progress` how much of it has."""
        running = np.flatnonzero(self._at < self._on.seconds)
        while running.size:
            progress(float(self._at[running].min()) / self._on.seconds)
            self._step(running)
            running = running[self._at[running] < self._on.seconds]
        progress(1.0)
        self._lose(np.flatnonzero(self._good & ~self._mapped))
        recovery = self._recovery[~np.isnan(self._recovery)]
        return Seen(self._solicitations, self._advertisements, np.cumsum(self._change), recovery)

    def _step(self, who: Counts) -> None:
        at = self._at[who]
        fresh = at >= self._on.nat_restart
        self._count(self._solicitations, at + LATENCY)
        self._lose(who[fresh & self._good[who] & ~self._mapped[who]])
        there = (at + LATENCY < self._on.down) | (at + LATENCY >= self._on.up)
        asked = there & self._arrives(who.size)
        self._count(self._advertisements, at[asked] + LATENCY)
        answered = asked & self._arrives(who.size)
        # What comes in after the restart goes to a mapping that is gone, if it was asked for before.
        answered &= fresh == (at + 2 * LATENCY >= self._on.nat_restart)
        self._answer(who[answered], at[answered] + 2 * LATENCY, fresh[answered])
        self._wait(who[~answered], at[~answered])

    def _arrives(self, packets: int) -> Flags:
        """Which of so many packets are not lost."""
        return self._rng.random(packets) >= self._on.loss

    def _answer(self, who: Counts, now: Floats, fresh: Flags) -> None:
        """The server has answered these."""
        first = (now >= self._on.event) & np.isnan(self._recovery[who])
        self._recovery[who[first]] = now[first] - self._on.event
        phase = self._phase[who]
        changed = (phase == _REFRESH) & (fresh != self._mapped[who])
        asks_second = (phase == _PRIMARY) | changed
        self._mapped[who] = np.where(phase == _SECONDARY, self._mapped[who], fresh)
        qualified = changed | ((phase == _SECONDARY) & (fresh == self._mapped[who]))
        self._gain(who[qualified], now[qualified])
        self._tries[who] = 0
        self._delay[who[phase != _PRIMARY]] = RESTART_DELAY
        self._phase[who] = np.where(asks_second, _SECONDARY, _REFRESH)
        low, high = self._on.spread
        due = now + self._on.interval * self._rng.uniform(low, high, who.size)
        self._at[who] = np.where(asks_second, now, due)

    def _wait(self, who: Counts, at: Floats) -> None:
        """Nobody answers these: they ask again, or give up for a while."""
        later = at + SOLICITATION_TIMEOUT
        tries = self._tries[who] + 1
        gives_up = tries >= SOLICITATIONS
        self._tries[who] = np.where(gives_up, 0, tries)
        self._at[who] = np.where(gives_up, later + self._delay[who], later)
        gone = who[gives_up]
        self._phase[gone] = _PRIMARY
        self._delay[gone] = np.minimum(2 * self._delay[gone], RESTART_DELAY_MAX)
        lost = self._good[gone]
        self._good[gone] = False
        self._count(self._change, later[gives_up][lost], -1)

    def _gain(self, who: Counts, now: Floats) -> None:
        new = ~self._good[who]
        self._good[who] = True
        self._count(self._change, now[new])

    def _lose(self, who: Counts) -> None:
        """These have had no working address since the restart of their NATs."""
        if self._on.nat_restart < self._on.seconds:
            self._good[who] = False
            self._change[int(self._on.nat_restart)] -= who.size

    def _count(self, bins: Counts, when: Floats, each: int = 1) -> None:
        when = when[when < self._bins]
        bins += each * np.bincount(when.astype(np.int64), minlength=self._bins)
