"""What happens to clients in a scenario, whoever simulates it, and what is seen of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lab.teredo.client import REFRESH_RANDOM
from lab.teredo.interval import REFRESH_INTERVAL

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]

Progress = Callable[[float], None]
"""Takes the share of the work that is done."""

LATENCY: Final = 0.02
"""One-way, in seconds, between any two of clients, server and relay."""

NEVER: Final = float("inf")


def no_progress(_: float) -> None:
    """For whoever does not want to know."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Clients start evenly within `starting` seconds, each behind a NAT of its own, and run for `seconds`.

    At `nat_restart` all NATs lose their mappings, and give other ports from then on. From `down` on the server answers
    nobody, until `up`. A refresh is due after `interval` times what lies evenly within `spread` (RFC 4380 section 5.2).
    `loss` is the probability that a packet is lost. All times are in seconds.
    """

    seconds: float
    starting: float = 0.0
    nat_restart: float = NEVER
    down: float = NEVER
    up: float = NEVER
    interval: float = REFRESH_INTERVAL
    spread: tuple[float, float] = REFRESH_RANDOM
    loss: float = 0.0

    @property
    def event(self) -> float:
        """When clients have to find their server again, or the server is there again."""
        return min(self.nat_restart, self.up)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is seen of clients: each number is for one second, from the first one on.

    `solicitations` sent, by when they are at the server; `advertisements` that it sends; `good`: clients at the
    second's end that are qualified at an address that works. `recovery`: for each client that the server answers after
    the event, how long that took.
    """

    solicitations: Counts
    advertisements: Counts
    good: Counts
    recovery: Floats
