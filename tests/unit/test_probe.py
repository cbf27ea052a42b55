"""What the prober makes of the ports that it sees."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from lab.nat.kinds import PortChoice
from lab.nat.probe import _ports
from lab.teredo.address import Endpoint


class Bench:
    """A bench behind a NAT that hands out these ports."""

    inside = (("192.168.1.2",),)

    def __init__(self, ports: list[int]) -> None:
        self._ports = iter(ports)

    def inner(self, _host: int) -> Any:
        return SimpleNamespace(endpoint=Endpoint("192.168.1.2", 5))

    async def mapped(self, _source: object, _server: object) -> Endpoint:
        return Endpoint("198.51.100.1", next(self._ports))


@pytest.mark.parametrize(
    ("ports", "choice", "delta"),
    [
        ([3000, 3002, 3004, 3008, 3010, 3012, 3014, 3016], PortChoice.SEQUENTIAL, 2),
        ([65531, 65533, 65535, 1025, 1027, 1029, 1031, 1033], PortChoice.SEQUENTIAL, 2),
        ([3000, 90, 40000, 7], PortChoice.RANDOM, None),
        ([3000, 3100, 3150, 40000, 2000, 500, 8000, 61000], PortChoice.RANDOM, None),
        ([5, 5, 5, 9999], PortChoice.PRESERVING, None),
        ([61000, 5, 5, 9999], PortChoice.PRESERVING, None),
        ([61000, 40000, 5, 9999], PortChoice.RANDOM, None),
    ],
)
def test_how_ports_are_chosen(ports: list[int], choice: PortChoice, delta: int | None) -> None:
    seen = asyncio.run(_ports(Bench(ports), object(), every_host=False))  # type: ignore[arg-type]
    assert (seen.choice, seen.delta) == (choice, delta)
