"""What a capture of all links costs the data that pass them, beside the same data without one, and what it loses.

Data go from a client through its NAT and a relay to a native host: five links, one of them twice.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lab.bench.datapath import iperf3_lacking, lab_of
from lab.bench.section import Aim, Figures, Section, started
from lab.seeing import pcapng

_VARIANTS: Final = ("kernel", "userspace")
_TIMES: Final = 2
"""How often each is measured without and with a capture, in turn."""

_RATIO: Final = "ratio, with a capture to without"
_LOSS: Final = "packets that a capture lost, %"
_SAID: Final = re.compile(r"^(\d+) packets of .* were too many$", re.MULTILINE)
_ENDING: Final = 120
"""Seconds in which a capture must have written what it has seen."""


class _Captures:
    """Captures of all links of a lab, and what they came to."""

    def __init__(self, lab: str, file: Path) -> None:
        self._lab = lab
        self._file = file
        self.kept = self.lost = 0
        self.writing = 0.0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Raises RuntimeError if it fails."""
        with started("capture", "--name", self._lab, "-w", str(self._file)) as process:
            assert process.stderr is not None
            said = process.stderr.readline()
            if not said.startswith("capturing "):
                raise RuntimeError(f"teredo-lab capture: {said}{process.stderr.read()}")
            try:
                yield
            finally:
                process.send_signal(signal.SIGINT)
                began = time.monotonic()
                _, said = process.communicate(timeout=_ENDING)
            if process.returncode != 0:
                raise RuntimeError(f"teredo-lab capture: {said}")
        self.writing += time.monotonic() - began
        self.lost += sum(map(int, _SAID.findall(said)))
        self.kept += len(pcapng.read(self._file.read_bytes()).packets)


def _variant(variant: str, directory: Path) -> Figures:
    without = with_ = 0.0
    with lab_of(variant, directory) as running:
        captures = _Captures(running.status["name"], directory / "capture.pcapng")
        for _ in range(_TIMES):
            without += running.tcp("alice", "web") / _TIMES
            with captures.one():
                with_ += running.tcp("alice", "web") / _TIMES
    return {
        "TCP without a capture, Mbit/s": without,
        "TCP with a capture of all links, Mbit/s": with_,
        _RATIO: with_ / without,
        "count of packets that a capture kept": captures.kept / _TIMES,
        _LOSS: 100 * captures.lost / (captures.kept + captures.lost),
        "until a capture has written what it saw": captures.writing / _TIMES,
    }


def _once(directory: Path) -> Figures:
    found = {variant: _variant(variant, directory) for variant in _VARIANTS}
    return {f"{what}: {variant}": found[variant][what] for what in found[_VARIANTS[0]] for variant in _VARIANTS}


def _aims() -> Iterator[Aim]:
    for variant in _VARIANTS:
        yield Aim(f"{_RATIO}: {variant}", at_least=0.9)
        yield Aim(f"{_LOSS}: {variant}", at_most=1.0)


SECTIONS: Final = (
    Section(
        "capture",
        "what a capture of all links costs data",
        _once,
        iperf3_lacking,
        tuple(_aims()),
        note="A transfer leaves no core of a small machine idle, so that all that a capture does takes time from it."
        " The kernel's own part is most of that; it is less where the rings that it writes to stay in the processors'"
        " cache: on two cores rings of 32 MB each left 0.88 of the kernel path's rate, rings of 4 MB 0.92. What is"
        " done with packets waits until the transfer is over.",
    ),
)
