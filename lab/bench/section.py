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
class Section:
    """Figures that are measured together, in seconds but for ratios and counts, which are named so.

    `once` measures them once, with a directory for its files; it raises RuntimeError. `lacking` gets ready what shall
    not be measured, and says why a section has to be left out, if so.
    """

    name: str
    title: str
    once: Callable[[Path], Figures]
    lacking: Callable[[], str | None] = _nothing


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `teredo-lab` as a user would."""
    return subprocess.run((*_COMMAND, *arguments), capture_output=True, text=True, check=False)


def timed(*arguments: str) -> tuple[float, str]:
    """How long `teredo-lab` takes, in seconds, and what it prints. Raises RuntimeError if it fails."""
    began = time.monotonic()
    result = command(*arguments)
    took = time.monotonic() - began
    if result.returncode != 0:
        raise RuntimeError(f"teredo-lab {' '.join(arguments)}: {result.stderr}{result.stdout[-2000:]}")
    return took, result.stdout
