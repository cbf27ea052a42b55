"""How many pairs a check probes at once: data of many at a time would only show that a machine is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from lab.check import probes, reachability
from lab.check.reachability import _Check
from lab.plan import Expectation, Verdict

PAIRS = 40


class Pace(_Check):
    """A check whose probes do nothing but count how many there are."""

    def __init__(self) -> None:
        self._places: Any = None
        self._tell: Any = lambda _: None
        self.done = self.now = self.most = 0

    def _address(self, name: str) -> str | None:
        return None

    async def _probe(self, pair: Expectation, probe: str) -> probes.Outcome:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return probes.Outcome(True)

    def _result(self, *_: Any) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("expected", "because", "wanted", "most"),
    [
        ("reachable", "the figure says so", ["icmp6", "udp", "tcp"], 8),
        ("unreachable", "the figure says so", ["icmp6", "udp", "tcp"], PAIRS),
        ("unreachable", "nothing is expected", ["udp", "tcp"], 8),
        ("unreachable", "nothing is expected", ["icmp6"], PAIRS),
    ],
)
def test_pairs_that_may_move_data_take_turns(
    expected: Verdict, because: str, wanted: Sequence[str], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reachability, "Tap", lambda *_: SimpleNamespace(listening=nullcontext))
    monkeypatch.setattr(probes, "responders", lambda *_: nullcontext())
    pairs = [
        Expectation(source=f"a{each}", destination=f"b{each}", expected=expected, because=because)
        for each in range(PAIRS)
    ]
    check = Pace()
    asyncio.run(check.phase(pairs, PAIRS, wanted))
    assert (check.done, check.most) == (PAIRS, most)
