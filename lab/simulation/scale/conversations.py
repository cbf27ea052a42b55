"""Clients that talk in pairs, with pauses: how much of it goes through the server.

After a pause one of the two sends an echo request, and then all is silent again. What that takes is in `costs`; what
the server forwards to a client also proves to it that its mapping lives, and puts its next refresh off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from lab.simulation.scale.conditions import LATENCY, NEVER, Counts, Flags, Floats, Progress, no_progress
from lab.simulation.scale.costs import Resumption
from lab.teredo.client import REFRESH_RANDOM
from lab.teredo.interval import REFRESH_INTERVAL

SETTLING: Final = 60.0
"""Seconds that are not counted, until refreshes have found their rhythm."""

_RESUME: Final = 2
"""The column of a pair's next echo request, behind those of its clients' refreshes."""


@dataclass(frozen=True, slots=True)
class Talk:
    """`pairs` of clients pause for `pause` seconds in the mean, as chance has it, and are watched for `seconds`."""

    pairs: int
    pause: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Overheard:
    """How many solicitations and forwarded packets the server got, and echo requests there were; their mean wait."""

    solicitations: int
    forwarded: int
    requests: int
    wait: float


class Conversations:
    """These pairs, with what it takes them to resume after any pause. `run` has them talk."""

    def __init__(self, talk: Talk, costs: Sequence[Resumption], rng: np.random.Generator) -> None:
        self._talk = talk
        self._costs = costs
        self._rng = rng
        self._end = SETTLING + talk.seconds
        shape = talk.pairs, 2
        self._interval = self._intervals(shape)
        self._heard = -self._interval * rng.random(shape)
        """When the server was last heard of, by each client."""
        self._hears = np.full(shape, NEVER)
        """When each client will hear of the server again, as far as that is under way."""
        self._ended = -rng.exponential(talk.pause, talk.pairs)
        """When the last answer came, in each pair."""
        self._due = np.empty((talk.pairs, 3))
        self._due[:, :_RESUME] = self._heard + self._interval
        self._due[:, _RESUME] = rng.exponential(talk.pause, talk.pairs)
        self._solicitations = self._forwarded = self._requests = 0
        self._wait = 0.0

    def run(self, progress: Progress = no_progress) -> Overheard:
        """Let the time pass. Tells `progress` how much of it has."""
        running = np.arange(self._talk.pairs)
        while running.size:
            due = self._due[running]
            what = due.argmin(axis=1)
            now = due[np.arange(running.size), what]
            progress(min(1.0, float(now.min()) / self._end))
            refreshing = what != _RESUME
            self._refresh(running[refreshing], what[refreshing], now[refreshing])
            self._resume(running[~refreshing], now[~refreshing])
            running = running[now < self._end]
        progress(1.0)
        return Overheard(self._solicitations, self._forwarded, self._requests, self._wait / max(1, self._requests))

    def _refresh(self, pair: Counts, which: Counts, now: Floats) -> None:
        """A refresh is due, unless the server was heard of in the meantime."""
        self._hear(pair, which, now)
        due = self._heard[pair, which] + self._interval[pair, which]
        self._due[pair, which] = due
        asks = due <= now
        pair, which, now = pair[asks], which[asks], now[asks]
        self._solicitations += int(self._counts(now).sum())
        self._heard[pair, which] = now + 2 * LATENCY
        self._interval[pair, which] = self._intervals(pair.size)
        self._due[pair, which] = self._heard[pair, which] + self._interval[pair, which]

    def _hear(self, pair: Counts, which: Counts, now: Floats) -> None:
        """What was under way from the server has arrived, or not yet."""
        arrived = self._hears[pair, which] <= now
        pair, which = pair[arrived], which[arrived]
        self._heard[pair, which] = np.maximum(self._heard[pair, which], self._hears[pair, which])
        self._hears[pair, which] = NEVER

    def _resume(self, pair: Counts, now: Floats) -> None:
        """One of the two, whoever, has something to say again."""
        pause = now - self._ended[pair]
        caller = self._rng.integers(0, 2, pair.size)
        for cost, following in pairwise((*self._costs, None)):
            assert cost is not None
            such = (pause >= cost.after) & (pause < (NEVER if following is None else following.after))
            those, at = pair[such], now[such]
            for who, after in ((caller[such], cost.to_caller), (1 - caller[such], cost.to_callee)):
                if after is not None:
                    self._hear(those, who, at)
                    self._hears[those, who] = at + after
            counted = int(self._counts(at).sum())
            self._requests += counted
            self._forwarded += counted * len(cost.received)
            self._wait += counted * cost.answered
            self._ended[those] = at + cost.answered
            self._due[those, _RESUME] = self._ended[those] + self._rng.exponential(self._talk.pause, those.size)

    def _counts(self, when: Floats) -> Flags:
        counts: Flags = (when >= SETTLING) & (when < self._end)
        return counts

    def _intervals(self, shape: int | tuple[int, int]) -> Floats:
        low, high = REFRESH_RANDOM
        return REFRESH_INTERVAL * self._rng.uniform(low, high, shape)
