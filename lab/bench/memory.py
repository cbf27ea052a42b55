"""How much memory a lab takes."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from pathlib import Path


def available() -> int:
    """Bytes that the machine could still give to programs."""
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def pss(process: int) -> int:
    """Bytes that a process and all below it hold, each page that several share divided among them."""
    children: dict[int, list[int]] = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = path.read_text().rpartition(")")[2].split()[1]
            children[int(parent)].append(int(path.parent.name))
    total, todo = 0, [process]
    while todo:
        one = todo.pop()
        todo += children[one]
        with contextlib.suppress(OSError):  # it has ended meanwhile
            total += _kilobytes(Path(f"/proc/{one}/smaps_rollup"), "Pss")
    return total


def _kilobytes(path: Path, name: str) -> int:
    """The bytes that a file of /proc says in kB."""
    found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
