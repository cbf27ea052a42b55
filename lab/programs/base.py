"""What a node can run, behind one small interface: a function that is called in a process of its own, in the node.

It returns when the program has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Context:
    """What a program is given: its node's name, a directory, the path of its control socket, and whom to tell.

    `notify` takes the name of an event and facts about it. Every program sends `state` with a `state` and a `reason`;
    one that holds a Teredo address adds `address`.
    """

    node: str
    directory: Path
    control: Path
    notify: Callable[[str, dict[str, Any]], None]


Run = Callable[[dict[str, Any], Context], None]

AsyncRun = Callable[[dict[str, Any], Context, asyncio.Event], Coroutine[Any, Any, None]]
"""The same for a program that can share its process with others; it also takes what is set when it shall end."""
