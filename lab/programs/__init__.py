"""The programs that a node can run, by the `kind` that a plan gives them; each is imported when it is wanted."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from lab.programs.base import AsyncRun, Context, Run

_PROGRAMS: Final = {
    "teredo-client": ("teredo", "client"),
    "teredo-server": ("teredo", "server"),
    "teredo-relay": ("teredo", "relay"),
    "miredo-client": ("miredo", "client"),
    "miredo-server": ("miredo", "server"),
    "miredo-relay": ("miredo", "relay"),
    "upnp": ("upnp", "upnp"),
    "web": ("web", "web"),
}
"""By kind, a module of this package, and the function in it that runs the program.

A module whose programs not every machine can run has a function `problem` that says why this one cannot, if so.
"""


_SHAREABLE: Final = {"teredo-client": ("teredo", "run_client_until")}
"""The same for programs of which several can be run in one process."""


def program(kind: str) -> Run:
    """What runs a program of this kind. Raises KeyError."""
    module, name = _PROGRAMS[kind]
    run: Run = getattr(import_module(f"lab.programs.{module}"), name)
    return run


def shareable(kind: str) -> AsyncRun | None:
    """What runs a program of this kind beside others in a process, or None if it needs one of its own."""
    if kind not in _SHAREABLE:
        return None
    module, name = _SHAREABLE[kind]
    run: AsyncRun = getattr(import_module(f"lab.programs.{module}"), name)
    return run


def problem(kind: str) -> str | None:
    """Why this machine cannot run a program of this kind, or None. Raises KeyError."""
    module = import_module(f"lab.programs.{_PROGRAMS[kind][0]}")
    why: str | None = module.problem() if hasattr(module, "problem") else None
    return why


__all__ = ["Context", "Run", "problem", "program", "shareable"]
