"""Who writes a capture to a file works on the packets of a burst when it is over."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from lab.seeing import live, pcapng
from lab.seeing.cast import Tap
from lab.state import Lab

TAP = Tap("alice", "alice", "lan")
EMPTY = bytes(1 << 21)
"""A block without packets, but of many bytes."""

_wait = time.sleep  # which tests replace


class Feeding:
    """Answers as a lab what a test puts in."""

    def __init__(self) -> None:
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def put(self, answer: dict[str, Any] | None) -> None:
        self._answers.put(answer)

    def ask(self, command: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        yield {"event": "capturing", "links": [pcapng.ETHERNET]}
        while (answer := self._answers.get()) is not None:
            yield answer

    def burst(self, capture: live.Capture) -> None:
        """Another block comes, and is taken in."""
        before = capture._taken
        self.put({"event": "packets", "tap": 0, "data": EMPTY})
        while capture._taken == before:
            _wait(0.001)

    def capture(self, *, patient: bool) -> live.Capture:
        return live.Capture(
            cast("Lab", self), [TAP], lambda tap, kind: pcapng.Interface(kind, tap.name), patient=patient
        )


@pytest.mark.parametrize(("patient", "looks"), [(True, 4), (False, 0)])
def test_a_burst_is_left_alone_until_it_is_over(patient: bool, looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Feeding()
    capture = lab.capture(patient=patient)
    slept = []

    def sleep(seconds: float) -> None:
        """While who is patient waits, another block comes, three times."""
        slept.append(seconds)
        if len(slept) <= 3:
            lab.burst(capture)

    monkeypatch.setattr(time, "sleep", sleep)
    lab.put({"event": "now", "now": 7, "lost": {}})
    assert next(capture.passed()).now == 7
    assert len(slept) == looks
    assert capture.waiting == (3 * len(EMPTY) if patient else 0)
    lab.put(None)
    assert [*capture.passed()] == []
    assert capture.waiting == 0


def test_a_burst_that_does_not_end_is_worked_on_when_much_of_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_PATIENCE", 3)
    lab = Feeding()
    capture = lab.capture(patient=True)
    monkeypatch.setattr(time, "sleep", lambda _: lab.burst(capture))
    lab.put({"event": "now", "now": 7, "lost": {}})
    assert next(capture.passed()).now == 7
