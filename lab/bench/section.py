"""What a benchmark is made of: sections, each of which yields figures that are medians of several runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAME: Final = "bench"
"""Of the lab that is measured."""

_COMMAND: Final = (sys.executable, "-m", "lab.cli")

Figures = dict[str, float]


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Aim:
    """What a figure shall be."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def bounds(self) -> dict[str, float]:
        """Those that there are, by name."""
        both = {"at_least": self.at_least, "at_most": self.at_most}
        return {name: bound for name, bound in both.items() if bound is not None}


@dataclass(frozen=True)
class Ratio:
    """Of a figure to the same one of another section."""

    figure: str
    section: str

    @property
    def name(self) -> str:
        return f"ratio, {self.figure}: to {self.section}"


@dataclass(frozen=True)
class Section:
    """Figures that are measured together, in seconds where their names say nothing else.

    `once` measures them once, with a directory for its files; it raises RuntimeError. `lacking` gets ready what shall
    not be measured, and says why a section has to be left out, if so. `ratios` are of figures to those of sections
    before; they are left out where those are. `note` is what a reader of the figures has to know.
    """

    name: str
    title: str
    once: Callable[[Path], Figures]
    lacking: Callable[[], str | None] = _nothing
    aims: tuple[Aim, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    note: str = ""


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `teredo-lab` as a user would."""
    return subprocess.run((*_COMMAND, *arguments), capture_output=True, text=True, check=False)


def started(*arguments: str) -> subprocess.Popen[str]:
    """A `teredo-lab` that runs on; what it prints and what it says are piped."""
    return subprocess.Popen((*_COMMAND, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def timed(*arguments: str) -> tuple[float, str]:
    """How long `teredo-lab` takes, in seconds, and what it prints. Raises RuntimeError if it fails."""
    began = time.monotonic()
    result = command(*arguments)
    took = time.monotonic() - began
    if result.returncode != 0:
        raise RuntimeError(f"teredo-lab {' '.join(arguments)}: {result.stderr}{result.stdout[-2000:]}")
    return took, result.stdout
