"""What a program's own process does, from its first step: it becomes part of its node, then it is the program."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import programs
from lab.backends import linux
from lab.logs import set_up as set_up_logs

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Order:
    """A program to run: its node and kind, its own options, and the paths of its files; all of it can be JSON.

    Where `log` is None, it writes where the process does that runs it.
    """

    node: str
    kind: str
    options: dict[str, Any]
    directory: str
    control: str
    log: str | None

    def context(self, tell: Tell) -> programs.Context:
        """What the program is given."""

        def notify(event: str, facts: dict[str, Any]) -> None:
            tell({"name": event, **facts})

        return programs.Context(self.node, Path(self.directory), Path(self.control), notify)


def process_name(kind: str, node: str) -> str:
    """What ps shows of a node's program: ``client:alice``."""
    return f"{kind.rsplit('-', maxsplit=1)[-1]}:{node}"


def run(order: Order, tell: Tell) -> None:
    """Run a program in this process, which is in its node's network already, until the program ends."""
    if order.log is not None:
        log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    linux.set_process_name(process_name(order.kind, order.node))
    set_up_logs(node=order.node)
    programs.program(order.kind)(order.options, order.context(tell))
