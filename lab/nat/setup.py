"""One NAT of a lab as the engines that write its rules know it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from random import Random

from lab.nat.kinds import NatBehaviour

FIRST_PORT = 1024
LAST_PORT = 65535
POOL = range(61440, LAST_PORT + 1)
"""External ports for inside hosts whose local port is taken; above what Linux uses as local ports by itself."""


class UnsupportedError(ValueError):
    """An engine cannot do what is asked of it; the message says what, and why."""


@dataclass(frozen=True, slots=True)
class NatSetup:
    """A NAT between its interfaces `wan`, with the addresses `external`, and `lan`, with the inside `hosts`.

    `seed`: whatever is random about its ports comes from it, so that a lab is the same each time.
    """

    behaviour: NatBehaviour
    external: tuple[IPv4Address, ...]
    hosts: tuple[IPv4Address, ...]
    seed: int = 0

    def sequence(self, length: int) -> range:
        """So many external ports, each `delta` after the one before, from a random one on."""
        delta = self.behaviour.delta
        first = Random(self.seed).randrange(FIRST_PORT, LAST_PORT - delta * length)  # noqa: S311 - not a secret
        return range(first, first + delta * length, delta)
